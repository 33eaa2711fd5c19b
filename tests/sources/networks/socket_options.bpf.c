// SPDX-License-Identifier: GPL-2.0
/* Options of sockets, with a buffer between two pointers, and a value that each socket keeps. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define SOL_CUSTOM 0xdeadbeef

struct kept {
	__u8 val;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct kept);
} socket_storage_map SEC(".maps");

SEC("cgroup/getsockopt")
int on_get(struct bpf_sockopt *ctx)
{
	__u8 *optval = ctx->optval, *end = ctx->optval_end;
	struct kept *kept;

	if (ctx->level != SOL_CUSTOM || !ctx->sk)
		return 1;
	kept = bpf_sk_storage_get(&socket_storage_map, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!kept || optval + 1 > end)
		return 0;
	ctx->retval = 0;
	optval[0] = kept->val;
	ctx->optlen = 1;
	return 1;
}

SEC("cgroup/setsockopt")
int on_set(struct bpf_sockopt *ctx)
{
	__u8 *optval = ctx->optval, *end = ctx->optval_end;
	struct kept *kept;

	if (ctx->level != SOL_CUSTOM || !ctx->sk)
		return 1;
	kept = bpf_sk_storage_get(&socket_storage_map, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!kept || optval + 1 > end)
		return 0;
	kept->val = optval[0];
	ctx->optlen = -1;
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
