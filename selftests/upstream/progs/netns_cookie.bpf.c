// SPDX-License-Identifier: MIT
/* The cookie of the network namespace that a program runs for. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define OURS 0x88B5 /* the EtherType of frames that only the test sends */

__u64 seen;

SEC("sockops")
int sock_ops(struct bpf_sock_ops *ctx)
{
	seen = bpf_get_netns_cookie(ctx);
	return 1;
}

SEC("cgroup_skb/egress")
int cgroup_skb(struct __sk_buff *skb)
{
	seen = bpf_get_netns_cookie(skb);
	return 1;
}

SEC("tcx/egress")
int tcx_egress(struct __sk_buff *skb)
{
	if (skb->protocol == bpf_htons(OURS))
		seen = bpf_get_netns_cookie(skb);
	return -1; /* TCX_NEXT */
}

char LICENSE[] SEC("license") = "GPL";
