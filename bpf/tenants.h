/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Who on this host sends and listens, where some of its programs have identities of their own.
 *
 *   mesh_cgroups  cgroup → tenant, or above one      mesh_users  user → tenant
 *   mesh_tenancy  which cgroups the agent has seen, and whether there are tenants at all
 *
 * A socket belongs to the cgroup and the user that made it, whoever holds it later. Until it is made, the running task
 * is asked. Where both say something, the cgroup wins: it is the narrower word.
 */
#pragma once

#include "drops.h"
#include "locals.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64);
	__type(value, struct mesh_cgroup);
	__uint(max_entries, MESH_CGROUPS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_cgroups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, struct mesh_tenant);
	__uint(max_entries, MESH_USERS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_users SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct mesh_tenancy);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_tenancy SEC(".maps");

/* The root of all cgroups has this number (kernel, cgroup_setup_root), and no process of a host with systemd. */
#define MESH_CGROUP_ROOT 1

enum mesh_who {
	MESH_WHO_HOST,
	MESH_WHO_TENANT,
	MESH_WHO_UNKNOWN, /* the agent has not seen its cgroup yet */
	MESH_WHO_KERNEL,  /* resets, answers to pings, what is forwarded: no socket of a process */
};

/* Null where nobody is told apart. */
static __always_inline const struct mesh_tenancy *mesh_tenancy_here(void)
{
	__u32 only = 0;
	const struct mesh_tenancy *tenancy = bpf_map_lookup_elem(&mesh_tenancy, &only);

	return tenancy && tenancy->tenants ? tenancy : 0;
}

/* Of the packet's socket; where there is no packet, of the running task. 0: it is not so deep. */
static __always_inline __u64 mesh_cgroup_at(struct __sk_buff *skb, int level)
{
	return skb ? bpf_skb_ancestor_cgroup_id(skb, level) : bpf_get_current_ancestor_cgroup_id(level);
}

static __always_inline enum mesh_who mesh_who(struct __sk_buff *skb, const struct mesh_tenancy *tenancy,
					      const struct mesh_tenant **tenant)
{
	bool below = false;
	__u32 uid;

	if (skb && bpf_skb_cgroup_id(skb) <= MESH_CGROUP_ROOT)
		return MESH_WHO_KERNEL;
	for (int depth = 0; depth < MESH_CGROUP_DEPTH_MAX; depth++) {
		__u64 id = mesh_cgroup_at(skb, (int)tenancy->level + depth);
		const struct mesh_cgroup *row;

		if (!id)
			break;
		row = bpf_map_lookup_elem(&mesh_cgroups, &id);
		if (!row && below && id > tenancy->newest_cgroup)
			return MESH_WHO_UNKNOWN;
		if (!row)
			break;
		if (row->kind == MESH_CGROUP_TENANT) {
			*tenant = &row->tenant;
			return MESH_WHO_TENANT;
		}
		below = true;
	}
	uid = skb ? bpf_get_socket_uid(skb) : (__u32)bpf_get_current_uid_gid();
	*tenant = bpf_map_lookup_elem(&mesh_users, &uid);
	return *tenant ? MESH_WHO_TENANT : MESH_WHO_HOST;
}

static __always_inline const struct mesh_addr *mesh_tenant_addr(const struct mesh_tenant *tenant, bool v4)
{
	return v4 ? &tenant->v4 : &tenant->v6;
}

static __always_inline bool mesh_tenant_has(const struct mesh_tenant *tenant, const struct mesh_addr *addr)
{
	return mesh_addr_eq(mesh_tenant_addr(tenant, mesh_addr_is_v4(addr)), addr);
}

/* An address that somebody of this host has, and nobody else may use. */
static __always_inline bool mesh_is_told_apart(const struct mesh_local *local)
{
	return local && (local->kind == MESH_LOCAL_NODE || local->kind == MESH_LOCAL_TENANT);
}

/*
 * Whether whoever has a packet's socket, or the running task where `skb` is null, may use this address of ours; counted
 * when not. `kernel_may`: so may what is no socket of a process.
 */
static __always_inline bool mesh_may_use(struct __sk_buff *skb, const struct mesh_local *local, const struct mesh_addr *addr,
					 bool kernel_may, enum mesh_drop_reason otherwise)
{
	const struct mesh_tenancy *tenancy = mesh_tenancy_here();
	const struct mesh_tenant *tenant = 0;
	bool may = false;

	if (!tenancy || !mesh_is_told_apart(local))
		return true;
	switch (mesh_who(skb, tenancy, &tenant)) {
	case MESH_WHO_HOST:
		may = local->kind == MESH_LOCAL_NODE;
		break;
	case MESH_WHO_KERNEL:
		may = kernel_may || local->kind == MESH_LOCAL_NODE;
		break;
	case MESH_WHO_TENANT:
		may = tenant && mesh_tenant_has(tenant, addr);
		break;
	case MESH_WHO_UNKNOWN:
		mesh_count(MESH_DROP_NEW_CGROUP);
		return false;
	}
	if (!may)
		mesh_count(otherwise);
	return may;
}

/* Whether a packet may come from this address, or a socket have it. */
static __always_inline bool mesh_may_have(struct __sk_buff *skb, const struct mesh_local *local, const struct mesh_addr *addr)
{
	return mesh_may_use(skb, local, addr, true, MESH_DROP_WRONG_SOURCE);
}

/* Whether the socket that is about to take a packet may be reached at this address. */
static __always_inline bool mesh_may_take(struct __sk_buff *skb, const struct mesh_local *local, const struct mesh_addr *addr)
{
	return mesh_may_use(skb, local, addr, false, MESH_DROP_WRONG_LISTENER);
}
