// SPDX-License-Identifier: GPL-2.0
/* Timers in the values of a hash and of an array, which start each other. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define CLOCK_MONOTONIC 1

struct elem {
	int counter;
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, int);
	__type(value, struct elem);
} timers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, int);
	__type(value, struct elem);
} slots SEC(".maps");

__u64 rang;

static int ring(void *map, int *key, struct elem *value)
{
	rang++;
	value->counter++;
	bpf_timer_start(&value->timer, 1000000, 0);
	return 0;
}

SEC("tc")
int start(struct __sk_buff *skb)
{
	struct elem init = {.counter = 1}, *elem;
	int key = 0;

	bpf_map_update_elem(&timers, &key, &init, 0);
	elem = bpf_map_lookup_elem(&timers, &key);
	if (!elem || bpf_timer_init(&elem->timer, &timers, CLOCK_MONOTONIC))
		return 1;
	bpf_timer_set_callback(&elem->timer, ring);
	bpf_timer_start(&elem->timer, 1000000, 0);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
