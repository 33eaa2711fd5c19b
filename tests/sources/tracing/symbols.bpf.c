// SPDX-License-Identifier: GPL-2.0
/* Variables of the kernel: one by its address, and one for each CPU by its type. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>

extern const void vfs_read __ksym;
extern const void no_such_symbol __ksym __weak;
extern const struct rq runqueues __ksym;
extern const int bpf_prog_active __ksym;

__u64 out__address = -1;
int out__cpu = -1, out__active = -1;
bool out__is_missing;

SEC("raw_tp/sys_enter")
int handler(const void *ctx)
{
	struct rq *rq = (struct rq *)bpf_per_cpu_ptr(&runqueues, 0);
	int *active = (int *)bpf_this_cpu_ptr(&bpf_prog_active);

	out__address = (__u64)&vfs_read;
	out__is_missing = !&no_such_symbol;
	if (rq)
		out__cpu = rq->cpu;
	out__active = *active;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
