// SPDX-License-Identifier: MIT
/* Programs on what the sockets of a map send and receive. */
#include "conformance.h"

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps"), others SEC(".maps");

TWICE(sk_msg, "sk_msg", struct sk_msg_md, EVERY, SK_PASS)
TWICE(stream, "sk_skb/stream_verdict", struct __sk_buff, EVERY, SK_PASS)
TWICE(sk_skb, "sk_skb/verdict", struct __sk_buff, EVERY, SK_PASS)

char LICENSE[] SEC("license") = "GPL";
