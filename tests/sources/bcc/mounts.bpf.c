// SPDX-License-Identifier: GPL-2.0
/* vmlinux.h comes through a header, which also has the maps; the code decides by CO-RE. */
#include "compat.bpf.h"

enum op { MOUNT, UMOUNT };

struct mount_event {
	__u64 when;
	__u32 pid;
	int ret;
	enum op op;
	char comm[16];
};

SEC("tracepoint/syscalls/sys_exit_mount")
int mount_exit(struct trace_event_raw_sys_exit *ctx)
{
	struct mount_event *event = reserve(sizeof(*event));

	if (!event)
		return 0;
	event->when = bpf_ktime_get_ns();
	event->pid = bpf_get_current_pid_tgid() >> 32;
	event->ret = ctx->ret;
	event->op = MOUNT;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	submit(ctx, event, sizeof(*event));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
