// SPDX-License-Identifier: GPL-2.0
/* Callbacks that the kernel calls for each number, or each element of a map. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, __u64);
} hashmap SEC(".maps");

struct sums {
	__u64 keys;
	__u64 numbers;
};

struct sums last;

static long of_element(struct bpf_map *map, __u32 *key, __u64 *value, struct sums *sums)
{
	sums->keys += *key;
	return 0;
}

static long of_number(__u32 index, struct sums *sums)
{
	sums->numbers += index;
	return index >= 100;
}

SEC("tc")
int sum(struct __sk_buff *skb)
{
	struct sums sums = {};

	bpf_for_each_map_elem(&hashmap, of_element, &sums, 0);
	bpf_loop(1 << 20, of_number, &sums, 0);
	last = sums;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
