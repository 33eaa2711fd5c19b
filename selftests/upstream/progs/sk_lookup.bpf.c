// SPDX-License-Identifier: MIT
/* Two programs each that let the kernel look up a socket, that drop, and that choose a server. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

__u64 runs[2];

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} servers SEC(".maps");

static __always_inline int verdict(int which, int result)
{
	__sync_fetch_and_add(&runs[which], 1);
	return result;
}

static __always_inline int redirect(struct bpf_sk_lookup *ctx, int which)
{
	__u32 first = 0;
	struct bpf_sock *server = bpf_map_lookup_elem(&servers, &first);
	long failed;

	if (!server)
		return verdict(which, SK_DROP);
	failed = bpf_sk_assign(ctx, server, BPF_SK_LOOKUP_F_REPLACE);
	bpf_sk_release(server);
	return verdict(which, failed ? SK_DROP : SK_PASS);
}

#define TWO(name, body) \
	SEC("sk_lookup") \
	int name##_1(struct bpf_sk_lookup *ctx) \
	{ \
		return body(0); \
	} \
	SEC("sk_lookup") \
	int name##_2(struct bpf_sk_lookup *ctx) \
	{ \
		return body(1); \
	}

#define PASS(which) verdict(which, SK_PASS)
#define DROP(which) verdict(which, SK_DROP)
#define REDIR(which) redirect(ctx, which)

TWO(pass, PASS)
TWO(drop, DROP)
TWO(redir, REDIR)

char LICENSE[] SEC("license") = "GPL";
