// SPDX-License-Identifier: GPL-2.0
/* A chain of parsers by tail calls: each is put into the array by the loader's user. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define PARSE_VLAN 1
#define PARSE_IP   3

struct globals {
	__u32 offset;
	__u16 protocol;
};

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
	__uint(max_entries, 8);
} jmp_table SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct globals);
	__uint(max_entries, 32);
} percpu_map SEC(".maps");

static __always_inline void parse_eth_proto(struct __sk_buff *skb, __u16 proto)
{
	switch (proto) {
	case ETH_P_8021Q:
		bpf_tail_call(skb, &jmp_table, PARSE_VLAN);
		break;
	case ETH_P_IP:
		bpf_tail_call(skb, &jmp_table, PARSE_IP);
		break;
	}
}

static __always_inline struct globals *this_cpu_globals(void)
{
	__u32 key = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&percpu_map, &key);
}

SEC("socket")
int parse_vlan(struct __sk_buff *skb)
{
	struct globals *g = this_cpu_globals();
	__u16 proto;

	if (!g || bpf_skb_load_bytes(skb, g->offset + 2, &proto, sizeof(proto)))
		return 0;
	g->offset += 4;
	g->protocol = bpf_ntohs(proto);
	parse_eth_proto(skb, g->protocol);
	return 0;
}

SEC("socket")
int parse_ip(struct __sk_buff *skb)
{
	struct globals *g = this_cpu_globals();

	return g ? g->offset : 0;
}

SEC("socket")
int main_prog(struct __sk_buff *skb)
{
	struct globals *g = this_cpu_globals();

	if (!g)
		return 0;
	g->offset = ETH_HLEN;
	parse_eth_proto(skb, bpf_ntohs((__u16)skb->protocol));
	return 0;
}

char _license[] SEC("license") = "GPL";
