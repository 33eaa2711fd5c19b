// SPDX-License-Identifier: GPL-2.0
/* Perf events, counted for each CPU by a key with padding. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include "maps.bpf.h"

struct key_info {
	__u32 cpu;
	__u32 pid;
	__u8 kernel;
};

struct value_info {
	__u64 ref;
	__u64 miss;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 512);
	__type(key, struct key_info);
	__type(value, struct value_info);
} infos SEC(".maps");

static __always_inline int trace_event(__u64 sample_period, bool miss)
{
	struct value_info *infop, zero = {};
	struct key_info key = {};

	key.cpu = bpf_get_smp_processor_id();
	key.pid = bpf_get_current_pid_tgid() >> 32;
	infop = lookup_or_init(&infos, &key, &zero);
	if (!infop)
		return 0;
	if (miss)
		infop->miss += sample_period;
	else
		infop->ref += sample_period;
	return 0;
}

SEC("perf_event")
int on_cache_miss(struct bpf_perf_event_data *ctx)
{
	return trace_event(ctx->sample_period, true);
}

SEC("perf_event")
int on_cache_ref(struct bpf_perf_event_data *ctx)
{
	return trace_event(ctx->sample_period, false);
}

char LICENSE[] SEC("license") = "GPL";
