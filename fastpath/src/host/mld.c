// MLD on the wire: version 1 (RFC 2710), 2 (RFC 3810, RFC 9777).
//
// Everything leaves with hop limit 1 and the router alert in a hop-by-hop header, from the
// link-local address, or from :: while there is none (RFC 3590).
#include "host/listener.h"

#include "base/cksum.h"
#include "wire/icmp.h"
#include "wire/ip6.h"

enum {
	MLD_LENGTH = 24,      // of version 1
	MLD_QUERY2 = 28,      // without its sources
	HOP_BY_HOP = 8,
	MLD_HEADER = IP6_HEADER + HOP_BY_HOP
};

struct packet *mld_packet(struct host *host, uint16_t interface, const uint8_t *destination, uint32_t length, uint8_t **body)
{
	// Whatever the scope of the group, the message is for the link.
	static const uint8_t on_link[16] = {0xff, 2, [15] = 0x16};
	static const uint8_t alert[HOP_BY_HOP] = {IPPROTO_ICMPV6, 0, IP6_OPTION_ROUTER_ALERT, 2, 0, 0, IP6_OPTION_PADN, 0};
	struct packet *packet = outbound_blank(host, FAMILY_IPV6, MLD_HEADER + length);
	if (packet == NULL) {
		host_drop(host, DROP_NO_BUFFER);
		return NULL;
	}
	uint8_t *ip = packet_data(packet);
	uint8_t source[16];
	uint16_t egress;
	memset(ip, 0, packet->length);
	ip[0] = 0x60;
	ip[6] = IPPROTO_HOPOPTS;
	ip[7] = 1;
	if (host->ops.source(host->ops.user, FAMILY_IPV6, on_link, interface, source, &egress) && address_link_local(FAMILY_IPV6, source))
		memcpy(ip + 8, source, 16);
	memcpy(ip + 24, destination, 16);
	memcpy(ip + IP6_HEADER, alert, sizeof(alert));
	*body = ip + MLD_HEADER;
	return packet;
}

void mld_send(struct host *host, uint16_t interface, struct packet *packet)
{
	uint8_t *ip = packet_data(packet);
	uint32_t length = packet->length - MLD_HEADER;
	uint16_t sum = transport_checksum(FAMILY_IPV6, ip + 8, ip + 24, IPPROTO_ICMPV6, ip + MLD_HEADER, length);
	memcpy(ip + MLD_HEADER + ICMP_CHECKSUM, &sum, sizeof(sum));
	store16(ip + 4, (uint16_t)(HOP_BY_HOP + length));
	enum drop_reason reason = host->ops.output(host->ops.user, interface, FAMILY_IPV6, packet);
	if (reason != DROP_NONE) {
		host_drop(host, reason);
		host->ops.packet_put(host->ops.user, packet);
	}
}

static void send_old(struct host *host, uint16_t interface, uint8_t type, const uint8_t *destination, const uint8_t *group)
{
	uint8_t *mld;
	struct packet *packet = mld_packet(host, interface, destination, MLD_LENGTH, &mld);
	if (packet == NULL)
		return;
	mld[0] = type;
	memcpy(mld + 8, group, 16);
	mld_send(host, interface, packet);
}

void mld_report(struct host *host, uint16_t interface, const uint8_t *group)
{
	send_old(host, interface, ICMP6_LISTENER_REPORT, group, group);
}

void mld_done(struct host *host, uint16_t interface, const uint8_t *group)
{
	static const uint8_t routers[16] = {0xff, 2, [15] = 2};
	send_old(host, interface, ICMP6_LISTENER_DONE, routers, group);
}

// RFC 3810 section 5.1.3: milliseconds, with an exponent from 32768 on.
static uint64_t decode_delay(uint16_t code)
{
	return code < 32768 ? code : (uint64_t)((code & 0xfff) | 0x1000) << ((code >> 12 & 7) + 3);
}

// Section 5.1.9: seconds, with an exponent from 128 on.
static uint64_t decode_interval(uint8_t code)
{
	return code < 128 ? code : (uint64_t)((code & 15) | 16) << ((code >> 4 & 7) + 3);
}

// The router alert for MLD in the hop-by-hop header, which forwarding has checked.
static bool alerts(const struct inbound *in)
{
	const uint8_t *header = in->ip + IP6_HEADER;
	if (in->ip[6] != IPPROTO_HOPOPTS || in->transport < MLD_HEADER)
		return false;
	uint32_t end = (header[1] + 1u) * 8;
	if (end > in->transport - IP6_HEADER)
		return false;
	for (uint32_t at = 2; at < end;) {
		if (header[at] == IP6_OPTION_PAD1) {
			at++;
			continue;
		}
		if (end - at < 2 || header[at + 1] + 2u > end - at)
			return false;
		if (header[at] == IP6_OPTION_ROUTER_ALERT && header[at + 1] == 2)
			return load16(header + at + 2) == 0;
		at += header[at + 1] + 2u;
	}
	return false;
}

static enum drop_reason query_input(struct host *host, const struct inbound *in, const uint8_t *mld, uint32_t length)
{
	struct listener_query query = {.family = FAMILY_IPV6, .interface = in->flow.interface};
	memcpy(query.group, mld + 8, 16);
	if (length == MLD_LENGTH) {
		query.version = 1;
		query.delay = load16(mld + 4) * LISTENER_MS;
	} else if (length >= MLD_QUERY2 && length - MLD_QUERY2 >= load16(mld + 26) * 16u) {
		query.version = 2;
		query.delay = decode_delay(load16(mld + 4)) * LISTENER_MS;
		query.robustness = mld[24] & 7;
		query.interval = decode_interval(mld[25]) * LISTENER_S;
		query.source_count = load16(mld + 26);
		query.sources = mld + MLD_QUERY2;
	} else {
		return DROP_MLD_MALFORMED;
	}
	bool general = address_any(query.group);
	if (general ? query.source_count != 0 : !address_multicast(FAMILY_IPV6, query.group))
		return DROP_MLD_MALFORMED;
	listener_query(host, &query);
	return DROP_NONE;
}

enum drop_reason mld_input(struct host *host, const struct inbound *in)
{
	const uint8_t *mld = in->ip + in->transport;
	uint32_t length = in->length - in->transport;
	if (mld[0] == ICMP6_LISTENER_DONE || mld[0] == ICMP6_LISTENER_REPORT2)
		return DROP_ICMP_IGNORED; // of other hosts: for routers
	if (length < MLD_LENGTH)
		return DROP_MLD_MALFORMED;
	// RFC 3810 section 6.2; a report from :: changes nothing (RFC 3590).
	if (in->ttl != 1 || !address_link_local(FAMILY_IPV6, in->flow.remote) || !alerts(in))
		return DROP_MLD_NOT_LOCAL;
	if (mld[0] == ICMP6_LISTENER_QUERY)
		return query_input(host, in, mld, length);
	if (!address_multicast(FAMILY_IPV6, mld + 8))
		return DROP_MLD_MALFORMED;
	if (in->flow.multicast)
		listener_heard(host, FAMILY_IPV6, in->flow.interface, mld + 8);
	return DROP_NONE;
}
