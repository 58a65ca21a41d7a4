// Filters of traces and captures, as `manager/cli/filters.py` makes them from tcpdump's words.
//
// A term tests one thing or joins what earlier ones said; the results lie on a stack of bits.  A program is checked
// once, when it comes: known terms, operands for each of the joining ones, one result.  It has no jumps, so it
// ends.  What a packet does not have (ports of a later fragment, addresses of LLDP) matches nothing.
//
// Not supported: tests of single bytes, lengths and flags; 802.1ad; what a tunnel carries.
#include "server/filter.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include "abi/address.h"
#include "base/bytes.h"
#include "wire/arp.h"
#include "wire/ethernet.h"
#include "wire/ip4.h"
#include "wire/ip6.h"

enum { STACK = 32, SOURCE = 0, DESTINATION = 1, TRANSPORT_PORTS = 4 };

// --- loading ---

static bool term_valid(const struct rsock_filter_term *term)
{
	switch (term->kind) {
	case RSOCK_FILTER_NET:
		return term->side <= RSOCK_SIDE_DESTINATION &&
			((term->family == FAMILY_IPV4 && term->length <= 32) || (term->family == FAMILY_IPV6 && term->length <= 128));
	case RSOCK_FILTER_PORT:
		return term->side <= RSOCK_SIDE_DESTINATION && term->first <= term->last;
	default:
		return term->kind >= RSOCK_FILTER_AND && term->kind <= RSOCK_FILTER_VLAN;
	}
}

int filter_load(struct filter *filter, const uint8_t *body, uint32_t length)
{
	uint32_t depth = 0;
	filter->count = length / sizeof(*filter->terms);
	if (length % sizeof(*filter->terms) != 0 || filter->count > FILTER_TERMS)
		return EINVAL;
	memcpy(filter->terms, body, length);
	for (uint32_t i = 0; i < filter->count; i++) {
		const struct rsock_filter_term *term = &filter->terms[i];
		bool joins = term->kind == RSOCK_FILTER_AND || term->kind == RSOCK_FILTER_OR;
		uint32_t operands = joins ? 2 : term->kind == RSOCK_FILTER_NOT ? 1 : 0;
		if (!term_valid(term) || depth < operands || depth - operands == STACK)
			return EINVAL;
		depth = depth - operands + 1;
	}
	return filter->count == 0 || depth == 1 ? 0 : EINVAL;
}

// --- looking ---

static void look_ports(struct filter_subject *view, const uint8_t *transport, uint32_t available)
{
	bool has = view->protocol == IPPROTO_TCP || view->protocol == IPPROTO_UDP || view->protocol == IPPROTO_SCTP;
	if (!has || available < TRANSPORT_PORTS)
		return;
	view->has_ports = true;
	view->port[SOURCE] = load16(transport);
	view->port[DESTINATION] = load16(transport + 2);
}

static void look_ip4(struct filter_subject *view, const uint8_t *data, uint32_t available)
{
	const struct ip4_header *ip = (const void *)data;
	if (available < IP4_HEADER || data[0] >> 4 != 4)
		return;
	view->family = FAMILY_IPV4;
	view->protocol = ip->protocol;
	memcpy(view->address[SOURCE], ip->source, 4);
	memcpy(view->address[DESTINATION], ip->destination, 4);
	uint32_t header = ip4_header_length(ip);
	if (header >= IP4_HEADER && header <= available && (ip4_fragment(ip) & IP4_OFFSET) == 0)
		look_ports(view, data + header, available - header);
}

static void look_ip6(struct filter_subject *view, const uint8_t *data, uint32_t available)
{
	const struct ip6_header *ip = (const void *)data;
	struct ip6_walk walk;
	if (available < IP6_HEADER || data[0] >> 4 != 6)
		return;
	view->family = FAMILY_IPV6;
	view->protocol = ip->next;
	memcpy(view->address[SOURCE], ip->source, 16);
	memcpy(view->address[DESTINATION], ip->destination, 16);
	if (!ip6_walk(data, available, &walk))
		return;
	view->protocol = walk.next;
	if (!walk.later_fragment && walk.offset <= available)
		look_ports(view, data + walk.offset, available - walk.offset);
}

static void look_arp(struct filter_subject *view, const uint8_t *data, uint32_t available)
{
	const struct arp_packet *arp = arp_at(data, available);
	if (arp == NULL)
		return;
	view->family = FAMILY_IPV4;
	memcpy(view->address[SOURCE], arp->sender, 4);
	memcpy(view->address[DESTINATION], arp->target, 4);
}

static void look_network(struct filter_subject *view, const uint8_t *data, uint32_t available)
{
	switch (view->ethertype) {
	case ETHERNET_IP4:
		look_ip4(view, data, available);
		break;
	case ETHERNET_IP6:
		look_ip6(view, data, available);
		break;
	case ETHERNET_ARP:
		look_arp(view, data, available);
		break;
	default:
		break;
	}
}

void filter_look(const struct packet *packet, bool link, struct filter_subject *view)
{
	const uint8_t *data = packet->buffer + packet->offset;
	uint32_t length = packet->length;
	uint32_t at = ETHERNET_HEADER;

	memset(view, 0, sizeof(*view));
	if (!link) {
		view->ethertype = length > 0 && data[0] >> 4 == 4 ? ETHERNET_IP4 : ETHERNET_IP6;
		look_network(view, data, length);
		return;
	}
	view->tagged = packet->vlan_present;
	view->vlan = packet->vlan_tci & 0x0fff;
	if (length < at)
		return;
	view->ethertype = load16(data + at - 2);
	if (view->ethertype == ETHERNET_VLAN && length >= at + 4) {
		view->tagged = true;
		view->vlan = load16(data + at) & 0x0fff;
		view->ethertype = load16(data + at + 2);
		at += 4;
	}
	look_network(view, data + at, length - at);
}

// --- matching ---

static bool prefix_matches(const struct rsock_filter_term *term, const uint8_t *address)
{
	uint32_t whole = term->length / 8u;
	uint32_t rest = term->length % 8u;
	if (memcmp(term->address, address, whole) != 0)
		return false;
	return rest == 0 || ((term->address[whole] ^ address[whole]) >> (8 - rest)) == 0;
}

static bool port_matches(const struct rsock_filter_term *term, uint16_t port)
{
	return port >= term->first && port <= term->last;
}

static bool term_matches(const struct rsock_filter_term *term, const struct filter_subject *view)
{
	bool source = term->side != RSOCK_SIDE_DESTINATION;
	bool destination = term->side != RSOCK_SIDE_SOURCE;
	switch (term->kind) {
	case RSOCK_FILTER_ETHERTYPE:
		return view->ethertype == term->first;
	case RSOCK_FILTER_PROTOCOL:
		return view->ethertype != ETHERNET_ARP && view->family != 0 && view->protocol == term->first &&
			(term->family == 0 || view->family == term->family);
	case RSOCK_FILTER_NET:
		return view->family == term->family && ((source && prefix_matches(term, view->address[SOURCE])) ||
			(destination && prefix_matches(term, view->address[DESTINATION])));
	case RSOCK_FILTER_PORT:
		return view->has_ports && ((source && port_matches(term, view->port[SOURCE])) ||
			(destination && port_matches(term, view->port[DESTINATION])));
	default: // RSOCK_FILTER_VLAN; 0: any
		return view->tagged && (term->first == 0 || view->vlan == term->first);
	}
}

bool filter_matches(const struct filter *filter, const struct filter_subject *view)
{
	uint64_t stack = 1; // the lowest bit is the top
	for (uint32_t i = 0; i < filter->count; i++) {
		const struct rsock_filter_term *term = &filter->terms[i];
		if (term->kind == RSOCK_FILTER_AND)
			stack = (stack >> 1) & (stack | ~1ull);
		else if (term->kind == RSOCK_FILTER_OR)
			stack = (stack >> 1) | (stack & 1);
		else if (term->kind == RSOCK_FILTER_NOT)
			stack ^= 1;
		else
			stack = stack << 1 | (term_matches(term, view) ? 1u : 0u);
	}
	return (stack & 1) != 0;
}
