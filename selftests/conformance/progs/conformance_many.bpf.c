// SPDX-License-Identifier: MIT
/* Programs on many functions: each counts by the cookie of the function that it is called for. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

const volatile __u64 pidns_dev;
const volatile __u64 pidns_ino;
const volatile __u32 target_pid;

__u64 calls_of_cookie[8];

static __always_inline int count(void *ctx)
{
	struct bpf_pidns_info current = {};

	if (!bpf_get_ns_current_pid_tgid(pidns_dev, pidns_ino, &current, sizeof(current)) &&
	    current.tgid == target_pid)
		__sync_fetch_and_add(&calls_of_cookie[bpf_get_attach_cookie(ctx) & 7], 1);
	return 0;
}

#define OF_MANY(name, section) \
	SEC(section) \
	int name(void *ctx) \
	{ \
		return count(ctx); \
	}

OF_MANY(many_kprobes, "kprobe.multi")
OF_MANY(many_uprobes, "uprobe.multi")
OF_MANY(many_fentry, "fentry.multi")
OF_MANY(many_fexit, "fexit.multi")
OF_MANY(many_fsession, "fsession.multi")

char LICENSE[] SEC("license") = "GPL";
