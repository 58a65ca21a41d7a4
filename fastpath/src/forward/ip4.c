// IPv4: input, forwarding (RFC 1812 section 5.2) and output.
//
// Where RFC 1812 leaves a choice, Linux's defaults are followed.  On purpose not as there: no
// redirects are sent, a unicast packet in a link-layer broadcast is not delivered (RFC 1122
// section 3.3.6), and a source that is the directed broadcast of a connected subnet is
// refused as any broadcast source.  Not supported: source routing, multicast forwarding.
#include "forward/route.h"

#include "base/cksum.h"
#include "wire/ethernet.h"
#include "wire/icmp.h"
#include "wire/ip4.h"

#include <netinet/in.h>
#include <string.h>

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
// Linux, 240.0.0.0/4 is ordinary except for the limited broadcast.
static enum drop_reason check_addresses(const struct ip4_header *ip)
{
	bool group = ip4_is_limited_broadcast(ip->destination) || ip4_is_local_multicast(ip->destination)
		|| (ip4_is_multicast(ip->destination) && ip->protocol == IPPROTO_IGMP);

	if (ip4_is_multicast(ip->source) || ip4_is_limited_broadcast(ip->source) || ip4_is_loopback(ip->source))
		return DROP_IP4_SOURCE;
	// A host that has no address yet speaks to its link only.
	if (ip4_is_this_network(ip->source) && !(group && ip4_is_any(ip->source)))
		return DROP_IP4_SOURCE;
	if (ip4_is_this_network(ip->destination) || ip4_is_loopback(ip->destination))
		return DROP_IP4_DESTINATION;
	return DROP_NONE;
}

// One of our own addresses, or a broadcast, cannot be where a packet came from.
static bool source_is_ours(const struct forward *f, const uint8_t *source)
{
	uint16_t group = fib_lookup(&f->tables, FAMILY_IPV4, source);
	const struct nexthop *hop = nexthop_select(&f->tables, group, 0);

	return hop != NULL && (hop->kind == NEXTHOP_LOCAL || hop->kind == NEXTHOP_BROADCAST);
}

static enum drop_reason parse_options(struct forward *f, const struct packet *packet, const struct ip4_header *ip, struct ip4_options *options)
{
	uint8_t pointer;

	if (ip4_header_length(ip) == IP4_HEADER) {
		*options = (struct ip4_options){0};
		return DROP_NONE;
	}
	if (!ip4_options_parse((const uint8_t *)ip, options, &pointer)) {
		icmp4_error(f, packet, ICMP4_PARAMETER_PROBLEM, 0, (uint32_t)pointer << 24);
		return DROP_IP4_OPTIONS;
	}
	return options->source_route ? DROP_IP4_OPTIONS : DROP_NONE;
}

static enum drop_reason refuse(struct forward *f, const struct packet *packet, uint8_t type, uint8_t code, uint32_t info, enum drop_reason reason)
{
	icmp4_error(f, packet, type, code, info);
	return reason;
}

// Our address towards the next hop, for those options that ask for it.
static void apply_options(struct forward *f, struct ip4_header *ip, const struct ip4_options *options)
{
	uint8_t address[16] = {0};
	uint16_t egress;

	if (options->record_route == 0 && options->timestamp == 0 && !options->trailing)
		return;
	ip_source(f, FAMILY_IPV4, ip->destination, 0, address, &egress);
	ip4_options_apply(f, (uint8_t *)ip, options, address);
}

static enum drop_reason forward4(struct forward *f, struct packet *packet, const struct route *route, const struct ip4_options *options)
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
	apply_options(f, ip, options);

	packet_pull(packet, packet->l3);
	packet->l3 = 0;
	return ip_transmit(f, route->out, route->family, route->nexthop, packet);
}

static enum drop_reason dispatch(struct forward *f, const struct interface_entry *in, struct packet *packet, const struct route *route, const struct ip4_options *options)
{
	struct ip4_header *ip = (void *)(packet_data(packet) + packet->l3);

	switch (route->kind) {
	case NEXTHOP_FORWARD:
	case NEXTHOP_CONNECTED:
		return forward4(f, packet, route, options);
	case NEXTHOP_LOCAL:
		if (packet->link_broadcast)
			return DROP_IP4_BROADCAST;
		ip4_options_apply(f, (uint8_t *)ip, options, ip->destination);
		return ip4_local(f, packet);
	case NEXTHOP_BROADCAST: // RFC 1812 section 5.3.5.2 and RFC 2644: off, but for our own ears
		return route->out->index == in->index ? ip4_local(f, packet) : DROP_DIRECTED_BROADCAST;
	case NEXTHOP_UNREACHABLE:
		return refuse(f, packet, ICMP4_UNREACHABLE, ICMP4_HOST_UNREACHABLE, 0, DROP_UNREACHABLE);
	default:
		return DROP_BLACKHOLE;
	}
}

static enum drop_reason input_group(struct forward *f, const struct interface_entry *in, struct packet *packet, const struct ip4_header *ip)
{
	struct ip4_options options;
	enum drop_reason reason;

	if (ip4_is_multicast(ip->destination) && !ip4_group_joined(f, in, ip->destination))
		return DROP_MULTICAST;
	reason = parse_options(f, packet, ip, &options);
	return reason != DROP_NONE ? reason : ip4_local(f, packet);
}

enum drop_reason ip4_input(struct forward *f, const struct interface_entry *in, struct packet *packet)
{
	const struct ip4_header *ip = (const void *)(packet_data(packet) + packet->l3);
	enum drop_reason reason = check_header(packet), routed;
	struct ip4_options options;
	struct route route;

	if (reason == DROP_NONE)
		reason = check_addresses(ip);
	if (reason != DROP_NONE)
		return reason;
	if (source_is_ours(f, ip->source))
		return DROP_IP4_SOURCE;
	if (ip4_is_multicast(ip->destination) || ip4_is_limited_broadcast(ip->destination))
		return input_group(f, in, packet, ip);

	routed = route_lookup(f, FAMILY_IPV4, ip->destination, flow_hash(f, packet), &route);
	reason = parse_options(f, packet, ip, &options);
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
	if (ip4_total_length(ip) != packet->length)
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
		// 127/8 and 0/8 never leave; RFC 1122 section 3.2.1.3.
		if (ip4_is_loopback(ip->destination) || ip4_is_this_network(ip->destination))
			return DROP_IP4_DESTINATION;
		return ip_transmit(f, route.out, route.family, route.nexthop, packet);
	}
}
