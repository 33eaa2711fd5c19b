// SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause
/* A hook of a security module, which decides after what other modules decided. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "GPL";

#define EPERM 1

SEC("lsm/bpf")
int BPF_PROG(lsm_bpf, int cmd, union bpf_attr *attr, unsigned int size, int ret)
{
	char comm[TASK_COMM_LEN];

	if (ret)
		return ret;
	bpf_get_current_comm(comm, sizeof(comm));
	return cmd == BPF_PROG_BIND_MAP && comm[0] == '?' ? -EPERM : 0;
}
