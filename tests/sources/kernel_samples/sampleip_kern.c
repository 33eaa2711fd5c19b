/* SPDX-License-Identifier: GPL-2.0 */
/* The registers of a sample; a program that may be loaded without a helper's licence is not. */
#include <linux/ptrace.h>
#include <linux/bpf.h>
#include <linux/bpf_perf_event.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define MAX_IPS 8192

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64);
	__type(value, __u32);
	__uint(max_entries, MAX_IPS);
} ip_map SEC(".maps");

SEC("perf_event")
int do_sample(struct bpf_perf_event_data *ctx)
{
	__u64 ip = PT_REGS_IP(&ctx->regs);
	__u32 *value, init_val = 1;

	value = bpf_map_lookup_elem(&ip_map, &ip);
	if (value)
		*value += 1;
	else
		bpf_map_update_elem(&ip_map, &ip, &init_val, BPF_NOEXIST);
	return 0;
}

char _license[] SEC("license") = "GPL";
