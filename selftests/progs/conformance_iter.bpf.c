// SPDX-License-Identifier: MIT
/* Iterators, which run when a file of theirs is read. */
#include "conformance.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} elements SEC(".maps");

TWICE(iter_task, "iter/task", void, EVERY, 0)
TWICE(iter_map_elem, "iter/bpf_map_elem", void, EVERY, 0)
TWICE(iter_cgroup, "iter/cgroup", void, EVERY, 0)

char LICENSE[] SEC("license") = "GPL";
