// SPDX-License-Identifier: GPL-2.0
/* Hooks that answer: one that may sleep, one of a cgroup, and a function whose answer is changed. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

int refuse;

SEC("lsm.s/bprm_committed_creds")
void BPF_PROG(sleepable, struct linux_binprm *bprm)
{
	char first[8] = {};

	bpf_copy_from_user(first, sizeof(first), (void *)bprm->p);
}

SEC("?lsm_cgroup/socket_bind")
int BPF_PROG(of_cgroup, struct socket *sock, struct sockaddr *address, int addrlen)
{
	return 1;
}

SEC("fmod_ret/security_path_mkdir")
int BPF_PROG(changed, const struct path *dir, struct dentry *dentry, umode_t mode, int ret)
{
	return refuse ? -1 : ret;
}

char LICENSE[] SEC("license") = "GPL";
