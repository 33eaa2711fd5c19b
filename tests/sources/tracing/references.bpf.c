// SPDX-License-Identifier: GPL-2.0
/* A reference that one function of the kernel gives, and that another takes back. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

extern struct task_struct *bpf_task_acquire(struct task_struct *p) __ksym;
extern void bpf_task_release(struct task_struct *p) __ksym;

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, int);
	__type(value, char[16]);
	__uint(max_entries, 64);
} names SEC(".maps");

SEC("tp_btf/task_newtask")
int BPF_PROG(note, struct task_struct *task, u64 clone_flags)
{
	struct task_struct *acquired = bpf_task_acquire(task);
	char name[16];
	int key;

	if (!acquired)
		return 0;
	key = acquired->pid;
	bpf_probe_read_kernel_str(name, sizeof(name), acquired->comm);
	bpf_task_release(acquired);
	bpf_map_update_elem(&names, &key, name, BPF_ANY);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
