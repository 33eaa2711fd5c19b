// SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause
/* libbpf's own maps for USDT come with its header: they have sizes and types of their own. */
#include <stdbool.h>
#include <sys/types.h>
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/usdt.bpf.h>

pid_t my_pid;

SEC("usdt/libc.so.6:libc:setjmp")
int BPF_USDT(usdt_auto_attach, void *arg1, int arg2, void *arg3)
{
	pid_t pid = bpf_get_current_pid_tgid() >> 32;

	if (pid != my_pid)
		return 0;
	bpf_printk("USDT auto attach to libc:setjmp: arg1 = %lx, arg2 = %d", arg1, arg2);
	return 0;
}

SEC("usdt")
int BPF_USDT(usdt_manual_attach, void *arg1)
{
	bpf_printk("USDT manual attach: arg1 = %lx, cookie %d", arg1, bpf_usdt_cookie(ctx));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
