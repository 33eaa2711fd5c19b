/* SPDX-License-Identifier: GPL-2.0 */
/* Packets that become shorter, and ports that change: pointers are checked anew afterwards. */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include <parsing_helpers.h>

static __always_inline int vlan_tag_pop(struct xdp_md *ctx)
{
	struct ethhdr kept, *eth = (void *)(long)ctx->data;
	void *data_end = (void *)(long)ctx->data_end;
	struct vlan_hdr *vlh = (void *)(eth + 1);

	if ((void *)(vlh + 1) > data_end || !proto_is_vlan(eth->h_proto))
		return -1;
	kept = *eth;
	kept.h_proto = vlh->h_vlan_encapsulated_proto;
	if (bpf_xdp_adjust_head(ctx, (int)sizeof(*vlh)))
		return -1;
	eth = (void *)(long)ctx->data;
	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return -1;
	*eth = kept;
	return 0;
}

SEC("xdp")
int xdp_port_rewrite_func(struct xdp_md *ctx)
{
	void *data_end = (void *)(long)ctx->data_end;
	struct hdr_cursor nh = {.pos = (void *)(long)ctx->data};
	struct udphdr *udphdr;
	struct ethhdr *eth;
	struct iphdr *iph;

	if (parse_ethhdr(&nh, data_end, &eth) != bpf_htons(ETH_P_IP) ||
	    parse_iphdr(&nh, data_end, &iph) != IPPROTO_UDP ||
	    parse_udphdr(&nh, data_end, &udphdr) < 0)
		return XDP_PASS;
	udphdr->dest = bpf_htons(bpf_ntohs(udphdr->dest) - 1);
	return XDP_PASS;
}

SEC("xdp")
int xdp_vlan_pop_func(struct xdp_md *ctx)
{
	return vlan_tag_pop(ctx) ? XDP_PASS : XDP_TX;
}

char _license[] SEC("license") = "GPL";
