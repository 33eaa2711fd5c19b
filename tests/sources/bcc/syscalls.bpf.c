// SPDX-License-Identifier: GPL-2.0
/* Values of two numbers for each syscall, and a filter by cgroup through a cgroup array. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include "maps.bpf.h"

const volatile bool filter_cg = false;

struct data_t {
	__u64 count;
	__u64 total_ns;
	char comm[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_ARRAY);
	__type(key, u32);
	__type(value, u32);
	__uint(max_entries, 1);
} cgroup_map SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, u32);
	__type(value, struct data_t);
} data SEC(".maps");

SEC("tracepoint/raw_syscalls/sys_exit")
int sys_exit(struct trace_event_raw_sys_exit *args)
{
	static const struct data_t zero = {};
	struct data_t *val;
	u32 key = args->id;

	if (filter_cg && !bpf_current_task_under_cgroup(&cgroup_map, 0))
		return 0;
	val = lookup_or_init(&data, &key, &zero);
	if (!val)
		return 0;
	__sync_fetch_and_add(&val->count, 1);
	bpf_get_current_comm(&val->comm, sizeof(val->comm));
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
