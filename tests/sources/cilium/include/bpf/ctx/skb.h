/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include <bpf/section.h>
#include <linux/pkt_cls.h>

#define __ctx_buff	__sk_buff
#define __ctx_is	2
#define PROG_TYPE	"tc"
#define CTX_ACT_OK	TC_ACT_OK
#define CTX_ACT_DROP	TC_ACT_SHOT
