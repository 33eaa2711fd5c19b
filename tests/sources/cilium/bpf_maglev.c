// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Look-up tables as inner arrays with one long value; pinned outside, not inside. */
#include <bpf/ctx/xdp.h>

#define LB_MAGLEV_LUT_SIZE 251

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__type(key, __u16);
	__type(value, __u32);
	__uint(max_entries, LB_MAX_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(key_size, sizeof(__u32));
		__uint(value_size, sizeof(__u32) * LB_MAGLEV_LUT_SIZE);
		__uint(max_entries, 1);
	});
} cilium_lb4_maglev __section_maps_btf;

__section_entry(PROG_TYPE)
int cil_select(struct __ctx_buff *ctx)
{
	__u16 service = ctx->rx_queue_index;
	__u32 zero = 0, *backends, index = ctx->ingress_ifindex % LB_MAGLEV_LUT_SIZE;
	void *lut = bpf_map_lookup_elem(&cilium_lb4_maglev, &service);

	/* Else clang leaves out the check of the index, which the verifier needs. */
	asm volatile("" : "+r"(index));
	backends = lut ? bpf_map_lookup_elem(lut, &zero) : 0;
	if (!backends || index >= LB_MAGLEV_LUT_SIZE)
		return CTX_ACT_OK;
	return backends[index] ? CTX_ACT_DROP : CTX_ACT_OK;
}

BPF_LICENSE("Dual BSD/GPL");
