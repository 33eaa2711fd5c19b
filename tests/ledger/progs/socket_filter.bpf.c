/* A program that a socket can hold without a link. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("socket")
int let_all_pass(struct __sk_buff *skb)
{
	return skb->len;
}

char LICENSE[] SEC("license") = "GPL";
