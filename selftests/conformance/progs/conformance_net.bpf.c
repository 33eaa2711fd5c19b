// SPDX-License-Identifier: MIT
/* Programs on packets: on all of a network namespace, but on a device only on the test's own. */
#include "conformance.h"
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>

/* "Local Experimental EtherType 1": the kernel sends no such frames by itself, but it sends frames
 * of other types whenever a device comes up. */
#define OURS 0x88B5

static __always_inline void our_frame(struct xdp_md *ctx, __u64 *counter)
{
	struct ethhdr *header = (void *)(long)ctx->data;

	if ((void *)(header + 1) <= (void *)(long)ctx->data_end &&
	    header->h_proto == bpf_htons(OURS))
		__sync_fetch_and_add(counter, 1);
}

static __always_inline void our_packet(struct __sk_buff *skb, __u64 *counter)
{
	if (skb->protocol == bpf_htons(OURS))
		__sync_fetch_and_add(counter, 1);
}

TWICE(flow_dissector, "flow_dissector", struct __sk_buff, EVERY, BPF_OK)
TWICE(sk_lookup, "sk_lookup", struct bpf_sk_lookup, EVERY, SK_PASS)
TWICE(netfilter, "netfilter", void, EVERY, 1 /* NF_ACCEPT */)
TWICE(xdp, "xdp", struct xdp_md, our_frame, XDP_PASS)
TWICE(devmap, "xdp/devmap", struct xdp_md, our_frame, XDP_PASS)
TWICE(tcx_ingress, "tcx/ingress", struct __sk_buff, our_packet, -1 /* TCX_NEXT */)
TWICE(tcx_egress, "tcx/egress", struct __sk_buff, our_packet, -1 /* TCX_NEXT */)
TWICE(netkit_primary, "netkit/primary", struct __sk_buff, our_packet, -1 /* NETKIT_NEXT */)
TWICE(netkit_peer, "netkit/peer", struct __sk_buff, our_packet, -1 /* NETKIT_NEXT */)

char LICENSE[] SEC("license") = "GPL";
