/* SPDX-License-Identifier: GPL-2.0 */
/* A tracepoint whose fields the program declares by hand, with their offsets. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "own_bpf_util.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__type(key, __s32);
	__type(value, __u64);
	__uint(max_entries, 10);
} xdp_stats_map SEC(".maps");

struct xdp_exception_ctx {
	__u64 pad;	/* common_type, common_flags, common_preempt_count, common_pid */
	__s32 prog_id;	/* offset 8 */
	__u32 act;	/* offset 12 */
	__s32 ifindex;	/* offset 16 */
};

SEC("tracepoint/xdp/xdp_exception")
int trace_xdp_exception(struct xdp_exception_ctx *ctx)
{
	__s32 key = ctx->ifindex;
	__u64 *valp, one = 1;

	if (ctx->act != XDP_ABORTED)
		return 0;
	valp = bpf_map_lookup_elem(&xdp_stats_map, &key);
	if (!valp)
		return bpf_map_update_elem(&xdp_stats_map, &key, &one, 0) ? 1 : 0;
	*valp += 1;
	bpf_debug("aborted on %d\n", key);
	return 0;
}

char _license[] SEC("license") = "GPL";
