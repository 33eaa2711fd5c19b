// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* A static configuration that the loader patches into .data, and a function that isn't inlined. */
#include <bpf/ctx/skb.h>

struct node_config {
	__u32 host_ep_id;
	__u8 router_mac[6];
	__u16 trace_payload_len;
};

struct node_config node = {
	.host_ep_id = 7,
	.router_mac = {0x02, 0xfe, 0, 0, 0, 1},
	.trace_payload_len = 128,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
	__uint(max_entries, 64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} cilium_events __section_maps_btf;

struct trace_notify {
	__u8 type, subtype;
	__u16 source;
	__u32 hash;
	__u32 len_orig;
	__u16 len_cap, version;
};

__attribute__((noinline)) int send_trace(struct __ctx_buff *ctx, __u32 source)
{
	struct trace_notify msg = {.type = 4, .source = source};
	__u64 cap_len = node.trace_payload_len;

	msg.hash = bpf_get_hash_recalc(ctx);
	msg.len_orig = ctx->len;
	msg.len_cap = cap_len < ctx->len ? cap_len : ctx->len;
	return bpf_perf_event_output(ctx, &cilium_events, BPF_F_CURRENT_CPU | (__u64)msg.len_cap << 32,
				     &msg, sizeof(msg));
}

__section("tc")
int cil_from_network(struct __ctx_buff *ctx)
{
	send_trace(ctx, node.host_ep_id);
	return CTX_ACT_OK;
}

BPF_LICENSE("Dual BSD/GPL");
