// SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause
/* A kprobe that reads through its argument, and a system call by its name. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("kprobe/do_unlinkat")
int BPF_KPROBE(do_unlinkat, int dfd, struct filename *name)
{
	pid_t pid = bpf_get_current_pid_tgid() >> 32;
	const char *filename = BPF_CORE_READ(name, name);

	bpf_printk("KPROBE ENTRY pid = %d, filename = %s\n", pid, filename);
	return 0;
}

SEC("ksyscall/kill")
int BPF_KSYSCALL(entry_probe, pid_t pid, int sig)
{
	char comm[TASK_COMM_LEN];

	if (!sig)
		return 0;
	bpf_get_current_comm(&comm, sizeof(comm));
	bpf_printk("PID %d (%s) sends signal %d", pid, comm, sig);
	return 0;
}
