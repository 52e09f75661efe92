// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * What stands at a device where the kernel has no TCX: one stub for each packet program, which it jumps to.
 *
 *      eth0 ──▶ clsact ──▶ mesh_stub_uplink_in ──▶ mesh_jumps[MESH_SLOT_UPLINK_IN] ──▶ mesh_uplink_in
 *
 * A stub stays where it is; a program is replaced for all its devices by one write to its slot, and each
 * packet is judged by the old one or by the new one.
 *
 * An empty slot hands the packet on. The kernel empties all of them when the array is no longer pinned and no
 * process holds it, that is, when an operator removed our pins: then the programs are gone, as links are that
 * lost their pins.
 */
#include "abi.h"
#include "verdict.h"
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
	__uint(max_entries, MESH_SLOTS_MAX);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_jumps SEC(".maps");

#define MESH_STUB(name, slot)                     \
	SEC("classifier")                               \
	int mesh_stub_##name(struct __sk_buff *skb)     \
	{                                               \
		bpf_tail_call(skb, &mesh_jumps, slot);  \
		return MESH_NEXT;                       \
	}

MESH_STUB(from_pod, MESH_SLOT_FROM_POD)
MESH_STUB(from_tunnel, MESH_SLOT_FROM_TUNNEL)
MESH_STUB(to_tunnel, MESH_SLOT_TO_TUNNEL)
MESH_STUB(uplink_out, MESH_SLOT_UPLINK_OUT)
MESH_STUB(uplink_out_l3, MESH_SLOT_UPLINK_OUT_L3)
MESH_STUB(uplink_in, MESH_SLOT_UPLINK_IN)
MESH_STUB(uplink_in_l3, MESH_SLOT_UPLINK_IN_L3)
MESH_STUB(bridge_in, MESH_SLOT_BRIDGE_IN)

char _license[] SEC("license") = "GPL";
