// SPDX-License-Identifier: GPL-2.0
/* One program at all functions of a pattern, with a cookie for each of them. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

__u64 calls, last_ip, last_cookie;

SEC("kprobe.multi/vfs_*")
int BPF_KPROBE(entered)
{
	__sync_fetch_and_add(&calls, 1);
	last_ip = bpf_get_func_ip(ctx);
	last_cookie = bpf_get_attach_cookie(ctx);
	return 0;
}

SEC("kretprobe.multi/vfs_*")
int BPF_KRETPROBE(left, long ret)
{
	if (ret < 0)
		bpf_printk("failed with %ld", ret);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
