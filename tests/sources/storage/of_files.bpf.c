// SPDX-License-Identifier: GPL-2.0
/* Values that inodes keep, for two hooks of a security module with different arguments. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct label {
	u32 opened;
	u8 is_watched;
};

struct {
	__uint(type, BPF_MAP_TYPE_INODE_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct label);
} labels SEC(".maps");

SEC("lsm/file_open")
int BPF_PROG(opened, struct file *file)
{
	struct label *label = bpf_inode_storage_get(&labels, file->f_inode, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (label)
		label->opened++;
	return 0;
}

SEC("lsm/inode_unlink")
int BPF_PROG(removed, struct inode *dir, struct dentry *victim)
{
	struct label *label = bpf_inode_storage_get(&labels, victim->d_inode, 0, 0);

	return label && label->is_watched ? -1 : 0;
}

char LICENSE[] SEC("license") = "GPL";
