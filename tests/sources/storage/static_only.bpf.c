// SPDX-License-Identifier: GPL-2.0
/* Variables of this file alone, and of one function, in three sections that no other file sees. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

static volatile int begun = 3;
static volatile const int step = 4;
static volatile struct {
	__u64 packets;
	__u32 lengths[4];
} stats;

static __attribute__((noinline)) int next(void)
{
	static volatile int calls = 1;

	return calls++;
}

SEC("xdp")
int count(struct xdp_md *ctx)
{
	stats.packets += step;
	stats.lengths[ctx->rx_queue_index & 3]++;
	begun += next();
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
