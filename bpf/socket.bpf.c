// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The cgroup programs: a socket names a service, and gets a backend (connect, sendmsg), and the source that its
 * identity has; it asks who it talks to, and is told the service again (getpeername, recvmsg).
 *
 * connect6 and getpeername6 see v4-mapped addresses too. A v4-mapped UDP socket enters as sendmsg4 and leaves as
 * recvmsg6, which is why there is one key for both families.
 */
#include "services.h"
#include "sources.h"

#define EPERM 1
#define ENETUNREACH 101
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
static __always_inline int refuse(int error)
{
	bpf_set_retval(-error);
	return SK_REFUSE;
}

static __always_inline int refuse_source(enum mesh_source why)
{
	if (why == MESH_SOURCE_LATER) {
		mesh_count(MESH_DROP_NEW_CGROUP);
		return refuse(ENETUNREACH);
	}
	mesh_count(MESH_DROP_WRONG_SOURCE);
	return refuse(EPERM);
}

/* `connects`: the socket gets the source; else the one datagram that it sends. */
static __always_inline int source4(struct bpf_sock_addr *ctx, bool connects)
{
	struct mesh_addr to = mesh_addr_v4(ctx->user_ip4), source = {};
	enum mesh_source how = mesh_source_to(&to, &source);

	switch (how) {
	case MESH_SOURCE_FREE:
		break;
	case MESH_SOURCE_OFFERED:
		if (connects)
			mesh_bind_source4(ctx, &source);
		break;
	case MESH_SOURCE_FORCED:
		if (!connects)
			ctx->msg_src_ip4 = source.word[3];
		else if (!mesh_bind_source4(ctx, &source))
			return refuse_source(how);
		break;
	case MESH_SOURCE_NONE:
	case MESH_SOURCE_LATER:
		return refuse_source(how);
	}
	return SK_PROCEED;
}

static __always_inline int source6(struct bpf_sock_addr *ctx, bool connects)
{
	struct mesh_addr to = endpoint6(ctx).addr, source = {};
	enum mesh_source how = mesh_source_to(&to, &source);

	switch (how) {
	case MESH_SOURCE_FREE:
		break;
	case MESH_SOURCE_OFFERED:
		if (connects)
			mesh_bind_source6(ctx, &source);
		break;
	case MESH_SOURCE_FORCED:
		if (!connects) {
			ctx->msg_src_ip6[0] = source.word[0];
			ctx->msg_src_ip6[1] = source.word[1];
			ctx->msg_src_ip6[2] = source.word[2];
			ctx->msg_src_ip6[3] = source.word[3];
		} else if (!mesh_bind_source6(ctx, &source)) {
			return refuse_source(how);
		}
		break;
	case MESH_SOURCE_NONE:
	case MESH_SOURCE_LATER:
		return refuse_source(how);
	}
	return SK_PROCEED;
}

/* `sticky`: a datagram of a socket that is not connected. */
static __always_inline int balance4(struct bpf_sock_addr *ctx, bool sticky)
{
	struct mesh_endpoint to = endpoint4(ctx);

	switch (mesh_balance(ctx, &to, sticky)) {
	case MESH_CHOSEN:
		write4(ctx, &to);
		break;
	case MESH_REFUSED:
		return refuse(ECONNREFUSED);
	case MESH_NOT_A_SERVICE:
		break;
	}
	return source4(ctx, !sticky);
}

static __always_inline int balance6(struct bpf_sock_addr *ctx, bool sticky)
{
	struct mesh_endpoint to = endpoint6(ctx);

	switch (mesh_balance(ctx, &to, sticky)) {
	case MESH_CHOSEN:
		write6(ctx, &to);
		break;
	case MESH_REFUSED:
		return refuse(ECONNREFUSED);
	case MESH_NOT_A_SERVICE:
		break;
	}
	return source6(ctx, !sticky);
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
