// SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause
/* Trampolines only, which read their arguments directly; no map but that of the texts. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("fentry/do_unlinkat")
int BPF_PROG(do_unlinkat, int dfd, struct filename *name)
{
	pid_t pid = bpf_get_current_pid_tgid() >> 32;

	bpf_printk("fentry: pid = %d, filename = %s\n", pid, name->name);
	return 0;
}

SEC("fexit/vfs_statfs")
int BPF_PROG(vfs_statfs_exit, const struct path *path, struct kstatfs *buf, int ret)
{
	bpf_printk("fexit: ret = %d\n", ret);
	return 0;
}
