// SPDX-License-Identifier: GPL-2.0
/* Arguments by PT_REGS_PARM, a struct as a key, and the version that old kernels asked for. */
#include <linux/ptrace.h>
#include <linux/bpf.h>
#include <linux/version.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct hist_key {
	char comm[16];
	__u64 pid_tgid;
	__u64 uid_gid;
	__u64 index;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(key_size, sizeof(struct hist_key));
	__uint(value_size, sizeof(long));
	__uint(max_entries, 1024);
} my_hist_map SEC(".maps");

SEC("kprobe/ksys_write")
int bpf_prog3(struct pt_regs *ctx)
{
	long init_val = 1, *value;
	struct hist_key key;

	key.index = PT_REGS_PARM3(ctx) >> 10;
	key.pid_tgid = bpf_get_current_pid_tgid();
	key.uid_gid = bpf_get_current_uid_gid();
	bpf_get_current_comm(&key.comm, sizeof(key.comm));
	value = bpf_map_lookup_elem(&my_hist_map, &key);
	if (value)
		__sync_fetch_and_add(value, 1);
	else
		bpf_map_update_elem(&my_hist_map, &key, &init_val, BPF_ANY);
	return 0;
}

char _license[] SEC("license") = "GPL";
__u32 _version SEC("version") = LINUX_VERSION_CODE;
