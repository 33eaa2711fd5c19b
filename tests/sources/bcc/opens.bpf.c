// SPDX-License-Identifier: GPL-2.0
/* An anonymous struct as a map's value, and two tracepoints that one of the kernels may lack. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>

const volatile pid_t targ_pid;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u32);
	__type(value, struct {
		const char *name;
		int flags;
	});
} start SEC(".maps");

static __always_inline int keep(const char *name, int flags)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = id;
	struct {
		const char *name;
		int flags;
	} args = {};

	if (targ_pid && targ_pid != id >> 32)
		return 0;
	args.name = name;
	args.flags = flags;
	bpf_map_update_elem(&start, &tid, &args, BPF_ANY);
	return 0;
}

SEC("tp/syscalls/sys_enter_open")
int on_open(struct trace_event_raw_sys_enter *ctx)
{
	return keep((const char *)ctx->args[0], ctx->args[1]);
}

SEC("tp/syscalls/sys_enter_openat")
int on_openat(struct trace_event_raw_sys_enter *ctx)
{
	return keep((const char *)ctx->args[1], ctx->args[2]);
}

char LICENSE[] SEC("license") = "GPL";
