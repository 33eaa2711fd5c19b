/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#define CILIUM_CALL_DROP_NOTIFY	1
#define CILIUM_CALL_IPV4	7
#define CILIUM_CALL_SIZE	52

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__type(key, __u32);
	__uint(max_entries, CILIUM_CALL_SIZE);
	__array(values, int());
} cilium_calls __section_maps_btf = {
	.values = {
		[CILIUM_CALL_IPV4] = (void *)&tail_handle_ipv4,
	},
};

static __always_inline void tail_call_internal(struct __ctx_buff *ctx, const __u32 index)
{
	bpf_tail_call(ctx, &cilium_calls, index);
}
