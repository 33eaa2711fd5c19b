/* SPDX-License-Identifier: GPL-2.0 */
/* A cgroup array pinned by name, for the tool that fills it and for the filter of tc. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} test_cgrp2_array_pin SEC(".maps");

SEC("action")
int handle_egress(struct __sk_buff *skb)
{
	char dont_care_msg[] = "dont care %04x %d\n";
	char pass_msg[] = "pass\n";

	if (bpf_skb_under_cgroup(skb, &test_cgrp2_array_pin, 0) != 1) {
		bpf_trace_printk(pass_msg, sizeof(pass_msg));
		return TC_ACT_OK;
	}
	bpf_trace_printk(dont_care_msg, sizeof(dont_care_msg), skb->protocol, skb->ifindex);
	return TC_ACT_SHOT;
}

char _license[] SEC("license") = "GPL";
