/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Of a packet, what the programs decide by: the addresses, which stand in the fixed headers, so that fragments,
 * options, extension headers and unknown transports are judged like anything else.
 *
 * Headers are copied with bpf_skb_load_bytes: it bounds-checks, and it reads what is not in the linear part.
 */
#pragma once

#include "addr.h"
#include "drops.h"
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#define MESH_IPV4_DF bpf_htons(0x4000)
#define MESH_IPV4_FRAGMENT_OFFSET bpf_htons(0x1fff)
/* 802.1ad carries two tags; a third is nobody's. */
#define MESH_VLAN_TAGS_MAX 2

/* Where the IP header starts: behind Ethernet, or at once on a device without a link layer (tunnels, PPP). */
enum mesh_link { MESH_LINK_ETHERNET, MESH_LINK_NONE };

struct mesh_packet {
	struct mesh_addr src;
	struct mesh_addr dst;
	__u32 l3; /* offset of the IP header */
	__u32 l4; /* offset of what follows the fixed header and IPv4 options */
	__u8 v6;
	__u8 protocol; /* of what is at l4; 0 in a later fragment, where there is no transport header */
	__u8 dont_fragment;
	__u8 tagged;
};

enum mesh_parsed {
	MESH_PARSED_IP,
	MESH_PARSED_OTHER, /* ARP and the like: not ours */
	MESH_PARSED_TRUNCATED,
	MESH_PARSED_MALFORMED,
};

static __always_inline enum mesh_parsed mesh_parse_v4(struct __sk_buff *skb, struct mesh_packet *p)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, p->l3, &ip, sizeof(ip)))
		return MESH_PARSED_TRUNCATED;
	if (ip.version != 4 || ip.ihl < 5)
		return MESH_PARSED_MALFORMED;
	p->src = mesh_addr_v4(ip.saddr);
	p->dst = mesh_addr_v4(ip.daddr);
	p->l4 = p->l3 + ip.ihl * 4;
	p->v6 = 0;
	p->protocol = (ip.frag_off & MESH_IPV4_FRAGMENT_OFFSET) ? 0 : ip.protocol;
	p->dont_fragment = !!(ip.frag_off & MESH_IPV4_DF);
	return MESH_PARSED_IP;
}

static __always_inline enum mesh_parsed mesh_parse_v6(struct __sk_buff *skb, struct mesh_packet *p)
{
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, p->l3, &ip, sizeof(ip)))
		return MESH_PARSED_TRUNCATED;
	if (ip.version != 6)
		return MESH_PARSED_MALFORMED;
	__builtin_memcpy(&p->src, &ip.saddr, sizeof(p->src));
	__builtin_memcpy(&p->dst, &ip.daddr, sizeof(p->dst));
	/* A v4-mapped address on the wire would meet the rows of IPv4; nobody sends one lawfully (RFC 4038, 4.2). */
	if (mesh_addr_is_v4(&p->src) || mesh_addr_is_v4(&p->dst))
		return MESH_PARSED_MALFORMED;
	p->l4 = p->l3 + sizeof(ip);
	p->v6 = 1;
	p->protocol = ip.nexthdr;
	p->dont_fragment = 1;
	return MESH_PARSED_IP;
}

static __always_inline enum mesh_parsed mesh_parse(struct __sk_buff *skb, enum mesh_link link, struct mesh_packet *p)
{
	__be16 proto_be = (__be16)skb->protocol;

	p->l3 = 0;
	p->tagged = 0;
	if (link == MESH_LINK_ETHERNET) {
		if (bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_proto), &proto_be, sizeof(proto_be)))
			return MESH_PARSED_TRUNCATED;
		p->l3 = ETH_HLEN;
		p->tagged = !!skb->vlan_present;
#pragma unroll
		for (int i = 0; i < MESH_VLAN_TAGS_MAX; i++) {
			if (proto_be != bpf_htons(ETH_P_8021Q) && proto_be != bpf_htons(ETH_P_8021AD))
				break;
			if (bpf_skb_load_bytes(skb, p->l3 + 2, &proto_be, sizeof(proto_be)))
				return MESH_PARSED_TRUNCATED;
			p->l3 += 4;
			p->tagged = 1;
		}
	}
	if (proto_be == bpf_htons(ETH_P_IP))
		return mesh_parse_v4(skb, p);
	if (proto_be == bpf_htons(ETH_P_IPV6))
		return mesh_parse_v6(skb, p);
	return MESH_PARSED_OTHER;
}

/* Bytes of the IP packet, for a super-packet those of one segment as it will be on the wire. */
static __always_inline __u32 mesh_wire_bytes(struct __sk_buff *skb, const struct mesh_packet *p)
{
	__u32 headers = p->l4 - p->l3;
	__u8 tcp_words;

	if (!skb->gso_size)
		return skb->len - p->l3;
	if (p->protocol == IPPROTO_TCP && !bpf_skb_load_bytes(skb, p->l4 + 12, &tcp_words, 1))
		headers += (tcp_words >> 4) * 4;
	else
		headers += 8; /* UDP; behind extension headers this is a lower bound, and the tunnel fragments the rest */
	return headers + skb->gso_size;
}
