// Fragmentation: IPv4 in transit and at the source (RFC 791 section 3.2), IPv6 at the source
// only (RFC 8200 section 4.5).
//
// As Linux does, an IPv4 option that is not to be copied is replaced by NOPs in all pieces
// but the first, so that all have headers of one length.  What comes as a later fragment has
// had that done to it.
#include "forward/forward.h"

#include "base/bytes.h"
#include "base/cksum.h"
#include "wire/ip4.h"
#include "wire/ip6.h"

#include <netinet/in.h>

void packet_put_chain(struct forward *f, struct packet *chain)
{
	while (chain != NULL) {
		struct packet *next = chain->next;
		packet_put(f->pool, chain);
		chain = next;
	}
}

struct packet *packet_piece(struct forward *f, const struct packet *packet, uint32_t header, uint32_t gap,
	uint32_t from, uint32_t length)
{
	struct packet *piece = packet_get(f->pool, header + gap + length);
	const uint8_t *data = packet->buffer + packet->offset;

	if (piece == NULL)
		return NULL;
	piece->length = header + gap + length;
	piece->ingress = packet->ingress;
	piece->port = packet->port;
	piece->family = packet->family;
	piece->trace = packet->trace;
	piece->account = ACCOUNT_FRAGMENT;
	memcpy(packet_data(piece), data, header);
	memcpy(packet_data(piece) + header + gap, data + from, length);
	return piece;
}

static void drop_uncopied_options(struct ip4_header *ip)
{
	uint8_t *options = (uint8_t *)ip + IP4_HEADER;
	uint32_t left = ip4_header_length(ip) - IP4_HEADER;
	uint32_t length;

	for (uint32_t at = 0; at < left && options[at] != IP4_OPTION_END; at += length) {
		length = 1;
		if (options[at] == IP4_OPTION_NOP)
			continue;
		if (left - at < 2 || options[at + 1] < 2 || options[at + 1] > left - at)
			return;
		length = options[at + 1];
		if ((options[at] & IP4_OPTION_COPIED) == 0)
			memset(options + at, IP4_OPTION_NOP, length);
	}
}

struct packet *fragment4(struct forward *f, struct packet *packet, uint32_t mtu)
{
	struct ip4_header *ip = ip4_at(packet_data(packet), packet->length);
	uint32_t header = ip != NULL ? ip4_header_length(ip) : 0;
	struct packet *chain = NULL, **tail = &chain;
	uint32_t room, offset;
	bool more;

	if (ip == NULL || mtu < header + 8)
		return NULL;
	room = (mtu - header) & ~7u;
	// The packet may itself be a fragment.
	offset = ip4_fragment(ip) & IP4_OFFSET;
	more = (ip4_fragment(ip) & IP4_MF) != 0;
	if (offset * 8 + packet->length - header > UINT16_MAX)
		return NULL;
	for (uint32_t at = header, length; at < packet->length; at += length) {
		struct packet *piece;
		bool last;

		length = packet->length - at;
		last = length <= mtu - header;
		if (!last)
			length = room;
		piece = packet_piece(f, packet, header, 0, at, length);
		if (piece == NULL) {
			packet_put_chain(f, chain);
			return NULL;
		}
		ip = (void *)packet_data(piece);
		ip->total_length = htons((uint16_t)piece->length);
		ip->fragment = htons((uint16_t)(offset + (at - header) / 8) | (last && !more ? 0 : IP4_MF));
		if (at != header && offset == 0)
			drop_uncopied_options(ip);
		ip->checksum = 0;
		ip->checksum = cksum(ip, header);
		*tail = piece;
		tail = &piece->next;
	}
	if (chain == NULL)
		return NULL;
	chain->account = packet->account;
	packet_put(f->pool, packet);
	return chain;
}

// Where the fragment header goes: after hop-by-hop options, and after a routing header with
// the destination options before it; RFC 8200 section 4.5.  *next_at is the number to replace.
static uint32_t unfragmentable(const struct packet *packet, uint32_t *next_at)
{
	const uint8_t *data = packet->buffer + packet->offset;
	uint32_t offset = IP6_HEADER, end = IP6_HEADER;
	uint32_t at = offsetof(struct ip6_header, next);
	struct ip6_walk walk;

	*next_at = at;
	if (!ip6_walk(data, packet->length, &walk))
		return 0;
	while (offset < walk.offset && data[at] != IPPROTO_FRAGMENT) {
		uint8_t type = data[at];
		at = offset;
		offset += (data[offset + 1] + 1u) * 8;
		if (type == IPPROTO_HOPOPTS || type == IPPROTO_ROUTING) {
			end = offset;
			*next_at = at;
		}
	}
	return walk.fragment != 0 ? 0 : end;
}

struct packet *fragment6(struct forward *f, struct packet *packet, uint32_t mtu)
{
	uint32_t id = (uint32_t)forward_random(f);
	struct packet *chain = NULL, **tail = &chain;
	uint32_t header, next_at, room;
	uint8_t next;

	header = unfragmentable(packet, &next_at);
	if (header == 0 || mtu < header + IP6_FRAGMENT_HEADER + 8)
		return NULL;
	room = (mtu - header - IP6_FRAGMENT_HEADER) & ~7u;
	next = packet_data(packet)[next_at];
	for (uint32_t at = header, length; at < packet->length; at += length) {
		struct ip6_fragment fragment = {.next = next, .id = htonl(id)};
		struct packet *piece;
		bool last;

		length = packet->length - at;
		last = length <= mtu - header - IP6_FRAGMENT_HEADER;
		if (!last)
			length = room;
		piece = packet_piece(f, packet, header, IP6_FRAGMENT_HEADER, at, length);
		if (piece == NULL) {
			packet_put_chain(f, chain);
			return NULL;
		}
		fragment.offset = htons((uint16_t)(at - header) | (last ? 0 : IP6_MF));
		memcpy(packet_data(piece) + header, &fragment, sizeof fragment);
		packet_data(piece)[next_at] = IPPROTO_FRAGMENT;
		store16(packet_data(piece) + offsetof(struct ip6_header, payload_length),
			(uint16_t)(piece->length - IP6_HEADER));
		*tail = piece;
		tail = &piece->next;
	}
	if (chain == NULL)
		return NULL;
	chain->account = packet->account;
	packet_put(f->pool, packet);
	return chain;
}
