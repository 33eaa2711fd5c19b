/* SPDX-License-Identifier: GPL-2.0 */
/* The name of a system call's function comes from a macro, as it differs between architectures. */
#include <linux/ptrace.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#ifdef __x86_64__
#define SYSCALL(name) "__x64_sys_" #name
#elif defined(__TARGET_ARCH_x86)
#define SYSCALL(name) "__x64_sys_" #name
#elif defined(__TARGET_ARCH_arm64)
#define SYSCALL(name) "__arm64_sys_" #name
#else
#define SYSCALL(name) "sys_" #name
#endif

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(int));
	__uint(value_size, sizeof(__u32));
	__uint(max_entries, 2);
} my_map SEC(".maps");

SEC("kprobe/" SYSCALL(write))
int bpf_prog1(struct pt_regs *ctx)
{
	struct S {
		__u64 pid;
		__u64 cookie;
	} data;

	data.pid = bpf_get_current_pid_tgid();
	data.cookie = 0x12345678;
	bpf_perf_event_output(ctx, &my_map, 0, &data, sizeof(data));
	return 0;
}

char _license[] SEC("license") = "GPL";
