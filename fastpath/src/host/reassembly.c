// Putting fragments together: RFC 791 section 3.2, RFC 8200 section 4.5, RFC 5722.
//
// 64 datagrams at a time, each with room for the largest, make the bound of 4 MiB; the
// memory is touched only as far as datagrams come.  A bitmap of 8-byte units tells holes
// and overlaps.  An overlap condemns the datagram until its time is up, but a fragment
// that repeats another exactly is only dropped.  When all places are taken the oldest one
// gives way, so that junk does not lock out the honest; one source has a few places only.
// Congestion that one fragment met (CE) is told of the whole, RFC 3168 section 5.3.
#include "host/internal.h"

#include <stdlib.h>
#include "base/cksum.h"
#include "wire/ip4.h"
#include "wire/ip6.h"

enum {
	PLACES = 64,
	PLACES_PER_SOURCE = 8,
	DATA_ROOM = 65536,
	HEADER_ROOM = 256,     // of an unfragmentable part; a longer one is refused
	UNITS = DATA_ROOM / 8
};

#define LIFE4 (30 * 1000000000ull) // as Linux: net.ipv4.ipfrag_time
#define LIFE6 (60 * 1000000000ull) // RFC 8200 section 4.5

struct place {
	bool used;
	bool condemned;        // an overlap was seen
	uint8_t family;
	uint8_t protocol;      // IPv4: part of the key; IPv6: follows the fragment header
	uint8_t source[16];
	uint8_t destination[16];
	uint32_t id;
	uint16_t interface;
	bool has_first;
	uint8_t ecn;           // which codepoints were seen, a bit for each
	uint16_t header_length;
	uint32_t next_header_at; // IPv6: which byte named the fragment header
	uint32_t total;        // 0: the last fragment has not come
	uint32_t received;     // distinct bytes
	uint32_t fragments;
	uint64_t deadline;
	uint64_t units[UNITS / 64];
	uint8_t header[HEADER_ROOM];
	uint8_t data[DATA_ROOM];
};

struct reassembly {
	struct place places[PLACES];
	uint64_t deadline;     // the earliest; UINT64_MAX: none
};

struct reassembly *reassembly_new(void)
{
	struct reassembly *r = calloc(1, sizeof(*r));
	if (r != NULL)
		r->deadline = UINT64_MAX;
	return r;
}

void reassembly_free(struct reassembly *r)
{
	free(r);
}

uint64_t reassembly_deadline(const struct reassembly *r)
{
	return r->deadline;
}

static void place_release(struct place *place)
{
	// The data needs no clearing: only received units are ever read.
	memset(place, 0, offsetof(struct place, header));
}

static void place_give_up(struct host *host, struct place *place, enum drop_reason reason)
{
	host->state->host_drops[reason] += place->fragments;
	place_release(place);
}

static struct place *place_new(struct host *host, const struct inbound *in)
{
	struct place *oldest = NULL;
	struct place *free_place = NULL;
	struct place *oldest_of_source = NULL;
	int of_source = 0;
	for (int i = 0; i < PLACES; i++) {
		struct place *place = &host->reassembly->places[i];
		if (!place->used) {
			if (free_place == NULL)
				free_place = place;
			continue;
		}
		if (oldest == NULL || place->deadline < oldest->deadline)
			oldest = place;
		if (place->family == in->flow.family && address_equal(place->source, in->flow.remote)) {
			of_source++;
			if (oldest_of_source == NULL || place->deadline < oldest_of_source->deadline)
				oldest_of_source = place;
		}
	}
	struct place *place = free_place;
	if (of_source >= PLACES_PER_SOURCE)
		place = oldest_of_source;
	else if (place == NULL)
		place = oldest;
	if (place == NULL)
		return NULL;
	if (place->used)
		place_give_up(host, place, DROP_REASSEMBLY_FULL);
	place->used = true;
	place->family = in->flow.family;
	place->protocol = in->protocol;
	place->id = in->fragment_id;
	place->interface = in->flow.interface;
	memcpy(place->source, in->flow.remote, 16);
	memcpy(place->destination, in->flow.local, 16);
	place->deadline = host->now + (in->flow.family == FAMILY_IPV4 ? LIFE4 : LIFE6);
	if (place->deadline < host->reassembly->deadline)
		host->reassembly->deadline = place->deadline;
	return place;
}

static struct place *place_find(struct reassembly *r, const struct inbound *in)
{
	for (int i = 0; i < PLACES; i++) {
		struct place *place = &r->places[i];
		if (!place->used || place->family != in->flow.family || place->id != in->fragment_id)
			continue;
		if (place->family == FAMILY_IPV4 && place->protocol != in->protocol)
			continue;
		if (address_link_local(place->family, place->source) && place->interface != in->flow.interface)
			continue;
		if (address_equal(place->source, in->flow.remote) && address_equal(place->destination, in->flow.local))
			return place;
	}
	return NULL;
}

// How many of the units first .. last (inclusive) are set already.
static uint32_t units_set(const struct place *place, uint32_t first, uint32_t last)
{
	uint32_t count = 0;
	for (uint32_t word = first / 64; word <= last / 64; word++) {
		uint64_t mask = UINT64_MAX;
		if (word == first / 64)
			mask &= UINT64_MAX << first % 64;
		if (word == last / 64)
			mask &= UINT64_MAX >> (63 - last % 64);
		count += (uint32_t)__builtin_popcountll(place->units[word] & mask);
	}
	return count;
}

static void units_mark(struct place *place, uint32_t first, uint32_t last)
{
	for (uint32_t unit = first; unit <= last; unit++)
		place->units[unit / 64] |= 1ull << (unit % 64);
}

enum { NOT_ECT = 1 << 0, CONGESTED = 1 << 3 }; // of place.ecn

static void place_tell_congestion(const struct place *place, uint8_t *ip)
{
	if (place->ecn & CONGESTED)
		ip[1] |= place->family == FAMILY_IPV4 ? 0x03 : 0x30;
}

static enum drop_reason condemn(struct place *place)
{
	place->condemned = true;
	return DROP_REASSEMBLY_OVERLAP;
}

// Put one fragment's bytes in place.
static enum drop_reason place_fill(struct place *place, const struct inbound *in, const uint8_t *data, uint32_t length)
{
	uint32_t offset = in->fragment_offset;
	uint32_t end = offset + length;
	uint32_t first = offset / 8;
	uint32_t last = (end - 1) / 8;
	uint32_t set = units_set(place, first, last);
	bool inside = place->total == 0 || (in->more ? end < place->total : end == place->total);
	if (set == last - first + 1 && inside && (in->more || place->total != 0))
		return memcmp(place->data + offset, data, length) == 0 ? DROP_REASSEMBLY_MALFORMED : condemn(place);
	if (set != 0 || !inside)
		return condemn(place);
	if (!in->more) {
		// Nothing may lie beyond the end.
		if (last + 1 < UNITS && units_set(place, last + 1, UNITS - 1) != 0)
			return condemn(place);
		place->total = end;
	}
	memcpy(place->data + offset, data, length);
	units_mark(place, first, last);
	place->received += length;
	place->fragments++;
	place->ecn |= (uint8_t)(1u << (in->tos & 3));
	return DROP_NONE;
}

static void keep_header(struct place *place, const struct inbound *in)
{
	uint32_t length = in->flow.family == FAMILY_IPV4 ? in->transport : in->fragment_header;
	memcpy(place->header, in->ip, length);
	place->header_length = (uint16_t)length;
	place->protocol = in->protocol;
	place->next_header_at = in->next_header_at;
	place->has_first = true;
}

static struct packet *place_packet(struct host *host, const struct place *place, const struct packet *last)
{
	uint32_t length = place->header_length + place->total;
	if (length - (place->family == FAMILY_IPV6 ? IP6_HEADER : 0) > LARGEST_PACKET)
		return NULL;
	struct packet *packet = host->ops.packet_get(host->ops.user, length);
	if (packet == NULL)
		return NULL;
	packet->offset = PACKET_HEADROOM;
	packet->length = length;
	packet->family = place->family;
	packet->l3 = 0;
	packet->ingress = place->interface;
	packet->port = last->port;
	packet->link_broadcast = last->link_broadcast;
	packet->trace = last->trace;
	uint8_t *ip = packet_data(packet);
	memcpy(ip, place->header, place->header_length);
	memcpy(ip + place->header_length, place->data, place->total);
	place_tell_congestion(place, ip);
	if (place->family == FAMILY_IPV4) {
		store16(ip + 2, (uint16_t)length);
		store16(ip + 6, 0);
		store16(ip + 10, 0);
		uint16_t sum = cksum(ip, place->header_length);
		memcpy(ip + 10, &sum, sizeof(sum));
	} else {
		store16(ip + 4, (uint16_t)(length - IP6_HEADER));
		ip[place->next_header_at] = place->protocol;
	}
	return packet;
}

enum drop_reason reassembly_add(struct host *host, const struct inbound *in, struct packet **whole)
{
	bool four = in->flow.family == FAMILY_IPV4;
	const uint8_t *data = in->ip + in->transport;
	uint32_t length = in->length - in->transport;
	uint32_t header = four ? in->transport : in->fragment_header;
	if (length == 0 || (in->more && length % 8 != 0) || header > HEADER_ROOM ||
	    in->fragment_offset + length > LARGEST_PACKET - (four ? header : header - IP6_HEADER))
		return DROP_REASSEMBLY_MALFORMED;
	struct place *place = place_find(host->reassembly, in);
	if (place == NULL)
		place = place_new(host, in);
	if (place == NULL)
		return DROP_REASSEMBLY_FULL;
	if (place->condemned)
		return DROP_REASSEMBLY_OVERLAP;
	enum drop_reason reason = place_fill(place, in, data, length);
	if (reason != DROP_NONE)
		return reason;
	if (in->fragment_offset == 0)
		keep_header(place, in);
	if (place->total == 0 || place->received != place->total || !place->has_first)
		return DROP_NONE;
	if ((place->ecn & CONGESTED) && (place->ecn & NOT_ECT)) { // no sender does that
		place_give_up(host, place, DROP_REASSEMBLY_MALFORMED);
		return DROP_NONE;
	}
	*whole = place_packet(host, place, in->packet);
	if (*whole == NULL)
		place_give_up(host, place, DROP_NO_BUFFER);
	else
		place_release(place);
	return DROP_NONE;
}

// A datagram whose first fragment came is answered: the sender can tell loss from absence.
static void place_expire(struct host *host, struct place *place)
{
	if (place->has_first && !place->condemned) {
		uint8_t packet[HEADER_ROOM + IP6_FRAGMENT_HEADER + IP6_MIN_MTU];
		uint32_t length = place->header_length;
		memcpy(packet, place->header, length);
		uint32_t contiguous = 0;
		while (contiguous < IP6_MIN_MTU / 8 && units_set(place, contiguous, contiguous) != 0)
			contiguous++;
		memcpy(packet + length, place->data, contiguous * 8);
		icmp_reassembly_expired(host, place->family, place->interface, packet, length + contiguous * 8);
	}
	place_give_up(host, place, DROP_REASSEMBLY_TIMEOUT);
}

void reassembly_tick(struct host *host)
{
	struct reassembly *r = host->reassembly;
	if (host->now < r->deadline)
		return;
	r->deadline = UINT64_MAX;
	for (int i = 0; i < PLACES; i++) {
		struct place *place = &r->places[i];
		if (place->used && place->deadline <= host->now)
			place_expire(host, place);
		if (place->used && place->deadline < r->deadline)
			r->deadline = place->deadline;
	}
}
