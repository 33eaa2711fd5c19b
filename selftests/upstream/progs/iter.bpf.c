// SPDX-License-Identifier: MIT
/* Iterators that write: two a text at the first task, one the id of each link. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define KERNELS __attribute__((preserve_access_index))

struct seq_file;
struct task_struct;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 seq_num;
} KERNELS;

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
} KERNELS;

struct bpf_link {
	__u32 id;
} KERNELS;

struct bpf_iter__bpf_link {
	struct bpf_iter_meta *meta;
	struct bpf_link *link;
} KERNELS;

static __always_inline int write(struct bpf_iter__task *ctx, const char *text)
{
	if (ctx->meta->seq_num == 0)
		bpf_seq_write(ctx->meta->seq, text, 4);
	return 0;
}

SEC("iter/task")
int small(struct bpf_iter__task *ctx)
{
	return write(ctx, "abcd");
}

SEC("iter/task")
int large(struct bpf_iter__task *ctx)
{
	return write(ctx, "ABCD");
}

SEC("iter/bpf_link")
int ids(struct bpf_iter__bpf_link *ctx)
{
	struct bpf_link *link = ctx->link;
	__u32 id;

	if (!link)
		return 0;
	id = link->id;
	bpf_seq_write(ctx->meta->seq, &id, sizeof(id));
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
