// SPDX-License-Identifier: GPL-2.0
/* Options of the kernel by their types: a version, numbers, truths, three states, a text; some missing. */
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

extern int LINUX_KERNEL_VERSION __kconfig;
extern int CONFIG_HZ __kconfig __weak;
extern bool CONFIG_BPF_SYSCALL __kconfig;
extern enum libbpf_tristate CONFIG_BPF_JIT __kconfig __weak;
extern char CONFIG_DEFAULT_HOSTNAME[16] __kconfig __weak;
extern bool CONFIG_NO_SUCH_OPTION __kconfig __weak;

__u64 jiffies_each_second;
char host;

SEC("tc")
int look(struct __sk_buff *skb)
{
	if (!CONFIG_BPF_SYSCALL || CONFIG_NO_SUCH_OPTION)
		return -1;
	jiffies_each_second = CONFIG_BPF_JIT == TRI_YES ? CONFIG_HZ : 0;
	host = CONFIG_DEFAULT_HOSTNAME[0];
	return LINUX_KERNEL_VERSION >> 16;
}

char LICENSE[] SEC("license") = "GPL";
