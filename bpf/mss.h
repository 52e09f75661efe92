/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The maximum segment size that two hosts promise each other fits their own devices, not the tunnel between them.
 * Lowering it in SYN and SYN-ACK spares each connection its first Packet Too Big, and spares it altogether where
 * ICMP is filtered. (RFC 9293, 3.7.1; RFC 2923, 2.3)
 */
#pragma once

#include "parse.h"

#define MESH_TCP_HEADER 20
#define MESH_TCP_OPTIONS_MAX 40
#define MESH_TCP_CHECKSUM 16
#define MESH_TCP_FLAG_SYN 0x02
#define MESH_OPTION_END 0
#define MESH_OPTION_NOP 1
#define MESH_OPTION_MSS 2

static __always_inline void mesh_write_mss(struct __sk_buff *skb, __u32 tcp, __u32 at, __be16 from_be, __be16 to_be)
{
	/*
	 * The checksum adds 16-bit words from the start of the TCP header. At an odd offset the two bytes of the
	 * value fall into two words, each in the other half: they count as if swapped. (RFC 1071, 2 (B))
	 */
	if ((at - tcp) & 1)
		bpf_l4_csum_replace(skb, tcp + MESH_TCP_CHECKSUM, __builtin_bswap16(from_be), __builtin_bswap16(to_be), 2);
	else
		bpf_l4_csum_replace(skb, tcp + MESH_TCP_CHECKSUM, from_be, to_be, 2);
	bpf_skb_store_bytes(skb, at, &to_be, sizeof(to_be), 0);
}

/* Lowers the MSS option of a SYN to what `mtu_bytes` can carry; anything it does not understand stays as it is. */
static __always_inline void mesh_clamp_mss(struct __sk_buff *skb, const struct mesh_packet *p, __u32 mtu_bytes)
{
	__u32 headers = MESH_TCP_HEADER + (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	__u8 offset_and_flags[2], option[2];
	__u32 at, end, most;
	__be16 mss_be;

	if (p->protocol != IPPROTO_TCP || mtu_bytes <= headers)
		return;
	if (bpf_skb_load_bytes(skb, p->l4 + 12, offset_and_flags, sizeof(offset_and_flags)))
		return;
	if (!(offset_and_flags[1] & MESH_TCP_FLAG_SYN))
		return;
	most = mtu_bytes - headers;
	at = p->l4 + MESH_TCP_HEADER;
	end = p->l4 + (offset_and_flags[0] >> 4) * 4;
	for (int i = 0; i < MESH_TCP_OPTIONS_MAX; i++) {
		if (at + 4 > end) /* no room for an MSS option any more */
			return;
		if (bpf_skb_load_bytes(skb, at, option, sizeof(option)) || option[0] == MESH_OPTION_END)
			return;
		if (option[0] == MESH_OPTION_NOP) {
			at += 1;
			continue;
		}
		if (option[0] == MESH_OPTION_MSS) {
			if (option[1] != 4 || bpf_skb_load_bytes(skb, at + 2, &mss_be, sizeof(mss_be)))
				return;
			if (bpf_ntohs(mss_be) > most)
				mesh_write_mss(skb, p->l4, at + 2, mss_be, bpf_htons(most));
			return;
		}
		if (option[1] < 2) /* would never end */
			return;
		at += option[1];
	}
}
