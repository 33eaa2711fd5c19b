// SPDX-License-Identifier: GPL-2.0
/* Maps in maps by id: inner maps are declared in place, or made by user space. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(max_entries, 16);
		__type(key, __u32);
		__type(value, int);
	});
} a_of_port_a SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 4);
	__uint(key_size, sizeof(__u16));
	__uint(value_size, sizeof(__u32));
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_HASH);
		__uint(max_entries, 16);
		__type(key, __u32);
		__type(value, int);
	});
} h_of_port_h SEC(".maps");

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	__u16 port = ctx->user_port;
	__u32 key = 0;
	void *by_port = bpf_map_lookup_elem(&h_of_port_h, &port);
	void *first = bpf_map_lookup_elem(&a_of_port_a, &key);
	int *allowed = by_port ? bpf_map_lookup_elem(by_port, &key) : 0;

	if (!allowed && first)
		allowed = bpf_map_lookup_elem(first, &key);
	return !allowed || *allowed;
}

char _license[] SEC("license") = "GPL";
