// IPv4: input, forwarding (RFC 1812 section 5.2) and output.
//
// Where RFC 1812 leaves a choice, Linux's defaults are followed.  On purpose not as there: no
// redirects are sent, and a unicast packet in a link-layer broadcast is not delivered
// (RFC 1122 section 3.3.6).  Not supported: source routing, multicast forwarding.
#include "forward/police.h"
#include "forward/hand.h"
#include "forward/route.h"
#include "forward/stage.h"

#include "base/cksum.h"
#include "wire/ethernet.h"
#include "wire/icmp.h"
#include "wire/ip4.h"
#include "wire/udp.h"

#include <netinet/in.h>
#include <string.h>

enum { BFD_ECHO = 3785 }; // UDP port

// RFC 1812 section 5.2.2, steps 1 to 5; the header length (4) has to be known before the
// checksum (2) can be.  Cuts off what the link padded.
static enum drop_reason check_header(struct packet *packet)
{
	const struct ip4_header *ip = (const void *)(packet_data(packet) + packet->l3);
	uint32_t available = packet->length - packet->l3;
	uint32_t header;

	if (available < IP4_HEADER) // (1)
		return DROP_IP4_TRUNCATED;
	if (ip->version_length >> 4 != 4) // (3)
		return DROP_IP4_VERSION;
	header = ip4_header_length(ip);
	if (header < IP4_HEADER || header > available) // (4)
		return DROP_IP4_HEADER_LENGTH;
	if (cksum(ip, header) != 0) // (2)
		return DROP_IP4_CHECKSUM;
	if (ip4_total_length(ip) < header || ip4_total_length(ip) > available) // (5)
		return DROP_IP4_TOTAL_LENGTH;
	packet->length = packet->l3 + ip4_total_length(ip);
	return DROP_NONE;
}

// Addresses that no packet on a wire may have; RFC 1812 sections 4.2.2.11 and 5.3.7.  As in
// Linux, 240.0.0.0/4 and 0.0.0.0/8 are ordinary except for their last and first address.
static enum drop_reason check_addresses(const struct ip4_header *ip)
{
	bool group = ip4_is_limited_broadcast(ip->destination) || ip4_is_local_multicast(ip->destination)
		|| (ip4_is_multicast(ip->destination) && ip->protocol == IPPROTO_IGMP);

	if (ip4_is_multicast(ip->source) || ip4_is_limited_broadcast(ip->source) || ip4_is_loopback(ip->source))
		return DROP_IP4_SOURCE;
	// A host that has no address yet speaks to its link only.
	if (ip4_is_any(ip->source) && !group)
		return DROP_IP4_SOURCE;
	if (ip4_is_any(ip->destination) || ip4_is_loopback(ip->destination))
		return DROP_IP4_DESTINATION;
	return DROP_NONE;
}

// One of our own addresses cannot be where a packet came from.
static bool source_is_ours(const struct forward *f, const uint8_t *source, uint16_t *group)
{
	const struct nexthop *hop;

	*group = fib_lookup(&f->tables, FAMILY_IPV4, source);
	hop = nexthop_select(&f->tables, *group, 0);

	return hop != NULL && hop->kind == NEXTHOP_LOCAL;
}

// A BFD echo packet (RFC 5881 section 4), which a neighbor has sent back to us.
static bool is_own_echo(const struct forward *f, const struct packet *packet, const struct ip4_header *ip)
{
	const struct udp_header *udp = (const void *)((const uint8_t *)ip + IP4_HEADER);

	return f->own_echoes && ip->protocol == IPPROTO_UDP && !ip4_is_fragment(ip) && ip4_header_length(ip) == IP4_HEADER
		&& packet->length >= packet->l3 + (uint32_t)IP4_HEADER + UDP_HEADER
		&& memcmp(ip->source, ip->destination, 4) == 0
		&& udp->destination == htons(BFD_ECHO);
}

// May a transit worker go on with it?
static bool is_plain(const struct ip4_header *ip, bool own_echo)
{
	return !own_echo && ip4_header_length(ip) == IP4_HEADER && !ip4_is_multicast(ip->destination)
		&& !ip4_is_limited_broadcast(ip->destination);
}

// Obey the options of a packet for `local`, or for somebody else where that is NULL.
static enum drop_reason process_options(struct forward *f, struct packet *packet, const uint8_t *local,
	struct ip4_options *options)
{
	uint8_t *data = packet_data(packet) + packet->l3;
	const struct ip4_header *ip = (const void *)data;
	uint8_t address[16] = {0};
	uint16_t egress;
	uint8_t pointer;

	if (ip4_header_length(ip) == IP4_HEADER) {
		*options = (struct ip4_options){0};
		return DROP_NONE;
	}
	if (control_options(f, packet) != DROP_NONE)
		return DROP_CONTROL_PLANE;
	if (!ip4_options_parse(data, options, &pointer)) {
		icmp4_error(f, packet, ICMP4_PARAMETER_PROBLEM, 0, (uint32_t)pointer << 24);
		return DROP_IP4_OPTIONS;
	}
	if (options->source_route)
		return DROP_IP4_OPTIONS;
	if (local != NULL)
		memcpy(address, local, 4);
	else if (options->record_route != 0 || options->timestamp != 0)
		ip_source(f, FAMILY_IPV4, ip->source, 0, address, &egress);
	ip4_options_record(f, data, options, address);
	return DROP_NONE;
}

static enum drop_reason refuse(struct forward *f, const struct packet *packet, uint8_t type, uint8_t code,
	uint32_t info, enum drop_reason reason)
{
	icmp4_error(f, packet, type, code, info);
	return reason;
}

// RFC 1812 section 5.2.4: the address that is recorded is that of the way out.
static void finish_options(struct forward *f, struct ip4_header *ip, const struct ip4_options *options)
{
	uint8_t address[16] = {0};
	uint16_t egress;

	if (!options->changed)
		return;
	ip_source(f, FAMILY_IPV4, ip->destination, 0, address, &egress);
	ip4_options_finish((uint8_t *)ip, options, address);
}

static enum drop_reason forward4(struct forward *f, struct packet *packet, const struct route *route,
	const struct ip4_options *options)
{
	struct ip4_header *ip = (void *)(packet_data(packet) + packet->l3);
	uint32_t mtu = route->out->mtu;
	uint16_t before, after;

	if (packet->link_broadcast) // RFC 1812 section 5.3.4
		return DROP_IP4_BROADCAST;
	if (ip->ttl <= 1)
		return refuse(f, packet, ICMP4_TIME_EXCEEDED, ICMP_HOP_LIMIT_EXCEEDED, 0, DROP_TTL_EXPIRED);
	if ((ip4_fragment(ip) & IP4_DF) != 0 && offload_unit(packet) > mtu)
		return refuse(f, packet, ICMP4_UNREACHABLE, ICMP4_FRAGMENTATION_NEEDED, mtu, DROP_FRAGMENTATION_NEEDED);

	// RFC 1624: the TTL shares its word with the protocol number.
	memcpy(&before, &ip->ttl, sizeof before);
	ip->ttl--;
	memcpy(&after, &ip->ttl, sizeof after);
	ip->checksum = cksum_replace16(ip->checksum, before, after);
	finish_options(f, ip, options);

	packet_pull(packet, packet->l3);
	packet->l3 = 0;
	if (filter_counts(&f->filters))
		stage_count_route(f, packet);
	return ip_transmit(f, route->out, route->family, route->nexthop, packet);
}

static enum drop_reason deliver(struct forward *f, struct packet *packet, const struct ip4_options *options)
{
	if (f->hands != NULL)
		return hand_frame(f, packet);
	if (options->changed)
		ip4_options_finish(packet_data(packet) + packet->l3, options, NULL);
	return ip4_local(f, packet);
}

static enum drop_reason dispatch(struct forward *f, const struct interface_entry *in, struct packet *packet,
	const struct route *route, const struct ip4_options *options)
{
	switch (route->kind) {
	case NEXTHOP_FORWARD:
	case NEXTHOP_CONNECTED:
		return forward4(f, packet, route, options);
	case NEXTHOP_LOCAL:
		if (packet->link_broadcast)
			return DROP_IP4_BROADCAST;
		return deliver(f, packet, options);
	case NEXTHOP_BROADCAST: // RFC 1812 section 5.3.5.2 and RFC 2644: off, but for our own ears
		return route->out->index == in->index ? deliver(f, packet, options) : DROP_DIRECTED_BROADCAST;
	case NEXTHOP_UNREACHABLE:
		return refuse(f, packet, ICMP4_UNREACHABLE, ICMP4_HOST_UNREACHABLE, 0, DROP_UNREACHABLE);
	default:
		return DROP_BLACKHOLE;
	}
}

static enum drop_reason input_group(struct forward *f, const struct interface_entry *in, struct packet *packet,
	const struct ip4_header *ip)
{
	struct ip4_options options;
	enum drop_reason reason;

	if (ip4_is_multicast(ip->destination) && !ip4_group_joined(f, in, ip->destination))
		return DROP_MULTICAST;
	reason = process_options(f, packet, NULL, &options);
	return reason != DROP_NONE ? reason : deliver(f, packet, &options);
}

enum drop_reason ip4_input(struct forward *f, const struct interface_entry *in, struct packet *packet)
{
	const struct ip4_header *ip = (const void *)(packet_data(packet) + packet->l3);
	enum drop_reason reason = check_header(packet), routed;
	struct ip4_options options;
	const uint8_t *local;
	struct route route;
	uint16_t source_group;
	bool own_echo;

	if (reason == DROP_NONE)
		reason = check_addresses(ip);
	if (reason != DROP_NONE)
		return reason;
	header_trace(f, packet, FAMILY_IPV4, ip->source, ip->destination, ip->ttl, ip->protocol);
	own_echo = source_is_ours(f, ip->source, &source_group);
	if (own_echo && !is_own_echo(f, packet, ip))
		return DROP_IP4_SOURCE;
	if (f->hands != NULL && !is_plain(ip, own_echo))
		return hand_frame(f, packet);
	if ((in->features & FEATURES_INGRESS) != 0 && !packet->staged) {
		reason = stages_ingress(f, in, packet, source_group, own_echo);
		if (reason != DROP_NONE)
			return reason;
	}
	if (ip4_is_multicast(ip->destination) || ip4_is_limited_broadcast(ip->destination))
		return input_group(f, in, packet, ip);

	routed = route_lookup(f, FAMILY_IPV4, ip->destination, flow_hash(f, packet), &route);
	local = routed == DROP_NONE && route.kind == NEXTHOP_LOCAL ? ip->destination : NULL;
	reason = process_options(f, packet, local, &options);
	if (reason != DROP_NONE)
		return reason;
	if (routed == DROP_NO_ROUTE)
		return refuse(f, packet, ICMP4_UNREACHABLE, ICMP4_NET_UNREACHABLE, 0, DROP_NO_ROUTE);
	if (routed != DROP_NONE)
		return routed;
	route_trace(f, packet, &route);
	return dispatch(f, in, packet, &route, &options);
}

// The header of one of our packets may come from an app's raw socket.
static enum drop_reason check_own(struct forward *f, struct packet *packet)
{
	struct ip4_header *ip = ip4_at(packet_data(packet), packet->length);

	if (ip == NULL)
		return DROP_IP4_HEADER_LENGTH;
	if (ip4_total_length(ip) != packet_bytes(packet))
		return DROP_IP4_TOTAL_LENGTH;
	if (ip->id == 0 && (ip4_fragment(ip) & IP4_DF) == 0)
		ip->id = htons(++f->ip4_id);
	ip->checksum = 0;
	ip->checksum = cksum(ip, ip4_header_length(ip));
	packet->family = FAMILY_IPV4;
	packet->account = ACCOUNT_ORIGINATED;
	packet->ingress = 0;
	packet->l3 = 0;
	return DROP_NONE;
}

enum drop_reason ip4_output(struct forward *f, uint16_t interface, struct packet *packet)
{
	const struct ip4_header *ip = (const void *)packet_data(packet);
	enum drop_reason reason = check_own(f, packet);
	struct route route;

	if (reason != DROP_NONE)
		return reason;
	header_trace(f, packet, FAMILY_IPV4, ip->source, ip->destination, ip->ttl, ip->protocol);
	reason = route_output(f, FAMILY_IPV4, ip->destination, interface, flow_hash(f, packet), &route);
	if (reason != DROP_NONE)
		return reason;
	route_trace(f, packet, &route);
	switch (route.kind) {
	case NEXTHOP_LOCAL:
		return local_loop(f, route.out, packet);
	case NEXTHOP_BLACKHOLE:
		return DROP_BLACKHOLE;
	case NEXTHOP_UNREACHABLE:
		return DROP_UNREACHABLE;
	default:
		// These never leave; RFC 1122 section 3.2.1.3.
		if (ip4_is_loopback(ip->destination) || ip4_is_any(ip->destination))
			return DROP_IP4_DESTINATION;
		if (ip4_is_loopback(ip->source))
			return DROP_IP4_SOURCE;
		return ip_transmit(f, route.out, route.family, route.nexthop, packet);
	}
}
