/* SPDX-License-Identifier: GPL-2.0 */
/* Operations of sockets: many answers from one program, and options of sockets set in it. */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define SOL_SOCKET 1
#define SO_SNDBUF  7
#define SO_RCVBUF  8
#define DEBUG      1

#define dprintk(fmt, ...)                                                 \
	({                                                                \
		static const char ____fmt[] = fmt;                        \
		bpf_trace_printk(____fmt, sizeof(____fmt), ##__VA_ARGS__); \
	})

SEC("sockops")
int bpf_bufs(struct bpf_sock_ops *skops)
{
	int bufsize = 1500000, rv = 0;

	if (bpf_ntohl(skops->remote_port) != 55601 && skops->local_port != 55601) {
		skops->reply = -1;
		return 1;
	}
	switch (skops->op) {
	case BPF_SOCK_OPS_TIMEOUT_INIT:
	case BPF_SOCK_OPS_RWND_INIT:
		rv = 40;
		break;
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		rv = bpf_setsockopt(skops, SOL_SOCKET, SO_SNDBUF, &bufsize, sizeof(bufsize));
		rv += bpf_setsockopt(skops, SOL_SOCKET, SO_RCVBUF, &bufsize, sizeof(bufsize));
		break;
	default:
		rv = -1;
	}
#ifdef DEBUG
	dprintk("Returning %d\n", rv);
#endif
	skops->reply = rv;
	return 1;
}

char _license[] SEC("license") = "GPL";
