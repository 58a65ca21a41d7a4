// What the forwarder and the BPF program of the XDP offload must compute alike: flow hash, next hop, neighbor's place.
// Needs no library, as the program has none.
#ifndef TABLE_BYPASS_H
#define TABLE_BYPASS_H

#include <stdint.h>
#include "abi/bypass.h"

static inline __attribute__((always_inline)) uint64_t hash_step(uint64_t hash, uint64_t word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15;
	return hash ^ (hash >> 32);
}

// The hash of a flow's words, for nexthop_point.
static inline __attribute__((always_inline)) uint32_t hash_end(uint64_t hash, uint64_t key)
{
	return (uint32_t)(hash_step(hash, key) >> 32);
}

// The point in the sum of a group's weights that a flow hash picks.
static inline __attribute__((always_inline)) uint32_t nexthop_point(uint32_t hash, uint32_t total_weight)
{
	// As mix32 in base/siphash.h: a bijection that spreads each bit over all.
	hash ^= hash >> 16;
	hash *= 0x7feb352d;
	hash ^= hash >> 15;
	hash *= 0x846ca68b;
	hash ^= hash >> 16;
	return (uint32_t)((uint64_t)hash * total_weight >> 32);
}

// The bit of bypass_links.sources that stands for an IPv4 address, whose bytes lie in `address` as in memory.
static inline __attribute__((always_inline)) uint32_t bypass_source_bit(uint32_t address)
{
	return address * 0x9e3779b1u >> 16;
}

// The first place of a neighbor, whose address is the two words as they lie in memory.
static inline __attribute__((always_inline)) uint32_t bypass_place(uint64_t key, uint32_t interface, uint32_t family,
	uint64_t first, uint64_t second)
{
	return hash_end(hash_step(hash_step(key ^ (interface << 8 | family), first), second), key) & (BYPASS_NEIGHBORS - 1);
}

#define BYPASS_LINK_VALID (UINT64_C(1) << 48)

_Static_assert(BYPASS_SOURCES == 65536, "bypass_source_bit gives 16 bits");

#endif
