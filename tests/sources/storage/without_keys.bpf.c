// SPDX-License-Identifier: GPL-2.0
/* Maps without keys: a queue, a stack and a bloom filter, whose hashes a field of its own counts. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 32);
	__type(value, __u32);
} free_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 32);
	__uint(value_size, 16);
} addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_BLOOM_FILTER);
	__uint(max_entries, 100);
	__type(value, __u32);
	__uint(map_extra, 3);
} seen SEC(".maps");

SEC("tc")
int take(struct __sk_buff *skb)
{
	char address[16] = {};
	__u32 port;

	if (bpf_map_pop_elem(&free_ports, &port))
		return 0;
	if (bpf_map_peek_elem(&seen, &port))
		bpf_map_push_elem(&seen, &port, 0);
	bpf_map_push_elem(&addresses, address, BPF_EXIST);
	return port;
}

char LICENSE[] SEC("license") = "GPL";
