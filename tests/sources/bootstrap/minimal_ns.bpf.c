// SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause
/* The device and inode of a PID namespace, which user space writes before loading. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile unsigned long long dev = 0;
const volatile unsigned long long ino = 0;
int my_pid = 0;

SEC("tp/syscalls/sys_enter_write")
int handle_tp(void *ctx)
{
	struct bpf_pidns_info ns;

	if (bpf_get_ns_current_pid_tgid(dev, ino, &ns, sizeof(ns)) || ns.pid != my_pid)
		return 0;
	bpf_printk("BPF triggered from PID %d.\n", ns.pid);
	return 0;
}
