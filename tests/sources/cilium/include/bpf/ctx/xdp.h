/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <bpf/section.h>

#define __ctx_buff	xdp_md
#define __ctx_is	1
#define PROG_TYPE	"xdp"
#define CTX_ACT_OK	XDP_PASS
#define CTX_ACT_DROP	XDP_DROP
