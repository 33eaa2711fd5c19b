// SPDX-License-Identifier: GPL-2.0
/* Trampolines, and kprobes for kernels without them, of which the loader chooses one set. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

enum stat_types { S_READ, S_WRITE, S_FSYNC, S_MAX };

__u64 stats[S_MAX] = {};

static __always_inline int inc_stats(enum stat_types which)
{
	__atomic_add_fetch(&stats[which], 1, __ATOMIC_RELAXED);
	return 0;
}

SEC("kprobe/vfs_read")
int BPF_KPROBE(kprobe_vfs_read)
{
	return inc_stats(S_READ);
}

SEC("kprobe/vfs_write")
int BPF_KPROBE(kprobe_vfs_write)
{
	return inc_stats(S_WRITE);
}

SEC("?fentry/vfs_read")
int BPF_PROG(fentry_vfs_read)
{
	return inc_stats(S_READ);
}

SEC("?fexit/vfs_fsync")
int BPF_PROG(fexit_vfs_fsync, struct file *file, int datasync, int ret)
{
	return ret ? 0 : inc_stats(S_FSYNC);
}

char LICENSE[] SEC("license") = "GPL";
