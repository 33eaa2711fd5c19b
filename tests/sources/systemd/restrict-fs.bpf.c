/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An LSM hook that asks a hash of maps, whose inner maps user space makes; sized at load. */
#include "vmlinux.h"

#include <errno.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct magics {
        __uint(type, BPF_MAP_TYPE_HASH);
        __uint(max_entries, 128);
        __type(key, uint32_t);          /* filesystem magic */
        __type(value, uint32_t);
};

struct {
        __uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
        __uint(key_size, sizeof(uint64_t));     /* cgroup ID */
        __uint(value_size, sizeof(uint32_t));   /* fd of nested map */
        __array(values, struct magics);
} cgroup_hash SEC(".maps");

SEC("lsm/file_open")
int BPF_PROG(restrict_filesystems, struct file *file, int ret)
{
        uint64_t cgroup_id;
        uint32_t *value, magic, zero = 0, *is_allow;
        void *inner_map;

        /* ret is the return value from the previous BPF program or 0 if it's the first hook */
        if (ret != 0)
                return ret;

        BPF_CORE_READ_INTO(&magic, file, f_inode, i_sb, s_magic);
        cgroup_id = bpf_get_current_cgroup_id();

        inner_map = bpf_map_lookup_elem(&cgroup_hash, &cgroup_id);
        if (!inner_map)
                return 0;

        is_allow = bpf_map_lookup_elem(inner_map, &zero);
        if (!is_allow)
                return -EPERM;

        value = bpf_map_lookup_elem(inner_map, &magic);
        return *is_allow ? (value ? 0 : -EPERM) : (value ? -EPERM : 0);
}

static const char _license[] SEC("license") = "GPL";
