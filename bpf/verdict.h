/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What a packet program may answer. */
#pragma once

/*
 * TCX_NEXT, never TC_ACT_OK: what is not ours belongs to the CNI's programs behind us, and TC_ACT_OK would
 * end the chain before them. (linux/bpf.h, enum tcx_action_base.) A filter of clsact hands on with the same
 * number, which is TC_ACT_UNSPEC there. (linux/pkt_cls.h)
 */
#define MESH_NEXT (-1)
#define MESH_SHOT 2
