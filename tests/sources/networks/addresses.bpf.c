// SPDX-License-Identifier: GPL-2.0
/* Each hook of addresses has an attach type of its own, which its section says. */
#include <linux/bpf.h>
#include <linux/in6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

const volatile __u32 rewritten_to = 0x7f000001;

SEC("cgroup/sendmsg4")
int on_sendmsg(struct bpf_sock_addr *ctx)
{
	ctx->user_ip4 = bpf_htonl(rewritten_to);
	return 1;
}

SEC("cgroup/getpeername4")
int on_getpeername(struct bpf_sock_addr *ctx)
{
	ctx->user_port = bpf_htons(80);
	return 1;
}

SEC("cgroup/getsockname6")
int on_getsockname(struct bpf_sock_addr *ctx)
{
	ctx->user_ip6[3] = bpf_htonl(1);
	return 1;
}

SEC("cgroup/post_bind4")
int after_bind(struct bpf_sock *ctx)
{
	return ctx->src_port >= 1024;
}

char LICENSE[] SEC("license") = "GPL";
