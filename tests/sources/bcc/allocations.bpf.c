// SPDX-License-Identifier: GPL-2.0
/* Uprobes whose file is chosen when they are attached; a union as a value; printing while debugged. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "maps.bpf.h"

const volatile bool trace_all = false;
const volatile size_t min_size = 0;
const volatile size_t max_size = -1;

union combined_alloc_info {
	struct {
		__u64 total_size : 40;
		__u64 number_of_allocs : 24;
	};
	__u64 bits;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, u32);
	__type(value, u64);
	__uint(max_entries, 10240);
} sizes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, u64); /* stack id */
	__type(value, union combined_alloc_info);
	__uint(max_entries, 1024);
} combined_allocs SEC(".maps");

static union combined_alloc_info initial_cinfo;

SEC("uprobe")
int BPF_KPROBE(malloc_enter, size_t size)
{
	u32 tid = bpf_get_current_pid_tgid();
	u64 wide = size;

	if (size < min_size || size > max_size)
		return 0;
	bpf_map_update_elem(&sizes, &tid, &wide, BPF_ANY);
	if (trace_all)
		bpf_printk("alloc entered, size = %lu\n", size);
	return 0;
}

SEC("uretprobe")
int BPF_KRETPROBE(malloc_exit, void *address)
{
	u32 tid = bpf_get_current_pid_tgid();
	u64 *size = bpf_map_lookup_elem(&sizes, &tid), key = 0;
	union combined_alloc_info *existing, add = {.number_of_allocs = 1};

	existing = size ? lookup_or_init(&combined_allocs, &key, &initial_cinfo) : 0;
	if (!existing)
		return 0;
	add.total_size = *size;
	__sync_fetch_and_add(&existing->bits, add.bits);
	return bpf_map_delete_elem(&sizes, &tid);
}

char LICENSE[] SEC("license") = "GPL";
