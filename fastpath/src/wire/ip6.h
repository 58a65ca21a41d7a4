// IPv6 headers and extension headers (RFC 8200).
#ifndef WIRE_IP6_H
#define WIRE_IP6_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"

enum {
	IP6_HEADER = 40,
	IP6_MIN_MTU = 1280,
	IP6_FRAGMENT_HEADER = 8,
	IP6_OFFSET = 0xfff8,  // of a fragment header's second word: bytes
	IP6_MF = 1
};

enum ip6_option {
	IP6_OPTION_PAD1 = 0, IP6_OPTION_PADN = 1, IP6_OPTION_ROUTER_ALERT = 5, IP6_OPTION_JUMBO = 0xc2
};

struct ip6_header {
	uint32_t version_flow;    // numbers in network order; version, traffic class, flow label
	uint16_t payload_length;
	uint8_t next;
	uint8_t hop_limit;
	uint8_t source[16];
	uint8_t destination[16];
} __attribute__((packed));

struct ip6_fragment {
	uint8_t next;
	uint8_t reserved;
	uint16_t offset;          // IP6_OFFSET, IP6_MF
	uint32_t id;
} __attribute__((packed));

static inline uint32_t ip6_payload_length(const struct ip6_header *ip)
{
	return __builtin_bswap16(ip->payload_length);
}

static inline struct ip6_header *ip6_at(uint8_t *data, size_t available)
{
	return available >= IP6_HEADER && data[0] >> 4 == 6 ? (void *)data : NULL;
}

// What a walk over the extension headers found.
struct ip6_walk {
	uint8_t next;             // the first header that is not an extension, or the one that stopped the walk
	uint32_t offset;          // where it lies, from the IPv6 header
	uint32_t next_at;         // where the number `next` stands, for a parameter problem
	uint32_t fragment;        // offset of the fragment header; 0: none
	bool later_fragment;      // offset not 0: what follows is not a header
	uint32_t routing;         // offset of the routing header; 0: none
};

// Walk over hop-by-hop, routing, destination options and fragment headers, in any order.
// False where one does not end inside the `available` bytes.
bool ip6_walk(const uint8_t *data, size_t available, struct ip6_walk *walk);

enum ip6_verdict { IP6_ACCEPT = 0, IP6_DISCARD, IP6_PROBLEM_FIELD, IP6_PROBLEM_OPTION };

// Check the options of the hop-by-hop or destination options header at `offset` of an IPv6
// packet, which ip6_walk passed.  RFC 8200 section 4.2.  For the problems, *pointer is where.
enum ip6_verdict ip6_options(const uint8_t *data, uint32_t offset, bool hop_by_hop, uint32_t *pointer);

// Kinds of address; RFC 4291 section 2.
static inline bool ip6_is_multicast(const uint8_t *address)
{
	return address[0] == 0xff;
}

static inline unsigned ip6_multicast_scope(const uint8_t *address)
{
	return address[1] & 15u;
}

static inline bool ip6_is_link_local(const uint8_t *address)
{
	return address[0] == 0xfe && (address[1] & 0xc0) == 0x80;
}

static inline bool ip6_is_any(const uint8_t *address)
{
	static const uint8_t any[16];
	return memcmp(address, any, 16) == 0;
}

static inline bool ip6_is_loopback(const uint8_t *address)
{
	static const uint8_t loopback[16] = {[15] = 1};
	return memcmp(address, loopback, 16) == 0;
}

static inline bool ip6_is_v4_mapped(const uint8_t *address)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	return memcmp(address, mapped, 12) == 0;
}

// ff02::1:ff00:0/104 with the last 24 bits of an address; RFC 4291 section 2.7.1.
static inline void ip6_solicited_node(const uint8_t *address, uint8_t *group)
{
	static const uint8_t prefix[13] = {0xff, 2, [11] = 1, [12] = 0xff};
	memcpy(group, prefix, 13);
	memcpy(group + 13, address + 13, 3);
}

#endif
