/* SPDX-License-Identifier: GPL-2.0 */
/* Programs of cgroups: sockets that are made, addresses that are bound, packets that are counted. */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/socket.h>
#include <bpf/bpf_helpers.h>

#define AF_INET6       10
#define SOCK_DGRAM     2
#define IPPROTO_ICMPV6 58

struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_STORAGE);
	__type(key, struct bpf_cgroup_storage_key);
	__type(value, __u64);
} bytes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE);
	__type(key, struct bpf_cgroup_storage_key);
	__type(value, __u32);
} packets SEC(".maps");

SEC("cgroup/sock")
int bpf_prog1(struct bpf_sock *sk)
{
	/* Refuses ICMPv6 through datagram sockets. */
	return !(sk->family == AF_INET6 && sk->type == SOCK_DGRAM && sk->protocol == IPPROTO_ICMPV6);
}

SEC("cgroup/bind4")
int on_bind(struct bpf_sock_addr *ctx)
{
	return ctx->user_port != 0;
}

SEC("cgroup_skb/egress")
int count(struct __sk_buff *skb)
{
	__u64 *total = bpf_get_local_storage(&bytes, 0);
	__u32 *here = bpf_get_local_storage(&packets, 0);

	__sync_fetch_and_add(total, skb->len);
	(*here)++;
	return 1;
}

char _license[] SEC("license") = "GPL";
