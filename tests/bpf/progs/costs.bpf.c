/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

const volatile __u32 is_long = 0;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

static __noinline __u64 use_stack(__u64 seed)
{
	volatile __u64 values[4] = {seed, seed + 1, seed + 2, seed + 3};

	return values[seed & 3];
}

/* The verifier goes through many turns, or through one, as the constant says. */
SEC("tc")
int turn(struct __sk_buff *skb)
{
	volatile __u64 sum[8] = {};

	sum[0] = use_stack(0);
	if (is_long) {
#pragma unroll
		for (int at = 1; at < 300; at++)
			sum[at & 7] += use_stack(at);
	}
	return sum[0];
}

SEC("tc")
int count(struct __sk_buff *skb)
{
	__u32 key = 0;
	__u64 *value = bpf_map_lookup_elem(&counts, &key);

	if (value)
		__sync_fetch_and_add(value, 1);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
