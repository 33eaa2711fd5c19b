/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#ifndef __MAPS_BPF_H
#define __MAPS_BPF_H

#include <bpf/bpf_helpers.h>

/* Expands where vmlinux.h, and not errno.h, was included. */
#define EEXIST 17

static __always_inline void *lookup_or_init(void *map, const void *key, const void *init)
{
	void *value = bpf_map_lookup_elem(map, key);
	long failed;

	if (value)
		return value;
	failed = bpf_map_update_elem(map, key, init, BPF_NOEXIST);
	if (failed && failed != -EEXIST)
		return 0;
	return bpf_map_lookup_elem(map, key);
}

#endif
