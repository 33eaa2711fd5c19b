// SPDX-License-Identifier: MIT
/* Iterators, which run when a file made from their link is read. */
#include "conformance.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} elements SEC(".maps"), others SEC(".maps");

TWICE(iter_task, "iter/task", void, EVERY, 0)
TWICE(iter_map_elem, "iter/bpf_map_elem", void, EVERY, 0)
TWICE(iter_cgroup, "iter/cgroup", void, EVERY, 0)
TWICE(iter_task_file, "iter/task_file", void, EVERY, 0)
TWICE(iter_bpf_map, "iter/bpf_map", void, EVERY, 0)
TWICE(iter_bpf_prog, "iter/bpf_prog", void, EVERY, 0)
TWICE(iter_bpf_link, "iter/bpf_link", void, EVERY, 0)
TWICE(iter_netlink, "iter/netlink", void, EVERY, 0)
TWICE(iter_tcp, "iter/tcp", void, EVERY, 0)
TWICE(iter_udp, "iter/udp", void, EVERY, 0)
TWICE(iter_unix, "iter/unix", void, EVERY, 0)
TWICE(iter_ksym, "iter/ksym", void, EVERY, 0)

char LICENSE[] SEC("license") = "GPL";
