// SPDX-License-Identifier: GPL-2.0
/* Maps that several loaders share by a name, beside one that is frozen and one with odd sizes. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, char[7]);
	__type(value, __u8[3]);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} shared SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, __u16);
	__uint(map_flags, BPF_F_RDONLY_PROG | BPF_F_MMAPABLE);
	__uint(pinning, LIBBPF_PIN_NONE);
} limits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
	__uint(max_entries, 16);
	__uint(key_size, 5);
	__uint(value_size, 6);
} odd SEC(".maps");

SEC("socket")
int look(struct __sk_buff *skb)
{
	__u8 key[7] = "shared", *value = bpf_map_lookup_elem(&shared, key);
	__u32 third = 2;
	__u16 *limit = bpf_map_lookup_elem(&limits, &third);
	char odd_key[5] = {}, odd_value[6] = {};

	bpf_map_update_elem(&odd, odd_key, odd_value, BPF_ANY);
	return value && limit ? value[2] + *limit : 0;
}

char LICENSE[] SEC("license") = "GPL";
