// Neighbor discovery for IPv6: solicitations and advertisements (RFC 4861 section 7).
//
// Router solicitations and advertisements go to raw sockets: control advertises by one.  Those that
// nobody wants, and redirects, are counted and ignored.  Messages that were fragmented are refused
// (RFC 6980).
// Not supported: proxies, anycast delays, SEND (RFC 3971).
#include <string.h>
#include "base/cksum.h"
#include "forward/neighbor.h"
#include "wire/icmp.h"
#include "wire/ip6.h"

enum {
	ND_HOP_LIMIT = 255, ND_MESSAGE = 24, ND_OPTION_UNIT = 8, IPPROTO_ND = 58,
	OPTION_SOURCE_LINK = 1, OPTION_TARGET_LINK = 2,
	NA_ROUTER = 0x80, NA_SOLICITED = 0x40, NA_OVERRIDE = 0x20
};

// Both messages: type, code, checksum, flags, target; options follow.
struct nd_message {
	struct icmp_header icmp;
	uint8_t target[16];
} __attribute__((packed));

static const uint8_t ALL_NODES[16] = {0xff, 2, [15] = 1};
static const uint8_t UNSPECIFIED[16];

// --- sending ---

struct nd_fields {
	uint8_t type;
	uint8_t flags;
	uint8_t option;            // 0: none; else ours of that kind
	const uint8_t *source;
	const uint8_t *destination;
	const uint8_t *target;
};

static struct packet *nd_build(struct forward *f, const struct interface_entry *out, const struct nd_fields *fields)
{
	uint32_t length = ND_MESSAGE + (fields->option != 0 ? ND_OPTION_UNIT : 0);
	struct packet *packet = packet_own(f, IP6_HEADER + length);
	if (packet == NULL)
		return NULL;
	packet->family = FAMILY_IPV6;
	struct ip6_header *ip = (void *)packet_data(packet);
	ip->version_flow = __builtin_bswap32(6u << 28);
	ip->payload_length = __builtin_bswap16((uint16_t)length);
	ip->next = IPPROTO_ND;
	ip->hop_limit = ND_HOP_LIMIT;
	memcpy(ip->source, fields->source, 16);
	memcpy(ip->destination, fields->destination, 16);
	uint8_t *body = packet_data(packet) + IP6_HEADER;
	struct nd_message *message = (void *)body;
	message->icmp.type = fields->type;
	body[4] = fields->flags;
	memcpy(message->target, fields->target, 16);
	if (fields->option != 0) {
		body[ND_MESSAGE] = fields->option;
		body[ND_MESSAGE + 1] = 1;
		memcpy(body + ND_MESSAGE + 2, out->mac, ETHERNET_ADDRESS);
	}
	uint64_t pseudo = cksum_pseudo6(ip->source, ip->destination, IPPROTO_ND, length);
	message->icmp.checksum = cksum_finish(cksum_add(pseudo, body, length));
	return packet;
}

static void nd_send(struct forward *f, const struct interface_entry *out, const struct nd_fields *fields,
	const uint8_t *mac)
{
	struct packet *packet = nd_build(f, out, fields);
	uint8_t group[ETHERNET_ADDRESS] = {0};
	if (packet == NULL)
		return;
	if (mac == NULL)
		neighbor_group_mac(FAMILY_IPV6, fields->destination, group);
	packet_send_own(f, out, mac != NULL ? mac : group, ETHERNET_IP6, packet);
}

void nd_solicit(struct forward *f, const struct interface_entry *out, const uint8_t *target, const uint8_t *mac,
	const uint8_t *source)
{
	uint8_t group[16];
	ip6_solicited_node(target, group);
	if (source == NULL)
		source = dad_source(f, FAMILY_IPV6, out->index, target);
	if (source == NULL)
		return; // nobody could answer us
	const struct nd_fields fields = {
		.type = ICMP6_NEIGHBOR_SOLICITATION, .option = OPTION_SOURCE_LINK,
		.source = source, .destination = mac != NULL ? target : group, .target = target,
	};
	nd_send(f, out, &fields, mac);
}

void nd_probe(struct forward *f, const struct interface_entry *out, const uint8_t *target)
{
	uint8_t group[16];
	ip6_solicited_node(target, group);
	const struct nd_fields fields = {.type = ICMP6_NEIGHBOR_SOLICITATION, .source = UNSPECIFIED, .destination = group,
		.target = target};
	nd_send(f, out, &fields, NULL);
}

// Unsolicited, RFC 4861 section 7.2.6.
void nd_announce(struct forward *f, const struct interface_entry *out, const uint8_t *address)
{
	const struct nd_fields fields = {
		.type = ICMP6_NEIGHBOR_ADVERTISEMENT, .flags = NA_ROUTER | NA_OVERRIDE, .option = OPTION_TARGET_LINK,
		.source = address, .destination = ALL_NODES, .target = address,
	};
	nd_send(f, out, &fields, NULL);
}

// --- receiving ---

struct nd_received {
	const struct interface_entry *in;
	const struct ip6_header *ip;
	const uint8_t *target;
	uint8_t flags;
	const uint8_t *mac;        // from the option that belongs to the type; NULL: none
};

// Walk over the options; false where one is malformed.  *mac: the wanted link address.
static bool options_parse(const uint8_t *options, uint32_t length, uint8_t wanted, const uint8_t **mac)
{
	*mac = NULL;
	while (length > 0) {
		uint32_t size = length >= 2 ? options[1] * (uint32_t)ND_OPTION_UNIT : 0;
		if (size == 0 || size > length)
			return false;
		if (options[0] == wanted) {
			if (size != ND_OPTION_UNIT || ethernet_is_group(options + 2) || ethernet_is_zero(options + 2))
				return false;
			*mac = options + 2;
		}
		options += size;
		length -= size;
	}
	return true;
}

// Section 7.2.4.
static void nd_answer(struct forward *f, const struct nd_received *received)
{
	bool anonymous = ip6_is_any(received->ip->source);
	const struct nd_fields fields = {
		.type = ICMP6_NEIGHBOR_ADVERTISEMENT, .flags = NA_ROUTER | NA_OVERRIDE | (anonymous ? 0 : NA_SOLICITED),
		.option = OPTION_TARGET_LINK, .source = received->target,
		.destination = anonymous ? ALL_NODES : received->ip->source, .target = received->target,
	};
	if (anonymous || received->mac != NULL) {
		nd_send(f, received->in, &fields, received->mac);
		return;
	}
	struct packet *packet = nd_build(f, received->in, &fields);
	if (packet == NULL)
		return;
	enum drop_reason reason = neighbor_output(f, received->in, FAMILY_IPV6, received->ip->source, packet);
	if (reason != DROP_NONE)
		packet_drop(f, packet, reason);
}

// Sections 7.1.1 and 7.2.3; RFC 4862 section 5.4.3.
static enum drop_reason solicitation_input(struct forward *f, const struct nd_received *received)
{
	const uint8_t *source = received->ip->source;
	uint16_t interface = received->in->index;
	bool anonymous = ip6_is_any(source);
	uint8_t group[16];
	ip6_solicited_node(received->target, group);
	if (anonymous && (received->mac != NULL || memcmp(received->ip->destination, group, 16) != 0))
		return DROP_ND_MALFORMED;
	struct dad_entry *ours = dad_find(f, FAMILY_IPV6, received->target, interface);
	if (ours == NULL)
		return DROP_ND_NOT_FOR_US;
	if (!neighbor_admit(f, interface, neighbor_find(f, interface, FAMILY_IPV6, source), received->mac, false))
		return DROP_CONTROL_PLANE;
	if (ours->state == DAD_TENTATIVE && anonymous) {
		dad_conflict(f, ours);
		return DROP_DUPLICATE_ADDRESS;
	}
	if (ours->state != DAD_VALID)
		return DROP_ND_NOT_FOR_US;
	if (!anonymous && address_usable(f, FAMILY_IPV6, source, interface))
		return DROP_ARP_SPOOFED;
	if (!anonymous && received->mac != NULL)
		neighbor_learn(f, interface, FAMILY_IPV6, source, received->mac, EVIDENCE_ASKED_US);
	nd_answer(f, received);
	return DROP_NONE;
}

// Section 7.2.5, for a neighbor whose address is known.
static void advertisement_update(struct forward *f, struct neighbor_entry *entry, const struct nd_received *received)
{
	bool solicited = (received->flags & NA_SOLICITED) != 0;
	bool same = received->mac == NULL || memcmp(received->mac, entry->mac, ETHERNET_ADDRESS) == 0;
	if (same) {
		if (solicited)
			neighbor_reachable(f, entry, NULL);
		return;
	}
	if (received->flags & NA_OVERRIDE)
		neighbor_learn(f, entry->interface, FAMILY_IPV6, received->target, received->mac, EVIDENCE_UNSOLICITED);
	else if (entry->state == NEIGHBOR_REACHABLE)
		neighbor_stale(f, entry, entry->mac);
}

static enum drop_reason advertisement_input(struct forward *f, const struct nd_received *received)
{
	bool solicited = (received->flags & NA_SOLICITED) != 0;
	if (ip6_is_multicast(received->ip->destination) && solicited)
		return DROP_ND_MALFORMED;
	struct dad_entry *ours = dad_find(f, FAMILY_IPV6, received->target, received->in->index);
	if (ours != NULL) {
		bool tentative = ours->state == DAD_TENTATIVE;
		dad_conflict(f, ours);
		return tentative ? DROP_DUPLICATE_ADDRESS : DROP_ARP_SPOOFED;
	}
	struct neighbor_entry *entry = neighbor_find(f, received->in->index, FAMILY_IPV6, received->target);
	if (entry == NULL)
		return DROP_ND_NOT_FOR_US;
	if (!neighbor_admit(f, received->in->index, entry, received->mac, solicited))
		return DROP_CONTROL_PLANE;
	entry->flags = (received->flags & NA_ROUTER) != 0;
	if (entry->state == NEIGHBOR_STATIC)
		return DROP_NONE;
	if (neighbor_has_mac(entry))
		advertisement_update(f, entry, received);
	else if (received->mac != NULL && entry->state == NEIGHBOR_INCOMPLETE && solicited)
		neighbor_reachable(f, entry, received->mac);
	else if (received->mac != NULL)
		neighbor_stale(f, entry, received->mac);
	return DROP_NONE;
}

// For whoever advertises (control, by a raw socket), if anybody does.
static enum drop_reason router_discovery(struct forward *f, struct packet *packet)
{
	if (f->ops.overheard == NULL || !f->ops.overheard(f->ops.user, packet, f->now))
		return DROP_ICMP_IGNORED;
	packet_punt(f, packet);
	packet_put(f->pool, packet);
	return DROP_NONE;
}

enum drop_reason nd_input(struct forward *f, const struct interface_entry *in, struct packet *packet,
	uint32_t icmp_offset)
{
	if (packet->l3 == 0 || packet->length < packet->l3 + (uint32_t)IP6_HEADER)
		return DROP_ND_MALFORMED; // not from a link: put together from fragments, or our own
	const struct ip6_header *ip = (const void *)(packet_data(packet) + packet->l3);
	const uint8_t *body = packet_data(packet) + icmp_offset;
	uint32_t end = packet->l3 + IP6_HEADER + ip6_payload_length(ip);
	if (ip->hop_limit != ND_HOP_LIMIT)
		return DROP_ND_HOP_LIMIT;
	if (end > packet->length || end < icmp_offset + ICMP_HEADER || body[1] != 0)
		return DROP_ND_MALFORMED;
	if (body[0] == ICMP6_ROUTER_SOLICITATION || body[0] == ICMP6_ROUTER_ADVERTISEMENT)
		return router_discovery(f, packet);
	if (body[0] != ICMP6_NEIGHBOR_SOLICITATION && body[0] != ICMP6_NEIGHBOR_ADVERTISEMENT)
		return DROP_ICMP_IGNORED;
	if (end < icmp_offset + ND_MESSAGE || ip6_is_multicast(body + ICMP_HEADER))
		return DROP_ND_MALFORMED;
	bool solicitation = body[0] == ICMP6_NEIGHBOR_SOLICITATION;
	struct nd_received received = {.in = in, .ip = ip, .target = body + ICMP_HEADER, .flags = body[4]};
	uint8_t option = solicitation ? OPTION_SOURCE_LINK : OPTION_TARGET_LINK;
	if (!options_parse(body + ND_MESSAGE, end - icmp_offset - ND_MESSAGE, option, &received.mac))
		return DROP_ND_MALFORMED;
	enum drop_reason reason = solicitation ? solicitation_input(f, &received) : advertisement_input(f, &received);
	if (reason == DROP_NONE) {
		packet_punt(f, packet);
		packet_put(f->pool, packet);
	}
	return reason;
}
