/* SPDX-License-Identifier: GPL-2.0 */
/* Sections with flags: packets of several buffers, and programs for the maps of CPUs and devices. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_CPUMAP);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct bpf_cpumap_val));
	__uint(max_entries, 4);
} cpu_map SEC(".maps");

SEC("?xdp.frags")
int xdp_frags(struct xdp_md *ctx)
{
	__u8 first;

	if (bpf_xdp_load_bytes(ctx, 0, &first, sizeof(first)))
		return XDP_ABORTED;
	return bpf_xdp_get_buff_len(ctx) > 9000 ? XDP_DROP : XDP_PASS;
}

SEC("xdp/cpumap")
int on_cpu(struct xdp_md *ctx)
{
	return ctx->ingress_ifindex == 1 ? XDP_DROP : XDP_PASS;
}

SEC("xdp/devmap")
int on_device(struct xdp_md *ctx)
{
	return ctx->egress_ifindex == 1 ? XDP_DROP : XDP_PASS;
}

SEC("xdp")
int to_cpu(struct xdp_md *ctx)
{
	return bpf_redirect_map(&cpu_map, ctx->rx_queue_index & 3, XDP_PASS);
}

char _license[] SEC("license") = "GPL";
