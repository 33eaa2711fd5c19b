// SPDX-License-Identifier: GPL-2.0
/* A program that user space runs itself, and that may sleep: it makes system calls of bpf(). */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct args {
	__u64 log_buf;
	__u32 log_size;
	int max_entries;
	int map_fd;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, union bpf_attr);
} attributes SEC(".maps");

SEC("syscall")
int make_map(struct args *ctx)
{
	int zero = 0;
	union bpf_attr *attr = bpf_map_lookup_elem(&attributes, &zero);

	if (!attr)
		return -1;
	attr->map_type = BPF_MAP_TYPE_HASH;
	attr->key_size = attr->value_size = 8;
	attr->max_entries = ctx->max_entries;
	ctx->map_fd = bpf_sys_bpf(BPF_MAP_CREATE, attr, sizeof(*attr));
	return ctx->map_fd > 0 ? 1 : 0;
}

char LICENSE[] SEC("license") = "GPL";
