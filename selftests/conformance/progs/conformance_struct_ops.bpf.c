// SPDX-License-Identifier: MIT
/* Two congestion controls for TCP with one name, so that a link can be updated to the other; and
 * three that it can't be updated to: of another name, for maps without links, and incomplete. */
#include "conformance.h"
#include <bpf/bpf_tracing.h>

struct sock;

/* The members that are used; libbpf finds the kernel's by their names. */
struct tcp_congestion_ops {
	__u32 (*ssthresh)(struct sock *sk);
	void (*cong_avoid)(struct sock *sk, __u32 ack, __u32 acked);
	__u32 (*undo_cwnd)(struct sock *sk);
	void (*init)(struct sock *sk);
	char name[16];
};

COUNTERS(on_struct_ops)

SEC("struct_ops")
__u32 BPF_PROG(threshold, struct sock *sk)
{
	return 10;
}

SEC("struct_ops")
void BPF_PROG(avoid, struct sock *sk, __u32 ack, __u32 acked)
{
}

SEC("struct_ops")
__u32 BPF_PROG(undo, struct sock *sk)
{
	return 10;
}

SEC("struct_ops")
void BPF_PROG(init, struct sock *sk)
{
	__sync_fetch_and_add(&on_struct_ops_calls, 1);
}

SEC("struct_ops")
void BPF_PROG(init_alt, struct sock *sk)
{
	__sync_fetch_and_add(&on_struct_ops_alt_calls, 1);
}

SEC(".struct_ops.link")
struct tcp_congestion_ops congestion = {
	.ssthresh = (void *)threshold,
	.cong_avoid = (void *)avoid,
	.undo_cwnd = (void *)undo,
	.init = (void *)init,
	.name = "bpflink",
};

SEC(".struct_ops.link")
struct tcp_congestion_ops congestion_alt = {
	.ssthresh = (void *)threshold,
	.cong_avoid = (void *)avoid,
	.undo_cwnd = (void *)undo,
	.init = (void *)init_alt,
	.name = "bpflink",
};

SEC(".struct_ops.link")
struct tcp_congestion_ops congestion_renamed = {
	.ssthresh = (void *)threshold,
	.cong_avoid = (void *)avoid,
	.undo_cwnd = (void *)undo,
	.init = (void *)init_alt,
	.name = "bpflink_other",
};

SEC(".struct_ops.link")
struct tcp_congestion_ops congestion_incomplete = {
	.ssthresh = (void *)threshold,
	.undo_cwnd = (void *)undo,
	.init = (void *)init_alt,
	.name = "bpflink",
};

SEC(".struct_ops")
struct tcp_congestion_ops congestion_unlinked = {
	.ssthresh = (void *)threshold,
	.cong_avoid = (void *)avoid,
	.undo_cwnd = (void *)undo,
	.init = (void *)init_alt,
	.name = "bpflink",
};

char LICENSE[] SEC("license") = "GPL";
