// SPDX-License-Identifier: MIT
/* Global variables and map values of every kind that Python sees. */
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

enum color { RED, GREEN = 5 };

struct inner {
	__s16 low;
	char name[8];
};

struct outer {
	__u8 small;
	struct inner inner;
	__u32 narrow : 3;
	__s32 negative : 5;
	union {
		__u32 number;
		__u8 bytes[4];
	};
};

const volatile __u32 constant = 1;
const volatile struct outer constants;

__s8 signed_8 = -1;
__u8 unsigned_8 = 255;
__s64 signed_64 = -5;
__u64 unsigned_64 = ~0ULL;
unsigned __int128 wide = 7;
bool flag = true;
char text[16] = "hello";
__u32 array[3] = { 1, 2, 3 };
struct outer structure = { 1, { -2, "inner" }, 5, -3, { 0x01020304 } };
enum color color = GREEN;
double ratio = 0.5;
void *pointer = (void *)16;

__u32 zero;
bool zero_flag;

struct key {
	__u32 a;
	__u32 b;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__type(key, struct key);
	__type(value, struct outer);
} typed SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__uint(value_size, 8);
} plain SEC(".maps");

SEC("cgroup_skb/egress")
int keep(struct __sk_buff *skb)
{
	struct key key = {};

	zero += constant + constants.small + array[0] + signed_8 + unsigned_8 + text[0];
	signed_64 += unsigned_64 + structure.small + color + (__u64)pointer + (__u64)wide;
	zero_flag = flag;
	*(volatile double *)&ratio;
	bpf_map_lookup_elem(&typed, &key);
	bpf_map_lookup_elem(&plain, &zero);
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
