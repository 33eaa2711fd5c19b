// SPDX-License-Identifier: GPL-2.0
/* A hook of netfilter, whose context has pointers that the verifier knows by their types. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>

#define NF_DROP	  0
#define NF_ACCEPT 1

__u64 by_hook[5];

SEC("netfilter")
int count(struct bpf_nf_ctx *ctx)
{
	unsigned int hook = ctx->state->hook;

	if (hook < 5)
		by_hook[hook]++;
	return ctx->skb->len > 9000 ? NF_DROP : NF_ACCEPT;
}

char LICENSE[] SEC("license") = "GPL";
