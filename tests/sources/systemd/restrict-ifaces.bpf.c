/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One constant decides between a list of what is allowed and one of what is not; sized at load. */
#include <linux/bpf.h>
#include <stdbool.h>
#include <stdint.h>
#include <bpf/bpf_helpers.h>

const volatile uint8_t is_allow_list = 0;

/* Map containing the network interfaces indexes. */
struct {
        __uint(type, BPF_MAP_TYPE_HASH);
        __type(key, uint32_t);
        __type(value, uint8_t);
} sd_restrictif SEC(".maps");

#define DROP 0
#define PASS 1

static inline int restrict_network_interfaces_impl(const struct __sk_buff *sk) {
        uint32_t ifindex;
        bool lookup_result;

        ifindex = sk->ifindex;
        lookup_result = bpf_map_lookup_elem(&sd_restrictif, &ifindex) != 0;
        if (is_allow_list)
                return lookup_result ? PASS : DROP;

        return lookup_result ? DROP : PASS;
}

SEC("cgroup_skb/egress")
int sd_restrictif_e(const struct __sk_buff *sk) {
        return restrict_network_interfaces_impl(sk);
}

SEC("cgroup_skb/ingress")
int sd_restrictif_i(const struct __sk_buff *sk) {
        return restrict_network_interfaces_impl(sk);
}

static const char _license[] SEC("license") = "LGPL-2.1-or-later";
