/* SPDX-License-Identifier: GPL-2.0 */
/* The smallest program of all: no map, no variable, and no .bpf.c in its name. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int xdp_prog_simple(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
