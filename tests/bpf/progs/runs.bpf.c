/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

__u64 argument;
__u64 ran;

/* Drops what begins with 0xff, gives the rest a byte more in front, and leaves the queue in a context. */
SEC("xdp")
int prepend(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;

	argument = ctx->rx_queue_index;
	ran++;
	if (data + 14 > (__u8 *)(long)ctx->data_end)
		return XDP_ABORTED;
	if (data[0] == 0xff)
		return XDP_DROP;
	if (bpf_xdp_adjust_head(ctx, -1))
		return XDP_ABORTED;
	data = (void *)(long)ctx->data;
	if (data + 1 > (__u8 *)(long)ctx->data_end)
		return XDP_ABORTED;
	data[0] = 7;
	return XDP_PASS;
}

SEC("tc")
int classify(struct __sk_buff *skb)
{
	argument = skb->mark;
	skb->mark = 8;
	skb->cb[1] = 9;
	return skb->len == 14 ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

SEC("cgroup_skb/egress")
int egress(struct __sk_buff *skb)
{
	return skb->len > 40;
}

SEC("socket")
int filter(struct __sk_buff *skb)
{
	return skb->len;
}

SEC("flow_dissector")
int dissect(struct __sk_buff *skb)
{
	skb->flow_keys->thoff = 30;
	return BPF_OK;
}

SEC("raw_tp/sys_enter")
int raw(struct bpf_raw_tracepoint_args *ctx)
{
	argument = ctx->args[1];
	return -3;
}

SEC("perf_event")
int event(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
