/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Programs whose SEC() names no target. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

const volatile __u32 pid;
__u64 ran;

static __always_inline int note(void *ctx)
{
	if (bpf_get_current_pid_tgid() >> 32 == pid)
		__sync_fetch_and_add(&ran, 1);
	return 0;
}

SEC("tp")
int on_tracepoint(void *ctx)
{
	return note(ctx);
}

SEC("raw_tp")
int on_raw_tracepoint(void *ctx)
{
	return note(ctx);
}

SEC("uprobe")
int on_function(void *ctx)
{
	return note(ctx);
}

SEC("socket")
int first_bytes(struct __sk_buff *skb)
{
	return 11; /* of which the header has 8 */
}

char LICENSE[] SEC("license") = "GPL";
