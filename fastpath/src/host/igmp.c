// IGMP on the wire: version 1 (RFC 1112 appendix I), 2 (RFC 2236), 3 (RFC 3376, RFC 9776).
//
// Everything leaves with TTL 1, precedence 6 and the router alert option, as from Linux, and
// from 0.0.0.0 where the interface has no address (RFC 3376 section 4.2.13).  A query without
// the router alert is answered: many switches send such.
#include "host/listener.h"

#include "base/cksum.h"
#include "wire/ip4.h"

enum {
	IGMP_QUERY = 0x11, IGMP_REPORT1 = 0x12, IGMP_REPORT2 = 0x16, IGMP_LEAVE = 0x17, IGMP_REPORT3 = 0x22,
	IGMP_LENGTH = 8,      // of versions 1 and 2
	IGMP_QUERY3 = 12,     // without its sources
	IGMP_HEADER = IP4_HEADER + 4,
	CONTROL_TOS = 0xc0
};

static void own_address(const struct host *host, uint16_t interface, uint8_t *address)
{
	for (uint32_t i = 0; i < host->tables->address_count; i++) {
		const struct address_entry *entry = &host->tables->addresses[i];
		if (entry->family == FAMILY_IPV4 && entry->interface == interface) {
			memcpy(address, entry->address, 4);
			return;
		}
	}
}

struct packet *igmp_packet(struct host *host, uint16_t interface, const uint8_t *destination, uint32_t length, uint8_t **body)
{
	static const uint8_t alert[4] = {IP4_OPTION_ROUTER_ALERT, 4, 0, 0};
	struct packet *packet = outbound_blank(host, FAMILY_IPV4, IGMP_HEADER + length);
	if (packet == NULL) {
		host_drop(host, DROP_NO_BUFFER);
		return NULL;
	}
	uint8_t *ip = packet_data(packet);
	memset(ip, 0, packet->length);
	ip[0] = 0x40 | IGMP_HEADER / 4;
	ip[1] = CONTROL_TOS;
	store16(ip + 6, IP4_DF);
	ip[8] = 1;
	ip[9] = IPPROTO_IGMP;
	own_address(host, interface, ip + 12);
	memcpy(ip + 16, destination, 4);
	memcpy(ip + IP4_HEADER, alert, sizeof(alert));
	*body = ip + IGMP_HEADER;
	return packet;
}

void igmp_send(struct host *host, uint16_t interface, struct packet *packet)
{
	uint8_t *ip = packet_data(packet);
	uint16_t sum = cksum(ip + IGMP_HEADER, packet->length - IGMP_HEADER);
	memcpy(ip + IGMP_HEADER + 2, &sum, sizeof(sum));
	store16(ip + 2, (uint16_t)packet->length);
	sum = cksum(ip, IGMP_HEADER);
	memcpy(ip + 10, &sum, sizeof(sum));
	enum drop_reason reason = host->ops.output(host->ops.user, interface, FAMILY_IPV4, packet);
	if (reason != DROP_NONE) {
		host_drop(host, reason);
		host->ops.packet_put(host->ops.user, packet);
	}
}

static void send_old(struct host *host, uint16_t interface, uint8_t type, const uint8_t *destination, const uint8_t *group)
{
	uint8_t *igmp;
	struct packet *packet = igmp_packet(host, interface, destination, IGMP_LENGTH, &igmp);
	if (packet == NULL)
		return;
	igmp[0] = type;
	memcpy(igmp + 4, group, 4);
	igmp_send(host, interface, packet);
}

void igmp_report(struct host *host, uint16_t interface, const uint8_t *group, uint8_t version)
{
	send_old(host, interface, version == 1 ? IGMP_REPORT1 : IGMP_REPORT2, group, group);
}

void igmp_leave(struct host *host, uint16_t interface, const uint8_t *group)
{
	static const uint8_t routers[4] = {224, 0, 0, 2};
	send_old(host, interface, IGMP_LEAVE, routers, group);
}

// RFC 3376 sections 4.1.1 and 4.1.7: an exponent above 127.
static uint64_t decode(uint8_t code)
{
	return code < 128 ? code : (uint64_t)((code & 15) | 16) << ((code >> 4 & 7) + 3);
}

static enum drop_reason query_input(struct host *host, const struct inbound *in, const uint8_t *igmp, uint32_t length)
{
	struct listener_query query = {.family = FAMILY_IPV4, .interface = in->flow.interface};
	memcpy(query.group, igmp + 4, 4);
	query.delay = decode(igmp[1]) * 100 * LISTENER_MS;
	if (length == IGMP_LENGTH && igmp[1] == 0) {
		query.version = 1;
		query.delay = 10 * LISTENER_S;
		memset(query.group, 0, 4);
	} else if (length == IGMP_LENGTH) {
		query.version = 2;
		query.delay = igmp[1] * 100 * LISTENER_MS;
	} else if (length >= IGMP_QUERY3 && length - IGMP_QUERY3 >= load16(igmp + 10) * 4u) {
		query.version = 3;
		query.robustness = igmp[8] & 7;
		query.interval = decode(igmp[9]) * LISTENER_S;
		query.source_count = load16(igmp + 10);
		query.sources = igmp + IGMP_QUERY3;
	} else {
		return DROP_IGMP_MALFORMED;
	}
	bool general = address_any(query.group);
	if (general ? query.source_count != 0 : !address_multicast(FAMILY_IPV4, query.group))
		return DROP_IGMP_MALFORMED;
	listener_query(host, &query);
	return DROP_NONE;
}

enum drop_reason igmp_input(struct host *host, const struct inbound *in)
{
	const uint8_t *igmp = in->ip + in->transport;
	uint32_t length = in->length - in->transport;
	uint8_t group[16] = {0};
	if (length < IGMP_LENGTH)
		return DROP_IGMP_MALFORMED;
	if (cksum(igmp, length) != 0)
		return DROP_IGMP_CHECKSUM;
	switch (igmp[0]) {
	case IGMP_QUERY:
		return in->ttl == 1 ? query_input(host, in, igmp, length) : DROP_IGMP_TTL;
	case IGMP_REPORT1:
	case IGMP_REPORT2:
		memcpy(group, igmp + 4, 4);
		if (!address_multicast(FAMILY_IPV4, group))
			return DROP_IGMP_MALFORMED;
		if (in->ttl != 1)
			return DROP_IGMP_TTL;
		if (in->flow.multicast)
			listener_heard(host, FAMILY_IPV4, in->flow.interface, group);
		return DROP_NONE;
	case IGMP_LEAVE:
	case IGMP_REPORT3: // of other hosts: for routers
	default:
		return DROP_IGMP_IGNORED;
	}
}
