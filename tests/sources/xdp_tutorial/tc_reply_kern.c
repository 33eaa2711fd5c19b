/* SPDX-License-Identifier: GPL-2.0 */
/* tc beside xdp: a mark as a message of xdp's. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

struct meta_info {
	__u32 mark;
} __attribute__((aligned(4)));

SEC("xdp")
int xdp_mark(struct xdp_md *ctx)
{
	struct meta_info *meta;

	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*meta)))
		return XDP_ABORTED;
	meta = (void *)(unsigned long)ctx->data_meta;
	if ((void *)(meta + 1) > (void *)(unsigned long)ctx->data)
		return XDP_ABORTED;
	meta->mark = 42;
	return XDP_PASS;
}

SEC("tc")
int tc_mark(struct __sk_buff *ctx)
{
	struct meta_info *meta = (void *)(unsigned long)ctx->data_meta;

	if ((void *)(meta + 1) > (void *)(unsigned long)ctx->data) {
		ctx->mark = 41;
		return TC_ACT_OK;
	}
	ctx->mark = meta->mark;
	return TC_ACT_OK;
}

char _license[] SEC("license") = "GPL";
