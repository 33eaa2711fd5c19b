/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct seen {
	__u64 packets;
	__u32 bytes;
	__u32 marks;
};

#ifndef TYPE
#define TYPE BPF_MAP_TYPE_SK_STORAGE
#endif

struct {
	__uint(type, TYPE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct seen);
} storage SEC(".maps");

#ifdef COUNTS
SEC("cgroup_skb/egress")
int count(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct seen *seen;

	if (!sk)
		return 1;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return 1;
	seen = bpf_sk_storage_get(&storage, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (seen) {
		seen->packets++;
		seen->bytes += skb->len;
	}
	return 1;
}
#endif

char LICENSE[] SEC("license") = "GPL";
