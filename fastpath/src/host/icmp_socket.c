// ICMP as apps see it: echo sockets (as Linux ping sockets, icmp(7)) and errors about what
// sockets have sent.
//
// RFC 792, RFC 4443.  Echo requests are answered by forwarding; what comes here are echo
// replies, errors, and types that only a raw socket may want.
#include "host/internal.h"

#include <errno.h>
#include "base/cksum.h"
#include "host/listener.h"
#include "wire/icmp.h"
#include "wire/ip4.h"
#include "wire/ip6.h"
#include "wire/udp.h"

bool icmp_valid(const struct inbound *in)
{
	const uint8_t *icmp = in->ip + in->transport;
	uint32_t length = in->length - in->transport;
	if (length < ICMP_HEADER)
		return false;
	if (in->verified)
		return true;
	if (in->flow.family == FAMILY_IPV4)
		return cksum(icmp, length) == 0;
	return transport_checksum(FAMILY_IPV6, in->flow.remote, in->flow.local, IPPROTO_ICMPV6, icmp, length) == 0;
}

static void checksum_write(const struct outbound *out, uint8_t *icmp, uint32_t length)
{
	store16(icmp + ICMP_CHECKSUM, 0);
	uint16_t sum = out->family == FAMILY_IPV4 ? cksum(icmp, length)
		: transport_checksum(FAMILY_IPV6, out->source, out->destination, IPPROTO_ICMPV6, icmp, length);
	memcpy(icmp + ICMP_CHECKSUM, &sum, sizeof(sum));
}

int ping_send(struct host *host, uint32_t slot, struct outbound *out, const uint8_t *payload, uint32_t length)
{
	const struct socket_entry *entry = &host->state->sockets[slot];
	bool four = out->family == FAMILY_IPV4;
	if (length < ICMP_HEADER || payload[0] != (four ? ICMP4_ECHO : ICMP6_ECHO) || payload[1] != 0)
		return -EINVAL;
	out->protocol = four ? IPPROTO_ICMP : IPPROTO_ICMPV6;
	int error = outbound_fit(entry, out, length);
	if (error < 0)
		return error;
	uint8_t *icmp;
	struct packet *packet = outbound_packet(host, out, length, &icmp);
	if (packet == NULL)
		return -ENOBUFS;
	memcpy(icmp, payload, length);
	store16(icmp + 4, entry->local_port);
	checksum_write(out, icmp, length);
	return outbound_send(host, out, entry, packet);
}

static enum drop_reason echo_reply(struct host *host, struct inbound *in)
{
	const uint8_t *icmp = in->ip + in->transport;
	bool four = in->flow.family == FAMILY_IPV4;
	in->flow.local_port = load16(icmp + 4);
	int slot = demux_find(host, four ? DEMUX_PING4 : DEMUX_PING6, in->flow.local_port, &in->flow);
	if (slot < 0)
		return DROP_NO_SOCKET;
	return deliver_payload(host, (uint32_t)slot, in, icmp, in->length - in->transport) ? DROP_NONE : DROP_SOCKET_QUEUE_FULL;
}

// What each unreachable code means to a socket; as Linux (icmp_err_convert), fatal ones
// end a connected socket's talk.
static void translate4(struct socket_failure *failure, const uint8_t *icmp)
{
	static const struct {
		uint8_t error;
		bool fatal;
	} codes[] = {
		{ENETUNREACH, false}, {EHOSTUNREACH, false}, {ENOPROTOOPT, true}, {ECONNREFUSED, true},
		{EMSGSIZE, false}, {EOPNOTSUPP, false}, {ENETUNREACH, true}, {EHOSTDOWN, true},
		{ENONET, true}, {ENETUNREACH, true}, {EHOSTUNREACH, true}, {ENETUNREACH, false},
		{EHOSTUNREACH, false}, {EHOSTUNREACH, true}, {EHOSTUNREACH, true}, {EHOSTUNREACH, true},
	};
	failure->error = EHOSTUNREACH;
	if (icmp[0] == ICMP4_PARAMETER_PROBLEM) {
		failure->error = EPROTO;
		failure->fatal = true;
		failure->info = icmp[4];
	} else if (icmp[0] == ICMP4_UNREACHABLE && icmp[1] < sizeof(codes) / sizeof(codes[0])) {
		failure->error = codes[icmp[1]].error;
		failure->fatal = codes[icmp[1]].fatal;
		if (icmp[1] == ICMP4_FRAGMENTATION_NEEDED)
			failure->info = load16(icmp + 6);
	}
}

static void translate6(struct socket_failure *failure, const uint8_t *icmp)
{
	static const uint8_t codes[] = {ENETUNREACH, EACCES, EHOSTUNREACH, EHOSTUNREACH, ECONNREFUSED, EACCES, EACCES};
	failure->error = EHOSTUNREACH;
	if (icmp[0] == ICMP6_PARAMETER_PROBLEM) {
		failure->error = EPROTO;
		failure->fatal = true;
		failure->info = load32(icmp + 4);
	} else if (icmp[0] == ICMP6_TOO_BIG) {
		failure->error = EMSGSIZE;
		failure->info = load32(icmp + 4);
	} else if (icmp[0] == ICMP6_UNREACHABLE && icmp[1] < sizeof(codes)) {
		failure->error = codes[icmp[1]];
		failure->fatal = icmp[1] == ICMP6_PROHIBITED || icmp[1] == ICMP6_PORT_UNREACHABLE || icmp[1] > 4;
	}
}

// The packet that an error quotes: ours, so its source is our side of the flow.
static bool quoted_flow(struct socket_failure *failure, const uint8_t *inner, uint32_t room, uint8_t *protocol, uint32_t *header)
{
	struct flow *flow = &failure->flow;
	if (flow->family == FAMILY_IPV4) {
		if (room < IP4_HEADER || inner[0] >> 4 != 4)
			return false;
		*header = (inner[0] & 15u) * 4;
		*protocol = inner[9];
		memcpy(flow->local, inner + 12, 4);
		memcpy(flow->remote, inner + 16, 4);
		// A later fragment has no transport header to tell the socket by.
		if (load16(inner + 6) & IP4_OFFSET)
			return false;
	} else {
		struct ip6_walk walk;
		if (room < IP6_HEADER || inner[0] >> 4 != 6 || !ip6_walk(inner, room, &walk) || walk.later_fragment)
			return false;
		*header = walk.offset;
		*protocol = walk.next;
		memcpy(flow->local, inner + 8, 16);
		memcpy(flow->remote, inner + 24, 16);
	}
	// RFC 792 promises eight bytes behind the header.
	return *header >= IP4_HEADER && *header + 8 <= room;
}

static int quoted_socket(const struct host *host, struct socket_failure *failure, uint8_t protocol, const uint8_t *quoted)
{
	struct flow *flow = &failure->flow;
	bool four = flow->family == FAMILY_IPV4;
	if (protocol == IPPROTO_UDP) {
		flow->local_port = load16(quoted);
		flow->remote_port = load16(quoted + 2);
		return demux_find(host, DEMUX_UDP, flow->local_port, flow);
	}
	if (protocol == (four ? IPPROTO_ICMP : IPPROTO_ICMPV6) && quoted[0] == (four ? ICMP4_ECHO : ICMP6_ECHO)) {
		flow->local_port = load16(quoted + 4);
		return demux_find(host, four ? DEMUX_PING4 : DEMUX_PING6, flow->local_port, flow);
	}
	return -1;
}

static enum drop_reason icmp_error(struct host *host, struct inbound *in)
{
	const uint8_t *icmp = in->ip + in->transport;
	const uint8_t *inner = icmp + ICMP_HEADER;
	uint32_t room = in->length - in->transport - ICMP_HEADER;
	struct socket_failure failure = {
		.flow = {.family = in->flow.family, .interface = in->flow.interface},
		.type = icmp[0],
		.code = icmp[1],
	};
	uint8_t protocol;
	uint32_t header;
	if (!quoted_flow(&failure, inner, room, &protocol, &header))
		return DROP_ICMP_MALFORMED;
	if (in->flow.family == FAMILY_IPV4)
		translate4(&failure, icmp);
	else
		translate6(&failure, icmp);
	memcpy(failure.reporter, in->flow.remote, sizeof(failure.reporter));
	address_map(failure.flow.family, failure.flow.local, failure.flow.local6);
	address_map(failure.flow.family, failure.flow.remote, failure.flow.remote6);

	int slot = quoted_socket(host, &failure, protocol, inner + header);
	bool udp = protocol == IPPROTO_UDP;
	failure.payload = inner + header;
	failure.length = room - header;
	raw_failure(host, &failure, protocol, inner);
	if (protocol == IPPROTO_TCP) {
		failure.ttl = inner[in->flow.family == FAMILY_IPV4 ? 8 : 7];
		failure.flow.local_port = load16(inner + header);
		failure.flow.remote_port = load16(inner + header + 2);
		return tcp_icmp_error(host, &failure, load32(inner + header + 4), failure.info);
	}
	// RFC 5927 section 4: only what matches something that we have sent is believed.  Echo
	// replies leave no trace, so that of those our address has to do.
	bool reply = protocol == IPPROTO_ICMPV6 && inner[header] == ICMP6_ECHO_REPLY
		&& view_address(host->tables, FAMILY_IPV6, failure.flow.local, 0) != NULL;
	bool sender = slot >= 0 || reply || demux_first(host, in->flow.family == FAMILY_IPV4 ? DEMUX_RAW4 : DEMUX_RAW6, protocol) != 0;
	if (failure.error == EMSGSIZE && sender)
		path_mtu_learn(host, failure.flow.family, failure.flow.remote, failure.info);
	if (slot < 0)
		return sender ? DROP_NONE : DROP_NO_SOCKET;
	failure.payload = inner + header + (udp ? UDP_HEADER : 0);
	failure.length = room - header - (udp ? UDP_HEADER : 0);
	deliver_failure(host, (uint32_t)slot, &failure);
	return DROP_NONE;
}

static bool is_error(uint8_t family, uint8_t type)
{
	if (family == FAMILY_IPV6)
		return type >= ICMP6_UNREACHABLE && type <= ICMP6_PARAMETER_PROBLEM;
	return type == ICMP4_UNREACHABLE || type == ICMP4_TIME_EXCEEDED || type == ICMP4_PARAMETER_PROBLEM;
}

static bool is_listener(uint8_t type)
{
	return (type >= ICMP6_LISTENER_QUERY && type <= ICMP6_LISTENER_DONE) || type == ICMP6_LISTENER_REPORT2;
}

enum drop_reason icmp_input(struct host *host, struct inbound *in, int copies)
{
	uint8_t family = in->flow.family;
	uint8_t type = in->ip[in->transport];
	enum drop_reason reason = DROP_ICMP_IGNORED;
	if (type == (family == FAMILY_IPV4 ? ICMP4_ECHO_REPLY : ICMP6_ECHO_REPLY))
		reason = echo_reply(host, in);
	else if (is_error(family, type))
		reason = icmp_error(host, in);
	else if (family == FAMILY_IPV6 && is_listener(type))
		reason = mld_input(host, in);
	return copies > 0 ? DROP_NONE : reason;
}

void icmp_reassembly_expired(struct host *host, uint8_t family, uint16_t interface, const uint8_t *packet, uint32_t length)
{
	bool four = family == FAMILY_IPV4;
	struct outbound out = {
		.family = family,
		.protocol = four ? IPPROTO_ICMP : IPPROTO_ICMPV6,
		.ttl = DEFAULT_TTL,
		.interface = address_link_local(family, packet + 8) ? interface : 0,
	};
	memcpy(out.source, packet + (four ? 16 : 24), four ? 4 : 16);
	memcpy(out.destination, packet + (four ? 12 : 8), four ? 4 : 16);
	if (view_address(host->tables, family, out.source, 0) == NULL || address_multicast(family, out.destination))
		return;
	// As much as fits: RFC 1812 section 4.3.2.3, RFC 4443 section 2.4.
	uint32_t most = four ? 576 - IP4_HEADER - ICMP_HEADER : IP6_MIN_MTU - IP6_HEADER - ICMP_HEADER;
	uint32_t quoted = length < most ? length : most;
	uint8_t *icmp;
	struct packet *answer = outbound_packet(host, &out, ICMP_HEADER + quoted, &icmp);
	if (answer == NULL)
		return;
	memset(icmp, 0, ICMP_HEADER);
	icmp[0] = four ? ICMP4_TIME_EXCEEDED : ICMP6_TIME_EXCEEDED;
	icmp[1] = ICMP_REASSEMBLY_EXCEEDED;
	memcpy(icmp + ICMP_HEADER, packet, quoted);
	checksum_write(&out, icmp, ICMP_HEADER + quoted);
	(void)outbound_send(host, &out, NULL, answer);
}
