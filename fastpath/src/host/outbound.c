// Our own IP packets: source, path MTU, header, and the copy for our own group members.
#include "host/internal.h"

#include <errno.h>
#include "base/cksum.h"
#include "wire/ip4.h"
#include "wire/ip6.h"

int drop_errno(enum drop_reason reason)
{
	switch (reason) {
	case DROP_NO_ROUTE:
	case DROP_UNREACHABLE:
	case DROP_BAD_NEXTHOP:
	case DROP_NO_SOURCE_ADDRESS:
		return ENETUNREACH;
	case DROP_BLACKHOLE:
	case DROP_IP4_SOURCE:
		return EINVAL;
	case DROP_FRAGMENTATION_NEEDED:
	case DROP_TX_TOO_BIG:
		return EMSGSIZE;
	case DROP_EGRESS_DOWN:
	case DROP_INTERFACE_DOWN:
	case DROP_NO_INTERFACE:
		return ENETDOWN;
	case DROP_NEIGHBOR_UNRESOLVED:
		return EHOSTUNREACH;
	case DROP_DIRECTED_BROADCAST:
		return EACCES;
	default:
		return 0; // lost on the way, as datagrams may be
	}
}

static int choose_source(struct host *host, const struct socket_entry *entry, const struct rsock_datagram *header, struct outbound *out)
{
	uint8_t family = FAMILY_NONE;
	if (header != NULL && (header->flags & RSOCK_DATAGRAM_LOCAL)) {
		family = out->family;
		address_unmap(out->family == FAMILY_IPV4 ? AF_INET : AF_INET6, header->local, &family, out->source);
		if (family != out->family || (!address_any(out->source) && view_address(host->tables, family, out->source, 0) == NULL))
			return -EINVAL;
	}
	if (address_any(out->source) && !address_any(entry->local)) {
		address_unmap(entry->family, entry->local, &family, out->source);
		if (family != out->family)
			return -ENETUNREACH;
		// Bound to a group or a broadcast address: good for receiving only.
		if (view_address(host->tables, family, out->source, 0) == NULL)
			memset(out->source, 0, sizeof(out->source));
	}
	uint8_t selected[16] = {0};
	uint16_t egress = out->interface;
	if (address_any(out->source) || (out->multicast && out->interface == 0)) {
		if (!host->ops.source(host->ops.user, out->family, out->destination, out->interface, selected, &egress))
			return -ENETUNREACH;
		if (address_any(out->source))
			memcpy(out->source, selected, sizeof(selected));
	}
	out->egress = egress;
	return 0;
}

int outbound_route(struct host *host, const struct socket_entry *entry, const struct rsock_datagram *header, struct outbound *out)
{
	out->multicast = address_multicast(out->family, out->destination);
	out->interface = entry->interface;
	if (header != NULL && header->interface != 0) {
		if (header->interface >= MAX_INTERFACES || (entry->interface != 0 && header->interface != entry->interface))
			return -EINVAL;
		out->interface = (uint16_t)header->interface;
	}
	if (out->multicast && out->interface == 0)
		out->interface = entry->multicast_interface;
	if (address_link_local(out->family, out->destination) && out->interface == 0)
		return -EINVAL;
	int error = choose_source(host, entry, header, out);
	if (error < 0)
		return error;
	if (out->multicast && out->interface == 0)
		out->interface = out->egress;
	if (header != NULL && header->ttl != 0)
		out->ttl = header->ttl;
	else if (out->multicast)
		out->ttl = entry->multicast_ttl;
	else
		out->ttl = entry->ttl != 0 ? entry->ttl : DEFAULT_TTL;
	out->tos = header != NULL && (header->flags & RSOCK_DATAGRAM_TOS) ? header->tos : entry->tos;
	uint32_t mtu = host->ops.path_mtu(host->ops.user, out->family, out->destination, out->interface);
	if (mtu == 0)
		return -ENETUNREACH;
	out->mtu = entry->pmtu_discover == IP_PMTUDISC_PROBE || entry->pmtu_discover == IP_PMTUDISC_INTERFACE
		? mtu : path_mtu_clamp(host, out->family, out->destination, mtu);
	return 0;
}

int outbound_fit(const struct socket_entry *entry, struct outbound *out, uint32_t length)
{
	uint32_t total = length + (out->family == FAMILY_IPV4 ? IP4_HEADER : IP6_HEADER);
	bool strict = entry->pmtu_discover == IP_PMTUDISC_DO || entry->pmtu_discover == IP_PMTUDISC_PROBE;
	if (out->family == FAMILY_IPV6 && (entry->options & OPTION_DONT_FRAGMENT))
		strict = true;
	if (total > LARGEST_PACKET || (strict && total > out->mtu))
		return -EMSGSIZE;
	out->dont_fragment = strict || (entry->pmtu_discover == IP_PMTUDISC_WANT && total <= out->mtu);
	return 0;
}

static void write4(struct host *host, const struct outbound *out, uint8_t *ip, uint32_t length)
{
	memset(ip, 0, IP4_HEADER);
	ip[0] = 0x45;
	ip[1] = out->tos;
	store16(ip + 2, (uint16_t)(IP4_HEADER + length));
	// Unpredictable where it matters, that is where a router may fragment (RFC 6864).
	store16(ip + 4, (uint16_t)host_random(host));
	store16(ip + 6, out->dont_fragment ? IP4_DF : 0);
	ip[8] = out->ttl;
	ip[9] = out->protocol;
	memcpy(ip + 12, out->source, 4);
	memcpy(ip + 16, out->destination, 4);
	uint16_t sum = cksum(ip, IP4_HEADER);
	memcpy(ip + 10, &sum, 2);
}

static void write6(const struct outbound *out, uint8_t *ip, uint32_t length)
{
	memset(ip, 0, IP6_HEADER);
	store16(ip, (uint16_t)(0x6000u | (uint32_t)out->tos << 4));
	store16(ip + 4, (uint16_t)length);
	ip[6] = out->protocol;
	ip[7] = out->ttl;
	memcpy(ip + 8, out->source, 16);
	memcpy(ip + 24, out->destination, 16);
}

struct packet *outbound_blank(struct host *host, uint8_t family, uint32_t length)
{
	struct packet *packet = host->ops.packet_get(host->ops.user, length);
	if (packet == NULL)
		return NULL;
	packet->offset = PACKET_HEADROOM;
	packet->length = length;
	packet->family = family;
	packet->l3 = 0;
	packet->ingress = 0;
	packet->account = ACCOUNT_ORIGINATED;
	return packet;
}

struct packet *outbound_packet(struct host *host, const struct outbound *out, uint32_t length, uint8_t **payload)
{
	uint32_t header = out->family == FAMILY_IPV4 ? IP4_HEADER : IP6_HEADER;
	struct packet *packet = outbound_blank(host, out->family, header + length);
	if (packet == NULL)
		return NULL;
	uint8_t *ip = packet_data(packet);
	if (out->family == FAMILY_IPV4)
		write4(host, out, ip, length);
	else
		write6(out, ip, length);
	*payload = ip + header;
	return packet;
}

uint16_t transport_checksum(uint8_t family, const uint8_t *source, const uint8_t *destination, uint8_t protocol, const uint8_t *data, uint32_t length)
{
	uint64_t sum = family == FAMILY_IPV4 ? cksum_pseudo4(source, destination, protocol, length)
		: cksum_pseudo6(source, destination, protocol, length);
	return cksum_finish(cksum_add(sum, data, length));
}

// 224.0.0.1 and ff02::1, of which every node is a member.
static bool everybody(uint8_t family, const uint8_t *group)
{
	static const uint8_t nodes[16] = {0xff, 2, [15] = 1};
	return family == FAMILY_IPV4 ? load32(group) == INADDR_ALLHOSTS_GROUP : address_equal(group, nodes);
}

// A group member in this VR hears what is sent (RFC 1112 section 6.1, IP_MULTICAST_LOOP).
static struct packet *loop_copy(struct host *host, const struct outbound *out, struct packet *packet)
{
	if (!everybody(out->family, out->destination) && !host_group_joined(host, out->egress, out->family, out->destination))
		return NULL;
	struct packet *copy = host->ops.packet_get(host->ops.user, packet->length);
	if (copy == NULL)
		return NULL;
	copy->offset = PACKET_HEADROOM;
	copy->length = packet->length;
	copy->family = packet->family;
	copy->l3 = 0;
	copy->ingress = out->egress;
	memcpy(packet_data(copy), packet_data(packet), packet->length);
	return copy;
}

int outbound_send(struct host *host, const struct outbound *out, const struct socket_entry *entry, struct packet *packet)
{
	struct packet *copy = NULL;
	if (out->multicast && entry != NULL && entry->multicast_loop)
		copy = loop_copy(host, out, packet);
	// TTL 0 does not leave this VR (RFC 1112 section 6.1).
	enum drop_reason reason = DROP_TTL_EXPIRED;
	if (out->ttl != 0)
		reason = host->ops.output(host->ops.user, out->interface, out->family, packet);
	if (reason != DROP_NONE) {
		host->ops.packet_put(host->ops.user, packet);
		if (out->ttl != 0)
			host_drop(host, reason);
	}
	if (copy != NULL) {
		struct inbound in;
		if (inbound_parse(host, copy, &in) == DROP_NONE)
			(void)host_dispatch(host, &in);
		if (!in.taken)
			host->ops.packet_put(host->ops.user, copy);
	}
	return -drop_errno(reason);
}
