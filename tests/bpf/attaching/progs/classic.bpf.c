/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Programs for classic tc and for tcx, each of which notes when it ran. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

__u32 turns; /* how many ran, in all */
__u32 classic;
__u32 second;
__u32 by_tcx; /* the turns that they were the last time */

SEC("tc")
int classify(struct __sk_buff *skb)
{
	classic = ++turns;
	return TC_ACT_UNSPEC;
}

SEC("tc")
int classify_too(struct __sk_buff *skb)
{
	second = ++turns;
	return TC_ACT_OK;
}

SEC("tc")
int drop(struct __sk_buff *skb)
{
	++turns;
	return TC_ACT_SHOT;
}

SEC("?tcx/ingress")
int first(struct __sk_buff *skb)
{
	by_tcx = ++turns;
	return TC_ACT_UNSPEC; /* TCX_NEXT */
}

SEC("xdp")
int count(struct xdp_md *ctx)
{
	++turns;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
