// IPv4 headers (RFC 791).
#ifndef WIRE_IP4_H
#define WIRE_IP4_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"

enum {
	IP4_HEADER = 20,
	IP4_HEADER_MAX = 60,
	IP4_DF = 0x4000,
	IP4_MF = 0x2000,
	IP4_OFFSET = 0x1fff   // in units of 8 bytes
};

enum ip4_option {
	IP4_OPTION_END = 0, IP4_OPTION_NOP = 1, IP4_OPTION_RECORD_ROUTE = 7, IP4_OPTION_TIMESTAMP = 68,
	IP4_OPTION_LOOSE_SOURCE = 131, IP4_OPTION_STRICT_SOURCE = 137, IP4_OPTION_ROUTER_ALERT = 148,
	IP4_OPTION_COPIED = 0x80 // bit: goes into every fragment
};

struct ip4_header {
	uint8_t version_length; // version, header length in words
	uint8_t tos;
	uint16_t total_length;  // numbers in network order
	uint16_t id;
	uint16_t fragment;      // IP4_DF, IP4_MF, IP4_OFFSET
	uint8_t ttl;
	uint8_t protocol;
	uint16_t checksum;
	uint8_t source[4];
	uint8_t destination[4];
} __attribute__((packed));

static inline uint32_t ip4_header_length(const struct ip4_header *ip)
{
	return (ip->version_length & 15u) * 4;
}

static inline uint32_t ip4_total_length(const struct ip4_header *ip)
{
	return __builtin_bswap16(ip->total_length);
}

static inline uint16_t ip4_fragment(const struct ip4_header *ip)
{
	return __builtin_bswap16(ip->fragment);
}

static inline bool ip4_is_fragment(const struct ip4_header *ip)
{
	return (ip4_fragment(ip) & (IP4_MF | IP4_OFFSET)) != 0;
}

// The header where all of it, options included, lies in the data, else NULL.
static inline struct ip4_header *ip4_at(uint8_t *data, size_t available)
{
	struct ip4_header *ip = (void *)data;

	if (available < IP4_HEADER || ip->version_length >> 4 != 4)
		return NULL;
	return ip4_header_length(ip) >= IP4_HEADER && ip4_header_length(ip) <= available ? ip : NULL;
}

// Kinds of address; RFC 1122 section 3.2.1.3, RFC 1812 section 4.2.2.11, RFC 6890.
static inline bool ip4_is_multicast(const uint8_t *address)
{
	return (address[0] & 0xf0) == 0xe0;
}

static inline bool ip4_is_local_multicast(const uint8_t *address)
{
	return memcmp(address, "\xe0\0\0", 3) == 0; // 224.0.0.0/24
}

static inline bool ip4_is_limited_broadcast(const uint8_t *address)
{
	return memcmp(address, "\xff\xff\xff\xff", 4) == 0;
}

static inline bool ip4_is_any(const uint8_t *address)
{
	return memcmp(address, "\0\0\0\0", 4) == 0;
}

static inline bool ip4_is_loopback(const uint8_t *address)
{
	return address[0] == 127;
}

// The address that stands for all of 127.0.0.0/8 where that is ours (RFC 1122 section 3.2.1.3); others as they are.
static inline const uint8_t *ip4_home(const uint8_t *address)
{
	static const uint8_t loopback[16] = {127, 0, 0, 1};
	return ip4_is_loopback(address) ? loopback : address;
}

#endif
