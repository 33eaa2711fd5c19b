// SPDX-License-Identifier: GPL-2.0
/* Stacks, and structs of ids of stacks as keys; both maps are sized at load. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define STACK_DEPTH 16

struct key_t {
	__u32 pid;
	__u32 tgid;
	int user_stack_id;
	int kern_stack_id;
};

struct val_t {
	__u64 delta;
	char comm[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(key_size, sizeof(u32));
	__uint(value_size, STACK_DEPTH * sizeof(u64));
} stackmap SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct key_t);
	__type(value, struct val_t);
} info SEC(".maps");

SEC("raw_tp/sched_switch")
int BPF_PROG(sched_switch, bool preempt, struct task_struct *prev)
{
	struct key_t key = {};
	struct val_t val = {.delta = bpf_ktime_get_ns()};

	key.pid = BPF_CORE_READ(prev, pid);
	key.tgid = BPF_CORE_READ(prev, tgid);
	key.user_stack_id = bpf_get_stackid(ctx, &stackmap, BPF_F_USER_STACK);
	key.kern_stack_id = bpf_get_stackid(ctx, &stackmap, 0);
	BPF_CORE_READ_STR_INTO(&val.comm, prev, comm);
	bpf_map_update_elem(&info, &key, &val, BPF_NOEXIST);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
