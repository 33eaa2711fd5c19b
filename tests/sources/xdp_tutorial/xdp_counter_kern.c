/* SPDX-License-Identifier: GPL-2.0 */
/* An array of records, counted by an atomic addition. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "own_bpf_util.h"
#include "common/xdp_stats_kern_user.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct datarec);
	__uint(max_entries, XDP_ACTION_MAX);
} xdp_stats_map SEC(".maps");

SEC("xdp")
int xdp_stats1_func(struct xdp_md *ctx)
{
	__u32 key = XDP_PASS;
	struct datarec *rec = bpf_map_lookup_elem(&xdp_stats_map, &key);

	if (!rec)
		return XDP_ABORTED;
	lock_xadd(&rec->rx_packets, 1);
	lock_xadd(&rec->rx_bytes, ctx->data_end - ctx->data);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
