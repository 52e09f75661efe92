/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What lives on this node: its pods, its own mesh address, and the tunnel's device. */
#pragma once

#include "addr.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct mesh_addr);
	__type(value, struct mesh_local);
	__uint(max_entries, MESH_LOCALS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_local SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct mesh_config);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_config SEC(".maps");

static __always_inline const struct mesh_local *mesh_local_at(const struct mesh_addr *addr)
{
	return bpf_map_lookup_elem(&mesh_local, addr);
}

static __always_inline const struct mesh_config *mesh_configuration(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&mesh_config, &only);
}
