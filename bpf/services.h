/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Services are chosen once, where a socket names its peer: no packet is rewritten, no connection is tracked, and
 * the cost does not grow with the number of services.
 *
 *   mesh_services  frontend → set, count      mesh_backends  (set, slot) → endpoint
 *   mesh_reverse   (socket, endpoint) → frontend, for getpeername and recvmsg
 *   mesh_sticky    (socket, frontend) → endpoint, for sendmsg without connect
 *   mesh_affinity  frontend → seconds, for services with session affinity
 *   mesh_clients   (network namespace, frontend) → endpoint, for their clients
 */
#pragma once

#include "addr.h"
#include "drops.h"
#include <linux/in.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct mesh_frontend);
	__type(value, struct mesh_set_ref);
	__uint(max_entries, MESH_SERVICES_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct mesh_backend_key);
	__type(value, struct mesh_endpoint);
	__uint(max_entries, MESH_BACKENDS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_backends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct mesh_reverse_key);
	__type(value, struct mesh_endpoint);
	__uint(max_entries, MESH_REVERSE_MAX);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_reverse SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct mesh_reverse_key);
	__type(value, struct mesh_sticky);
	__uint(max_entries, MESH_STICKY_MAX);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_sticky SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct mesh_frontend);
	__type(value, __u32);
	__uint(max_entries, MESH_SERVICES_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_affinity SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct mesh_client_key);
	__type(value, struct mesh_client);
	__uint(max_entries, MESH_CLIENTS_MAX);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_clients SEC(".maps");

#define NANOSECONDS 1000000000ULL

enum mesh_choice {
	MESH_NOT_A_SERVICE,
	MESH_CHOSEN,
	MESH_REFUSED,
};

static __always_inline struct mesh_reverse_key mesh_socket_key(__u64 cookie, const struct mesh_endpoint *e)
{
	return (struct mesh_reverse_key){ .cookie = cookie, .addr = e->addr, .port_be = e->port_be };
}

static __always_inline const struct mesh_endpoint *mesh_backend_at(__u32 set, __u32 slot)
{
	struct mesh_backend_key key = { .set = set, .slot = slot };

	return bpf_map_lookup_elem(&mesh_backends, &key);
}

static __always_inline bool mesh_endpoint_eq(const struct mesh_endpoint *a, const struct mesh_endpoint *b)
{
	return a->port_be == b->port_be && mesh_addr_eq(&a->addr, &b->addr);
}

struct mesh_search {
	struct mesh_endpoint wanted;
	__u32 set;
	__u32 slot;
	bool found;
};

static long mesh_search_slot(__u32 slot, void *context)
{
	struct mesh_search *search = context;
	const struct mesh_endpoint *backend = mesh_backend_at(search->set, slot);

	if (!backend || !mesh_endpoint_eq(backend, &search->wanted))
		return 0;
	search->slot = slot;
	search->found = true;
	return 1;
}

/*
 * The backend that was chosen before, while it is a member of the set. Where the set was exchanged and the backend
 * has another slot now, it is searched for once and its new slot is remembered.
 */
static __always_inline const struct mesh_endpoint *mesh_member(const struct mesh_set_ref *ref,
							       struct mesh_sticky *sticky)
{
	struct mesh_search search = { .set = ref->set };
	const struct mesh_endpoint *backend;

	backend = mesh_backend_at(ref->set, sticky->slot);
	if (backend && mesh_endpoint_eq(backend, &sticky->backend))
		return backend;
	search.wanted = sticky->backend;
	bpf_loop(ref->count, mesh_search_slot, &search, 0);
	if (!search.found)
		return 0;
	sticky->slot = search.slot;
	return mesh_backend_at(ref->set, search.slot);
}

/* What the socket was given before. */
static __always_inline const struct mesh_endpoint *mesh_stuck(const struct mesh_set_ref *ref,
							      const struct mesh_reverse_key *socket)
{
	struct mesh_sticky *sticky = bpf_map_lookup_elem(&mesh_sticky, socket);

	return sticky ? mesh_member(ref, sticky) : 0;
}

/* What the client was given before, unless it last connected longer ago than the service remembers. */
static __always_inline const struct mesh_endpoint *mesh_returning(const struct mesh_set_ref *ref,
								  const struct mesh_client_key *who, __u32 seconds)
{
	struct mesh_client *client = bpf_map_lookup_elem(&mesh_clients, who);
	const struct mesh_endpoint *backend;
	__u64 now = bpf_ktime_get_ns();

	if (!client || now - client->used_ns > seconds * NANOSECONDS)
		return 0;
	backend = mesh_member(ref, &client->last);
	if (backend)
		client->used_ns = now;
	return backend;
}

/*
 * A backend of the frontend; null with `*known` when there is none, null without when it is no service. `socket`
 * is null where each choice stands for itself.
 */
static __always_inline const struct mesh_endpoint *mesh_choose(struct bpf_sock_addr *ctx, const struct mesh_frontend *f,
							       const struct mesh_reverse_key *socket, bool *known)
{
	struct mesh_client_key who = { .frontend = *f };
	const struct mesh_endpoint *backend;
	const struct mesh_set_ref *found;
	struct mesh_set_ref ref;
	const __u32 *seconds;
	__u32 slot;

	/* Twice: between the two lookups the agent may have put another set in place and taken this one away. */
#pragma unroll
	for (int attempt = 0; attempt < 2; attempt++) {
		found = bpf_map_lookup_elem(&mesh_services, f);
		if (!found)
			return 0;
		ref = *found;
		*known = true;
		if (!ref.count)
			return 0;
		backend = socket ? mesh_stuck(&ref, socket) : 0;
		if (backend)
			return backend;
		seconds = bpf_map_lookup_elem(&mesh_affinity, f);
		if (seconds) {
			who.netns_cookie = bpf_get_netns_cookie(ctx);
			backend = mesh_returning(&ref, &who, *seconds);
			if (backend)
				return backend;
		}
		slot = bpf_get_prandom_u32() % ref.count;
		backend = mesh_backend_at(ref.set, slot);
		if (backend) {
			struct mesh_client chosen = { .last = { .backend = *backend, .slot = slot } };

			if (socket)
				bpf_map_update_elem(&mesh_sticky, socket, &chosen.last, BPF_ANY);
			if (seconds) {
				chosen.used_ns = bpf_ktime_get_ns();
				bpf_map_update_elem(&mesh_clients, &who, &chosen, BPF_ANY);
			}
			return backend;
		}
	}
	return 0;
}

static __always_inline bool mesh_is_service_address(const struct mesh_addr *addr)
{
	struct mesh_frontend any = { .addr = *addr };

	return bpf_map_lookup_elem(&mesh_services, &any) != 0;
}

/*
 * Chooses where a socket really goes when it names `to`: anew for each connection, and for a datagram without one
 * (`sticky`) as before. On MESH_CHOSEN `to` is the backend, of the same family, and its name is remembered for the
 * way back.
 */
static __always_inline enum mesh_choice mesh_balance(struct bpf_sock_addr *ctx, struct mesh_endpoint *to, bool sticky)
{
	struct mesh_frontend f = {
		.addr = to->addr,
		.port_be = to->port_be,
		/* The table knows TCP; that it runs over several paths is the socket's own affair. */
		.protocol = ctx->protocol == IPPROTO_MPTCP ? IPPROTO_TCP : ctx->protocol,
	};
	struct mesh_reverse_key key = mesh_socket_key(bpf_get_socket_cookie(ctx), to);
	const struct mesh_endpoint *backend;
	bool known = false;

	backend = mesh_choose(ctx, &f, sticky ? &key : 0, &known);
	if (!backend) {
		if (!known && !mesh_is_service_address(&f.addr))
			return MESH_NOT_A_SERVICE;
		mesh_count(known ? MESH_DROP_NO_BACKEND : MESH_DROP_UNKNOWN_PORT);
		return MESH_REFUSED;
	}
	/* A socket cannot change its family here; a frontend without a backend of its own family has none. */
	if (mesh_addr_is_v4(&backend->addr) != mesh_addr_is_v4(&f.addr)) {
		mesh_count(MESH_DROP_NO_BACKEND);
		return MESH_REFUSED;
	}
	key.addr = backend->addr;
	key.port_be = backend->port_be;
	bpf_map_update_elem(&mesh_reverse, &key, to, BPF_ANY);
	*to = *backend;
	return MESH_CHOSEN;
}

/* What the socket believes to talk to when it really talks to `from`; false when that is the same. */
static __always_inline bool mesh_unbalance(struct bpf_sock_addr *ctx, struct mesh_endpoint *from)
{
	struct mesh_reverse_key key = mesh_socket_key(bpf_get_socket_cookie(ctx), from);
	const struct mesh_endpoint *frontend = bpf_map_lookup_elem(&mesh_reverse, &key);

	if (!frontend)
		return false;
	*from = *frontend;
	return true;
}
