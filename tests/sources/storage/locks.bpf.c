// SPDX-License-Identifier: GPL-2.0
/* Spin locks in an element of a map, in one for each cgroup, and between other members. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct hmap_elem {
	volatile int cnt;
	struct bpf_spin_lock lock;
	int test_padding;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, struct hmap_elem);
} hmap SEC(".maps");

struct cls_elem {
	struct bpf_spin_lock lock;
	volatile int cnt;
};

struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_STORAGE);
	__type(key, __u64);
	__type(value, struct cls_elem);
} cls_map SEC(".maps");

SEC("cgroup_skb/ingress")
int lock(struct __sk_buff *skb)
{
	struct hmap_elem zero = {}, *val;
	struct cls_elem *cls;
	int key = 0;

	val = bpf_map_lookup_elem(&hmap, &key);
	if (!val) {
		bpf_map_update_elem(&hmap, &key, &zero, 0);
		return 1;
	}
	bpf_spin_lock(&val->lock);
	val->cnt = val->cnt ? val->cnt - 1 : 100;
	bpf_spin_unlock(&val->lock);
	cls = bpf_get_local_storage(&cls_map, 0);
	bpf_spin_lock(&cls->lock);
	cls->cnt++;
	bpf_spin_unlock(&cls->lock);
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
