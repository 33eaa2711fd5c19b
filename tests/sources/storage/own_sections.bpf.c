// SPDX-License-Identifier: GPL-2.0
/* Sections of data with names of their own, each of which becomes a map. */
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

int plain = 1;
int first SEC(".data.hot") = 2;
long table[4] SEC(".data.tables") = {1, 2, 3, 4};
const volatile int far SEC(".rodata.far") = 5;
const volatile char name[8] SEC(".rodata.names") = "daemon";
bool zero SEC(".bss.cold");
static volatile int hidden SEC(".bss.hidden");

SEC("tc")
int add(struct __sk_buff *skb)
{
	table[skb->mark & 3] += far;
	zero = !zero;
	hidden++;
	return plain + first + name[0];
}

char LICENSE[] SEC("license") = "GPL";
