#include "base/siphash.h"

#include <endian.h>
#include <string.h>

struct sip {
	uint64_t v0, v1, v2, v3;
};

static inline uint64_t sip_rotate(uint64_t value, int bits)
{
	return value << bits | value >> (64 - bits);
}

static inline void sip_rounds(struct sip *s, int rounds)
{
	for (int i = 0; i < rounds; i++) {
		s->v0 += s->v1;
		s->v1 = sip_rotate(s->v1, 13) ^ s->v0;
		s->v0 = sip_rotate(s->v0, 32);
		s->v2 += s->v3;
		s->v3 = sip_rotate(s->v3, 16) ^ s->v2;
		s->v0 += s->v3;
		s->v3 = sip_rotate(s->v3, 21) ^ s->v0;
		s->v2 += s->v1;
		s->v1 = sip_rotate(s->v1, 17) ^ s->v2;
		s->v2 = sip_rotate(s->v2, 32);
	}
}

uint64_t siphash24(const uint64_t key[2], const void *data, size_t bytes)
{
	struct sip s = {
		.v0 = key[0] ^ 0x736f6d6570736575ull,
		.v1 = key[1] ^ 0x646f72616e646f6dull,
		.v2 = key[0] ^ 0x6c7967656e657261ull,
		.v3 = key[1] ^ 0x7465646279746573ull,
	};
	const uint8_t *at = data;
	for (size_t left = bytes; left >= 8; left -= 8, at += 8) {
		uint64_t word;
		memcpy(&word, at, sizeof(word));
		word = le64toh(word);
		s.v3 ^= word;
		sip_rounds(&s, 2);
		s.v0 ^= word;
	}
	// The last word: the bytes that are left, and the length modulo 256 on top.
	uint64_t last = (uint64_t)bytes << 56;
	for (size_t i = 0; i < bytes % 8; i++)
		last |= (uint64_t)at[i] << 8 * i;
	s.v3 ^= last;
	sip_rounds(&s, 2);
	s.v0 ^= last;
	s.v2 ^= 0xff;
	sip_rounds(&s, 4);
	return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}
