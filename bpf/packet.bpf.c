// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The packet programs: who may send what, and which way it goes.
 *
 *      pod ──veth──▶ from_pod ──redirect──▶ to_tunnel ─▶ mesh0 ═▶ WireGuard ═▶ the other node
 *      pod ◀─redirect_peer── from_tunnel ◀── mesh0 ◀═ WireGuard ◀═ the other node
 *      anything ──▶ uplink_out ──▶ eth0     (nothing of the encrypted scope may pass here)
 *      eth0 ──▶ uplink_in, cni0 ──▶ bridge_in  (nothing may claim to be of the encrypted scope here)
 *
 * What is not ours is handed on with MESH_NEXT; what is refused is counted.
 */
#include "drops.h"
#include "locals.h"
#include "mss.h"
#include "parse.h"
#include "routes.h"
#include "tenants.h"
#include "too_big.h"

/* Of frames that come out of the tunnel; locally administered (IEEE 802, 8.4). A pod never has to answer it. */
#define MESH_MAC { 0x02, 'm', 'e', 's', 'h', 0x00 }

/* From a pod, at the host's side of its device. */
SEC("classifier")
int mesh_from_pod(struct __sk_buff *skb)
{
	const struct mesh_config *config;
	const struct mesh_local *sender;
	const struct mesh_route *route;
	struct mesh_packet p = {};
	__u16 path_bytes;

	switch (mesh_parse(skb, MESH_LINK_ETHERNET, &p)) {
	case MESH_PARSED_IP:
		break;
	case MESH_PARSED_OTHER:
		return MESH_NEXT;
	case MESH_PARSED_TRUNCATED:
		return mesh_drop(MESH_DROP_TRUNCATED);
	case MESH_PARSED_MALFORMED:
		return mesh_drop(MESH_DROP_MALFORMED);
	}

	sender = mesh_local_at(&p.src);
	if (sender && (sender->kind != MESH_LOCAL_POD || sender->ifindex != skb->ifindex))
		return mesh_drop(MESH_DROP_SPOOFED_LOCAL);
	if (!sender && mesh_route(&p.src))
		return mesh_drop(MESH_DROP_SPOOFED_MESH);

	route = mesh_route(&p.dst);
	if (!route || mesh_local_at(&p.dst)) /* a neighbour on this node is reached as ever */
		return MESH_NEXT;
	if (!sender)
		return mesh_drop(MESH_DROP_UNKNOWN_SOURCE);
	if (!mesh_is_routed(route))
		return mesh_drop(MESH_DROP_CLOSED);
	if (p.tagged)
		return mesh_drop(MESH_DROP_TAGGED);
	config = mesh_configuration();
	if (!config || !config->mesh_ifindex)
		return mesh_drop(MESH_DROP_NO_TUNNEL);
	/* Without DF it may go: the datagram around it is fragmented. */
	path_bytes = mesh_path_bytes(route, p.v6);
	if (p.dont_fragment && mesh_wire_bytes(skb, &p) > path_bytes)
		return mesh_too_big(skb, &p, config, path_bytes);
	mesh_clamp_mss(skb, &p, route->mtu_bytes);
	return bpf_redirect(config->mesh_ifindex, 0);
}

/* Out of the tunnel: only to who lives here, and only from who may be there. */
SEC("classifier")
int mesh_from_tunnel(struct __sk_buff *skb)
{
	struct ethhdr eth = { .h_source = MESH_MAC };
	const struct mesh_route *route;
	const struct mesh_local *to;
	struct mesh_packet p = {};
	__u32 ifindex;

	switch (mesh_parse(skb, MESH_LINK_NONE, &p)) {
	case MESH_PARSED_IP:
		break;
	case MESH_PARSED_OTHER:
	case MESH_PARSED_MALFORMED:
		return mesh_drop(MESH_DROP_MALFORMED);
	case MESH_PARSED_TRUNCATED:
		return mesh_drop(MESH_DROP_TRUNCATED);
	}

	if (mesh_local_at(&p.src))
		return mesh_drop(MESH_DROP_SPOOFED_LOCAL);
	route = mesh_route(&p.src);
	if (!mesh_is_routed(route))
		return mesh_drop(MESH_DROP_FOREIGN_SOURCE);
	to = mesh_local_at(&p.dst);
	if (!to)
		return mesh_drop(MESH_DROP_NOT_LOCAL);
	if (mesh_is_told_apart(to)) /* up the host's stack */
		return MESH_NEXT;
	if (to->kind != MESH_LOCAL_POD)
		return mesh_drop(MESH_DROP_NOT_LOCAL);

	mesh_clamp_mss(skb, &p, route->mtu_bytes);
	ifindex = to->ifindex;
	__builtin_memcpy(eth.h_dest, to->mac, ETH_ALEN);
	eth.h_proto = p.v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	if (bpf_skb_change_head(skb, ETH_HLEN, 0) || bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0))
		return mesh_drop(MESH_DROP_NOT_DELIVERED);
	return bpf_redirect_peer(ifindex, 0);
}

/* Into the tunnel: what from_pod redirected, and what the host's own stack sends. */
SEC("classifier")
int mesh_to_tunnel(struct __sk_buff *skb)
{
	const struct mesh_local *sender;
	const struct mesh_route *route;
	struct mesh_packet p = {};

	switch (mesh_parse(skb, MESH_LINK_NONE, &p)) {
	case MESH_PARSED_IP:
		break;
	case MESH_PARSED_OTHER:
	case MESH_PARSED_MALFORMED:
		return mesh_drop(MESH_DROP_MALFORMED);
	case MESH_PARSED_TRUNCATED:
		return mesh_drop(MESH_DROP_TRUNCATED);
	}

	if (mesh_addr_is_link_scope(&p.dst))
		return mesh_drop(MESH_DROP_LINK_SCOPE);
	/* 0 for what this host sends itself, the pod's device for what from_pod redirected. */
	if (skb->ingress_ifindex == skb->ifindex)
		return mesh_drop(MESH_DROP_HAIRPIN);
	route = mesh_route(&p.dst);
	if (!route)
		return mesh_drop(MESH_DROP_NOT_ROUTED);
	if (!mesh_is_routed(route))
		return mesh_drop(MESH_DROP_CLOSED);
	sender = mesh_local_at(&p.src);
	if (!sender)
		return mesh_drop(MESH_DROP_NOT_OURS);
	/* What is forwarded has this node's address by now; a program's it never had. */
	if (sender->kind == MESH_LOCAL_TENANT && skb->ingress_ifindex)
		return mesh_drop(MESH_DROP_WRONG_SOURCE);
	if (!mesh_may_have(skb, sender, &p.src))
		return MESH_SHOT;
	/* The MTU of the stack's own packets is the route's; a pod's were measured before. */
	mesh_clamp_mss(skb, &p, route->mtu_bytes);
	return MESH_NEXT;
}

/*
 * The guard: encrypted or not at all. WireGuard's own datagrams go to the nodes' underlay addresses, which are
 * never in the map, and so need no exception here.
 */
static __always_inline int mesh_guard(struct __sk_buff *skb, enum mesh_link link)
{
	struct mesh_packet p = {};

	switch (mesh_parse(skb, link, &p)) {
	case MESH_PARSED_IP:
		break;
	case MESH_PARSED_OTHER:
		return MESH_NEXT;
	case MESH_PARSED_TRUNCATED:
		return mesh_drop(MESH_DROP_TRUNCATED);
	case MESH_PARSED_MALFORMED:
		return mesh_drop(MESH_DROP_MALFORMED);
	}
	return mesh_route(&p.dst) ? mesh_drop(MESH_DROP_PLAIN) : MESH_NEXT;
}

SEC("classifier")
int mesh_uplink_out(struct __sk_buff *skb)
{
	return mesh_guard(skb, MESH_LINK_ETHERNET);
}

SEC("classifier")
int mesh_uplink_out_l3(struct __sk_buff *skb)
{
	return mesh_guard(skb, MESH_LINK_NONE);
}

/* What comes in elsewhere than by the tunnel: rp_filter does not stop a forged source here. */
static __always_inline int mesh_admit(struct __sk_buff *skb, enum mesh_link link, bool pods_live_behind)
{
	const struct mesh_local *local;
	struct mesh_packet p = {};

	switch (mesh_parse(skb, link, &p)) {
	case MESH_PARSED_IP:
		break;
	case MESH_PARSED_OTHER:
		return MESH_NEXT;
	case MESH_PARSED_TRUNCATED:
		return mesh_drop(MESH_DROP_TRUNCATED);
	case MESH_PARSED_MALFORMED:
		return mesh_drop(MESH_DROP_MALFORMED);
	}
	local = mesh_local_at(&p.src);
	if (local && (!pods_live_behind || local->kind != MESH_LOCAL_POD))
		return mesh_drop(MESH_DROP_SPOOFED_LOCAL);
	if (!local && mesh_route(&p.src))
		return mesh_drop(MESH_DROP_SPOOFED_MESH);
	return MESH_NEXT;
}

SEC("classifier")
int mesh_uplink_in(struct __sk_buff *skb)
{
	return mesh_admit(skb, MESH_LINK_ETHERNET, false);
}

SEC("classifier")
int mesh_uplink_in_l3(struct __sk_buff *skb)
{
	return mesh_admit(skb, MESH_LINK_NONE, false);
}

/* A bridge's own device sees its pods' packets on their way to the host; from_pod has judged those at their port. */
SEC("classifier")
int mesh_bridge_in(struct __sk_buff *skb)
{
	return mesh_admit(skb, MESH_LINK_ETHERNET, true);
}

char _license[] SEC("license") = "GPL";
