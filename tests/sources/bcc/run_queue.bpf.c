// SPDX-License-Identifier: GPL-2.0
/* Typed tracepoints, and their twins on raw ones: the loader keeps those that the kernel takes. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "bits.bpf.h"

const volatile bool targ_ms = false;

/* Sized at load. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, u32);
	__type(value, u64);
} start SEC(".maps");

struct hist hists = {};

static int enqueued(u32 pid)
{
	u64 now = bpf_ktime_get_ns();

	return bpf_map_update_elem(&start, &pid, &now, BPF_ANY);
}

static int switched(struct task_struct *next)
{
	u32 pid = BPF_CORE_READ(next, pid);
	u64 *began = bpf_map_lookup_elem(&start, &pid);

	if (!began)
		return 0;
	__sync_fetch_and_add(&hists.slots[slot_of((bpf_ktime_get_ns() - *began) / (targ_ms ? 1000000 : 1000))], 1);
	return bpf_map_delete_elem(&start, &pid);
}

SEC("?tp_btf/sched_wakeup")
int BPF_PROG(wakeup_btf, struct task_struct *task)
{
	return enqueued(task->pid);
}

SEC("?tp_btf/sched_switch")
int BPF_PROG(switch_btf, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	return switched(next);
}

SEC("raw_tp/sched_wakeup")
int BPF_PROG(wakeup_raw, struct task_struct *task)
{
	return enqueued(BPF_CORE_READ(task, pid));
}

SEC("raw_tp/sched_switch")
int BPF_PROG(switch_raw, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	return switched(next);
}

char LICENSE[] SEC("license") = "GPL";
