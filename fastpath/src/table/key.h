// An address as a number whose first bit is the highest: what tries and hashes work on.
#ifndef TABLE_KEY_H
#define TABLE_KEY_H

#include <endian.h>
#include <stdint.h>
#include <string.h>
#include "abi/address.h"

enum { KEY_STRIDE = 6, KEY_SLOTS = 1 << KEY_STRIDE };

struct key {
	uint64_t hi; // the first 64 bits; IPv4 fills the upper half
	uint64_t lo;
};

static inline uint32_t key_width(uint8_t family)
{
	return family == FAMILY_IPV4 ? 32 : 128;
}

// Reads 4 bytes for IPv4, else 16.
static inline struct key key_of(uint8_t family, const uint8_t *address)
{
	struct key key = {0};
	if (family == FAMILY_IPV4) {
		uint32_t word;
		memcpy(&word, address, sizeof(word));
		key.hi = (uint64_t)be32toh(word) << 32;
	} else {
		memcpy(&key, address, sizeof(key));
		key.hi = be64toh(key.hi);
		key.lo = be64toh(key.lo);
	}
	return key;
}

// Its first `bits` as a number, 0 <= bits < 64.
static inline uint32_t key_head(struct key key, uint32_t bits)
{
	return bits == 0 ? 0 : (uint32_t)(key.hi >> (64 - bits));
}

// Drop the first `bits`, 0 <= bits < 64; zeros come in at the end.
static inline struct key key_tail(struct key key, uint32_t bits)
{
	if (bits == 0)
		return key;
	return (struct key){.hi = key.hi << bits | key.lo >> (64 - bits), .lo = key.lo << bits};
}

// A prefix, whose 16 bytes are `key`, as a number of 32 bits.
static inline uint64_t key_hash(struct key key, uint8_t family, uint8_t length)
{
	uint64_t y = (key.lo ^ ((uint64_t)family << 8 | length)) * 0xc2b2ae3d27d4eb4full;
	uint64_t x = key.hi * 0x9e3779b97f4a7c15ull + (y << 31 | y >> 33);
	return (x ^ x >> 32) * 0x9e3779b97f4a7c15ull >> 32;
}

// Its first slot in a table of installed routes (abi/tables.h).
static inline uint64_t key_home(struct key key, uint8_t family, uint8_t length, uint64_t capacity)
{
	return key_hash(key, family, length) * capacity >> 32;
}

// All bits after the first `length` are zero.
static inline int key_ends_at(struct key key, uint32_t length)
{
	if (length >= 128)
		return 1;
	if (length >= 64)
		return key_tail((struct key){.hi = key.lo}, length - 64).hi == 0;
	struct key tail = key_tail(key, length);
	return tail.hi == 0 && tail.lo == 0;
}

#endif
