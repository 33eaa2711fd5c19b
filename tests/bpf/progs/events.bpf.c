/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

enum kind { ENTRY = 1, EXIT = -2 };

struct place {
	__u16 line;
	char file[6];
};

struct event {
	__u64 number;
	__s32 value;
	enum kind kind;
	bool is_last;
	char name[7];
	__u16 ports[4];
	struct place place;
};

struct bits {
	__s32 low : 4;
	__u32 word;
};

struct choice {
	union {
		__u32 word;
		__u8 bytes[4];
	};
	__u8 addresses[2][3];
};

struct text {
	__u32 length;
	char text[];
};

struct numbers {
	__u32 length;
	__u16 number[];
};

/* Without them clang would not keep these types. */
struct event *unused_event __attribute__((unused));
struct bits *unused_bits __attribute__((unused));
struct choice *unused_choice __attribute__((unused));
struct text *unused_text __attribute__((unused));
struct numbers *unused_numbers __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
} perf SEC(".maps");

__u64 written;
__u64 refused;

static __always_inline void fill(struct event *event)
{
	__builtin_memset(event, 0, sizeof(*event));
	event->number = written;
	event->value = -5;
	event->kind = ENTRY;
	event->is_last = true;
	__builtin_memcpy(event->name, "abc", 3);
	event->ports[3] = 80;
	event->place.line = 12;
	__builtin_memcpy(event->place.file, "x.c", 3);
}

static __always_inline void count(long error)
{
	if (error)
		refused++;
	else
		written++;
}

/* Writes the packet to the ring buffer as it is. */
SEC("tc")
int write_packet(struct __sk_buff *skb)
{
	__u8 *data = (void *)(long)skb->data;
	__u64 length = skb->len;
	__u8 packet[32] = {};

#pragma unroll
	for (int at = 0; at < sizeof(packet); at++)
		if ((void *)(data + at + 1) <= (void *)(long)skb->data_end)
			packet[at] = data[at];
	if (length < 1)
		return TC_ACT_SHOT;
	/* Or clang joins the comparisons to one that the verifier of 5.10 does not follow. */
	asm volatile("" : "+r"(length));
	if (length > sizeof(packet))
		return TC_ACT_SHOT;
	count(bpf_ringbuf_output(&ring, packet, length, BPF_RB_NO_WAKEUP));
	return TC_ACT_OK;
}

SEC("tc")
int write_event(struct __sk_buff *skb)
{
	struct event event;

	fill(&event);
	count(bpf_ringbuf_output(&ring, &event, sizeof(event), 0));
	return TC_ACT_OK;
}

SEC("tc")
int discard(struct __sk_buff *skb)
{
	void *event = bpf_ringbuf_reserve(&ring, 40, 0);

	if (event)
		bpf_ringbuf_discard(event, 0);
	return TC_ACT_OK;
}

SEC("tc")
int write_sample(struct __sk_buff *skb)
{
	struct event event;

	fill(&event);
	count(bpf_perf_event_output(skb, &perf, BPF_F_CURRENT_CPU, &event, sizeof(event)));
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "GPL";
