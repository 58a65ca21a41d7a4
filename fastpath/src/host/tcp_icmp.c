// ICMP errors about segments that we sent, and what routers say of the path MTU.
//
// RFC 1122 section 4.2.3.9, RFC 5461 (soft and hard errors), RFC 5927 section 4 (an error is believed only when
// the segment it quotes may be in flight), RFC 1191, RFC 8201, RFC 4821 section 7.7 (black holes), RFC 5082
// section 3.  As Linux does, any error ends an attempt to connect, and none an established connection: there it
// is what a timeout will report, or what the app is told at once if it asked (IP_RECVERR).  A half-open connection
// of a listener ends by a hard error, and lives through soft ones.
#include "host/tcp_internal.h"

#include <errno.h>
#include "wire/icmp.h"
#include "wire/ip6.h"

// Losses may look like a black hole, and tiny segments would make them worse: never less than what
// every host must take (RFC 1122 section 3.3.3: 576 octets).
enum { LEAST_MSS = 536 };

// RFC 1191 section 7: a router that does not say its MTU; the next lower one of those that links have.
static uint32_t plateau_below(uint32_t mtu)
{
	static const uint16_t plateaus[] = {32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296};
	for (uint32_t i = 0; i < sizeof(plateaus) / sizeof(plateaus[0]); i++)
		if (plateaus[i] < mtu)
			return plateaus[i];
	return 68;
}

static bool follows_routers(const struct tcp *tcp, const struct tcp_socket *s)
{
	return !tcp->config.tcp_pmtu_disabled && (s->pmtu_discover == IP_PMTUDISC_WANT || s->pmtu_discover == IP_PMTUDISC_DO);
}

static enum drop_reason too_big(struct tcp *tcp, struct tcp_socket *s, const struct flow *flow, uint32_t mtu)
{
	if (flow->family == FAMILY_IPV6 && mtu < IP6_MIN_MTU) // RFC 8201 section 4: "MUST discard it"
		return DROP_ICMP_MALFORMED;
	if (mtu == 0)
		mtu = plateau_below(s->pmtu);
	if (!follows_routers(tcp, s) || mtu >= s->pmtu)
		return DROP_ICMP_IGNORED;
	path_mtu_learn(tcp->host, flow->family, flow->remote, mtu);
	mtu = path_mtu_clamp(tcp->host, flow->family, flow->remote, s->pmtu); // no lower than is sane
	if (mtu >= s->pmtu)
		return DROP_ICMP_IGNORED;
	s->soft_error = EMSGSIZE;
	tcp_sync_mss(tcp, s, mtu);
	if (tcp_synchronized(s))
		tcp_simple_retransmit(tcp, s);
	tcp_dirty(tcp, s);
	return DROP_NONE;
}

static bool is_too_big(const struct socket_failure *failure)
{
	return failure->flow.family == FAMILY_IPV4 ? failure->type == ICMP4_UNREACHABLE && failure->code == ICMP4_FRAGMENTATION_NEEDED
		: failure->type == ICMP6_TOO_BIG;
}

static enum drop_reason unreachable(struct tcp *tcp, struct tcp_socket *s, int error)
{
	if (s->state == TCP_STATE_SYN_SENT || s->state == TCP_STATE_SYN_RECEIVED) {
		tcp_fail(tcp, s, error);
		return DROP_NONE;
	}
	s->soft_error = (int16_t)error;
	if ((s->flags & TCP_RECV_ERRORS) && !(s->flags & TCP_ORPHAN)) {
		s->error = (int16_t)error;
		tcp_notify(tcp, s, HOST_STREAM_READABLE | HOST_STREAM_WRITABLE);
	}
	return DROP_NONE;
}

// The peer of a half-open connection is not there: the SYN-ACK need not be repeated.
static enum drop_reason half_open(struct tcp *tcp, const struct socket_failure *failure, uint32_t seq)
{
	struct tcp_request *request = tcp_find_request(tcp, &failure->flow);

	if (request == NULL)
		return DROP_NO_SOCKET;
	if (failure->ttl < tcp->sockets[request->listener - 1].min_ttl)
		return DROP_TCP_MIN_TTL;
	if (seq != request->iss)
		return DROP_TCP_STRAY;
	if (!failure->fatal)
		return DROP_ICMP_IGNORED;
	tcp_request_drop(tcp, request);
	return DROP_NONE;
}

enum drop_reason tcp_icmp_error(struct host *host, const struct socket_failure *failure, uint32_t seq, uint32_t mtu)
{
	struct tcp *tcp = host->tcp;
	const struct flow *flow = &failure->flow;
	struct tcp_socket *s = tcp_find(tcp, flow->local6, flow->local_port, flow->remote6, flow->remote_port, flow->interface);

	if (s == NULL)
		return half_open(tcp, failure, seq);
	if (failure->ttl < s->min_ttl)
		return DROP_TCP_MIN_TTL;
	if (!seq_between(seq, s->snd_una, s->snd_nxt))
		return DROP_TCP_STRAY;
	return is_too_big(failure) ? too_big(tcp, s, flow, mtu) : unreachable(tcp, s, failure->error);
}

void tcp_mtu_black_hole(struct tcp *tcp, struct tcp_socket *s)
{
	const struct host_config *config = &tcp->config;

	if (config->mtu_probing == 0)
		return;
	uint32_t size = config->base_mss;
	if (s->probe_mss != 0 && s->probe_mss / 2u < size)
		size = s->probe_mss / 2u;
	if (size < LEAST_MSS)
		size = LEAST_MSS;
	if (size < config->min_send_mss)
		size = config->min_send_mss;
	s->probe_mss = (uint16_t)size;
	tcp_sync_mss(tcp, s, s->pmtu);
}
