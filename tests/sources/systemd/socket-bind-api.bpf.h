/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Defines the layout of the maps' values for the programs and for user space. */
#include <linux/types.h>

/* Bounds of the loop over the rules: kernels unroll no longer ones. */
#define SOCKET_BIND_MAX_RULES 16

#define SOCKET_BIND_RULE_AF_MATCH(af)       1
#define SOCKET_BIND_RULE_PROTOCOL_MATCH(p)  2

struct socket_bind_rule {
        __u32 address_family;
        __u32 protocol;
        __u16 nr_ports;
        __u16 port_min;
};
