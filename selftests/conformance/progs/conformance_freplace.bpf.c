// SPDX-License-Identifier: MIT
/* Replacements for a function of another program. */
#include "conformance.h"

COUNTERS(on_freplace)

SEC("freplace")
int on_freplace(int value)
{
	__sync_fetch_and_add(&on_freplace_calls, 1);
	return 0;
}

SEC("freplace")
int on_freplace_alt(int value)
{
	__sync_fetch_and_add(&on_freplace_alt_calls, 1);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
