/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct sum {
	__u32 left, right;
	__u64 result;
};

SEC("syscall")
int add(struct sum *sum)
{
	sum->result = sum->left + sum->right;
	return -5;
}

SEC("sk_lookup")
int lookup(struct bpf_sk_lookup *ctx)
{
	return ctx->local_port == 80 ? SK_PASS : SK_DROP;
}

char LICENSE[] SEC("license") = "GPL";
