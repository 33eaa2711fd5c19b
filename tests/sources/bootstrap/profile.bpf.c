// SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause
/* Stacks in the events themselves, and an array of stacks for each CPU as room for them. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#define MAX_STACK_DEPTH 128

typedef __u64 stack_trace_t[MAX_STACK_DEPTH];

struct stacktrace_event {
	__u32 pid;
	__u32 cpu_id;
	__s32 kstack_size;
	__s32 ustack_size;
	stack_trace_t kstack;
};

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct stacktrace_event);
} last SEC(".maps");

SEC("perf_event")
int profile(void *ctx)
{
	struct stacktrace_event *event;
	__u32 first = 0;

	event = bpf_map_lookup_elem(&last, &first);
	if (!event)
		return 1;
	event->pid = bpf_get_current_pid_tgid() >> 32;
	event->cpu_id = bpf_get_smp_processor_id();
	event->kstack_size = bpf_get_stack(ctx, event->kstack, sizeof(event->kstack), 0);
	bpf_ringbuf_output(&events, event, sizeof(*event), 0);
	return 0;
}
