// SPDX-License-Identifier: MIT
/* Programs that write down their numbers, which shows in which order they ran. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define OURS 0x88B5

__u64 sequence;

static __always_inline int any(void *ctx)
{
	return 1;
}

static __always_inline int ours(struct __sk_buff *skb)
{
	return skb->protocol == bpf_htons(OURS);
}

#define NUMBERED(name, number, section, context, condition, result) \
	SEC(section) \
	int name##_##number(context *ctx) \
	{ \
		if (condition(ctx)) \
			sequence = sequence * 10 + number; \
		return result; \
	}

#define FOUR(name, section, context, condition, result) \
	NUMBERED(name, 1, section, context, condition, result) \
	NUMBERED(name, 2, section, context, condition, result) \
	NUMBERED(name, 3, section, context, condition, result) \
	NUMBERED(name, 4, section, context, condition, result)

FOUR(tcx_ingress, "tcx/ingress", struct __sk_buff, ours, -1)
FOUR(tcx_egress, "tcx/egress", struct __sk_buff, ours, -1)
FOUR(netkit_primary, "netkit/primary", struct __sk_buff, ours, -1)
FOUR(netkit_peer, "netkit/peer", struct __sk_buff, ours, -1)
FOUR(netfilter, "netfilter", void, any, 1)
FOUR(cgroup, "cgroup_skb/egress", struct __sk_buff, any, 1)

char LICENSE[] SEC("license") = "GPL";
