/* SPDX-License-Identifier: GPL-2.0 */
/* Headers that are found by -Icommon, as those of the tutorial's ../common are. */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/icmpv6.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include <parsing_helpers.h>
#include <xdp_stats_kern_user.h>
#include <xdp_stats_kern.h>

SEC("xdp")
int xdp_parser_func(struct xdp_md *ctx)
{
	void *data_end = (void *)(long)ctx->data_end;
	struct hdr_cursor nh = {.pos = (void *)(long)ctx->data};
	__u32 action = XDP_PASS;
	struct ipv6hdr *ip6h;
	struct ethhdr *eth;

	if (parse_ethhdr(&nh, data_end, &eth) == bpf_htons(ETH_P_IPV6) &&
	    parse_ip6hdr(&nh, data_end, &ip6h) == IPPROTO_ICMPV6) {
		struct icmp6hdr *icmp6h = nh.pos;

		if ((void *)(icmp6h + 1) > data_end)
			action = XDP_ABORTED;
		else if (bpf_ntohs(icmp6h->icmp6_sequence) % 2 == 0)
			action = XDP_DROP;
	}
	return xdp_stats_record_action(ctx, action);
}

char _license[] SEC("license") = "GPL";
