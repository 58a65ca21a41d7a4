// IPv6: input, forwarding and output; RFC 8200, RFC 4291, RFC 4443, RFC 4007.
//
// Linux's defaults are followed, hop-by-hop options included: all are checked in all packets.
// On purpose not as there: no redirects are sent, and packets from :: or to a link-local
// address are not forwarded even to the link that they came from.  Not supported: multicast
// forwarding, source routing, jumbograms.
#include "forward/police.h"
#include "forward/hand.h"
#include "forward/route.h"
#include "forward/stage.h"

#include "wire/icmp.h"
#include "wire/ip6.h"

#include <netinet/in.h>

static enum drop_reason check_header(struct packet *packet)
{
	const struct ip6_header *ip = (const void *)(packet_data(packet) + packet->l3);
	uint32_t available = packet->length - packet->l3;

	if (available < IP6_HEADER)
		return DROP_IP6_TRUNCATED;
	if (packet_data(packet)[packet->l3] >> 4 != 6)
		return DROP_IP6_VERSION;
	if (ip6_payload_length(ip) > available - IP6_HEADER)
		return DROP_IP6_PAYLOAD_LENGTH;
	// Zero with hop-by-hop options may be a jumbogram; ip6_options decides about that.
	if (ip6_payload_length(ip) != 0 || ip->next != IPPROTO_HOPOPTS)
		packet->length = packet->l3 + IP6_HEADER + ip6_payload_length(ip);
	return DROP_NONE;
}

// What no packet on a wire may have; RFC 4291 sections 2.5.2, 2.5.3 and 2.7 with erratum 3480.
static enum drop_reason check_addresses(const struct ip6_header *ip)
{
	if (ip6_is_loopback(ip->source) || ip6_is_multicast(ip->source))
		return DROP_IP6_SOURCE;
	if (ip6_is_loopback(ip->destination))
		return DROP_IP6_DESTINATION;
	if (ip6_is_multicast(ip->destination) && ip6_multicast_scope(ip->destination) <= 1)
		return DROP_IP6_DESTINATION;
	return DROP_NONE;
}

static enum drop_reason check_hop_by_hop(struct forward *f, const struct packet *packet)
{
	const uint8_t *ip = packet->buffer + packet->offset + packet->l3;
	uint32_t available = packet->length - packet->l3;
	uint32_t pointer = 0;

	if (((const struct ip6_header *)(const void *)ip)->next != IPPROTO_HOPOPTS)
		return DROP_NONE;
	if (control_options(f, packet) != DROP_NONE)
		return DROP_CONTROL_PLANE;
	if (available < IP6_HEADER + 8 || (ip[IP6_HEADER + 1] + 1u) * 8 > available - IP6_HEADER)
		return DROP_IP6_EXTENSION;
	switch (ip6_options(ip, IP6_HEADER, true, &pointer)) {
	case IP6_ACCEPT:
		return DROP_NONE;
	case IP6_PROBLEM_FIELD:
		icmp6_error(f, packet, ICMP6_PARAMETER_PROBLEM, ICMP6_BAD_HEADER_FIELD, pointer);
		break;
	case IP6_PROBLEM_OPTION:
		icmp6_error(f, packet, ICMP6_PARAMETER_PROBLEM, ICMP6_UNKNOWN_OPTION, pointer);
		break;
	case IP6_DISCARD:
		break;
	}
	return DROP_IP6_EXTENSION;
}

static enum drop_reason refuse(struct forward *f, const struct packet *packet, uint8_t type, uint8_t code,
	uint32_t info, enum drop_reason reason)
{
	icmp6_error(f, packet, type, code, info);
	return reason;
}

static enum drop_reason forward6(struct forward *f, const struct interface_entry *in, struct packet *packet,
	const struct route *route)
{
	struct ip6_header *ip = (void *)(packet_data(packet) + packet->l3);
	uint32_t mtu = route->out->mtu < IP6_MIN_MTU ? IP6_MIN_MTU : route->out->mtu;

	if (packet->link_broadcast)
		return DROP_IP6_DESTINATION;
	if (ip->hop_limit <= 1)
		return refuse(f, packet, ICMP6_TIME_EXCEEDED, ICMP_HOP_LIMIT_EXCEEDED, 0, DROP_TTL_EXPIRED);
	if (ip6_is_any(ip->source))
		return DROP_IP6_SOURCE;
	// RFC 4007 section 9: not to another zone of the source.
	if (ip6_is_link_local(ip->source) && route->out->index != in->index)
		return refuse(f, packet, ICMP6_UNREACHABLE, ICMP6_BEYOND_SCOPE, 0, DROP_IP6_SCOPE);
	if (offload_unit(packet) > mtu)
		return refuse(f, packet, ICMP6_TOO_BIG, 0, mtu, DROP_FRAGMENTATION_NEEDED);
	ip->hop_limit--;
	packet_pull(packet, packet->l3);
	packet->l3 = 0;
	if (filter_counts(&f->filters))
		stage_count_route(f, packet);
	return ip_transmit(f, route->out, route->family, route->nexthop, packet);
}

static enum drop_reason dispatch(struct forward *f, const struct interface_entry *in, struct packet *packet,
	const struct route *route)
{
	const struct ip6_header *ip = (const void *)(packet_data(packet) + packet->l3);

	switch (route->kind) {
	case NEXTHOP_FORWARD:
	case NEXTHOP_CONNECTED:
		return forward6(f, in, packet, route);
	case NEXTHOP_LOCAL:
		// RFC 4862 section 5.4: a tentative address receives neighbor discovery only,
		// which comes to its solicited-node group.
		if (f->hands != NULL)
			return hand_frame(f, packet);
		if (!address_usable(f, FAMILY_IPV6, ip->destination, 0))
			return DROP_DUPLICATE_ADDRESS;
		return ip6_local(f, in, packet);
	case NEXTHOP_UNREACHABLE:
		return refuse(f, packet, ICMP6_UNREACHABLE, ICMP6_NO_ROUTE, 0, DROP_UNREACHABLE);
	default:
		return DROP_BLACKHOLE;
	}
}

// Groups and link-local addresses belong to the link and are not looked up.
static enum drop_reason input_scoped(struct forward *f, const struct interface_entry *in, struct packet *packet,
	const struct ip6_header *ip)
{
	if (f->hands != NULL)
		return hand_frame(f, packet);
	if (ip6_is_multicast(ip->destination))
		return ip6_group_joined(f, in, ip->destination) ? ip6_local(f, in, packet) : DROP_MULTICAST;
	if (view_address(&f->tables, FAMILY_IPV6, ip->destination, in->index) == NULL)
		return DROP_IP6_SCOPE;
	return address_usable(f, FAMILY_IPV6, ip->destination, in->index) ? ip6_local(f, in, packet)
		: DROP_DUPLICATE_ADDRESS;
}

enum drop_reason ip6_input(struct forward *f, const struct interface_entry *in, struct packet *packet)
{
	const struct ip6_header *ip = (const void *)(packet_data(packet) + packet->l3);
	enum drop_reason reason = check_header(packet);
	struct route route;

	if (reason == DROP_NONE)
		reason = check_addresses(ip);
	if (reason != DROP_NONE)
		return reason;
	if (f->hands != NULL && ip->next == IPPROTO_HOPOPTS)
		return hand_frame(f, packet);
	reason = check_hop_by_hop(f, packet);
	if (reason != DROP_NONE)
		return reason;
	header_trace(f, packet, FAMILY_IPV6, ip->source, ip->destination, ip->hop_limit, ip->next);
	if ((in->features & FEATURES_INGRESS) != 0 && !packet->staged) {
		reason = stages_ingress(f, in, packet, 0, false);
		if (reason != DROP_NONE)
			return reason;
	}
	if (ip6_is_multicast(ip->destination) || ip6_is_link_local(ip->destination))
		return input_scoped(f, in, packet, ip);
	// RFC 4291 section 2.5.2: not even a default route leads to the unspecified address.
	if (ip6_is_any(ip->destination))
		return refuse(f, packet, ICMP6_UNREACHABLE, ICMP6_NO_ROUTE, 0, DROP_IP6_DESTINATION);
	reason = route_lookup(f, FAMILY_IPV6, ip->destination, flow_hash(f, packet), &route);
	if (reason == DROP_NO_ROUTE)
		return refuse(f, packet, ICMP6_UNREACHABLE, ICMP6_NO_ROUTE, 0, DROP_NO_ROUTE);
	if (reason != DROP_NONE)
		return reason;
	route_trace(f, packet, &route);
	return dispatch(f, in, packet, &route);
}

enum drop_reason ip6_output(struct forward *f, uint16_t interface, struct packet *packet)
{
	const struct ip6_header *ip = ip6_at(packet_data(packet), packet->length);
	enum drop_reason reason;
	struct route route;

	if (ip == NULL)
		return DROP_IP6_VERSION;
	if (ip6_payload_length(ip) != packet_bytes(packet) - IP6_HEADER)
		return DROP_IP6_PAYLOAD_LENGTH;
	packet->family = FAMILY_IPV6;
	packet->account = ACCOUNT_ORIGINATED;
	packet->ingress = 0;
	packet->l3 = 0;
	header_trace(f, packet, FAMILY_IPV6, ip->source, ip->destination, ip->hop_limit, ip->next);
	reason = route_output(f, FAMILY_IPV6, ip->destination, interface, flow_hash(f, packet), &route);
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
		if (ip6_is_loopback(ip->destination) || ip6_is_any(ip->destination))
			return DROP_IP6_DESTINATION;
		if (ip6_is_loopback(ip->source))
			return DROP_IP6_SOURCE;
		return ip_transmit(f, route.out, route.family, route.nexthop, packet);
	}
}
