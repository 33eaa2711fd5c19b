/* SPDX-License-Identifier: GPL-2.0 */
/* A switch by the fields of a context, with a debug text that is built only with DEBUG. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("cgroup/dev")
int bpf_prog1(struct bpf_cgroup_dev_ctx *ctx)
{
	short type = ctx->access_type & 0xFFFF;
#ifdef DEBUG
	short access = ctx->access_type >> 16;
	char fmt[] = "  %d:%d    \n";

	bpf_trace_printk(fmt, sizeof(fmt), ctx->major, access);
#endif
	/* /dev/zero and /dev/urandom */
	if (ctx->major != 1 || type != BPF_DEVCG_DEV_CHAR)
		return 0;
	switch (ctx->minor) {
	case 5:
	case 9:
		return 1;
	}
	return 0;
}

char _license[] SEC("license") = "GPL";
