// SPDX-License-Identifier: GPL-2.0
/* Fills the keys of a flow, and goes on with the protocol's program by a tail call. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum { IP, PROTOCOLS };

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, PROTOCOLS);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} jmp_table SEC(".maps");

SEC("flow_dissector")
int dissect(struct __sk_buff *skb)
{
	struct bpf_flow_keys *keys = skb->flow_keys;

	if (keys->n_proto != bpf_htons(ETH_P_IP))
		return BPF_DROP;
	bpf_tail_call(skb, &jmp_table, IP);
	return BPF_DROP;
}

SEC("flow_dissector")
int dissect_ip(struct __sk_buff *skb)
{
	struct bpf_flow_keys *keys = skb->flow_keys;
	struct iphdr iph;

	if (bpf_skb_load_bytes(skb, keys->thoff, &iph, sizeof(iph)))
		return BPF_DROP;
	keys->addr_proto = ETH_P_IP;
	keys->ipv4_src = iph.saddr;
	keys->ipv4_dst = iph.daddr;
	keys->thoff += iph.ihl << 2;
	keys->ip_proto = iph.protocol;
	return BPF_OK;
}

char LICENSE[] SEC("license") = "GPL";
