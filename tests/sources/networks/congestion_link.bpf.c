// SPDX-License-Identifier: GPL-2.0
/* Two structs of operations for links that share a program; the fields that are set differ. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

SEC("struct_ops")
__u32 BPF_PROG(keep_ssthresh, struct sock *sk)
{
	return 10;
}

SEC("struct_ops")
__u32 BPF_PROG(keep_undo_cwnd, struct sock *sk)
{
	return 10;
}

SEC("struct_ops")
void BPF_PROG(first_cong_avoid, struct sock *sk, __u32 ack, __u32 packets)
{
}

SEC("struct_ops")
void BPF_PROG(second_cong_control, struct sock *sk, __u32 ack, int flag, const struct rate_sample *rs)
{
}

SEC(".struct_ops.link")
struct tcp_congestion_ops first = {
	.cong_avoid = (void *)first_cong_avoid,
	.ssthresh = (void *)keep_ssthresh,
	.undo_cwnd = (void *)keep_undo_cwnd,
	.name = "bpf_first",
};

SEC(".struct_ops.link")
struct tcp_congestion_ops second = {
	.cong_control = (void *)second_cong_control,
	.ssthresh = (void *)keep_ssthresh,
	.undo_cwnd = (void *)keep_undo_cwnd,
	.name = "bpf_second",
};

char LICENSE[] SEC("license") = "GPL";
