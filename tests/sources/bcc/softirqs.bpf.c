// SPDX-License-Identifier: GPL-2.0
/* Plain arrays in .bss and no map of one's own; a struct array; BTF tracepoints. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "bits.bpf.h"

#define NR_VECS 10

const volatile bool targ_dist = false;

__u64 counts[NR_VECS] = {};
__u64 time[NR_VECS] = {};
struct hist hists[NR_VECS] = {};

SEC("raw_tp/softirq_entry")
int BPF_PROG(softirq_entry, unsigned int vec_nr)
{
	if (vec_nr >= NR_VECS)
		return 0;
	time[vec_nr] = bpf_ktime_get_ns();
	return 0;
}

SEC("raw_tp/softirq_exit")
int BPF_PROG(softirq_exit, unsigned int vec_nr)
{
	u64 delta;

	if (vec_nr >= NR_VECS || !time[vec_nr])
		return 0;
	delta = bpf_ktime_get_ns() - time[vec_nr];
	if (!targ_dist)
		__sync_fetch_and_add(&counts[vec_nr], delta);
	else
		__sync_fetch_and_add(&hists[vec_nr].slots[slot_of(delta)], 1);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
