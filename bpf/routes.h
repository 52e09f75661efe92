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

/* No path is smaller to IPv6, and no sender of it sends less for being told so. (RFC 8200, 5; RFC 8201, 4) */
#define MESH_IPV6_LEAST 1280

/* What a sender may be told that the path carries. Segments are clamped to the path itself, also below this. */
static __always_inline __u16 mesh_path_bytes(const struct mesh_route *route, bool v6)
{
	return v6 && route->mtu_bytes < MESH_IPV6_LEAST ? MESH_IPV6_LEAST : route->mtu_bytes;
}

static __always_inline bool mesh_is_routed(const struct mesh_route *route)
{
	return route && (route->flags & MESH_ROUTED);
}
