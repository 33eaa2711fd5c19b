// SPDX-License-Identifier: GPL-2.0
/* Chooses the listening socket: a lookup for the namespace, and one among sockets of one port. */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} redir_map SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} reuseport_map SEC(".maps");

SEC("sk_lookup")
int redirect(struct bpf_sk_lookup *ctx)
{
	struct bpf_sock *sk;
	__u32 first = 0;
	long failed;

	if (ctx->local_port != 8080)
		return SK_PASS;
	sk = bpf_map_lookup_elem(&redir_map, &first);
	if (!sk)
		return SK_DROP;
	failed = bpf_sk_assign(ctx, sk, 0);
	bpf_sk_release(sk);
	return failed ? SK_DROP : SK_PASS;
}

SEC("sk_reuseport")
int by_hash(struct sk_reuseport_md *ctx)
{
	__u32 key = ctx->hash & 3;

	return bpf_sk_select_reuseport(ctx, &reuseport_map, &key, 0) ? SK_DROP : SK_PASS;
}

char LICENSE[] SEC("license") = "GPL";
