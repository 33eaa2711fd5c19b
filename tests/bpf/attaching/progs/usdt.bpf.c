// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Programs for the probes of shop.c. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#define BPF_USDT_MAX_SPEC_CNT 4 /* of 256 */
#include <bpf/usdt.bpf.h>

const volatile __u32 pid;
__u64 hits;
__s64 sum;
__u64 cookie;

static __always_inline int note(struct pt_regs *ctx, int what)
{
	if (bpf_get_current_pid_tgid() >> 32 != pid)
		return 0;
	__sync_fetch_and_add(&hits, 1);
	__sync_fetch_and_add(&sum, what);
	cookie = bpf_usdt_cookie(ctx);
	return 0;
}

SEC("usdt")
int BPF_USDT(by_hand, int what)
{
	return note(ctx, what);
}

SEC("usdt")
int BPF_USDT(other, int what)
{
	return note(ctx, what);
}

SEC("usdt/libshop.so:shop:sold")
int BPF_USDT(on_sold, int what)
{
	return note(ctx, what);
}

char LICENSE[] SEC("license") = "GPL";
