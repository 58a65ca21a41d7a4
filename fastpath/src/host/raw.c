// Raw sockets (raw(7), RFC 3542): copies of whole packets in, packets of any protocol out.
//
// IPv4 sockets see the IP header, IPv6 sockets what follows the extension headers; both may
// write it (IP_HDRINCL, IPV6_HDRINCL).  Echo requests, which forwarding answers, and router
// solicitations and advertisements come as copies (host_overhear); the rest of neighbor discovery
// does not come by here.
#include "host/internal.h"

#include <errno.h>
#include "base/cksum.h"
#include "wire/ip4.h"
#include "wire/ip6.h"

static bool filtered(const struct socket_entry *entry, const struct inbound *in)
{
	bool icmp = in->protocol == (in->flow.family == FAMILY_IPV4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
	if (!icmp)
		return false;
	uint8_t type = in->ip[in->transport];
	return entry->icmp_filter[type / 8] & (1u << type % 8);
}

static bool checksum_wrong(const struct socket_entry *entry, const struct inbound *in)
{
	if (in->flow.family != FAMILY_IPV6 || !entry->checksum_offset_set || in->verified)
		return false;
	const uint8_t *data = in->ip + in->transport;
	uint32_t length = in->length - in->transport;
	if ((uint32_t)entry->checksum_offset + 2 > length)
		return true;
	return transport_checksum(FAMILY_IPV6, in->flow.remote, in->flow.local, in->protocol, data, length) != 0;
}

int raw_input(struct host *host, struct inbound *in)
{
	bool four = in->flow.family == FAMILY_IPV4;
	enum demux_kind kind = four ? DEMUX_RAW4 : DEMUX_RAW6;
	const uint8_t *payload = four ? in->ip : in->ip + in->transport;
	uint32_t length = four ? in->length : in->length - in->transport;
	int matched = 0;
	for (uint16_t at = demux_first(host, kind, in->protocol); at != 0; at = host->next[at - 1]) {
		const struct socket_entry *entry = &host->state->sockets[at - 1];
		if (!demux_is(entry, kind, in->protocol) || endpoint_score(entry, &in->flow) < 0)
			continue;
		if (in->flow.multicast && !membership_accepts(host, at - 1u, &in->flow))
			continue;
		matched++;
		if (filtered(entry, in) || checksum_wrong(entry, in))
			continue;
		(void)deliver_payload(host, at - 1u, in, payload, length);
	}
	return matched;
}

void raw_failure(struct host *host, struct socket_failure *failure, uint8_t protocol, const uint8_t *inner)
{
	enum demux_kind kind = failure->flow.family == FAMILY_IPV4 ? DEMUX_RAW4 : DEMUX_RAW6;
	const uint8_t *payload = failure->payload;
	uint32_t length = failure->length;
	uint32_t header = (uint32_t)(payload - inner);
	for (uint16_t at = demux_first(host, kind, protocol); at != 0;) {
		uint32_t slot = at - 1u;
		const struct socket_entry *entry = &host->state->sockets[slot];
		at = host->next[slot];
		if (!demux_is(entry, kind, protocol) || endpoint_score(entry, &failure->flow) < 0)
			continue;
		bool whole = entry->flags & SOCKET_HEADER_INCLUDED;
		failure->payload = whole ? inner : payload;
		failure->length = whole ? length + header : length;
		deliver_failure(host, slot, failure);
	}
}

// IPV6_HDRINCL: the packet leaves as the app wrote it, extension headers and checksums included.
static int send_with_header6(struct host *host, const struct socket_entry *entry, struct outbound *out, const uint8_t *payload, uint32_t length)
{
	if (length < IP6_HEADER || payload[0] >> 4 != 6 || load16(payload + 4) != length - IP6_HEADER)
		return -EINVAL;
	if (length > out->mtu)
		return -EMSGSIZE;
	uint8_t *unused;
	struct packet *packet = outbound_packet(host, out, length - IP6_HEADER, &unused);
	if (packet == NULL)
		return -ENOBUFS;
	memcpy(packet_data(packet), payload, length);
	return outbound_send(host, out, entry, packet);
}

// IP_HDRINCL: the app wrote the header; what raw(7) says is always filled in, is.
static int send_with_header(struct host *host, const struct socket_entry *entry, struct outbound *out, const uint8_t *payload, uint32_t length)
{
	uint32_t header = length >= IP4_HEADER ? (payload[0] & 15u) * 4 : 0;
	if (header < IP4_HEADER || header > length || payload[0] >> 4 != 4)
		return -EINVAL;
	if (length > out->mtu)
		return -EMSGSIZE;
	uint8_t *unused;
	struct packet *packet = outbound_packet(host, out, length - IP4_HEADER, &unused);
	if (packet == NULL)
		return -ENOBUFS;
	uint8_t *ip = packet_data(packet);
	uint16_t id = load16(ip + 4);
	memcpy(ip, payload, length);
	store16(ip + 2, (uint16_t)length);
	if (load16(ip + 4) == 0)
		store16(ip + 4, id);
	if (ip4_is_any(ip + 12))
		memcpy(ip + 12, out->source, 4);
	store16(ip + 10, 0);
	uint16_t sum = cksum(ip, header);
	memcpy(ip + 10, &sum, sizeof(sum));
	return outbound_send(host, out, entry, packet);
}

int raw_send(struct host *host, uint32_t slot, struct outbound *out, const uint8_t *payload, uint32_t length)
{
	const struct socket_entry *entry = &host->state->sockets[slot];
	if (entry->flags & SOCKET_HEADER_INCLUDED)
		return out->family == FAMILY_IPV4 ? send_with_header(host, entry, out, payload, length)
			: send_with_header6(host, entry, out, payload, length);
	out->protocol = (uint8_t)entry->protocol;
	int error = outbound_fit(entry, out, length);
	if (error < 0)
		return error;
	uint32_t at = (uint32_t)entry->checksum_offset;
	if (entry->checksum_offset_set && (at > length || length - at < 2))
		return -EINVAL;
	uint8_t *data;
	struct packet *packet = outbound_packet(host, out, length, &data);
	if (packet == NULL)
		return -ENOBUFS;
	memcpy(data, payload, length);
	if (entry->checksum_offset_set && out->family == FAMILY_IPV6) {
		store16(data + at, 0);
		uint16_t sum = transport_checksum(FAMILY_IPV6, out->source, out->destination, out->protocol, data, length);
		memcpy(data + at, &sum, sizeof(sum));
	}
	return outbound_send(host, out, entry, packet);
}
