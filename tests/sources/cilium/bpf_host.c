// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Tail calls through slots that are set in the source; macros name the context and the section. */
#include <bpf/ctx/skb.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>

int tail_handle_ipv4(struct __ctx_buff *ctx);

#include "lib/tailcall.h"

__section("tc/tail")
int tail_handle_ipv4(struct __ctx_buff *ctx)
{
	ctx->mark = 0x0f00 | (ctx->mark & 0xff);
	return CTX_ACT_OK;
}

__section("tc/entry")
int cil_from_netdev(struct __ctx_buff *ctx)
{
#ifdef ENABLE_IPV4
	if (ctx->protocol == bpf_htons(ETH_P_IP)) {
		tail_call_internal(ctx, CILIUM_CALL_IPV4);
		return CTX_ACT_DROP;
	}
#endif
	return CTX_ACT_OK;
}

BPF_LICENSE("Dual BSD/GPL");
