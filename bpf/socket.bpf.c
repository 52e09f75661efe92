// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The cgroup programs: a socket names a service, and gets a backend (connect, sendmsg); it asks who it talks to,
 * and is told the service again (getpeername, recvmsg).
 *
 * connect6 and getpeername6 see v4-mapped addresses too. A v4-mapped UDP socket enters as sendmsg4 and leaves as
 * recvmsg6, which is why there is one key for both families.
 */
#include "services.h"

#define ECONNREFUSED 111
#define SK_REFUSE 0
#define SK_PROCEED 1

static __always_inline struct mesh_endpoint endpoint4(struct bpf_sock_addr *ctx)
{
	return (struct mesh_endpoint){ .addr = mesh_addr_v4(ctx->user_ip4), .port_be = (__be16)ctx->user_port };
}

static __always_inline struct mesh_endpoint endpoint6(struct bpf_sock_addr *ctx)
{
	return (struct mesh_endpoint){
		.addr = { .word = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] } },
		.port_be = (__be16)ctx->user_port,
	};
}

static __always_inline void write4(struct bpf_sock_addr *ctx, const struct mesh_endpoint *e)
{
	ctx->user_ip4 = e->addr.word[3];
	ctx->user_port = e->port_be;
}

static __always_inline void write6(struct bpf_sock_addr *ctx, const struct mesh_endpoint *e)
{
	ctx->user_ip6[0] = e->addr.word[0];
	ctx->user_ip6[1] = e->addr.word[1];
	ctx->user_ip6[2] = e->addr.word[2];
	ctx->user_ip6[3] = e->addr.word[3];
	ctx->user_port = e->port_be;
}

/* Nothing falls through to the underlay: the application learns at once. */
static __always_inline int refuse(void)
{
	bpf_set_retval(-ECONNREFUSED);
	return SK_REFUSE;
}

static __always_inline int balance4(struct bpf_sock_addr *ctx, bool sticky)
{
	struct mesh_endpoint to = endpoint4(ctx);

	switch (mesh_balance(ctx, &to, sticky)) {
	case MESH_CHOSEN:
		write4(ctx, &to);
		return SK_PROCEED;
	case MESH_REFUSED:
		return refuse();
	case MESH_NOT_A_SERVICE:
		break;
	}
	return SK_PROCEED;
}

static __always_inline int balance6(struct bpf_sock_addr *ctx, bool sticky)
{
	struct mesh_endpoint to = endpoint6(ctx);

	switch (mesh_balance(ctx, &to, sticky)) {
	case MESH_CHOSEN:
		write6(ctx, &to);
		return SK_PROCEED;
	case MESH_REFUSED:
		return refuse();
	case MESH_NOT_A_SERVICE:
		break;
	}
	return SK_PROCEED;
}

static __always_inline int unbalance4(struct bpf_sock_addr *ctx)
{
	struct mesh_endpoint from = endpoint4(ctx);

	if (mesh_unbalance(ctx, &from))
		write4(ctx, &from);
	return SK_PROCEED;
}

static __always_inline int unbalance6(struct bpf_sock_addr *ctx)
{
	struct mesh_endpoint from = endpoint6(ctx);

	if (mesh_unbalance(ctx, &from))
		write6(ctx, &from);
	return SK_PROCEED;
}

SEC("cgroup/connect4")
int mesh_connect4(struct bpf_sock_addr *ctx)
{
	return balance4(ctx, false);
}

SEC("cgroup/connect6")
int mesh_connect6(struct bpf_sock_addr *ctx)
{
	return balance6(ctx, false);
}

SEC("cgroup/sendmsg4")
int mesh_sendmsg4(struct bpf_sock_addr *ctx)
{
	return balance4(ctx, true);
}

SEC("cgroup/sendmsg6")
int mesh_sendmsg6(struct bpf_sock_addr *ctx)
{
	return balance6(ctx, true);
}

SEC("cgroup/recvmsg4")
int mesh_recvmsg4(struct bpf_sock_addr *ctx)
{
	return unbalance4(ctx);
}

SEC("cgroup/recvmsg6")
int mesh_recvmsg6(struct bpf_sock_addr *ctx)
{
	return unbalance6(ctx);
}

SEC("cgroup/getpeername4")
int mesh_peername4(struct bpf_sock_addr *ctx)
{
	return unbalance4(ctx);
}

SEC("cgroup/getpeername6")
int mesh_peername6(struct bpf_sock_addr *ctx)
{
	return unbalance6(ctx);
}

char _license[] SEC("license") = "GPL";
