// ICMP for IPv4 (RFC 792): errors about packets that we could not forward or deliver
// (RFC 1122 section 3.2.2, RFC 1812 section 4.3), and answers to echo requests.
//
// Not supported: echoing the options of the offending packet (Linux does), timestamps (the
// forwarder knows no time of day), address masks, source quench, redirects that we send.
#include <string.h>
#include "base/cksum.h"
#include "forward/hand.h"
#include "forward/icmp.h"
#include "forward/police.h"
#include "wire/icmp.h"
#include "wire/ip4.h"

enum {
	ERROR_LENGTH = 576,      // of the whole error message; RFC 1812 section 4.3.2.3
	TOS_BITS = 0x1e,
	TOS_INTERNETWORK_CONTROL = 0xc0,
	IP4_VERSION_LENGTH = 0x45,
	LAST_KNOWN_TYPE = 18
};

// RFC 1122 section 3.2.2: no error about an error.  What Linux takes for one, with the
// types that nobody assigned.
static bool type_is_error(uint8_t type)
{
	return (type >= 1 && type <= ICMP4_REDIRECT + 2) || type == ICMP4_TIME_EXCEEDED || type == ICMP4_PARAMETER_PROBLEM
		|| type > LAST_KNOWN_TYPE;
}

// Linux also answers a directed broadcast of ours as a source; RFC 1122 section 3.2.2
// forbids it, and a stranger could have us flood our own links.  A loopback address has not
// come from a wire: it is our own.
static bool source_answerable(const struct forward *f, const uint8_t *source)
{
	if (ip4_is_any(source) || ip4_is_multicast(source) || ip4_is_limited_broadcast(source))
		return false;
	const struct nexthop *hop = nexthop_select(&f->tables, fib_lookup(&f->tables, FAMILY_IPV4, source), 0);
	return hop == NULL || hop->kind != NEXTHOP_BROADCAST;
}

static bool destination_is_group(const uint8_t *destination)
{
	return ip4_is_multicast(destination) || ip4_is_limited_broadcast(destination);
}

// The header of a packet about which an error may be sent, else NULL.
static const struct ip4_header *error_subject(const struct forward *f, const struct packet *packet, uint32_t *length)
{
	if (packet->length < packet->l3 || packet->link_broadcast)
		return NULL;
	uint32_t available = packet->length - packet->l3;
	const struct ip4_header *ip = ip4_at(packet->buffer + packet->offset + packet->l3, available);
	if (ip == NULL || (ip4_fragment(ip) & IP4_OFFSET) != 0 || !source_answerable(f, ip->source)
	    || destination_is_group(ip->destination))
		return NULL;
	*length = available < ip4_total_length(ip) ? available : ip4_total_length(ip);
	uint32_t header = ip4_header_length(ip);
	if (*length < header)
		return NULL;
	if (ip->protocol == PROTOCOL_ICMP4 && (*length < header + 1 || type_is_error(((const uint8_t *)ip)[header])))
		return NULL;
	return ip;
}

// Linux's icmp_ratemask, which leaves path MTU discovery alone.
static bool error_limited(uint8_t type, uint8_t code)
{
	if (type == ICMP4_UNREACHABLE)
		return code != ICMP4_FRAGMENTATION_NEEDED;
	return type == ICMP4_SOURCE_QUENCH || type == ICMP4_TIME_EXCEEDED || type == ICMP4_PARAMETER_PROBLEM;
}

static bool error_source(struct forward *f, const struct ip4_header *ip, uint8_t *source)
{
	uint8_t address[16] = {0};
	uint16_t egress;
	memcpy(address, ip->destination, 4);
	if (address_usable(f, FAMILY_IPV4, address, 0)) {
		memcpy(source, address, 16);
		return true;
	}
	memcpy(address, ip->source, 4);
	if (ip_source(f, FAMILY_IPV4, address, 0, source, &egress))
		return true;
	f->host_drops[DROP_NO_SOURCE_ADDRESS]++;
	return false;
}

static void header_fill(struct packet *packet, uint8_t tos, const uint8_t *source, const uint8_t *destination)
{
	struct ip4_header *ip = (void *)packet_data(packet);
	ip->version_length = IP4_VERSION_LENGTH;
	ip->tos = tos;
	ip->total_length = __builtin_bswap16((uint16_t)packet->length);
	ip->ttl = ICMP_TTL;
	ip->protocol = PROTOCOL_ICMP4;
	memcpy(ip->source, source, 4);
	memcpy(ip->destination, destination, 4);
	packet->family = FAMILY_IPV4;
}

static void output(struct forward *f, struct packet *packet)
{
	enum drop_reason reason = ip4_output(f, 0, packet);
	if (reason != DROP_NONE)
		packet_drop(f, packet, reason);
}

void icmp4_error(struct forward *f, const struct packet *packet, uint8_t type, uint8_t code, uint32_t info)
{
	uint32_t quoted;
	uint8_t source[16] = {0};
	uint8_t destination[16] = {0};
	if (f->hands != NULL) {
		hand_error(f, packet, FAMILY_IPV4, type, code, info);
		return;
	}
	if (!control_allow(f, packet->ingress, CONTROL_ERROR)) {
		f->host_drops[DROP_ICMP_RATE_LIMITED]++;
		return;
	}
	const struct ip4_header *ip = error_subject(f, packet, &quoted);
	if (ip == NULL)
		return;
	memcpy(destination, ip->source, 4);
	if ((error_limited(type, code) && !icmp_limit_allow(f, FAMILY_IPV4, destination)) || !error_source(f, ip, source))
		return;
	uint32_t room = ip_path_mtu(f, FAMILY_IPV4, destination, 0);
	room = (room >= IP4_HEADER_MAX + ICMP_HEADER && room < ERROR_LENGTH
		? room : ERROR_LENGTH) - IP4_HEADER - ICMP_HEADER;
	if (quoted > room)
		quoted = room;
	struct packet *error = packet_get(f->pool, IP4_HEADER + ICMP_HEADER + quoted);
	if (error == NULL) {
		f->host_drops[DROP_NO_BUFFER]++;
		return;
	}
	error->length = IP4_HEADER + ICMP_HEADER + quoted;
	error->account = ACCOUNT_ORIGINATED;
	memset(packet_data(error), 0, IP4_HEADER + ICMP_HEADER);
	header_fill(error, (ip->tos & TOS_BITS) | TOS_INTERNETWORK_CONTROL, source, destination);
	struct icmp_header *icmp = (void *)(packet_data(error) + IP4_HEADER);
	icmp->type = type;
	icmp->code = code;
	icmp->info = __builtin_bswap32(info);
	memcpy((uint8_t *)icmp + ICMP_HEADER, ip, quoted);
	icmp->checksum = cksum(icmp, ICMP_HEADER + quoted);
	output(f, error);
}

// RFC 1122 section 3.2.2.6: from the address that was asked, with the payload unchanged.
static void echo_reply(struct forward *f, struct packet *packet, uint32_t offset, uint32_t length)
{
	const struct ip4_header *ip = (const void *)(packet_data(packet) + packet->l3);
	struct ip4_header request = *ip;
	icmp_turn(f, packet, offset, IP4_HEADER, length);
	header_fill(packet, request.tos, request.destination, request.source);
	struct icmp_header *icmp = (void *)(packet_data(packet) + IP4_HEADER);
	uint16_t before;
	uint16_t after;
	memcpy(&before, icmp, sizeof(before));
	icmp->type = ICMP4_ECHO_REPLY;
	memcpy(&after, icmp, sizeof(after));
	icmp->checksum = cksum_replace16(icmp->checksum, before, after);
	output(f, packet);
}

enum drop_reason icmp4_input(struct forward *f, struct packet *packet, uint32_t icmp_offset)
{
	const struct ip4_header *ip = (const void *)(packet_data(packet) + packet->l3);
	uint32_t end = packet->l3 + ip4_total_length(ip);
	if (icmp_offset < packet->l3 + (uint32_t)IP4_HEADER || end > packet->length || end < icmp_offset + ICMP_HEADER)
		return DROP_ICMP_MALFORMED;
	if (!icmp_checksum_good(packet, 0, icmp_offset, end - icmp_offset))
		return DROP_ICMP_CHECKSUM;
	uint8_t type = packet_data(packet)[icmp_offset];
	uint8_t destination[16] = {0};
	memcpy(destination, ip->destination, 4);
	switch (type) {
	case ICMP4_ECHO:
		// Section 3.2.2.6 lets us ignore what was sent to a group.
		if (!address_usable(f, FAMILY_IPV4, destination, 0))
			return DROP_ICMP_IGNORED;
		if (!source_answerable(f, ip->source))
			return DROP_IP4_SOURCE;
		if (f->ops.overheard != NULL)
			f->ops.overheard(f->ops.user, packet, f->now);
		echo_reply(f, packet, icmp_offset, end - icmp_offset);
		return DROP_NONE;
	case ICMP4_ECHO_REPLY:
	case ICMP4_UNREACHABLE:
	case ICMP4_SOURCE_QUENCH:
	case ICMP4_TIME_EXCEEDED:
	case ICMP4_PARAMETER_PROBLEM:
	case ICMP4_TIMESTAMP_REPLY:
		return DROP_REASON_COUNT;
	default:
		return DROP_ICMP_IGNORED;
	}
}
