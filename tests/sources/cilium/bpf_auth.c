// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Strings of chars, arrays in arrays and pointers to them as values; a static table of constants. */
#include <bpf/ctx/skb.h>

static const __u16 well_known[] = {22, 53, 80, 443};

struct world {
	char name[16];
	__u32 cidrs[2][4];
	union {
		__u8 v6[16];
		__u32 v4;
	} gateway;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct world);
	__uint(max_entries, 3);
	__uint(map_flags, BPF_F_MMAPABLE);
} cilium_world __section_maps_btf;

__u64 hits[sizeof(well_known) / sizeof(well_known[0])];

__section("tc")
int cil_auth(struct __ctx_buff *ctx)
{
	__u32 which = ctx->priority % 3;
	struct world *world = bpf_map_lookup_elem(&cilium_world, &which);

	if (!world)
		return CTX_ACT_DROP;
	for (int i = 0; i < 4; i++)
		if (well_known[i] == ctx->cb[0])
			hits[i]++;
	return world->gateway.v4 == ctx->mark ? CTX_ACT_OK : CTX_ACT_DROP;
}

BPF_LICENSE("Dual BSD/GPL");
