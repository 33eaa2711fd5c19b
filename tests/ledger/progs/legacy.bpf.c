// SPDX-License-Identifier: MIT
/* Programs that are attached without a link, each to another kind of target. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("cgroup_skb/egress")
int egress(struct __sk_buff *skb)
{
	return 1;
}

SEC("xdp")
int on_device(struct xdp_md *context)
{
	return XDP_PASS;
}

SEC("tc")
int classifier(struct __sk_buff *skb)
{
	return -1;
}

SEC("flow_dissector")
int dissector(struct __sk_buff *skb)
{
	return BPF_OK;
}

SEC("sk_msg")
int verdict(struct sk_msg_md *message)
{
	return SK_PASS;
}

char LICENSE[] SEC("license") = "GPL";
