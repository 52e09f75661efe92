// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The cgroup programs that hold a host's programs apart: a socket takes no address of another's, sends from none, and
 * is reached at none. They stand only where there are tenants: two of them see each packet of the host's sockets.
 *
 * What goes to the tunnel is judged once more at its device, where packet sockets come, too; here is seen what one
 * program of the host says to another over the loopback.
 */
#include "parse.h"
#include "tenants.h"

#define SK_REFUSE 0
#define SK_PROCEED 1

static __always_inline int bind(const struct mesh_addr *addr)
{
	return mesh_may_have(0, mesh_local_at(addr), addr) ? SK_PROCEED : SK_REFUSE;
}

SEC("cgroup/bind4")
int mesh_bind4(struct bpf_sock_addr *ctx)
{
	struct mesh_addr addr = mesh_addr_v4(ctx->user_ip4);

	return bind(&addr);
}

SEC("cgroup/bind6")
int mesh_bind6(struct bpf_sock_addr *ctx)
{
	struct mesh_addr addr = {
		.word = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] },
	};

	return bind(&addr);
}

SEC("cgroup_skb/egress")
int mesh_tenant_out(struct __sk_buff *skb)
{
	struct mesh_packet p = {};

	/* What no stack understands reaches nobody here, and the tunnel's device drops it. */
	if (mesh_parse(skb, MESH_LINK_NONE, &p) != MESH_PARSED_IP)
		return SK_PROCEED;
	return mesh_may_have(skb, mesh_local_at(&p.src), &p.src) ? SK_PROCEED : SK_REFUSE;
}

SEC("cgroup_skb/ingress")
int mesh_tenant_in(struct __sk_buff *skb)
{
	struct mesh_packet p = {};

	if (mesh_parse(skb, MESH_LINK_NONE, &p) != MESH_PARSED_IP)
		return SK_PROCEED;
	return mesh_may_take(skb, mesh_local_at(&p.dst), &p.dst) ? SK_PROCEED : SK_REFUSE;
}

char _license[] SEC("license") = "GPL";
