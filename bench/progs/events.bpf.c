/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct event {
	__u64 number;
	__u32 pid;
	__s32 error;
	char name[16];
};

struct event *unused __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 24);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
} perf SEC(".maps");

__u64 written;
__u64 refused;

SEC("tc")
int write_ring(struct __sk_buff *skb)
{
	struct event event = {.number = written, .pid = 12, .error = -3, .name = "a name"};

	if (bpf_ringbuf_output(&ring, &event, sizeof(event), 0))
		__sync_fetch_and_add(&refused, 1);
	else
		__sync_fetch_and_add(&written, 1);
	return 0;
}

SEC("tc")
int write_perf(struct __sk_buff *skb)
{
	struct event event = {.number = written, .pid = 12, .error = -3, .name = "a name"};

	if (bpf_perf_event_output(skb, &perf, BPF_F_CURRENT_CPU, &event, sizeof(event)))
		__sync_fetch_and_add(&refused, 1);
	else
		__sync_fetch_and_add(&written, 1);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
