// IPv6 extension headers: see ip6.h.  Not supported: jumbograms (RFC 2675), which are
// discarded, and ESP and AH, which end a walk as any transport does.
#include "wire/ip6.h"

#include <netinet/in.h>

// What Linux takes by default (net.ipv6.max_hbh_opts_number); more serve denial of service.
enum { IP6_MAX_OPTIONS = 8, IP6_MAX_PADDING = 7 };

bool ip6_walk(const uint8_t *data, size_t available, struct ip6_walk *walk)
{
	*walk = (struct ip6_walk){.offset = IP6_HEADER, .next_at = offsetof(struct ip6_header, next)};
	if (available < IP6_HEADER)
		return false;
	walk->next = data[walk->next_at];
	// Each turn goes on by at least 8 bytes.
	for (;;) {
		uint32_t offset = walk->offset;
		uint32_t length;

		if (walk->next != IPPROTO_HOPOPTS && walk->next != IPPROTO_DSTOPTS && walk->next != IPPROTO_ROUTING
		    && walk->next != IPPROTO_FRAGMENT)
			return offset <= available;
		// RFC 8200 section 4.1: hop-by-hop options come first or not at all.
		if (walk->next == IPPROTO_HOPOPTS && offset != IP6_HEADER)
			return true;
		if (available - offset < IP6_FRAGMENT_HEADER)
			return false;
		length = walk->next == IPPROTO_FRAGMENT ? IP6_FRAGMENT_HEADER : (data[offset + 1] + 1u) * 8;
		if (length > available - offset)
			return false;
		if (walk->next == IPPROTO_FRAGMENT) {
			walk->fragment = offset;
			walk->later_fragment = (load16(data + offset + 2) & IP6_OFFSET) != 0;
		} else if (walk->next == IPPROTO_ROUTING) {
			walk->routing = offset;
		}
		walk->next = data[offset];
		walk->next_at = offset;
		walk->offset = offset + length;
		if (walk->later_fragment)
			return true;
	}
}

// RFC 8200 section 4.2: the two highest bits of a type say what to do with an unknown one.
static enum ip6_verdict unknown_option(const uint8_t *data, uint32_t at, uint32_t *pointer)
{
	*pointer = at;
	switch (data[at] >> 6) {
	case 0:
		return IP6_ACCEPT;
	case 2:
		return IP6_PROBLEM_OPTION;
	case 3:
		return ip6_is_multicast(((const struct ip6_header *)(const void *)data)->destination) ? IP6_DISCARD
			: IP6_PROBLEM_OPTION;
	default:
		return IP6_DISCARD;
	}
}

static enum ip6_verdict hop_option(const uint8_t *data, uint32_t at, uint32_t *pointer)
{
	switch (data[at]) {
	case IP6_OPTION_ROUTER_ALERT: // RFC 2711
		return data[at + 1] == 2 ? IP6_ACCEPT : IP6_DISCARD;
	case IP6_OPTION_JUMBO:
		// RFC 2675 section 3: what is no jumbogram gets an answer.
		if (data[at + 1] != 4 || (at & 3) != 2)
			return IP6_DISCARD;
		*pointer = load32(data + at + 2) <= UINT16_MAX ? at + 2 : at;
		return load32(data + at + 2) <= UINT16_MAX || load16(data + 4) != 0 ? IP6_PROBLEM_FIELD : IP6_DISCARD;
	default:
		return unknown_option(data, at, pointer);
	}
}

// RFC 4942 section 2.1.9.5: padding that is longer than needed or not zero hides something.
static bool padding_is_sane(const uint8_t *data, uint32_t length, uint32_t padding)
{
	for (uint32_t i = 2; i < length; i++) {
		if (data[i] != 0)
			return false;
	}
	return padding <= IP6_MAX_PADDING;
}

enum ip6_verdict ip6_options(const uint8_t *data, uint32_t offset, bool hop_by_hop, uint32_t *pointer)
{
	uint32_t end = offset + (data[offset + 1] + 1u) * 8;
	uint32_t padding = 0;
	unsigned options = 0;
	uint32_t length;

	for (uint32_t at = offset + 2; at < end; at += length) {
		enum ip6_verdict verdict;

		if (data[at] == IP6_OPTION_PAD1) {
			length = 1;
			if (++padding > IP6_MAX_PADDING)
				return IP6_DISCARD;
			continue;
		}
		if (end - at < 2 || data[at + 1] + 2u > end - at)
			return IP6_DISCARD;
		length = data[at + 1] + 2u;
		if (data[at] == IP6_OPTION_PADN) {
			padding += length;
			if (!padding_is_sane(data + at, length, padding))
				return IP6_DISCARD;
			continue;
		}
		padding = 0;
		if (++options > IP6_MAX_OPTIONS)
			return IP6_DISCARD;
		verdict = hop_by_hop ? hop_option(data, at, pointer) : unknown_option(data, at, pointer);
		if (verdict != IP6_ACCEPT)
			return verdict;
	}
	return IP6_ACCEPT;
}
