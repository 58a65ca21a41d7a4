// Packets for this VR itself: ICMP and neighbor discovery are answered in forwarding, all
// else goes to the host stack.
#include "forward/police.h"
#include "forward/route.h"

#include "wire/icmp.h"
#include "wire/ip4.h"
#include "wire/ip6.h"

#include <netinet/in.h>

// A request of ours to ourselves, its answer, and an error about that one.
enum { LOCAL_DEPTH = 4 };

enum drop_reason local_deliver(struct forward *f, struct packet *packet)
{
	uint16_t ingress = packet->account == ACCOUNT_FORWARDED ? packet->ingress : 0;
	enum drop_reason reason = f->ops.deliver(f->ops.user, packet, f->now);

	if (reason == DROP_NONE && ingress != 0)
		f->counters[ingress].punt_packets++;
	return reason;
}

enum drop_reason local_loop(struct forward *f, const struct interface_entry *in, struct packet *packet)
{
	enum drop_reason reason;

	if (f->local_depth >= LOCAL_DEPTH)
		return DROP_LOOP;
	packet->l3 = 0;
	packet_gather(packet); // it may wait until its maker has let go of the parts
	f->local_depth++;
	reason = packet->family == FAMILY_IPV4 ? ip4_local(f, packet) : ip6_local(f, in, packet);
	f->local_depth--;
	return reason;
}

enum drop_reason ip4_local(struct forward *f, struct packet *packet)
{
	const struct ip4_header *ip = (const void *)(packet_data(packet) + packet->l3);
	enum drop_reason reason = control_local4(f, packet);

	if (reason != DROP_NONE)
		return reason;
	forward_trace(f, packet, "local", "protocol %u", ip->protocol);
	if (ip->protocol == IPPROTO_ICMP && !ip4_is_fragment(ip)) {
		reason = icmp4_input(f, packet, packet->l3 + ip4_header_length(ip));
		if (reason != DROP_REASON_COUNT)
			return reason;
	}
	return local_deliver(f, packet);
}

// RFC 8200 section 4.4: no type of routing header is known here (type 0 is gone, RFC 5095);
// one that is used up is passed over.
static bool routing_done(const struct packet *packet, uint32_t offset)
{
	return packet->buffer[packet->offset + packet->l3 + offset + 3] == 0;
}

// The options of all destination options headers before the transport header, in order.
static enum ip6_verdict check_destination_options(const uint8_t *ip, const struct ip6_walk *walk, uint32_t *pointer)
{
	uint32_t end = walk->fragment != 0 ? walk->fragment : walk->offset;
	uint8_t next = ((const struct ip6_header *)(const void *)ip)->next;
	uint32_t at = IP6_HEADER;

	while (at < end) {
		enum ip6_verdict verdict = next == IPPROTO_DSTOPTS ? ip6_options(ip, at, false, pointer) : IP6_ACCEPT;
		if (verdict != IP6_ACCEPT)
			return verdict;
		// The second byte of a fragment header, of which more than one may come, is no length.
		uint32_t length = next == IPPROTO_FRAGMENT ? IP6_FRAGMENT_HEADER : (ip[at + 1] + 1u) * 8;
		next = ip[at];
		at += length;
	}
	return IP6_ACCEPT;
}

// How much of an upper layer's header the first fragment has to show.
static uint32_t upper_header(uint8_t next)
{
	switch (next) {
	case IPPROTO_TCP:
		return 20;
	case IPPROTO_UDP:
	case IPPROTO_ICMPV6:
		return 8;
	default:
		return next != IPPROTO_NONE;
	}
}

// What RFC 8200 section 4.5 has told to the sender of a fragment, as far as it shows by itself.  `chain`: all headers
// before the upper layer's are there.
static bool fragment_good(struct forward *f, const struct packet *packet, const struct ip6_walk *walk, bool chain)
{
	const uint8_t *ip = packet->buffer + packet->offset + packet->l3;
	uint32_t end = IP6_HEADER + ip6_payload_length((const void *)ip);
	uint32_t data = walk->fragment + IP6_FRAGMENT_HEADER;
	uint16_t word = load16(ip + walk->fragment + 2);
	uint32_t length = end > data ? end - data : 0;

	if ((word & IP6_OFFSET) == 0 && (word & IP6_MF) && (!chain || walk->offset + upper_header(walk->next) > end))
		icmp6_error(f, packet, ICMP6_PARAMETER_PROBLEM, ICMP6_INCOMPLETE_CHAIN, 0);
	else if ((word & IP6_MF) && length % 8 != 0)
		icmp6_error(f, packet, ICMP6_PARAMETER_PROBLEM, ICMP6_BAD_HEADER_FIELD, offsetof(struct ip6_header, payload_length));
	else if (walk->fragment - IP6_HEADER + (word & IP6_OFFSET) + length > UINT16_MAX)
		icmp6_error(f, packet, ICMP6_PARAMETER_PROBLEM, ICMP6_BAD_HEADER_FIELD, walk->fragment + 2);
	else
		return chain;
	return false;
}

// An atomic fragment is a whole packet (RFC 6946), only that neighbor discovery does not come in one (RFC 6980).
static enum drop_reason whole_icmp6(struct forward *f, const struct interface_entry *in, struct packet *packet,
	const struct ip6_walk *walk)
{
	const uint8_t *ip = packet_data(packet) + packet->l3;

	if (walk->fragment != 0 && packet->length > packet->l3 + walk->offset) {
		uint8_t type = ip[walk->offset];
		if ((load16(ip + walk->fragment + 2) & (IP6_OFFSET | IP6_MF)) != 0)
			return DROP_REASON_COUNT;
		if (type >= ICMP6_ROUTER_SOLICITATION && type <= ICMP6_REDIRECT)
			return DROP_ND_MALFORMED;
	}
	return icmp6_input(f, in, packet, packet->l3 + walk->offset);
}

enum drop_reason ip6_local(struct forward *f, const struct interface_entry *in, struct packet *packet)
{
	const uint8_t *ip = packet_data(packet) + packet->l3;
	enum drop_reason reason;
	struct ip6_walk walk;
	uint32_t pointer = 0;

	// A mapped source would pass for an IPv4 peer of sockets that serve both families.
	if (ip6_is_v4_mapped(ip + offsetof(struct ip6_header, source)))
		return DROP_IP6_SOURCE;
	bool chain = ip6_walk(ip, packet->length - packet->l3, &walk);
	if (!chain && walk.fragment == 0)
		return DROP_IP6_EXTENSION;
	reason = control_local6(f, packet, &walk);
	if (reason != DROP_NONE)
		return reason;
	if (walk.fragment != 0 && !fragment_good(f, packet, &walk, chain))
		return DROP_REASSEMBLY_MALFORMED;
	forward_trace(f, packet, "local", "next header %u", walk.next);
	switch (check_destination_options(ip, &walk, &pointer)) {
	case IP6_ACCEPT:
		break;
	case IP6_PROBLEM_OPTION:
		icmp6_error(f, packet, ICMP6_PARAMETER_PROBLEM, ICMP6_UNKNOWN_OPTION, pointer);
		return DROP_IP6_EXTENSION;
	default:
		return DROP_IP6_EXTENSION;
	}
	if (walk.routing != 0 && (walk.fragment == 0 || walk.routing < walk.fragment) && !routing_done(packet, walk.routing)) {
		icmp6_error(f, packet, ICMP6_PARAMETER_PROBLEM, ICMP6_BAD_HEADER_FIELD, walk.routing + 2);
		return DROP_IP6_EXTENSION;
	}
	if (walk.next == IPPROTO_HOPOPTS && walk.fragment == 0) { // RFC 8200 section 4: it comes first or not at all
		icmp6_error(f, packet, ICMP6_PARAMETER_PROBLEM, ICMP6_UNKNOWN_NEXT_HEADER, walk.next_at);
		return DROP_IP6_EXTENSION;
	}
	if (walk.next == IPPROTO_ICMPV6 && !walk.later_fragment && in != NULL) {
		reason = whole_icmp6(f, in, packet, &walk);
		if (reason != DROP_REASON_COUNT)
			return reason;
	}
	return local_deliver(f, packet);
}

enum drop_reason ip_icmp(struct forward *f, uint16_t interface, struct packet *packet, uint32_t icmp_offset)
{
	const struct interface_entry *in = view_interface(&f->tables, interface);

	if (packet_data(packet)[packet->l3] >> 4 == 4)
		return icmp4_input(f, packet, icmp_offset);
	return in != NULL ? icmp6_input(f, in, packet, icmp_offset) : DROP_REASON_COUNT;
}

void ip_unreachable(struct forward *f, struct packet *packet, bool protocol)
{
	const uint8_t *ip = packet_data(packet) + packet->l3;
	struct ip6_walk walk;

	if (ip[0] >> 4 == 4)
		icmp4_error(f, packet, ICMP4_UNREACHABLE, protocol ? ICMP4_PROTOCOL_UNREACHABLE : ICMP4_PORT_UNREACHABLE, 0);
	else if (!protocol)
		icmp6_error(f, packet, ICMP6_UNREACHABLE, ICMP6_PORT_UNREACHABLE, 0);
	else if (ip6_walk(ip, packet->length - packet->l3, &walk)) // RFC 8200 section 4
		icmp6_error(f, packet, ICMP6_PARAMETER_PROBLEM, ICMP6_UNKNOWN_NEXT_HEADER, walk.next_at);
}

static bool joined(const struct forward *f, const struct interface_entry *in, uint8_t family, const uint8_t *group)
{
	return f->ops.group_joined != NULL && f->ops.group_joined(f->ops.user, in->index, family, group);
}

bool ip4_group_joined(const struct forward *f, const struct interface_entry *in, const uint8_t *group)
{
	// RFC 1112 section 4: 224.0.0.1 always.
	return memcmp(group, "\xe0\0\0\x01", 4) == 0 || joined(f, in, FAMILY_IPV4, group);
}

// RFC 4291 section 2.8: what a router recognizes as identifying itself.
bool ip6_group_joined(const struct forward *f, const struct interface_entry *in, const uint8_t *group)
{
	static const uint8_t well_known[3][16] = {
		{0xff, 2, [15] = 1}, {0xff, 2, [15] = 2}, {0xff, 5, [15] = 2}
	};

	for (unsigned i = 0; i < 3; i++) {
		if (memcmp(group, well_known[i], 16) == 0)
			return true;
	}
	for (uint32_t i = 0; i < f->tables.address_count; i++) {
		const struct address_entry *entry = &f->tables.addresses[i];
		uint8_t solicited[16];

		if (entry->family != FAMILY_IPV6 || entry->interface != in->index)
			continue;
		ip6_solicited_node(entry->address, solicited);
		if (memcmp(group, solicited, 16) == 0)
			return true;
	}
	return joined(f, in, FAMILY_IPV6, group);
}
