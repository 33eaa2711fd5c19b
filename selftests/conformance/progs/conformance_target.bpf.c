// SPDX-License-Identifier: MIT
/* A program with a function that can be replaced, called at system calls of one process. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

const volatile __u64 pidns_dev;
const volatile __u64 pidns_ino;
const volatile __u32 target_pid;

int replaced;

__attribute__((noinline)) int step(int value)
{
	return value + replaced;
}

SEC("raw_tp/sys_enter")
int stepper(void *ctx)
{
	struct bpf_pidns_info current = {};

	if (bpf_get_ns_current_pid_tgid(pidns_dev, pidns_ino, &current, sizeof(current)) ||
	    current.tgid != target_pid)
		return 0;
	return step(1);
}

char LICENSE[] SEC("license") = "GPL";
