/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Events through a ring buffer where the kernel has one, and else through a perf event array. */
#ifndef __COMPAT_BPF_H
#define __COMPAT_BPF_H

#include <vmlinux.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#define MAX_EVENT_SIZE 512
#define RINGBUF_SIZE (256 * 1024)

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, MAX_EVENT_SIZE);
} heap SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RINGBUF_SIZE);
} events SEC(".maps");

static __always_inline void *reserve(__u64 size)
{
	static const int zero = 0;

	if (bpf_core_type_exists(struct bpf_ringbuf))
		return bpf_ringbuf_reserve(&events, size, 0);
	return bpf_map_lookup_elem(&heap, &zero);
}

static __always_inline long submit(void *ctx, void *buffer, __u64 size)
{
	if (!bpf_core_type_exists(struct bpf_ringbuf))
		return bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, buffer, size);
	bpf_ringbuf_submit(buffer, 0);
	return 0;
}

#endif
