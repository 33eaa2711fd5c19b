// SPDX-License-Identifier: GPL-2.0
/* Iterators over the kernel's maps, and over the elements of one that is chosen at attaching. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct key_t {
	int a;
	int b;
	int c;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 3);
	__type(key, struct key_t);
	__type(value, __u64);
} hashmap1 SEC(".maps");

__u32 key_sum = 0;

SEC("iter/bpf_map_elem")
int dump_hash(struct bpf_iter__bpf_map_elem *ctx)
{
	struct key_t *key = ctx->key;

	if (!key || !ctx->value)
		return 0;
	key_sum += key->a + key->b + key->c;
	return 0;
}

SEC("iter/bpf_map")
int dump_maps(struct bpf_iter__bpf_map *ctx)
{
	struct bpf_map *map = ctx->map;
	__u64 seq_num = ctx->meta->seq_num;
	static const char fmt[] = "%8u %-16s%6d\n";
	__u64 args[3];

	if (!map)
		return 0;
	args[0] = map->id;
	args[1] = (__u64)map->name;
	args[2] = map->max_entries;
	if (seq_num < 1000)
		bpf_seq_printf(ctx->meta->seq, fmt, sizeof(fmt), args, sizeof(args));
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
