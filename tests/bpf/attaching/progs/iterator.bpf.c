/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, __u64);
} numbers SEC(".maps");

SEC("iter/bpf_map_elem")
int tell(struct bpf_iter__bpf_map_elem *ctx)
{
	__u32 *key = ctx->key;
	__u64 *value = ctx->value;

	if (key && value)
		BPF_SEQ_PRINTF(ctx->meta->seq, "%d: %d\n", *key, *value);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
