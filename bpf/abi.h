/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What the programs and the agent share: the rows of every map, their limits and the reasons of drops.
 * datapath/src/backend/bpf/abi.rs says the same in Rust; both sides assert sizes and offsets, and a test compares
 * them with what the compiler wrote into the object. Whoever changes a layout here raises the version in the pin
 * path (`PIN_VERSION` there), so that an old agent's maps are never read with new eyes.
 *
 * Addresses are always 16 bytes: IPv4 is ::ffff:a.b.c.d (RFC 4291, 2.5.5.2), so one key serves both families and
 * a v4-mapped socket finds the same row as a plain one. A name that ends in `_be` is in network order.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>
#include <stddef.h>

#define MESH_OFFSET(type, field, bytes) \
	_Static_assert(offsetof(type, field) == (bytes), #type "." #field " moved")
#define MESH_SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type " has another size")

/* Twice the prefixes of the largest mesh we promise (5,000 nodes with a /32 and a /128 beside their pod prefixes). */
#define MESH_ROUTES_MAX 65536
/* 256 pods of two families would be 512; the rest is head-room for dense hosts. */
#define MESH_LOCALS_MAX 65536
/* 10,000 services with several ports and two families. */
#define MESH_SERVICES_MAX 65536
/* One service of 10,000 backends is there twice while it is exchanged; 16 such, or 262,144 ordinary rows. */
#define MESH_BACKENDS_MAX 262144
/* Open connections and UDP peers whose name is still remembered; the oldest is forgotten first. */
#define MESH_REVERSE_MAX 65536
#define MESH_STICKY_MAX 65536
/* Clients of this host of services with session affinity; the one that connected longest ago is forgotten first. */
#define MESH_CLIENTS_MAX 65536
/* 16 programs of a VM, each with the cgroups that it had lately and what is above them. */
#define MESH_CGROUPS_MAX 1024
#define MESH_USERS_MAX 64
/* systemd's own tree is three deep; a slice in a slice, or a unit in a container, adds to it. */
#define MESH_CGROUP_DEPTH_MAX 16

struct mesh_addr {
	__be32 word[4];
};
MESH_SIZE(struct mesh_addr, 16);

struct mesh_route_key {
	__u32 prefix_bits; /* IPv4 prefixes count from 96 */
	struct mesh_addr addr;
};
MESH_SIZE(struct mesh_route_key, 20);

enum mesh_route_flags {
	MESH_ROUTED = 1, /* goes through the tunnel */
	MESH_CLOSED = 2, /* of the encrypted scope, but nobody may use it now: a peer that was disconnected */
};

struct mesh_route {
	__u16 mtu_bytes; /* of the whole path, IP header included; at least 1200, what is left of an IPv6 link */
	__u8 flags;
	__u8 pad;
};
MESH_SIZE(struct mesh_route, 4);
MESH_OFFSET(struct mesh_route, flags, 2);

enum mesh_local_kind {
	MESH_LOCAL_POD = 1,
	MESH_LOCAL_NODE = 2, /* this node's own mesh address */
	MESH_LOCAL_TENANT = 3, /* of a program of this host that has an identity of its own */
};

struct mesh_local {
	__u32 ifindex; /* the host's side of the pod's device */
	__u8 mac[6];   /* of the pod's side */
	__u8 kind;
	__u8 pad;
};
MESH_SIZE(struct mesh_local, 12);
MESH_OFFSET(struct mesh_local, mac, 4);
MESH_OFFSET(struct mesh_local, kind, 10);

/* Port 0 of protocol 0 says that the address is a service's at all: its other ports refuse. */
struct mesh_frontend {
	struct mesh_addr addr;
	__be16 port_be;
	__u8 protocol;
	__u8 pad;
};
MESH_SIZE(struct mesh_frontend, 20);
MESH_OFFSET(struct mesh_frontend, port_be, 16);
MESH_OFFSET(struct mesh_frontend, protocol, 18);

struct mesh_set_ref {
	__u32 set;
	__u32 count;
};
MESH_SIZE(struct mesh_set_ref, 8);

struct mesh_backend_key {
	__u32 set;
	__u32 slot;
};
MESH_SIZE(struct mesh_backend_key, 8);

struct mesh_endpoint {
	struct mesh_addr addr;
	__be16 port_be;
	__u8 pad[2];
};
MESH_SIZE(struct mesh_endpoint, 20);
MESH_OFFSET(struct mesh_endpoint, port_be, 16);

/*
 * What a socket believes to talk to, by what it really talks to. Without the protocol: a v4-mapped UDP socket
 * enters as sendmsg4 and leaves as recvmsg6. (MPTCP asks connect with the subflow's cookie and getpeername with
 * another: such a client sees the backend.)
 */
struct mesh_reverse_key {
	__u64 cookie;
	struct mesh_addr addr;
	__be16 port_be;
	__u8 pad[6];
};
MESH_SIZE(struct mesh_reverse_key, 32);
MESH_OFFSET(struct mesh_reverse_key, addr, 8);
MESH_OFFSET(struct mesh_reverse_key, port_be, 24);

/* Which backend an unconnected UDP socket was given for a frontend. */
struct mesh_sticky {
	struct mesh_endpoint backend;
	__u32 slot; /* where it was in the set; only a hint */
};
MESH_SIZE(struct mesh_sticky, 24);
MESH_OFFSET(struct mesh_sticky, slot, 20);

/* Who connects, where services have session affinity: a network namespace is a pod, or the host. */
struct mesh_client_key {
	__u64 netns_cookie;
	struct mesh_frontend frontend;
	__u32 pad;
};
MESH_SIZE(struct mesh_client_key, 32);
MESH_OFFSET(struct mesh_client_key, frontend, 8);

/* Which backend such a client was given, and when it last connected (CLOCK_MONOTONIC). */
struct mesh_client {
	struct mesh_sticky last;
	__u64 used_ns;
};
MESH_SIZE(struct mesh_client, 32);
MESH_OFFSET(struct mesh_client, used_ns, 24);

struct mesh_config {
	__u32 mesh_ifindex; /* 0: there is no tunnel */
	struct mesh_addr mesh_v4; /* this node's mesh addresses; all zero: none */
	struct mesh_addr mesh_v6;
};
MESH_SIZE(struct mesh_config, 36);
MESH_OFFSET(struct mesh_config, mesh_v4, 4);
MESH_OFFSET(struct mesh_config, mesh_v6, 20);

/*
 * A tenant is what of this host has an identity of its own: the processes below a cgroup, or those of a user. These are
 * the addresses from which it sends to the mesh, and at which it is reached; all zero: none of this family.
 */
struct mesh_tenant {
	struct mesh_addr v4;
	struct mesh_addr v6;
};
MESH_SIZE(struct mesh_tenant, 32);
MESH_OFFSET(struct mesh_tenant, v6, 16);

enum mesh_cgroup_kind {
	MESH_CGROUP_TENANT = 1,
	MESH_CGROUP_ABOVE = 2, /* a tenant's cgroup is below it, or would be */
};

struct mesh_cgroup {
	struct mesh_tenant tenant;
	__u8 kind;
	__u8 pad[3];
};
MESH_SIZE(struct mesh_cgroup, 36);
MESH_OFFSET(struct mesh_cgroup, kind, 32);

/*
 * Cgroups are numbered in the order in which they are made. One that is newer than the newest which the agent has seen,
 * and stands where a tenant's would, may be a tenant's.
 */
struct mesh_tenancy {
	__u64 newest_cgroup;
	__u32 tenants; /* 0: nobody is told apart */
	__u32 level;   /* of the cgroup where the programs stand: 0 is the root of all */
};
MESH_SIZE(struct mesh_tenancy, 16);
MESH_OFFSET(struct mesh_tenancy, tenants, 8);
MESH_OFFSET(struct mesh_tenancy, level, 12);

/* The numbers are part of the layout: append, never reorder. Their names are in abi.rs. */
enum mesh_drop_reason {
	MESH_DROP_TRUNCATED,      /* shorter than its own headers say */
	MESH_DROP_MALFORMED,      /* version or header length contradicts itself */
	MESH_DROP_SPOOFED_LOCAL,  /* the source is another local pod's, or this node's */
	MESH_DROP_SPOOFED_MESH,   /* the source is of the encrypted scope, and this did not come from the tunnel */
	MESH_DROP_UNKNOWN_SOURCE, /* the source is nobody's, and it wants into the mesh */
	MESH_DROP_CLOSED,         /* the destination belongs to a peer that was disconnected */
	MESH_DROP_NO_TUNNEL,      /* there is no tunnel device to send it to */
	MESH_DROP_TOO_BIG,        /* larger than the path: answered with Packet Too Big */
	MESH_DROP_TAGGED,         /* a VLAN tag on its way into the tunnel, which has no link layer */
	MESH_DROP_FOREIGN_SOURCE, /* out of the tunnel, but its source is not of the encrypted scope */
	MESH_DROP_NOT_LOCAL,      /* out of the tunnel, but its destination is not reachable through this node */
	MESH_DROP_NOT_DELIVERED,  /* out of the tunnel, and no room for a link-layer header */
	MESH_DROP_NOT_ROUTED,     /* into the tunnel, but its destination is not of the encrypted scope */
	MESH_DROP_NOT_OURS,       /* into the tunnel, but its source is not an address of this node or its pods */
	MESH_DROP_HAIRPIN,        /* from the tunnel back into the tunnel */
	MESH_DROP_LINK_SCOPE,     /* multicast or link-local noise that a stack sends to each device */
	MESH_DROP_PLAIN,          /* the guard: it would have left by an uplink unencrypted */
	MESH_DROP_NO_BACKEND,     /* a service without a backend: the socket got ECONNREFUSED */
	MESH_DROP_UNKNOWN_PORT,   /* a service without this port: the socket got ECONNREFUSED */
	MESH_DROP_WRONG_SOURCE,   /* the source, or the address bound, is a program's, and the socket another's */
	MESH_DROP_WRONG_LISTENER, /* to a program's address, and the socket that would take it is another's */
	MESH_DROP_NEW_CGROUP,     /* the socket's cgroup may be a program's: the agent has not seen it yet */
	MESH_DROP_REASONS,
};

/*
 * Where the stubs find their programs. The numbers are part of the layout, because a stub outlives the agent
 * that loaded it: append, never reorder. There is room for more, so that a new program needs no new array.
 */
enum mesh_slot {
	MESH_SLOT_FROM_POD,
	MESH_SLOT_FROM_TUNNEL,
	MESH_SLOT_TO_TUNNEL,
	MESH_SLOT_UPLINK_OUT,
	MESH_SLOT_UPLINK_OUT_L3,
	MESH_SLOT_UPLINK_IN,
	MESH_SLOT_UPLINK_IN_L3,
	MESH_SLOT_BRIDGE_IN,
};
#define MESH_SLOTS_MAX 32
