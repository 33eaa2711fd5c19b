/* SPDX-License-Identifier: GPL-2.0 */
#define DROP_PKT   0
#define ALLOW_PKT  1
#define MAX_CREDIT (100 * 1500)

struct hbm_vqueue {
	struct bpf_spin_lock lock;
	unsigned long long lasttime;
	int credit;
	unsigned int rate;
};

struct hbm_queue_stats {
	unsigned long rate;
	unsigned long stats : 1, loopback : 1, no_cn : 1;
	unsigned long long pkts_total;
	unsigned long long bytes_total;
	long long sum_credit;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hbm_vqueue);
} queue_map SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hbm_queue_stats);
} queue_stats SEC(".maps");

static __always_inline struct hbm_vqueue *get_queue(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&queue_map, &key);
}

static __always_inline void hbm_update_stats(int len, long credit)
{
	__u32 key = 0;
	struct hbm_queue_stats *qsp = bpf_map_lookup_elem(&queue_stats, &key);

	if (!qsp || !qsp->stats)
		return;
	__sync_add_and_fetch(&qsp->pkts_total, 1);
	__sync_add_and_fetch(&qsp->bytes_total, len);
	__sync_add_and_fetch(&qsp->sum_credit, credit);
}
