// SPDX-License-Identifier: GPL-2.0
/* Two ring buffers in an array, one of them also by its own name; the slots are set in the source. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct ringbuf_map {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 12);
} ringbuf1 SEC(".maps"), ringbuf2 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4);
	__type(key, int);
	__array(values, struct ringbuf_map);
} ringbuf_arr SEC(".maps") = {
	.values = {
		[0] = &ringbuf1,
		[2] = &ringbuf2,
	},
};

long dropped;

SEC("tc")
int output(struct __sk_buff *skb)
{
	int target = skb->mark & 3;
	void *rb = bpf_map_lookup_elem(&ringbuf_arr, &target);
	int *sample = rb ? bpf_ringbuf_reserve(rb, sizeof(*sample), 0) : 0;

	if (!sample) {
		__sync_fetch_and_add(&dropped, 1);
		return 1;
	}
	*sample = skb->len;
	bpf_ringbuf_submit(sample, 0);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
