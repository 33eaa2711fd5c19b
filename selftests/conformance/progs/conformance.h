/* SPDX-License-Identifier: MIT */
/* Macros for the programs of the conformance suite. Each program comes twice, and each of the two
 * counts in a variable named after it, which shows after an update which of them ran. */
#pragma once
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define COUNTERS(name) \
	__u64 name##_calls; \
	__u64 name##_alt_calls;

/* Names have a prefix, since a program may not have the name of its section. */
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

/* For hooks that see only what the test does, in its own cgroup or network namespace. */
#define EVERY(ctx, counter) __sync_fetch_and_add(counter, 1)
