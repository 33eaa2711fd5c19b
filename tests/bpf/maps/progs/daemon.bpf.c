/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

enum mode { REFUSE = -1, COUNT = 1 };

struct limits {
	__u32 packets;
	__u32 bytes;
};

__u64 counter;
char greeting[16];
struct limits limits = {.packets = 2, .bytes = 4096};
enum mode mode = COUNT;
const volatile __u32 step = 3;
__u32 of_its_own SEC(".data.of_its_own_section") = 7;

struct client {
	__u64 cgroup;
	__u32 port;
	__u32 more;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, struct client);
	__type(value, struct limits);
} limits_of_each_client SEC(".maps");

SEC("cgroup_skb/egress")
int count_each_packet(struct __sk_buff *skb)
{
	struct client client = {.cgroup = 7, .port = step};

	counter += step * of_its_own;
	bpf_map_update_elem(&limits_of_each_client, &client, &limits, BPF_ANY);
	return counter <= limits.packets * step * of_its_own && mode == COUNT;
}

SEC("cgroup_skb/egress")
int let_all_pass(struct __sk_buff *skb)
{
	return 1;
}

SEC("tc")
int add_seven_to_the_counter(struct __sk_buff *skb)
{
	counter += 7;
	return skb->mark == 5 ? TC_ACT_SHOT : TC_ACT_OK;
}

char LICENSE[] SEC("license") = "GPL";
