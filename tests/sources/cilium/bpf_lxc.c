// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* A policy's key with bitfields, longest prefix first; values written by the loader in .rodata.config. */
#include <bpf/ctx/skb.h>

struct policy_key {
	__u32 prefixlen;
	__u32 sec_label;
	__u8 egress : 1, pad : 7;
	__u8 protocol;
	__be16 dport;
};

struct policy_entry {
	__be16 proxy_port;
	__u8 deny : 1, reserved : 2, prefix : 5;
	__u8 auth_type : 7, explicit_auth : 1;
	__u64 packets, bytes;
};

struct metrics_key {
	__u8 reason;
	__u8 dir : 2, pad : 6;
	__u16 line;
	__u32 endpoint;
};

struct metrics_value {
	__u64 count, bytes;
};

DECLARE_CONFIG(__u16, endpoint_id);
DECLARE_CONFIG(__u32, security_label) = 2;

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct policy_key);
	__type(value, struct policy_entry);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} cilium_policy __section_maps_btf;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__type(key, struct metrics_key);
	__type(value, struct metrics_value);
	__uint(max_entries, 1024);
} cilium_metrics __section_maps_btf;

__section("tc")
int cil_from_container(struct __ctx_buff *ctx)
{
	struct policy_key key = {.prefixlen = 64, .sec_label = CONFIG(security_label), .egress = 1};
	struct metrics_key metric = {};
	struct metrics_value first = {1, ctx->len}, *seen;
	struct policy_entry *policy;

	policy = bpf_map_lookup_elem(&cilium_policy, &key);
	metric.reason = policy && policy->deny ? 133 : 0;
	metric.dir = 2;
	metric.endpoint = CONFIG(endpoint_id);
	seen = bpf_map_lookup_elem(&cilium_metrics, &metric);
	if (seen)
		seen->count++, seen->bytes += ctx->len;
	else
		bpf_map_update_elem(&cilium_metrics, &metric, &first, BPF_ANY);
	return policy && policy->deny ? CTX_ACT_DROP : CTX_ACT_OK;
}

BPF_LICENSE("Dual BSD/GPL");
