// Keyed and unkeyed hashes.
//
// SipHash-2-4 (Aumasson, Bernstein: "SipHash: a fast short-input PRF", 2012) is for tables
// whose keys a stranger chooses.  mix32 spreads a hash that is already one over all its bits.
#ifndef BASE_SIPHASH_H
#define BASE_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t siphash24(const uint64_t key[2], const void *data, size_t bytes);

// A bijection of 32 bits in which each input bit flips each output bit with probability 1/2
// (constants: Wellons, "hash prospector", lowbias32).
static inline uint32_t mix32(uint32_t value)
{
	value ^= value >> 16;
	value *= 0x7feb352d;
	value ^= value >> 15;
	value *= 0x846ca68b;
	value ^= value >> 16;
	return value;
}

// A fast hash of the fields of a flow, with a seed of the VR's own.  Not for tables that a
// stranger can fill: use siphash24 there.
static inline uint32_t flow_mix(uint32_t seed, uint64_t source, uint64_t destination, uint32_t rest)
{
	uint64_t sum = (source + seed) * 0x9e3779b97f4a7c15ull ^ (destination + rest) * 0xc2b2ae3d27d4eb4full;
	return mix32((uint32_t)(sum >> 32) ^ (uint32_t)sum ^ rest);
}

#endif
