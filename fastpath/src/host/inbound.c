// Received IP packets: where the upper layer begins and whose talk it is.
//
// Forwarding has checked the headers for its own purposes; nothing is believed here that
// a reassembled packet could break.  RFC 791, RFC 8200 section 4.
#include "host/internal.h"

#include <linux/virtio_net.h>
#include "wire/ip4.h"
#include "wire/ip6.h"

enum { MAX_EXTENSIONS = 16 };

static enum drop_reason parse4(struct inbound *in, uint32_t available)
{
	if (available < IP4_HEADER)
		return DROP_IP4_TRUNCATED;
	const uint8_t *ip = in->ip;
	uint32_t header = (ip[0] & 0x0fu) * 4;
	in->length = load16(ip + 2);
	if (header < IP4_HEADER || header > in->length)
		return DROP_IP4_HEADER_LENGTH;
	if (in->length > available)
		return DROP_IP4_TRUNCATED;
	in->transport = header;
	in->protocol = ip[9];
	in->ttl = ip[8];
	in->tos = ip[1];
	uint16_t fragment = load16(ip + 6);
	in->more = fragment & IP4_MF;
	in->fragment_offset = (fragment & (uint32_t)IP4_OFFSET) * 8;
	in->fragment = in->more || in->fragment_offset != 0;
	in->fragment_id = load16(ip + 4);
	memcpy(in->flow.remote, ip + 12, 4);
	memcpy(in->flow.local, ip + 16, 4);
	return DROP_NONE;
}

// Step over one extension header at in->transport; RFC 8200 section 4.
static enum drop_reason parse_extension(struct inbound *in)
{
	const uint8_t *at = in->ip + in->transport;
	uint32_t left = in->length - in->transport;
	if (left < 8)
		return DROP_IP6_EXTENSION;
	uint32_t size = 8u + at[1] * 8u;
	if (in->protocol == IPPROTO_FRAGMENT) {
		size = 8;
		uint16_t fragment = load16(at + 2);
		in->more = fragment & IP6_MF;
		in->fragment_offset = fragment & IP6_OFFSET;
		in->fragment_id = load32(at + 4);
		in->fragment_header = in->transport;
		// An atomic fragment is a whole packet (RFC 6946).
		in->fragment = in->more || in->fragment_offset != 0;
	} else if (size > left) {
		return DROP_IP6_EXTENSION;
	} else if (in->protocol == IPPROTO_ROUTING) {
		if (at[3] != 0) // segments left: we are no waypoint (RFC 5095)
			return DROP_IP6_EXTENSION;
	} else if (in->protocol == IPPROTO_DSTOPTS) {
		uint32_t pointer;
		if (ip6_options(in->ip, in->transport, false, &pointer) != IP6_ACCEPT)
			return DROP_IP6_EXTENSION;
	}
	if (!in->fragment)
		in->next_header_at = in->transport;
	in->protocol = at[0];
	in->transport += size;
	return DROP_NONE;
}

static enum drop_reason parse6(struct inbound *in, uint32_t available)
{
	if (available < IP6_HEADER)
		return DROP_IP6_TRUNCATED;
	const uint8_t *ip = in->ip;
	in->length = IP6_HEADER + load16(ip + 4);
	if (in->length > available)
		return DROP_IP6_TRUNCATED;
	in->transport = IP6_HEADER;
	in->protocol = ip[6];
	in->next_header_at = 6;
	in->ttl = ip[7];
	in->tos = (uint8_t)(load16(ip) >> 4);
	memcpy(in->flow.remote, ip + 8, 16);
	memcpy(in->flow.local, ip + 24, 16);
	for (int i = 0; i < MAX_EXTENSIONS && !in->fragment; i++) {
		if (in->protocol != IPPROTO_HOPOPTS && in->protocol != IPPROTO_ROUTING &&
		    in->protocol != IPPROTO_DSTOPTS && in->protocol != IPPROTO_FRAGMENT)
			return DROP_NONE;
		enum drop_reason reason = parse_extension(in);
		if (reason != DROP_NONE)
			return reason;
	}
	return in->fragment ? DROP_NONE : DROP_IP6_EXTENSION;
}

enum drop_reason inbound_parse(const struct host *host, struct packet *packet, struct inbound *in)
{
	memset(in, 0, sizeof(*in));
	in->packet = packet;
	if (packet->length <= packet->l3)
		return DROP_IP4_TRUNCATED;
	in->ip = packet_data(packet) + packet->l3;
	uint32_t available = packet->length - packet->l3;
	in->flow.family = in->ip[0] >> 4;
	enum drop_reason reason = DROP_IP4_VERSION;
	if (in->flow.family == FAMILY_IPV4)
		reason = parse4(in, available);
	else if (in->flow.family == FAMILY_IPV6)
		reason = parse6(in, available);
	if (reason != DROP_NONE)
		return reason;
	packet->family = in->flow.family;
	in->verified = packet->vnet.flags & (VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID);
	in->flow.interface = packet->ingress;
	in->flow.multicast = address_multicast(in->flow.family, in->flow.local);
	in->flow.broadcast = in->flow.family == FAMILY_IPV4 && !in->flow.multicast &&
		view_address(host->tables, FAMILY_IPV4, in->flow.local, 0) == NULL;
	address_map(in->flow.family, in->flow.local, in->flow.local6);
	address_map(in->flow.family, in->flow.remote, in->flow.remote6);
	return DROP_NONE;
}
