/* SPDX-License-Identifier: MIT */
/* What the programs of the conformance suite share: each comes twice and counts in a variable that
 * is called after it, so that after an update one sees which of them ran. */
#pragma once
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define COUNTERS(name) \
	__u64 name##_calls; \
	__u64 name##_alt_calls;

/* An own prefix, since a program may not be called what its section is. */
#define TWICE(name, section, context, count, result) \
	COUNTERS(on_##name) \
	SEC(section) \
	int on_##name(context *ctx) \
	{ \
		count(ctx, &on_##name##_calls); \
		return result; \
	} \
	SEC(section) \
	int on_##name##_alt(context *ctx) \
	{ \
		count(ctx, &on_##name##_alt_calls); \
		return result; \
	}

/* Everything that its hook sees is the test's own: its cgroup, its network namespace. */
#define EVERY(ctx, counter) __sync_fetch_and_add(counter, 1)
