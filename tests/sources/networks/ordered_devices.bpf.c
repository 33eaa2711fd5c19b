// SPDX-License-Identifier: GPL-2.0
/* Sections that older releases of libbpf do not know, which refuse the object then. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#define TCX_NEXT -1

int seen;

SEC("tcx/ingress")
int on_ingress(struct __sk_buff *skb)
{
	seen++;
	return TCX_NEXT;
}

SEC("netkit/primary")
int on_primary(struct __sk_buff *skb)
{
	return skb->len > 1500 ? TC_ACT_SHOT : TCX_NEXT;
}

char LICENSE[] SEC("license") = "GPL";
