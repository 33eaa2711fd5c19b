// SPDX-License-Identifier: GPL-2.0
/* Events of a length that only the run knows, and a user ring buffer that is drained. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct sample {
	int pid;
	long value;
	char comm[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} kernel_ringbuf SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_USER_RINGBUF);
	__uint(max_entries, 4096);
} user_ringbuf SEC(".maps");

int read;

static long handle(struct bpf_dynptr *message, void *context)
{
	struct sample *sample = bpf_dynptr_data(message, 0, sizeof(*sample));

	if (sample)
		__sync_fetch_and_add(&read, sample->pid ? 1 : 0);
	return 0;
}

SEC("raw_tp/sys_exit")
int drain(void *ctx)
{
	struct bpf_dynptr out;
	int value = 5;

	bpf_user_ringbuf_drain(&user_ringbuf, handle, NULL, 0);
	if (!bpf_ringbuf_reserve_dynptr(&kernel_ringbuf, 16, 0, &out))
		bpf_dynptr_write(&out, 0, &value, sizeof(value), 0);
	bpf_ringbuf_submit_dynptr(&out, 0);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
