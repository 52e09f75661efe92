/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Where a socket's packets come from, where some of the host's programs have identities of their own: chosen when it
 * names its peer, after that was chosen. Whoever does not let himself be told is dropped where packets are judged.
 */
#pragma once

#include "routes.h"
#include "tenants.h"
#include <linux/in.h>
#include <linux/in6.h>

#define AF_INET 2
#define AF_INET6 10

enum mesh_source {
	MESH_SOURCE_FREE,    /* whatever the stack takes */
	MESH_SOURCE_OFFERED, /* better this one; a socket of another network namespace has its own */
	MESH_SOURCE_FORCED,  /* this one, or none */
	MESH_SOURCE_NONE,    /* there is none */
	MESH_SOURCE_LATER,   /* nobody knows yet */
};

static __always_inline enum mesh_source mesh_source_to(const struct mesh_addr *to, struct mesh_addr *source)
{
	const struct mesh_tenancy *tenancy = mesh_tenancy_here();
	bool v4 = mesh_addr_is_v4(to);
	const struct mesh_tenant *tenant = 0;
	const struct mesh_config *config;
	const struct mesh_local *local;

	if (!tenancy)
		return MESH_SOURCE_FREE;
	local = mesh_local_at(to);
	if (!mesh_is_told_apart(local) && !mesh_route(to))
		return MESH_SOURCE_FREE;
	switch (mesh_who(0, tenancy, &tenant)) {
	case MESH_WHO_TENANT:
		if (!tenant)
			return MESH_SOURCE_NONE;
		*source = *mesh_tenant_addr(tenant, v4);
		return mesh_addr_is_set(source) ? MESH_SOURCE_FORCED : MESH_SOURCE_NONE;
	case MESH_WHO_UNKNOWN:
		return MESH_SOURCE_LATER;
	case MESH_WHO_HOST:
	case MESH_WHO_KERNEL:
		break;
	}
	/* To an address of its own the stack would speak from that very address, which is the program's. */
	config = mesh_configuration();
	if (!local || local->kind != MESH_LOCAL_TENANT || !config)
		return MESH_SOURCE_FREE;
	*source = v4 ? config->mesh_v4 : config->mesh_v6;
	return mesh_addr_is_set(source) ? MESH_SOURCE_OFFERED : MESH_SOURCE_FREE;
}

/* A socket that has its port already cannot be given an address any more: it is good only when it has this one. */
static __always_inline bool mesh_bind_source4(struct bpf_sock_addr *ctx, const struct mesh_addr *source)
{
	struct sockaddr_in own = { .sin_family = AF_INET, .sin_addr = { .s_addr = source->word[3] } };

	return !bpf_bind(ctx, (struct sockaddr *)&own, sizeof(own)) || (ctx->sk && ctx->sk->src_ip4 == source->word[3]);
}

static __always_inline bool mesh_bind_source6(struct bpf_sock_addr *ctx, const struct mesh_addr *source)
{
	struct sockaddr_in6 own = { .sin6_family = AF_INET6 };

	__builtin_memcpy(&own.sin6_addr, source, sizeof(*source));
	if (!bpf_bind(ctx, (struct sockaddr *)&own, sizeof(own)))
		return true;
	return ctx->sk && ctx->sk->src_ip6[0] == source->word[0] && ctx->sk->src_ip6[1] == source->word[1] &&
	       ctx->sk->src_ip6[2] == source->word[2] && ctx->sk->src_ip6[3] == source->word[3];
}
