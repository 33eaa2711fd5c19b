/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct command {
	__u32 kind;
	__s64 argument;
};

struct {
	__uint(type, BPF_MAP_TYPE_USER_RINGBUF);
	__uint(max_entries, 4096);
} commands SEC(".maps");

struct command last;
__u64 drained;

static long take(struct bpf_dynptr *sample, void *context)
{
	if (!bpf_dynptr_read(&last, sizeof(last), sample, 0, 0))
		drained++;
	return 0;
}

SEC("tc")
int drain(struct __sk_buff *skb)
{
	bpf_user_ringbuf_drain(&commands, take, NULL, 0);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
