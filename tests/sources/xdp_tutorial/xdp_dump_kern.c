/* SPDX-License-Identifier: GPL-2.0 */
/* Packets themselves behind the metadata of an event of a perf event array. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define MAX_CPUS    128
#define SAMPLE_SIZE 1024ul

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__type(key, int);
	__type(value, __u32);
	__uint(max_entries, MAX_CPUS);
} my_map SEC(".maps");

struct S {
	__u16 cookie;
	__u16 pkt_len;
} __attribute__((packed));

SEC("xdp")
int xdp_sample_prog(struct xdp_md *ctx)
{
	void *data_end = (void *)(long)ctx->data_end;
	void *data = (void *)(long)ctx->data;
	__u64 flags = BPF_F_CURRENT_CPU;
	struct S metadata = {.cookie = 0xdead};
	__u16 sample_size;

	if (data >= data_end)
		return XDP_PASS;
	metadata.pkt_len = data_end - data;
	sample_size = metadata.pkt_len < SAMPLE_SIZE ? metadata.pkt_len : SAMPLE_SIZE;
	flags |= (__u64)sample_size << 32;
	bpf_perf_event_output(ctx, &my_map, flags, &metadata, sizeof(metadata));
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
