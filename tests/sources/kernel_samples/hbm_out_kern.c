/* SPDX-License-Identifier: GPL-2.0 */
/* A queue of bandwidth under a spin lock, in headers of its own. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "hbm_kern.h"

SEC("cgroup_skb/egress")
int _hbm_out_cg(struct __sk_buff *skb)
{
	struct hbm_vqueue *qdp = get_queue();
	long credit;

	if (!qdp)
		return ALLOW_PKT;
	bpf_spin_lock(&qdp->lock);
	credit = qdp->credit -= skb->len;
	bpf_spin_unlock(&qdp->lock);
	hbm_update_stats(skb->len, credit);
	return credit < -MAX_CREDIT ? DROP_PKT : ALLOW_PKT;
}

char _license[] SEC("license") = "GPL";
