// SPDX-License-Identifier: GPL-2.0
/* An iterator that writes structs of a shared header, and reads a field of two names. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "task_iter.h"

char _license[] SEC("license") = "GPL";

struct task_struct___post514 {
	unsigned int __state;
} __attribute__((preserve_access_index));

struct task_struct___pre514 {
	long state;
} __attribute__((preserve_access_index));

static __u32 get_task_state(void *arg)
{
	struct task_struct___pre514 *older = arg;

	if (bpf_core_field_exists(older->state))
		return older->state;
	return ((struct task_struct___post514 *)arg)->__state;
}

static struct task_info info;

SEC("iter/task")
int get_tasks(struct bpf_iter__task *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct task_struct *task = ctx->task;

	if (!task)
		return 0;
	info.pid = task->tgid;
	info.tid = task->pid;
	info.state = get_task_state(task);
	bpf_probe_read_kernel_str(info.comm, sizeof(info.comm), task->comm);
	bpf_seq_write(seq, &info, sizeof(info));
	return 0;
}
