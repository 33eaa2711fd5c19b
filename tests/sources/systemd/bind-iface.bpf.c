/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The smallest of them: one index in a constant, written into each socket that is made. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

const volatile __u32 ifindex = 0;

SEC("cgroup/sock_create")
int sd_bind_interface(struct bpf_sock *ctx)
{
        /* Bind the socket to the specified ifindex. */
        ctx->bound_dev_if = ifindex;
        return 1;
}

static const char _license[] SEC("license") = "LGPL-2.1-or-later";
