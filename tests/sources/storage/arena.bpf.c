// SPDX-License-Identifier: GPL-2.0
/* Memory that programs and user space share, of which a page is taken by a function of the kernel. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define BPF_MAP_TYPE_ARENA 33

struct {
	__uint(type, BPF_MAP_TYPE_ARENA);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 4); /* pages */
	__uint(map_extra, 0x70000000); /* its address in user space */
} arena SEC(".maps");

extern void *bpf_arena_alloc_pages(void *map, void *addr, __u32 page_cnt, int node_id, __u64 flags) __ksym;

int has_page;

SEC("syscall")
int take(void *ctx)
{
	void *page = bpf_arena_alloc_pages(&arena, NULL, 1, -1, 0);

	has_page = page != NULL;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
