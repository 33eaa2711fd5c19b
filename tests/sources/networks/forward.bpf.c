// SPDX-License-Identifier: GPL-2.0
/* Asks the kernel's routes, and sends to a neighbour or a peer without its queues. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2

volatile const __u32 IFINDEX_DST;
struct bpf_fib_lookup last;

SEC("xdp")
int xdp_forward(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct bpf_fib_lookup fib = {.family = AF_INET, .ifindex = ctx->ingress_ifindex};
	struct iphdr *iph = data + sizeof(struct ethhdr);
	struct ethhdr *eth = data;

	if ((void *)(iph + 1) > data_end || eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	fib.ipv4_src = iph->saddr;
	fib.ipv4_dst = iph->daddr;
	if (bpf_fib_lookup(ctx, &fib, sizeof(fib), BPF_FIB_LOOKUP_DIRECT))
		return XDP_PASS;
	__builtin_memcpy(eth->h_dest, fib.dmac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, fib.smac, ETH_ALEN);
	last.ifindex = fib.ifindex;
	return bpf_redirect(fib.ifindex, 0);
}

SEC("tc")
int tc_to_peer(struct __sk_buff *skb)
{
	return skb->mark ? bpf_redirect_peer(IFINDEX_DST, 0) : bpf_redirect_neigh(IFINDEX_DST, NULL, 0, 0);
}

char LICENSE[] SEC("license") = "GPL";
