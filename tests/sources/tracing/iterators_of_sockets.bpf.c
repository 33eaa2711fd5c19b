// SPDX-License-Identifier: GPL-2.0
/* Casts between types of sockets that the verifier knows; BPF_SEQ_PRINTF's texts are static. */
#include <vmlinux.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define AF_INET6 10

SEC("iter/tcp")
int dump_tcp(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct tcp_sock *tp;

	if (!common || common->skc_family == AF_INET6)
		return 0;
	if (ctx->meta->seq_num == 0)
		BPF_SEQ_PRINTF(ctx->meta->seq, "  sl  local_address\n");
	tp = bpf_skc_to_tcp_sock(common);
	if (tp)
		BPF_SEQ_PRINTF(ctx->meta->seq, "%pI4 %d\n", &common->skc_rcv_saddr, tp->snd_cwnd);
	return 0;
}

SEC("iter/udp")
int dump_udp(struct bpf_iter__udp *ctx)
{
	struct udp_sock *udp_sk = ctx->udp_sk;

	if (udp_sk)
		BPF_SEQ_PRINTF(ctx->meta->seq, "%d\n", ctx->bucket);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
