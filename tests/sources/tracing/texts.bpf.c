// SPDX-License-Identifier: GPL-2.0
/* Texts that are formatted into variables: more arguments than bpf_printk has, pointers, types. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char num_out[64] = {};
long num_ret = 0;
char sym_out[64] = {};
static const char plain[] = "no arguments";

extern const void schedule __ksym;

SEC("raw_tp/sys_enter")
int handler(const void *ctx)
{
	num_ret = BPF_SNPRINTF(num_out, sizeof(num_out), "%d %u %x %li %llu %lX", -8, 9, 150, -424242L,
			       1337ULL, 0xDABBAD00ul);
	BPF_SNPRINTF(sym_out, sizeof(sym_out), "%ps", &schedule);
	bpf_trace_printk(plain, sizeof(plain));
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
