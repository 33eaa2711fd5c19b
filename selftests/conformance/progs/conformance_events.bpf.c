// SPDX-License-Identifier: MIT
/* Programs on events: system calls of one process, and functions that these call. */
#include "conformance.h"

const volatile __u64 pidns_dev;
const volatile __u64 pidns_ino;
const volatile __u32 target_pid;

static __always_inline void of_process(void *ctx, __u64 *counter)
{
	struct bpf_pidns_info current = {};

	if (!bpf_get_ns_current_pid_tgid(pidns_dev, pidns_ino, &current, sizeof(current)) &&
	    current.tgid == target_pid)
		__sync_fetch_and_add(counter, 1);
}

/* getpgid(2) calls security_task_getpgid(): one call triggers most of these programs. */
TWICE(raw_tp, "raw_tp/sys_enter", void, of_process, 0)
TWICE(tp_btf, "tp_btf/sys_enter", void, of_process, 0)
TWICE(fentry, "fentry/security_task_getpgid", void, of_process, 0)
TWICE(fexit, "fexit/security_task_getpgid", void, of_process, 0)
TWICE(fmod_ret, "fmod_ret/security_task_getpgid", void, of_process, 0)
TWICE(fentry_multi, "fentry.multi", void, of_process, 0)
TWICE(fexit_multi, "fexit.multi", void, of_process, 0)
TWICE(fsession_multi, "fsession.multi", void, of_process, 0)
TWICE(lsm, "lsm/task_getpgid", void, of_process, 0)
TWICE(tracepoint, "tracepoint/syscalls/sys_enter_getpgid", void, of_process, 0)
TWICE(kprobe, "kprobe", void, of_process, 0)
TWICE(kretprobe, "kretprobe", void, of_process, 0)
TWICE(kprobe_multi, "kprobe.multi", void, of_process, 0)
TWICE(uprobe, "uprobe", void, of_process, 0)
TWICE(uretprobe, "uretprobe", void, of_process, 0)
TWICE(uprobe_multi, "uprobe.multi", void, of_process, 0)
TWICE(perf_event, "perf_event", void, of_process, 0)

char LICENSE[] SEC("license") = "GPL";
