// SPDX-License-Identifier: GPL-2.0
/* Options in headers of TCP, written and parsed by callbacks that a flag of the socket asks for. */
#include <linux/bpf.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct option {
	__u8 kind;
	__u8 len;
	__u16 magic;
	__u32 data;
} __attribute__((packed));

__u16 test_kind = 253;
struct option parsed = {};

static int write_option(struct bpf_sock_ops *skops)
{
	struct option option = {.kind = 253, .len = sizeof(option), .magic = bpf_htons(0xeB9F)};

	return bpf_store_hdr_opt(skops, &option, sizeof(option), 0) ? 0 : 1;
}

SEC("sockops")
int estab(struct bpf_sock_ops *skops)
{
	struct option option = {.kind = 253, .len = 4, .magic = bpf_htons(0xeB9F)};

	switch (skops->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		bpf_sock_ops_cb_flags_set(skops, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
		break;
	case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
		bpf_reserve_hdr_opt(skops, sizeof(option), 0);
		break;
	case BPF_SOCK_OPS_WRITE_HDR_OPT_CB:
		return write_option(skops);
	case BPF_SOCK_OPS_PARSE_HDR_OPT_CB:
		if (bpf_load_hdr_opt(skops, &option, sizeof(option), 0) > 0)
			parsed = option;
	}
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
