// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Sockets by their address, filled by sockops and redirected to by sk_msg, of one pinned map. */
#include <bpf/section.h>

struct sock_key {
	__u32 sip4;
	__u32 dip4;
	__u32 sport;
	__u32 dport;
} __attribute__((packed));

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__type(key, struct sock_key);
	__type(value, int);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__uint(max_entries, 65535);
} cilium_sock_ops __section_maps_btf;

__section("sockops")
int cil_sockops(struct bpf_sock_ops *skops)
{
	struct sock_key key = {};

	if (skops->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		return 0;
	key.sip4 = skops->local_ip4;
	key.dip4 = skops->remote_ip4;
	key.sport = skops->local_port;
	key.dport = skops->remote_port;
	bpf_sock_hash_update(skops, &cilium_sock_ops, &key, BPF_NOEXIST);
	return 0;
}

__section("sk_msg")
int cil_redir_proxy(struct sk_msg_md *msg)
{
	struct sock_key key = {};

	key.sip4 = msg->remote_ip4;
	key.dip4 = msg->local_ip4;
	key.sport = msg->remote_port;
	key.dport = msg->local_port;
	bpf_msg_redirect_hash(msg, &cilium_sock_ops, &key, BPF_F_INGRESS);
	return SK_PASS;
}

BPF_LICENSE("Dual BSD/GPL");
