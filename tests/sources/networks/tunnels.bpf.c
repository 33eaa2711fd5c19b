// SPDX-License-Identifier: GPL-2.0
/* Keys of tunnels on the stack, with options behind them, for both directions of one device. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

struct vxlan_metadata {
	__u32 gbp;
};

SEC("tc")
int vxlan_set_tunnel(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {.remote_ipv4 = 0xac100164, .tunnel_id = 2, .tunnel_ttl = 64};
	struct vxlan_metadata md = {.gbp = 0x800FF};

	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_ZERO_CSUM_TX) < 0)
		return TC_ACT_SHOT;
	return bpf_skb_set_tunnel_opt(skb, &md, sizeof(md)) < 0 ? TC_ACT_SHOT : TC_ACT_OK;
}

SEC("tc")
int vxlan_get_tunnel(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key;

	if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0) < 0)
		return TC_ACT_SHOT;
	bpf_printk("key %d remote ip 0x%x\n", key.tunnel_id, key.remote_ipv4);
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "GPL";
