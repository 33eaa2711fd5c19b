// SPDX-License-Identifier: MIT
/* A program that libbpf attaches without a descriptor. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/usdt.bpf.h>

SEC("usdt/libshop.so:shop:sold")
int BPF_USDT(on_sold, int what)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
