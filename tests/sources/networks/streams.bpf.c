// SPDX-License-Identifier: GPL-2.0
/* A parser and a verdict for streams of sockets, and messages that are cut and corked. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 20);
	__uint(key_size, sizeof(int));
	__uint(value_size, sizeof(int));
} sock_map SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, int);
	__type(value, int);
} sock_bytes SEC(".maps");

SEC("sk_skb/stream_parser")
int parse(struct __sk_buff *skb)
{
	return skb->len;
}

SEC("sk_skb/stream_verdict")
int verdict(struct __sk_buff *skb)
{
	return bpf_sk_redirect_map(skb, &sock_map, skb->remote_port == 0, 0);
}

SEC("sk_msg")
int cork(struct sk_msg_md *msg)
{
	int zero = 0, *bytes = bpf_map_lookup_elem(&sock_bytes, &zero);

	if (bytes)
		bpf_msg_cork_bytes(msg, *bytes);
	return bpf_msg_redirect_map(msg, &sock_map, zero, 0);
}

char LICENSE[] SEC("license") = "GPL";
