// SPDX-License-Identifier: GPL-2.0
/* An iterator within a program, through functions of the kernel that are declared by hand. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#ifndef __weak
#define __weak __attribute__((weak))
#endif

struct bpf_iter_num {
	__u64 __opaque[1];
} __attribute__((aligned(8)));

extern int bpf_iter_num_new(struct bpf_iter_num *it, int start, int end) __weak __ksym;
extern int *bpf_iter_num_next(struct bpf_iter_num *it) __weak __ksym;
extern void bpf_iter_num_destroy(struct bpf_iter_num *it) __weak __ksym;

int total;

SEC("raw_tp/sys_enter")
int add(void *ctx)
{
	struct bpf_iter_num it;
	int *next;

	bpf_iter_num_new(&it, 0, 1000);
	while ((next = bpf_iter_num_next(&it)))
		total += *next;
	bpf_iter_num_destroy(&it);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
