// SPDX-License-Identifier: GPL-2.0
/* Filters by arrays of constants, sets of ports in hashes, and a tracepoint of sockets. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define MAX_PORTS 8
#define AF_INET 2

const volatile __u16 target_ports[MAX_PORTS] = {};
const volatile int target_family = -1;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PORTS);
	__type(key, __u16);
	__type(value, __u16);
} dports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 16);
	__type(key, int);
	__type(value, struct { __u64 calls; __u32 last_port; });
} states SEC(".maps");

SEC("tracepoint/sock/inet_sock_set_state")
int handle_set_state(struct trace_event_raw_inet_sock_set_state *ctx)
{
	struct { __u64 calls; __u32 last_port; } first = {1, 0}, *seen;
	__u16 dport = BPF_CORE_READ(ctx, dport);
	int state = BPF_CORE_READ(ctx, newstate);

	if (target_family != -1 && target_family != BPF_CORE_READ(ctx, family))
		return 0;
	for (int i = 0; i < MAX_PORTS; i++)
		if (target_ports[i] && target_ports[i] == dport)
			bpf_map_update_elem(&dports, &dport, &dport, BPF_ANY);
	seen = bpf_map_lookup_elem(&states, &state);
	if (!seen)
		return bpf_map_update_elem(&states, &state, &first, BPF_ANY);
	seen->calls++;
	seen->last_port = dport;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
