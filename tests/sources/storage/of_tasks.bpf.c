// SPDX-License-Identifier: GPL-2.0
/* Values that tasks, inodes and cgroups keep, and that go with them. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, long);
} enter_id SEC(".maps");

long mismatches;

SEC("tp_btf/sys_enter")
int BPF_PROG(on_enter, struct pt_regs *regs, long id)
{
	struct task_struct *task = bpf_get_current_task_btf();
	long *ptr = bpf_task_storage_get(&enter_id, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (ptr)
		*ptr = id;
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(on_exit, struct pt_regs *regs, long id)
{
	long *ptr = bpf_task_storage_get(&enter_id, bpf_get_current_task_btf(), 0, 0);

	if (ptr && *ptr < 0)
		__sync_fetch_and_add(&mismatches, 1);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
