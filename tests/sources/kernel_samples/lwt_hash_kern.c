/* SPDX-License-Identifier: GPL-2.0 */
/* Programs of lightweight tunnels, on the three ways of a packet. */
#include <linux/bpf.h>
#include <linux/ip.h>
#include <bpf/bpf_helpers.h>

#define CB_MAGIC 1234

SEC("lwt_in")
int do_len_hist(struct __sk_buff *skb)
{
	skb->cb[0] = CB_MAGIC;
	skb->cb[1] = skb->len;
	return BPF_OK;
}

SEC("lwt_out")
int do_drop_all(struct __sk_buff *skb)
{
	return skb->hash & 1 ? BPF_DROP : BPF_OK;
}

SEC("lwt_xmit")
int do_push_ll(struct __sk_buff *skb)
{
	char mac[14] = {0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x08, 0};

	if (bpf_skb_change_head(skb, sizeof(mac), 0) < 0)
		return BPF_DROP;
	if (bpf_skb_store_bytes(skb, 0, mac, sizeof(mac), 0) < 0)
		return BPF_DROP;
	return bpf_redirect(1, 0);
}

char _license[] SEC("license") = "GPL";
