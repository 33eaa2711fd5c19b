/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

__u64 unused;

SEC("tc")
int print(struct __sk_buff *skb)
{
	bpf_printk("a packet of %d bytes\n", skb->len);
	bpf_printk("its mark: %d", skb->mark);
	return 0;
}

SEC("tc")
int print_lines(struct __sk_buff *skb)
{
	bpf_printk("one\ntwo\n\nthree %s", "times");
	return 0;
}

SEC("tc")
int is_silent(struct __sk_buff *skb)
{
	unused = skb->len;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
