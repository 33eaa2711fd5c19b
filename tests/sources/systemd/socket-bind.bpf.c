/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A loop over rules in an array; the ports and families of two hooks through one function. */
#include "socket-bind-api.bpf.h"

#include <linux/types.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <sys/socket.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum socket_bind_action {
        SOCKET_BIND_DENY = 0,
        SOCKET_BIND_ALLOW = 1,
};

struct socket_bind_map_t {
        __uint(type, BPF_MAP_TYPE_ARRAY);
        __type(key, __u32);
        __type(value, struct socket_bind_rule);
};

struct sized_map_t {
        __uint(type, BPF_MAP_TYPE_ARRAY);
        __type(key, __u32);
        __type(value, struct socket_bind_rule);
        __uint(max_entries, SOCKET_BIND_MAX_RULES);
};

struct sized_map_t sd_bind_allow SEC(".maps");
struct socket_bind_map_t sd_bind_deny SEC(".maps");

static __always_inline bool match_ports(const struct bpf_sock_addr *ctx, const struct socket_bind_rule *r) {
        __u16 port = bpf_ntohs(ctx->user_port);

        /* Zero for all ports. */
        return r->nr_ports == 0 ? r->port_min == 0 : port >= r->port_min && port < r->port_min + (__u32) r->nr_ports;
}

static __always_inline bool match_rules(struct bpf_sock_addr *ctx, void *rules) {
        for (__u32 i = 0; i < SOCKET_BIND_MAX_RULES; ++i) {
                const __u32 key = i;
                const struct socket_bind_rule *rule = bpf_map_lookup_elem(rules, &key);

                if (rule && rule->nr_ports && match_ports(ctx, rule))
                        return true;
        }
        return false;
}

static __always_inline int bind_socket(struct bpf_sock_addr *ctx) {
        if (match_rules(ctx, &sd_bind_allow))
                return SOCKET_BIND_ALLOW;
        return match_rules(ctx, &sd_bind_deny) ? SOCKET_BIND_DENY : SOCKET_BIND_ALLOW;
}

SEC("cgroup/bind4")
int sd_bind4(struct bpf_sock_addr *ctx) {
        if (ctx->user_family != AF_INET || ctx->family != AF_INET)
                return SOCKET_BIND_ALLOW;
        return bind_socket(ctx);
}

SEC("cgroup/bind6")
int sd_bind6(struct bpf_sock_addr *ctx) {
        if (ctx->user_family != AF_INET6 || ctx->family != AF_INET6)
                return SOCKET_BIND_ALLOW;
        return bind_socket(ctx);
}

char _license[] SEC("license") = "GPL";
