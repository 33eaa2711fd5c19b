// SPDX-License-Identifier: GPL-2.0
/* CO-RE flavors: a struct as older kernels have it, chosen by what fields the kernel has. */
#include <vmlinux.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "bits.bpf.h"
#include "maps.bpf.h"

struct request___older {
	struct gendisk *rq_disk;
} __attribute__((preserve_access_index));

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 10240);
	__type(key, struct request *);
	__type(value, u64);
} start SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, u32);
	__type(value, struct hist);
} hists SEC(".maps");

static struct hist initial_hist;

static __always_inline struct gendisk *disk_of(void *request)
{
	struct request___older *older = request;

	if (bpf_core_field_exists(older->rq_disk))
		return BPF_CORE_READ(older, rq_disk);
	return BPF_CORE_READ((struct request *)request, q, disk);
}

SEC("raw_tp/block_rq_insert")
int BPF_PROG(on_insert, struct request *rq)
{
	u64 now = bpf_ktime_get_ns();

	bpf_map_update_elem(&start, &rq, &now, BPF_ANY);
	return 0;
}

SEC("raw_tp/block_rq_complete")
int BPF_PROG(on_complete, struct request *rq)
{
	u64 *began = bpf_map_lookup_elem(&start, &rq);
	struct gendisk *disk = disk_of(rq);
	struct hist *hist;
	u32 minor;

	if (!began)
		return 0;
	minor = disk ? BPF_CORE_READ(disk, first_minor) : 0;
	hist = lookup_or_init(&hists, &minor, &initial_hist);
	if (hist)
		__sync_fetch_and_add(&hist->slots[slot_of(bpf_ktime_get_ns() - *began)], 1);
	bpf_map_delete_elem(&start, &rq);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
