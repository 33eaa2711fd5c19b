/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Maps of mounts by user namespace, a task's chain walked with a bound, and a second hook. */
#include "vmlinux.h"

#include <errno.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define USER_NAMESPACE_DEPTH_MAX 32U

struct mnt_id_map {
        __uint(type, BPF_MAP_TYPE_HASH);
        __uint(max_entries, 1);         /* placeholder, configured otherwise by user space */
        __type(key, int);
        __type(value, u32);
};

struct {
        __uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
        __uint(max_entries, 1);
        __type(key, u32);
        __array(values, struct mnt_id_map);
} userns_mnt_id_hash SEC(".maps");

struct {
        __uint(type, BPF_MAP_TYPE_RINGBUF);
        __uint(max_entries, 4096);
} userns_ringbuf SEC(".maps");

SEC("lsm/path_chown")
int BPF_PROG(userns_restrict_path_chown, struct path *path, unsigned long long uid, unsigned long long gid, int ret)
{
        struct task_struct *task = (struct task_struct *) bpf_get_current_task_btf();
        struct user_namespace *userns = task->cred->user_ns;
        u32 inode;

        if (ret != 0)
                return ret;

        for (unsigned i = 0; i < USER_NAMESPACE_DEPTH_MAX; i++) {
                if (!userns)
                        break;
                inode = userns->ns.inum;
                if (bpf_map_lookup_elem(&userns_mnt_id_hash, &inode))
                        return -EPERM;
                userns = userns->parent;
        }
        return 0;
}

SEC("kprobe/free_user_ns")
int BPF_KPROBE(userns_restrict_free_user_ns, struct work_struct *work)
{
        unsigned int inode = (unsigned long) work;

        bpf_ringbuf_output(&userns_ringbuf, &inode, sizeof(inode), 0);
        return 0;
}

static const char _license[] SEC("license") = "GPL";
