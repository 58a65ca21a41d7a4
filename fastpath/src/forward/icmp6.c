// ICMPv6 (RFC 4443): errors, echo, and the way to neighbor discovery.
//
// Multicast listener discovery is the host stack's.  Not supported: sending redirects, node
// information queries; flow labels of what we send are zero.
#include <string.h>
#include "base/cksum.h"
#include "forward/hand.h"
#include "forward/icmp.h"
#include "forward/police.h"
#include "wire/icmp.h"
#include "wire/ip6.h"

enum { INFORMATIONAL = 0x80 }; // bit of the type

// Section 2.4 (e): no error about an error.  A packet whose headers cannot be followed to
// the end, or a later fragment, is none as far as we can see.
static bool carries_error(const uint8_t *data, uint32_t available)
{
	struct ip6_walk walk;
	if (!ip6_walk(data, available, &walk) || walk.later_fragment || walk.next != PROTOCOL_ICMP6)
		return false;
	if (walk.offset >= available)
		return walk.fragment == 0;
	return !(data[walk.offset] & INFORMATIONAL);
}

// A loopback address is our own: none has come from a wire.
static bool source_answerable(const uint8_t *source)
{
	return !ip6_is_any(source) && !ip6_is_multicast(source) && !ip6_is_v4_mapped(source);
}

// The two errors that section 2.4 (e.3) allows about a multicast.
static bool about_multicast(uint8_t type, uint8_t code)
{
	return type == ICMP6_TOO_BIG || (type == ICMP6_PARAMETER_PROBLEM && code == ICMP6_UNKNOWN_OPTION);
}

// The header of a packet about which this error may be sent, else NULL.
static const struct ip6_header *error_subject(const struct packet *packet, uint8_t type, uint8_t code, uint32_t *length)
{
	if (packet->length < packet->l3)
		return NULL;
	uint8_t *data = packet->buffer + packet->offset + packet->l3;
	uint32_t available = packet->length - packet->l3;
	const struct ip6_header *ip = ip6_at(data, available);
	if (ip == NULL || !source_answerable(ip->source))
		return NULL;
	if ((packet->link_broadcast || ip6_is_multicast(ip->destination)) && !about_multicast(type, code))
		return NULL;
	uint32_t whole = IP6_HEADER + ip6_payload_length(ip);
	*length = available < whole ? available : whole;
	return carries_error(data, *length) ? NULL : ip;
}

static bool error_source(struct forward *f, const struct ip6_header *ip, uint16_t interface, uint8_t *source)
{
	uint16_t egress;
	if (!ip6_is_multicast(ip->destination) && address_usable(f, FAMILY_IPV6, ip->destination,
	    ip6_is_link_local(ip->destination) ? interface : 0)) {
		memcpy(source, ip->destination, 16);
		return true;
	}
	if (ip_source(f, FAMILY_IPV6, ip->source, ip6_is_link_local(ip->source) ? interface : 0, source, &egress))
		return true;
	f->host_drops[DROP_NO_SOURCE_ADDRESS]++;
	return false;
}

static void header_fill(struct packet *packet, uint8_t traffic_class, const uint8_t *source, const uint8_t *destination)
{
	struct ip6_header *ip = (void *)packet_data(packet);
	ip->version_flow = __builtin_bswap32(6u << 28 | (uint32_t)traffic_class << 20);
	ip->payload_length = __builtin_bswap16((uint16_t)(packet->length - IP6_HEADER));
	ip->next = PROTOCOL_ICMP6;
	ip->hop_limit = ICMP_TTL;
	memcpy(ip->source, source, 16);
	memcpy(ip->destination, destination, 16);
	packet->family = FAMILY_IPV6;
}

static void checksum_fill(struct packet *packet)
{
	const struct ip6_header *ip = (const void *)packet_data(packet);
	struct icmp_header *icmp = (void *)(packet_data(packet) + IP6_HEADER);
	uint32_t length = packet->length - IP6_HEADER;
	icmp->checksum = 0;
	icmp->checksum = cksum_finish(cksum_add(cksum_pseudo6(ip->source, ip->destination, PROTOCOL_ICMP6, length), icmp,
		length));
}

static void output(struct forward *f, uint16_t interface, struct packet *packet)
{
	enum drop_reason reason = ip6_output(f, interface, packet);
	if (reason != DROP_NONE)
		packet_drop(f, packet, reason);
}

void icmp6_error(struct forward *f, const struct packet *packet, uint8_t type, uint8_t code, uint32_t info)
{
	uint16_t interface = packet->ingress != 0 ? packet->ingress : packet->egress;
	uint32_t quoted;
	uint8_t source[16] = {0};
	if (f->hands != NULL) {
		hand_error(f, packet, FAMILY_IPV6, type, code, info);
		return;
	}
	if (!control_allow(f, packet->ingress, CONTROL_ERROR)) {
		f->host_drops[DROP_ICMP_RATE_LIMITED]++;
		return;
	}
	const struct ip6_header *ip = error_subject(packet, type, code, &quoted);
	if (ip == NULL || (type != ICMP6_TOO_BIG && !icmp_limit_allow(f, FAMILY_IPV6, ip->source)) || !error_source(f, ip,
	    interface, source))
		return;
	if (quoted > IP6_MIN_MTU - IP6_HEADER - ICMP_HEADER) // section 2.4 (c)
		quoted = IP6_MIN_MTU - IP6_HEADER - ICMP_HEADER;
	struct packet *error = packet_get(f->pool, IP6_HEADER + ICMP_HEADER + quoted);
	if (error == NULL) {
		f->host_drops[DROP_NO_BUFFER]++;
		return;
	}
	error->length = IP6_HEADER + ICMP_HEADER + quoted;
	error->account = ACCOUNT_ORIGINATED;
	header_fill(error, 0, source, ip->source);
	struct icmp_header *icmp = (void *)(packet_data(error) + IP6_HEADER);
	icmp->type = type;
	icmp->code = code;
	icmp->info = __builtin_bswap32(info);
	memcpy((uint8_t *)icmp + ICMP_HEADER, ip, quoted);
	checksum_fill(error);
	output(f, ip6_is_link_local(ip->source) ? interface : 0, error);
}

// A reply may be larger than its path: then in fragments (RFC 8200 section 5), of which each
// is a packet of ours.
static void output_reply(struct forward *f, uint16_t interface, struct packet *packet)
{
	const struct ip6_header *ip = (const void *)packet_data(packet);
	uint32_t mtu = packet->length;
	struct packet *chain = NULL;

	if (f->ops.path_mtu != NULL)
		mtu = f->ops.path_mtu(f->ops.user, FAMILY_IPV6, ip->destination, mtu);
	if (packet->length > mtu)
		chain = fragment6(f, packet, mtu);
	if (chain == NULL)
		chain = packet;
	while (chain != NULL) {
		struct packet *next = chain->next;

		chain->next = NULL;
		output(f, interface, chain);
		chain = next;
	}
}

// Section 4.2: from the address that was asked, or one of the interface for a group.
static enum drop_reason echo_reply(struct forward *f, uint16_t interface, struct packet *packet, uint32_t offset,
	uint32_t length)
{
	const struct ip6_header *ip = (const void *)(packet_data(packet) + packet->l3);
	struct ip6_header request = *ip;
	uint8_t source[16];
	uint16_t egress;
	uint16_t pinned = ip6_is_link_local(request.source) ? interface : 0;
	if (!source_answerable(request.source))
		return DROP_IP6_SOURCE;
	memcpy(source, request.destination, 16);
	if (ip6_is_multicast(request.destination) && !ip_source(f, FAMILY_IPV6, request.source, pinned, source, &egress))
		return DROP_NO_SOURCE_ADDRESS;
	if (f->ops.overheard != NULL)
		f->ops.overheard(f->ops.user, packet, f->now);
	icmp_turn(f, packet, offset, IP6_HEADER, length);
	header_fill(packet, (uint8_t)(__builtin_bswap32(request.version_flow) >> 20), source, request.source);
	struct icmp_header *icmp = (void *)(packet_data(packet) + IP6_HEADER);
	icmp->type = ICMP6_ECHO_REPLY;
	checksum_fill(packet);
	output_reply(f, pinned, packet);
	return DROP_NONE;
}

enum drop_reason icmp6_input(struct forward *f, const struct interface_entry *in, struct packet *packet,
	uint32_t icmp_offset)
{
	const struct ip6_header *ip = (const void *)(packet_data(packet) + packet->l3);
	uint32_t end = packet->l3 + IP6_HEADER + ip6_payload_length(ip);
	if (icmp_offset < packet->l3 + (uint32_t)IP6_HEADER || end > packet->length || end < icmp_offset + ICMP_HEADER)
		return DROP_ICMP_MALFORMED;
	uint32_t length = end - icmp_offset;
	if (!icmp_checksum_good(packet, cksum_pseudo6(ip->source, ip->destination, PROTOCOL_ICMP6, length), icmp_offset,
	    length))
		return DROP_ICMP_CHECKSUM;
	uint8_t type = packet_data(packet)[icmp_offset];
	if (type >= ICMP6_ROUTER_SOLICITATION && type <= ICMP6_REDIRECT)
		return in != NULL ? nd_input(f, in, packet, icmp_offset) : DROP_ND_MALFORMED;
	if (type == ICMP6_ECHO)
		return echo_reply(f, in != NULL ? in->index : 0, packet, icmp_offset, length);
	bool listener = (type >= ICMP6_LISTENER_QUERY && type <= ICMP6_LISTENER_DONE) || type == ICMP6_LISTENER_REPORT2;
	if (type == ICMP6_ECHO_REPLY || listener || !(type & INFORMATIONAL))
		return DROP_REASON_COUNT;
	return DROP_ICMP_IGNORED;
}
