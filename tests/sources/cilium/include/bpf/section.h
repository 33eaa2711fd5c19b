/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#ifndef __section
# define __section(X)		__attribute__((section(X), used))
#endif
#define __section_maps_btf	__section(".maps")
#define __section_entry(TYPE)	__section(TYPE "/entry")
#define __license_section	__section("license")
#define __section_config	__section(".rodata.config")

#ifndef BPF_LICENSE
# define BPF_LICENSE(NAME)	char ____license[] __license_section = NAME
#endif

/* A constant of one node, which the loader writes. */
#define DECLARE_CONFIG(type, name)	const volatile type __config_##name __section_config
#define CONFIG(name)			__config_##name
