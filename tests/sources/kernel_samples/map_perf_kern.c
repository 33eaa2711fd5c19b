// SPDX-License-Identifier: GPL-2.0
/* Every kind of hash beside each other: with a fixed type for all keys, nodes chosen, none allocated. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define MAX_ENTRIES 1000

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, __u32);
	__type(value, long);
	__uint(max_entries, MAX_ENTRIES);
	__uint(map_flags, BPF_F_NO_COMMON_LRU);
} nocommon_lru_hash_map SEC(".maps");

struct inner_lru {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, __u32);
	__type(value, long);
	__uint(max_entries, MAX_ENTRIES);
	__uint(map_flags, BPF_F_NUMA_NODE);
	__uint(numa_node, 0);
} inner_lru_hash_map SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 8);
	__uint(key_size, sizeof(__u32));
	__array(values, struct inner_lru);
} array_of_lru_hashs SEC(".maps") = {
	.values = {&inner_lru_hash_map},
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(long));
	__uint(max_entries, MAX_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} percpu_hash_map_alloc SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(key_size, 8);
	__uint(value_size, sizeof(long));
	__uint(max_entries, 10000);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} lpm_trie_map_alloc SEC(".maps");

SEC("tracepoint/syscalls/sys_enter_getppid")
int stress_all(void *ctx)
{
	__u32 key = bpf_get_current_pid_tgid(), slot = 0;
	struct { __u32 prefix; __u8 data[4]; } address = {32, {192, 168, 0, 1}};
	void *inner = bpf_map_lookup_elem(&array_of_lru_hashs, &slot);
	long val = 1;

	bpf_map_update_elem(&nocommon_lru_hash_map, &key, &val, BPF_ANY);
	bpf_map_update_elem(&percpu_hash_map_alloc, &key, &val, BPF_ANY);
	if (inner)
		bpf_map_update_elem(inner, &key, &val, BPF_ANY);
	return bpf_map_lookup_elem(&lpm_trie_map_alloc, &address) ? 1 : 0;
}

char _license[] SEC("license") = "GPL";
