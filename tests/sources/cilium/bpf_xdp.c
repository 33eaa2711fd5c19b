// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Prefixes of addresses in tries, and as exact ones in hashes, for each family that is enabled. */
#include <bpf/ctx/xdp.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>

struct lpm_v4_key {
	__u32 prefixlen;
	__u8 addr[4];
};

struct lpm_val {
	__u8 flags;
};

#ifdef ENABLE_IPV4
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct lpm_v4_key);
	__type(value, struct lpm_val);
	__uint(max_entries, 512);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} cilium_cidr_v4_dyn __section_maps_btf;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct lpm_v4_key);
	__type(value, struct lpm_val);
	__uint(max_entries, 512);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);
} cilium_cidr_v4_fix __section_maps_btf;
#endif

__section_entry(PROG_TYPE)
int cil_xdp_entry(struct __ctx_buff *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct lpm_v4_key pfx = {.prefixlen = 32};
	struct iphdr *ip4 = data + ETH_HLEN;

	if ((void *)(ip4 + 1) > data_end)
		return CTX_ACT_DROP;
	__builtin_memcpy(pfx.addr, &ip4->saddr, sizeof(pfx.addr));
	if (bpf_map_lookup_elem(&cilium_cidr_v4_dyn, &pfx))
		return CTX_ACT_DROP;
	return bpf_map_lookup_elem(&cilium_cidr_v4_fix, &pfx) ? CTX_ACT_DROP : CTX_ACT_OK;
}

BPF_LICENSE("Dual BSD/GPL");
