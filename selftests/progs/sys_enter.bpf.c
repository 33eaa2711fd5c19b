// SPDX-License-Identifier: MIT
/* Copies `in` to `out` at each system call of one process. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* The process, and the PID namespace of its pid: a container has a namespace of its own. */
const volatile __u64 pidns_dev;
const volatile __u64 pidns_ino;
const volatile __u32 target_pid;

int in;
int out;

static void copy(void)
{
	struct bpf_pidns_info current = {};

	if (bpf_get_ns_current_pid_tgid(pidns_dev, pidns_ino, &current, sizeof(current)))
		return;
	if (current.tgid == target_pid)
		out = in;
}

SEC("raw_tp/sys_enter")
int pin_raw_tp(void *ctx)
{
	copy();
	return 0;
}

SEC("tp_btf/sys_enter")
int pin_tp_btf(void *ctx)
{
	copy();
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
