// SPDX-License-Identifier: GPL-2.0
/* Direct loads of packets (LD_ABS) through LLVM's own functions, and a key that is one byte long. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/if_packet.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>

unsigned long long load_byte(void *skb, unsigned long long off) asm("llvm.bpf.load.byte");
unsigned long long load_word(void *skb, unsigned long long off) asm("llvm.bpf.load.word");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u8);
	__type(value, long);
	__uint(max_entries, 256);
} my_map SEC(".maps");

SEC("socket")
int bpf_prog1(struct __sk_buff *skb)
{
	__u8 index = load_byte(skb, ETH_HLEN + offsetof(struct iphdr, protocol));
	long *value, one = load_word(skb, ETH_HLEN + offsetof(struct iphdr, saddr)) != 0;

	if (skb->pkt_type != PACKET_OUTGOING)
		return 0;
	value = bpf_map_lookup_elem(&my_map, &index);
	if (value)
		__sync_fetch_and_add(value, skb->len);
	else
		bpf_map_update_elem(&my_map, &index, &one, BPF_ANY);
	return 0;
}

char _license[] SEC("license") = "GPL";
