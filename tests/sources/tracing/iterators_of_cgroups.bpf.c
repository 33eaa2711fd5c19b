// SPDX-License-Identifier: GPL-2.0
/* Newer iterators, which a loader switches on if the kernel has them; links are for all. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

SEC("iter/bpf_link")
int dump_links(struct bpf_iter__bpf_link *ctx)
{
	struct bpf_link *link = ctx->link;
	int id;

	if (!link)
		return 0;
	id = link->id;
	bpf_seq_write(ctx->meta->seq, &id, sizeof(id));
	return 0;
}

SEC("?iter/cgroup")
int dump_cgroups(struct bpf_iter__cgroup *ctx)
{
	if (ctx->cgroup)
		BPF_SEQ_PRINTF(ctx->meta->seq, "%llu\n", ctx->cgroup->kn->id);
	return 0;
}

SEC("?iter/ksym")
int dump_symbols(struct bpf_iter__ksym *ctx)
{
	if (ctx->ksym)
		BPF_SEQ_PRINTF(ctx->meta->seq, "0x%llx %s\n", ctx->ksym->value, ctx->ksym->name);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
