// SPDX-License-Identifier: GPL-2.0
/* Operations of a struct, registered without a link: each is a program by its name in the struct. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

int acked;

SEC("struct_ops/nothing_init")
void BPF_PROG(nothing_init, struct sock *sk)
{
}

SEC("struct_ops/nothing_ssthresh")
__u32 BPF_PROG(nothing_ssthresh, struct sock *sk)
{
	return 2;
}

SEC("struct_ops/nothing_cong_avoid")
void BPF_PROG(nothing_cong_avoid, struct sock *sk, __u32 ack, __u32 packets)
{
	acked += packets;
}

SEC("struct_ops/nothing_undo_cwnd")
__u32 BPF_PROG(nothing_undo_cwnd, struct sock *sk)
{
	return 2;
}

SEC(".struct_ops")
struct tcp_congestion_ops nothing = {
	.init = (void *)nothing_init,
	.ssthresh = (void *)nothing_ssthresh,
	.cong_avoid = (void *)nothing_cong_avoid,
	.undo_cwnd = (void *)nothing_undo_cwnd,
	.name = "bpf_nothing",
};

char LICENSE[] SEC("license") = "GPL";
