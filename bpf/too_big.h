/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * "Too big": the packet is turned into the ICMP answer to itself and leaves by the device it came from. It is made
 * here, at the pod, because redirecting checks no MTU and the underlay may filter ICMP.
 * (IPv4: RFC 792, RFC 1191, 4; IPv6: RFC 4443, 3.2)
 */
#pragma once

#include "locals.h"
#include "parse.h"

/*
 * How much of the packet is quoted, in whole chunks of the checksum's loop. IPv4: 20 + 8 + 512 stays below the 576
 * bytes that every host takes (RFC 1812, 4.3.2.3). IPv6: 40 + 8 + 1216 stays below 1280 (RFC 4443, 2.4 (c)).
 * A packet that is too big for a path of at least 1280 bytes always has so many.
 */
#define MESH_QUOTE_CHUNK 64
#define MESH_QUOTE_V4 (8 * MESH_QUOTE_CHUNK)
#define MESH_QUOTE_V6 (19 * MESH_QUOTE_CHUNK)

/* By hand, because linux/icmp.h needs a libc. The two "too big" differ in type and code only. */
#define MESH_ICMP_ECHO_REPLY 0
#define MESH_ICMP_UNREACHABLE 3
#define MESH_ICMP_FRAGMENTATION_NEEDED 4
#define MESH_ICMP_ECHO 8
#define MESH_ICMPV6_TOO_BIG 2
#define MESH_ICMPV6_FIRST_INFORMATIONAL 128

struct mesh_icmp {
	__u8 type;
	__u8 code;
	__sum16 check;
	__be32 mtu_be; /* IPv4 has it in the lower half, and the upper half unused */
};

struct mesh_answer_v4 {
	struct ethhdr eth;
	struct iphdr ip;
	struct mesh_icmp icmp;
} __attribute__((packed));

struct mesh_answer_v6 {
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct mesh_icmp icmp;
} __attribute__((packed));

static __always_inline __sum16 mesh_fold(__s64 sum)
{
	__u32 s = (__u32)sum;

	s = (s & 0xffff) + (s >> 16);
	s = (s & 0xffff) + (s >> 16);
	return (__sum16)~s;
}

/* The link-layer header of an answer. */
static __always_inline struct ethhdr mesh_turned(const struct ethhdr *came, __be16 proto_be)
{
	struct ethhdr eth = { .h_proto = proto_be };

	__builtin_memcpy(eth.h_dest, came->h_source, ETH_ALEN);
	__builtin_memcpy(eth.h_source, came->h_dest, ETH_ALEN);
	return eth;
}

/* Adds what is quoted, `chunks` of it, to a checksum that was begun. */
static __always_inline __s64 mesh_sum_quote(struct __sk_buff *skb, __u32 at, __u32 chunks, __s64 sum)
{
	__be32 chunk[MESH_QUOTE_CHUNK / 4];

	for (__u32 i = 0; i < chunks && sum >= 0; i++) {
		if (bpf_skb_load_bytes(skb, at + i * MESH_QUOTE_CHUNK, chunk, sizeof(chunk)))
			return -1;
		sum = bpf_csum_diff(0, 0, chunk, sizeof(chunk), (__wsum)sum);
	}
	return sum;
}

/* No error is ever sent about an error, or to nobody in particular. (RFC 1122, 3.2.2; RFC 4443, 2.4 (e)) */
static __always_inline bool mesh_may_answer(struct __sk_buff *skb, const struct mesh_packet *p)
{
	__u8 type;

	if (mesh_addr_is_multicast(&p->src) || !mesh_addr_is_set(&p->src))
		return false;
	if (p->v6 && p->protocol == IPPROTO_ICMPV6)
		return !bpf_skb_load_bytes(skb, p->l4, &type, 1) && type >= MESH_ICMPV6_FIRST_INFORMATIONAL;
	if (!p->v6 && p->protocol == IPPROTO_ICMP)
		return !bpf_skb_load_bytes(skb, p->l4, &type, 1) && (type == MESH_ICMP_ECHO || type == MESH_ICMP_ECHO_REPLY);
	return p->v6 || p->protocol; /* not about a later fragment */
}

/* Keeps `quote` bytes of the packet and makes `room` before them; what stood there is to be overwritten. */
static __always_inline bool mesh_make_quote(struct __sk_buff *skb, const struct mesh_packet *p, __u32 quote, __u32 room)
{
	if (skb->len - p->l3 < quote)
		return false;
	return !bpf_skb_change_tail(skb, p->l3 + quote, 0) && !bpf_skb_change_head(skb, room, 0);
}

static __always_inline bool mesh_turn_v4(struct __sk_buff *skb, const struct mesh_packet *p,
					 const struct mesh_addr *from, __u16 mtu_bytes)
{
	struct mesh_icmp icmp = {
		.type = MESH_ICMP_UNREACHABLE,
		.code = MESH_ICMP_FRAGMENTATION_NEEDED,
		.mtu_be = bpf_htonl(mtu_bytes),
	};
	struct iphdr ip = {
		.version = 4,
		.ihl = 5,
		.tot_len = bpf_htons(sizeof(ip) + sizeof(icmp) + MESH_QUOTE_V4),
		.ttl = 64,
		.protocol = IPPROTO_ICMP,
		.saddr = from->word[3],
		.daddr = p->src.word[3],
	};
	struct mesh_answer_v4 answer;
	struct ethhdr came;
	__s64 sum;

	if (bpf_skb_load_bytes(skb, 0, &came, sizeof(came)))
		return false;
	if (!mesh_make_quote(skb, p, MESH_QUOTE_V4, sizeof(ip) + sizeof(icmp)))
		return false;
	ip.check = mesh_fold(bpf_csum_diff(0, 0, (__be32 *)&ip, sizeof(ip), 0));
	sum = bpf_csum_diff(0, 0, (__be32 *)&icmp, sizeof(icmp), 0);
	sum = mesh_sum_quote(skb, sizeof(answer), MESH_QUOTE_V4 / MESH_QUOTE_CHUNK, sum);
	if (sum < 0)
		return false;
	icmp.check = mesh_fold(sum);
	answer.eth = mesh_turned(&came, bpf_htons(ETH_P_IP));
	answer.ip = ip;
	answer.icmp = icmp;
	return !bpf_skb_store_bytes(skb, 0, &answer, sizeof(answer), 0);
}

static __always_inline bool mesh_turn_v6(struct __sk_buff *skb, const struct mesh_packet *p,
					 const struct mesh_addr *from, __u16 mtu_bytes)
{
	struct mesh_icmp icmp = {
		.type = MESH_ICMPV6_TOO_BIG,
		.mtu_be = bpf_htonl(mtu_bytes),
	};
	/* RFC 8200, 8.1 */
	struct {
		struct mesh_addr src, dst;
		__be32 bytes_be;
		__u8 zero[3], protocol;
	} pseudo = {
		.src = *from,
		.dst = p->src,
		.bytes_be = bpf_htonl(sizeof(icmp) + MESH_QUOTE_V6),
		.protocol = IPPROTO_ICMPV6,
	};
	struct ipv6hdr ip = {
		.version = 6,
		.payload_len = bpf_htons(sizeof(icmp) + MESH_QUOTE_V6),
		.nexthdr = IPPROTO_ICMPV6,
		.hop_limit = 64,
	};
	struct mesh_answer_v6 answer;
	struct ethhdr came;
	__s64 sum;

	__builtin_memcpy(&ip.saddr, from, sizeof(*from));
	__builtin_memcpy(&ip.daddr, &p->src, sizeof(p->src));
	if (bpf_skb_load_bytes(skb, 0, &came, sizeof(came)))
		return false;
	if (!mesh_make_quote(skb, p, MESH_QUOTE_V6, sizeof(ip) + sizeof(icmp)))
		return false;
	sum = bpf_csum_diff(0, 0, (__be32 *)&pseudo, sizeof(pseudo), 0);
	sum = bpf_csum_diff(0, 0, (__be32 *)&icmp, sizeof(icmp), (__wsum)sum);
	sum = mesh_sum_quote(skb, sizeof(answer), MESH_QUOTE_V6 / MESH_QUOTE_CHUNK, sum);
	if (sum < 0)
		return false;
	icmp.check = mesh_fold(sum);
	answer.eth = mesh_turned(&came, bpf_htons(ETH_P_IPV6));
	answer.ip = ip;
	answer.icmp = icmp;
	return !bpf_skb_store_bytes(skb, 0, &answer, sizeof(answer), 0);
}

/* Drops the packet; what goes back to its sender instead, where it may, is the answer. */
static __always_inline int mesh_too_big(struct __sk_buff *skb, const struct mesh_packet *p,
					const struct mesh_config *config, __u16 mtu_bytes)
{
	const struct mesh_addr *from = p->v6 ? &config->mesh_v6 : &config->mesh_v4;
	bool turned = false;

	mesh_count(MESH_DROP_TOO_BIG);
	if (mesh_addr_is_set(from) && mesh_may_answer(skb, p))
		turned = p->v6 ? mesh_turn_v6(skb, p, from, mtu_bytes) : mesh_turn_v4(skb, p, from, mtu_bytes);
	return turned ? bpf_redirect(skb->ifindex, 0) : MESH_SHOT;
}
