// SPDX-License-Identifier: MIT
/* Two programs that call what is in an array of programs, and two programs to be called. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

__u64 entries[2];
__u64 callees[2];
__u64 missed;

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} called SEC(".maps");

static __always_inline int enter(struct __sk_buff *skb, int which)
{
	__sync_fetch_and_add(&entries[which], 1);
	bpf_tail_call(skb, &called, 0);
	__sync_fetch_and_add(&missed, 1);
	return 1;
}

static __always_inline int count(int which)
{
	__sync_fetch_and_add(&callees[which], 1);
	return 1;
}

#define TWO(name, body) \
	SEC("cgroup_skb/egress") \
	int name##_1(struct __sk_buff *skb) \
	{ \
		return body(0); \
	} \
	SEC("cgroup_skb/egress") \
	int name##_2(struct __sk_buff *skb) \
	{ \
		return body(1); \
	}

#define ENTRY(which) enter(skb, which)

TWO(entry, ENTRY)
TWO(callee, count)

char LICENSE[] SEC("license") = "GPL";
