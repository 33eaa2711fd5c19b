// SPDX-License-Identifier: MIT
/* Two programs that count the packets leaving a cgroup's sockets, and let all of them pass. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

__u64 calls;
__u64 alt_calls;

SEC("cgroup_skb/egress")
int egress(struct __sk_buff *skb)
{
	__sync_fetch_and_add(&calls, 1);
	return 1;
}

SEC("cgroup_skb/egress")
int egress_alt(struct __sk_buff *skb)
{
	__sync_fetch_and_add(&alt_calls, 1);
	return 1;
}

/* A program of another type: a link to one of the above can't be updated to it. */
SEC("cgroup/sock_create")
int sock_create(struct bpf_sock *sk)
{
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
