/* Counts the packets that leave a cgroup, and their bytes. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} packets SEC(".maps");

/* Of the daemon that runs now; the map is of all daemons since the first. */
__u64 bytes;
__u32 smallest = 1; /* shorter packets are not counted */

SEC("cgroup_skb/egress")
int count_egress(struct __sk_buff *skb)
{
	__u32 zero = 0;
	__u64 *count = bpf_map_lookup_elem(&packets, &zero);

	if (!count || skb->len < smallest)
		return 1;
	__sync_fetch_and_add(count, 1);
	__sync_fetch_and_add(&bytes, skb->len);
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
