/* SPDX-License-Identifier: MIT */
/* What the programs of the conformance suite share: each comes twice, the one counts in `calls`,
 * the other in `alt_calls`, so that after an update one sees which of them ran. */
#pragma once
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

__u64 calls;
__u64 alt_calls;

/* An own prefix, since a program may not be called what its section is. */
#define TWICE(name, section, context, count, result) \
	SEC(section) \
	int on_##name(context *ctx) \
	{ \
		count(ctx, &calls); \
		return result; \
	} \
	SEC(section) \
	int on_##name##_alt(context *ctx) \
	{ \
		count(ctx, &alt_calls); \
		return result; \
	}

/* Everything that its hook sees is the test's own: its cgroup, its network namespace. */
#define EVERY(ctx, counter) __sync_fetch_and_add(counter, 1)
