// Segments that belong to no connection: RSTs, ACKs in TIME-WAIT, SYN-ACKs of half-open ones.
// RFC 9293 sections 3.5.2 and 3.10.7.1.
#include "host/tcp_internal.h"

#include "wire/ip6.h"

static void put_reply_options(const struct tcp *tcp, const struct tcp_reply *reply, struct tcp_emission *emission)
{
	if (reply->key != 0)
		tcp_put_signature(tcp, emission, reply->key);
	if (reply->mss != 0) {
		struct tcp_syn_options syn = {
			.mss = reply->mss, .sack = reply->sack, .scaling = reply->wscale_present, .wscale = reply->wscale,
			.timestamp = reply->timestamp, .tsval = reply->tsval, .tsecr = reply->tsecr
		};
		tcp_put_syn_options(emission, &syn);
	} else if (reply->timestamp) {
		tcp_put_timestamp(emission, false, reply->tsval, reply->tsecr);
	}
}

void tcp_reply_to(struct tcp *tcp, const uint8_t *local, uint16_t local_port, const uint8_t *remote, uint16_t remote_port,
	uint16_t interface, const struct tcp_reply *reply)
{
	struct tcp_emission emission = {
		.local = local, .remote = remote, .local_port = local_port, .remote_port = remote_port,
		.interface = interface, .family = address_mapped(remote) ? FAMILY_IPV4 : FAMILY_IPV6,
		.ttl = reply->ttl != 0 ? reply->ttl : DEFAULT_TTL, .tos = reply->tos,
		.dont_fragment = !tcp->config.tcp_pmtu_disabled, // and so the identification may stay zero (RFC 6864)
		.seq = reply->seq, .ack = reply->flags & TCP_ACK ? reply->ack : 0, .flags = reply->flags,
		.window = (uint16_t)(reply->window > UINT16_MAX ? UINT16_MAX : reply->window)
	};
	uint8_t *payload;

	put_reply_options(tcp, reply, &emission);
	struct packet *packet = tcp_build(tcp, &emission, &payload);
	if (packet == NULL)
		host_drop(tcp->host, DROP_NO_BUFFER);
	else if (tcp_emit(tcp, &emission, packet) && (reply->flags & TCP_RST))
		tcp_count(tcp, TCP_STAT_RESETS_SENT);
}

void tcp_reply(struct tcp *tcp, const struct tcp_arrival *arrival, const struct tcp_reply *reply)
{
	const struct flow *flow = &arrival->in->flow;
	// The way back may be another one, but link-local addresses mean nothing on other links.
	uint16_t interface = address_link_local(flow->family, flow->remote) ? flow->interface : 0;

	tcp_reply_to(tcp, arrival->local, flow->local_port, arrival->remote, flow->remote_port, interface, reply);
}

// The peer of a connection or listener with keys believes only a signed RST; one without a valid digest may be
// from anybody, and gets none.
static bool find_reset_key(struct tcp *tcp, const struct tcp_arrival *arrival, uint32_t *key)
{
	const struct flow *flow = &arrival->in->flow;

	*key = 0;
	if (arrival->options.md5 == NULL)
		return true;
	// In SYN-SENT this is how a peer that missed our restart gets rid of the old connection (RFC 9293 section 3.5.1).
	const struct tcp_socket *s = tcp_find(tcp, arrival->local, flow->local_port, arrival->remote, flow->remote_port, flow->interface);
	if (s == NULL)
		s = tcp_find_listener(tcp, arrival->local, flow->local_port, flow->interface, 0);
	if (s == NULL)
		return false;
	*key = tcp_auth_key(tcp, s, arrival->remote, flow->interface);
	return *key != 0 && tcp_auth_check(tcp, *key, arrival) == DROP_NONE;
}

void tcp_reset_arrival(struct tcp *tcp, const struct tcp_arrival *arrival)
{
	const struct inbound *in = arrival->in;
	struct tcp_reply reply = {.flags = TCP_RST};

	if ((arrival->flags & TCP_RST) || in->flow.multicast || in->flow.broadcast || in->packet->link_broadcast)
		return;
	if (!find_reset_key(tcp, arrival, &reply.key))
		return;
	if (arrival->flags & TCP_ACK) {
		reply.seq = arrival->ack;
	} else {
		reply.flags |= TCP_ACK;
		reply.ack = arrival->end;
	}
	tcp_reply(tcp, arrival, &reply);
}
