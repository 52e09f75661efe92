/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Every refusal has a reason, and every reason is counted. */
#pragma once

#include "abi.h"
#include "verdict.h"
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, MESH_DROP_REASONS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_drops SEC(".maps");

static __always_inline void mesh_count(__u32 reason)
{
	__u64 *n = bpf_map_lookup_elem(&mesh_drops, &reason);

	if (n)
		*n += 1;
}

static __always_inline int mesh_drop(__u32 reason)
{
	mesh_count(reason);
	return MESH_SHOT;
}
