// SPDX-License-Identifier: MIT
/* A hook that returns nothing: its programs in cgroups may only allow. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("lsm_cgroup/inet_csk_clone")
int allows(void *ctx)
{
	return 1;
}

SEC("lsm_cgroup/inet_csk_clone")
int refuses(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
