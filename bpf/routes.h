/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The encrypted scope: every prefix that may be reached through the tunnel only. */
#pragma once

#include "addr.h"

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct mesh_route_key);
	__type(value, struct mesh_route);
	__uint(max_entries, MESH_ROUTES_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_routes SEC(".maps");

static __always_inline const struct mesh_route *mesh_route(const struct mesh_addr *addr)
{
	struct mesh_route_key key = { .prefix_bits = 128, .addr = *addr };

	return bpf_map_lookup_elem(&mesh_routes, &key);
}

static __always_inline bool mesh_is_routed(const struct mesh_route *route)
{
	return route && (route->flags & MESH_ROUTED);
}
