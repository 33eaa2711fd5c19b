/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Programs whose SEC() names no target. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

const volatile __u32 pid;
__u64 ran;
__s64 returned;

static __always_inline int note(void *ctx)
{
	if (bpf_get_current_pid_tgid() >> 32 != pid)
		return 0;
	__sync_fetch_and_add(&ran, 1);
	return 1;
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

SEC("uretprobe")
int on_return_of_function(struct pt_regs *ctx)
{
	if (note(ctx))
		returned = (int)PT_REGS_RC(ctx);
	return 0;
}

SEC("kprobe")
int on_kernel_function(void *ctx)
{
	return note(ctx);
}

SEC("kretprobe")
int on_return_of_kernel_function(struct pt_regs *ctx)
{
	if (note(ctx))
		returned = (int)PT_REGS_RC(ctx);
	return 0;
}

SEC("ksyscall")
int on_system_call(void *ctx)
{
	return note(ctx);
}

SEC("kretsyscall")
int on_return_of_system_call(struct pt_regs *ctx)
{
	if (note(ctx))
		returned = (int)PT_REGS_RC(ctx);
	return 0;
}

SEC("socket")
int first_bytes(struct __sk_buff *skb)
{
	return 11; /* of which the header has 8 */
}

char LICENSE[] SEC("license") = "GPL";
