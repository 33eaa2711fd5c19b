/* SPDX-License-Identifier: GPL-2.0 */
/* Values of maps of CPUs and devices are structs with programs, with the sizes given by number. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_CPUMAP);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
	__uint(max_entries, 8);
} cpu_map SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(key_size, sizeof(int));
	__uint(value_size, sizeof(int));
	__uint(max_entries, 32);
} tx_ports SEC(".maps");

const volatile __u32 nr_cpus = 0;

SEC("xdp")
int hash_to_cpu(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	struct ethhdr *eth = data;
	__u32 key;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	if (!nr_cpus)
		return bpf_redirect_map(&tx_ports, ctx->ingress_ifindex, XDP_PASS);
	key = (eth->h_source[5] ^ eth->h_dest[5]) % nr_cpus;
	return bpf_redirect_map(&cpu_map, key & 7, 0);
}

char _license[] SEC("license") = "GPL";
