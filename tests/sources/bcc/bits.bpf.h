/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#ifndef __BITS_BPF_H
#define __BITS_BPF_H

#define MAX_SLOTS 27

struct hist {
	__u32 slots[MAX_SLOTS];
};

static __always_inline u64 slot_of(u64 v)
{
	u64 slot = 0;

#pragma unroll
	for (int shift = 32; shift; shift >>= 1) {
		u64 wide = (v >> shift) != 0;

		v >>= wide * shift;
		slot += wide * shift;
	}
	return slot < MAX_SLOTS ? slot : MAX_SLOTS - 1;
}

#endif
