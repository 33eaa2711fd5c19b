// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Services by address at connect(): a map in a header with a union, and socket cookies as keys. */
#include <bpf/section.h>
#include "lib/lb.h"

struct ipv4_revnat_tuple {
	__u64 cookie;
	__be32 address;
	__be16 port;
	__u16 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct ipv4_revnat_tuple);
	__type(value, struct { __be32 address; __be16 port; __u16 rev_nat_index; });
	__uint(max_entries, 256 * 1024 / 64);
} cilium_lb4_reverse_sk __section_maps_btf;

__section("cgroup/connect4")
int cil_sock4_connect(struct bpf_sock_addr *ctx)
{
	struct { __be32 address; __be16 port; __u16 rev_nat_index; } before = {};
	struct ipv4_revnat_tuple tuple = {};
	struct lb4_service *service;
	struct lb4_key key = {};

	key.address = ctx->user_ip4;
	key.dport = ctx->user_port;
	service = bpf_map_lookup_elem(&cilium_lb4_services, &key);
	if (!service)
		return 1;
	tuple.cookie = bpf_get_socket_cookie(ctx);
	tuple.address = key.address;
	tuple.port = key.dport;
	before.address = key.address;
	before.rev_nat_index = service->rev_nat_index;
	bpf_map_update_elem(&cilium_lb4_reverse_sk, &tuple, &before, BPF_ANY);
	ctx->user_ip4 = service->backend_id;
	return 1;
}

__section("cgroup/recvmsg4")
int cil_sock4_recvmsg(struct bpf_sock_addr *ctx)
{
	return 1;
}

BPF_LICENSE("Dual BSD/GPL");
