/* SPDX-License-Identifier: GPL-2.0 */
/* Found by -I only. */
#ifndef __OWN_BPF_UTIL_H
#define __OWN_BPF_UTIL_H

#define bpf_debug(fmt, ...)                                                    \
	({                                                                     \
		char ____fmt[] = fmt;                                          \
		bpf_trace_printk(____fmt, sizeof(____fmt), ##__VA_ARGS__);     \
	})

#define lock_xadd(ptr, val) ((void)__sync_fetch_and_add(ptr, val))

#endif
