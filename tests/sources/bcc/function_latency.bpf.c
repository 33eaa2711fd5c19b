// SPDX-License-Identifier: GPL-2.0
/* Programs without the name of a function, which the loader gives when it attaches. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "bits.bpf.h"

const volatile pid_t targ_tgid = 0;
const volatile int units = 0;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, u32);
	__type(value, u64);
} starts SEC(".maps");

__u32 hist[MAX_SLOTS] = {};

static void entry(void)
{
	u64 nsec = bpf_ktime_get_ns();
	u32 tid = bpf_get_current_pid_tgid();

	bpf_map_update_elem(&starts, &tid, &nsec, BPF_ANY);
}

SEC("kprobe/dummy_kprobe")
int BPF_KPROBE(function_entry)
{
	entry();
	return 0;
}

SEC("kretprobe/dummy_kretprobe")
int BPF_KRETPROBE(function_return)
{
	u32 tid = bpf_get_current_pid_tgid();
	u64 *start = bpf_map_lookup_elem(&starts, &tid), delta;

	if (!start)
		return 0;
	delta = bpf_ktime_get_ns() - *start;
	switch (units) {
	case 1:
		delta /= 1000;
		break;
	case 2:
		delta /= 1000000;
		break;
	}
	__sync_fetch_and_add(&hist[slot_of(delta)], 1);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
