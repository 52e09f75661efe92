/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Addresses of both families as one. */
#pragma once

#include "abi.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#define MESH_V4_MAPPED_BE bpf_htonl(0xffff)

static __always_inline struct mesh_addr mesh_addr_v4(__be32 ip4_be)
{
	return (struct mesh_addr){ .word = { 0, 0, MESH_V4_MAPPED_BE, ip4_be } };
}

static __always_inline bool mesh_addr_is_v4(const struct mesh_addr *a)
{
	return !a->word[0] && !a->word[1] && a->word[2] == MESH_V4_MAPPED_BE;
}

static __always_inline bool mesh_addr_is_set(const struct mesh_addr *a)
{
	return a->word[0] || a->word[1] || a->word[2] || a->word[3];
}

static __always_inline bool mesh_addr_eq(const struct mesh_addr *a, const struct mesh_addr *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

static __always_inline bool mesh_addr_is_multicast(const struct mesh_addr *a)
{
	if (mesh_addr_is_v4(a)) /* 224.0.0.0/4 (RFC 5771) and the limited broadcast */
		return (a->word[3] & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) || a->word[3] == 0xffffffff;
	return (a->word[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000); /* ff00::/8 (RFC 4291, 2.7) */
}

/* Multicast and link-local: nothing that a router carries. */
static __always_inline bool mesh_addr_is_link_scope(const struct mesh_addr *a)
{
	if (mesh_addr_is_multicast(a))
		return true;
	if (mesh_addr_is_v4(a)) /* 169.254.0.0/16 (RFC 3927) */
		return (a->word[3] & bpf_htonl(0xffff0000)) == bpf_htonl(0xa9fe0000);
	return (a->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000); /* fe80::/10 */
}
