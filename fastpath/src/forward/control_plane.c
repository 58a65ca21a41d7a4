// Control-plane policing: what packets from a wire ask of this router is classified by a look at
// a few bytes, and held against a rate before anything costs.
//
// Each interface has its own bucket for each class: a flood of one kind, or on one interface, takes
// nothing from others.  Routing protocols are told from what only looks like them by where they come
// from: a configured neighbor, or the link itself.  What we have asked for ourselves is let in by
// whoever asked (neighbor.c).  Without a published table nothing is limited.
//
// Own packets are never policed here, nor what reassembly and our own answers give back to us.
#include "forward/police.h"

#include <netinet/in.h>
#include <string.h>

#include "table/fib.h"
#include "wire/icmp.h"
#include "wire/ip4.h"
#include "wire/tcp.h"
#include "wire/udp.h"

enum {
	PORT_BGP = 179, PORT_RIP = 520, PORT_RIPNG = 521,
	PORT_BFD = 3784, PORT_BFD_ECHO = 3785, PORT_BFD_MULTIHOP = 4784,
	PROTOCOL_OSPF = 89, PROTOCOL_VRRP = 112,
	UNROUTED_TTL = 255 // such a packet has crossed no router
};

// What the two versions of IP have in common, for those that are for us.
struct subject {
	uint8_t family;
	uint8_t protocol;
	uint8_t ttl;
	bool link_scope;           // to a group of this link
	bool group;
	uint16_t interface;
	const uint8_t *source;
	const uint8_t *transport;  // bytes that are there
	uint32_t length;
};

static bool allow(struct forward *f, uint16_t interface, enum control_class class, uint32_t packets)
{
	struct control_counters *counters = &f->state->control_plane[class];
	const struct bucket_rate *rate = &f->police->control[class];

	if (interface == 0 || interface >= MAX_INTERFACES)
		return true;
	if (rate->cost == 0 || bucket_take(&f->police->control_full[interface][class], rate, f->now, packets)) {
		counters->passed += packets;
		return true;
	}
	counters->dropped += packets;
	return false;
}

bool control_allow(struct forward *f, uint16_t interface, enum control_class class)
{
	return allow(f, interface, class, 1);
}

// The sender has an address of the link that the packet came by.
static bool from_link(const struct forward *f, const struct subject *subject)
{
	if (subject->family == FAMILY_IPV6 && ip6_is_link_local(subject->source))
		return true;
	uint16_t group = fib_lookup(&f->tables, subject->family, subject->source);
	const struct nexthop *hop = nexthop_select(&f->tables, group, 0);
	return hop != NULL && hop->kind == NEXTHOP_CONNECTED && hop->interface == subject->interface;
}

static bool is_neighbor(const struct forward *f, const struct subject *subject)
{
	return subject->link_scope || police_is_peer(f, subject->family, subject->source) || from_link(f, subject);
}

static enum control_class classify_tcp(const struct forward *f, const struct subject *subject)
{
	const uint8_t *tcp = subject->transport;

	if (subject->length < TCP_HEADER)
		return CONTROL_TCP;
	if ((load16(&tcp[0]) == PORT_BGP || load16(&tcp[2]) == PORT_BGP)
	    && police_is_peer(f, subject->family, subject->source))
		return CONTROL_BGP;
	return (tcp[13] & (TCP_SYN | TCP_ACK)) == TCP_SYN ? CONTROL_SYN : CONTROL_TCP;
}

static enum control_class classify_udp(const struct forward *f, const struct subject *subject)
{
	enum control_class other = subject->group ? CONTROL_GROUP : CONTROL_APP;

	if (subject->length < UDP_HEADER)
		return other;
	switch (load16(&subject->transport[2])) {
	case PORT_BFD:
	case PORT_BFD_ECHO:
		return subject->ttl >= UNROUTED_TTL - 1 ? CONTROL_BFD : other; // an echo has been to the neighbor
	case PORT_BFD_MULTIHOP:
		return police_is_peer(f, subject->family, subject->source) ? CONTROL_BFD : other;
	case PORT_RIP:
	case PORT_RIPNG:
		return is_neighbor(f, subject) ? CONTROL_ROUTING : other;
	default:
		return other;
	}
}

static enum control_class classify_icmp(const struct subject *subject)
{
	uint8_t type = subject->length > 0 ? subject->transport[0] : 0;

	if (subject->protocol == IPPROTO_ICMP)
		return type == ICMP4_ECHO ? CONTROL_ECHO : CONTROL_APP;
	switch (type) {
	case ICMP6_ECHO:
		return CONTROL_ECHO;
	case ICMP6_LISTENER_QUERY:
	case ICMP6_LISTENER_REPORT:
	case ICMP6_LISTENER_DONE:
	case ICMP6_LISTENER_REPORT2:
	case ICMP6_ROUTER_SOLICITATION:
	case ICMP6_ROUTER_ADVERTISEMENT:
		return CONTROL_ROUTING;
	default:
		return CONTROL_APP;
	}
}

static enum control_class classify(const struct forward *f, const struct subject *subject)
{
	switch (subject->protocol) {
	case IPPROTO_TCP:
		return classify_tcp(f, subject);
	case IPPROTO_UDP:
		return classify_udp(f, subject);
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return classify_icmp(subject);
	case IPPROTO_IGMP:
		return CONTROL_ROUTING;
	case PROTOCOL_OSPF:
	case PROTOCOL_VRRP:
	case IPPROTO_PIM:
		if (is_neighbor(f, subject))
			return CONTROL_ROUTING;
		break;
	default:
		break;
	}
	return subject->group ? CONTROL_GROUP : CONTROL_APP;
}

static enum drop_reason decide(struct forward *f, const struct packet *packet, enum control_class class)
{
	return allow(f, packet->ingress, class, packet->joined + 1u) ? DROP_NONE : DROP_CONTROL_PLANE;
}

enum drop_reason control_local4(struct forward *f, const struct packet *packet)
{
	const uint8_t *data = packet->buffer + packet->offset + packet->l3;
	const struct ip4_header *ip = (const void *)data;
	uint32_t header = ip4_header_length(ip);

	if (packet->ingress == 0)
		return DROP_NONE;
	if (ip4_is_fragment(ip))
		return decide(f, packet, CONTROL_FRAGMENT);
	const struct subject subject = {
		.family = FAMILY_IPV4, .protocol = ip->protocol, .ttl = ip->ttl,
		.link_scope = ip4_is_local_multicast(ip->destination),
		.group = packet->link_broadcast || ip4_is_multicast(ip->destination), .interface = packet->ingress,
		.source = ip->source, .transport = data + header, .length = packet->length - packet->l3 - header,
	};
	return decide(f, packet, classify(f, &subject));
}

enum drop_reason control_local6(struct forward *f, const struct packet *packet, const struct ip6_walk *walk)
{
	const uint8_t *data = packet->buffer + packet->offset + packet->l3;
	const struct ip6_header *ip = (const void *)data;

	if (packet->ingress == 0)
		return DROP_NONE;
	if (walk->fragment != 0)
		return decide(f, packet, CONTROL_FRAGMENT);
	const struct subject subject = {
		.family = FAMILY_IPV6, .protocol = walk->next, .ttl = ip->hop_limit,
		.link_scope = ip6_is_multicast(ip->destination) && ip6_multicast_scope(ip->destination) == 2,
		.group = ip6_is_multicast(ip->destination), .interface = packet->ingress,
		.source = ip->source, .transport = data + walk->offset,
		.length = packet->length - packet->l3 - walk->offset,
	};
	// Neighbor discovery knows which of it is waited for.
	if (walk->next == IPPROTO_ICMPV6 && subject.length > 0
	    && (subject.transport[0] == ICMP6_NEIGHBOR_SOLICITATION || subject.transport[0] == ICMP6_NEIGHBOR_ADVERTISEMENT))
		return DROP_NONE;
	return decide(f, packet, classify(f, &subject));
}

enum drop_reason control_options(struct forward *f, const struct packet *packet)
{
	const uint8_t *data = packet->buffer + packet->offset + packet->l3;
	const struct ip4_header *ip4 = (const void *)data;

	// IGMP (RFC 2236 section 2) and MLD (RFC 2710 section 3) come with a router alert, and are a class of their own; to
	// groups only, which nothing in transit is for.
	if (data[0] >> 4 == 4 && ip4->protocol == IPPROTO_IGMP && ip4_is_multicast(ip4->destination))
		return DROP_NONE;
	if (data[0] >> 4 == 6 && ip6_is_multicast(((const struct ip6_header *)(const void *)data)->destination))
		return DROP_NONE;
	return decide(f, packet, CONTROL_OPTIONS);
}
