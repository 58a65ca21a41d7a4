#include "base/sha1.h"

#include <string.h>

#include "base/bytes.h"

static inline uint32_t rotate(uint32_t value, int bits)
{
	return value << bits | value >> (32 - bits);
}

// The function and the constant of a step: FIPS 180-4 sections 4.1.1 and 4.2.1.
static uint32_t mixed(int step, uint32_t b, uint32_t c, uint32_t d)
{
	if (step < 20)
		return (d ^ (b & (c ^ d))) + 0x5a827999;
	if (step < 40)
		return (b ^ c ^ d) + 0x6ed9eba1;
	if (step < 60)
		return ((b & c) | (d & (b | c))) + 0x8f1bbcdc;
	return (b ^ c ^ d) + 0xca62c1d6;
}

// FIPS 180-4 section 6.1.2, with the message schedule in a ring of 16 words (section 6.1.3).
static void sha1_block(uint32_t state[5], const uint8_t *block)
{
	uint32_t words[16], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];

	for (int i = 0; i < 16; i++)
		words[i] = load32(block + 4 * i);
	for (int i = 0; i < 80; i++) {
		if (i >= 16) {
			uint32_t word = words[(i + 13) % 16] ^ words[(i + 8) % 16] ^ words[(i + 2) % 16] ^ words[i % 16];
			words[i % 16] = rotate(word, 1);
		}
		uint32_t sum = rotate(a, 5) + mixed(i, b, c, d) + e + words[i % 16];
		e = d;
		d = c;
		c = rotate(b, 30);
		b = a;
		a = sum;
	}
	state[0] += a;
	state[1] += b;
	state[2] += c;
	state[3] += d;
	state[4] += e;
}

void sha1_begin(struct sha1 *sha1)
{
	static const uint32_t initial[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
	memcpy(sha1->state, initial, sizeof(initial));
	sha1->bytes = 0;
}

void sha1_add(struct sha1 *sha1, const void *data, size_t bytes)
{
	const uint8_t *at = data;
	size_t held = sha1->bytes % SHA1_BLOCK;

	sha1->bytes += bytes;
	if (held != 0) {
		size_t part = bytes < SHA1_BLOCK - held ? bytes : SHA1_BLOCK - held;
		memcpy(sha1->block + held, at, part);
		if (held + part < SHA1_BLOCK)
			return;
		sha1_block(sha1->state, sha1->block);
		at += part;
		bytes -= part;
	}
	for (; bytes >= SHA1_BLOCK; at += SHA1_BLOCK, bytes -= SHA1_BLOCK)
		sha1_block(sha1->state, at);
	if (bytes > 0)
		memcpy(sha1->block, at, bytes);
}

// Padding: one bit, zeros, and the length in bits (FIPS 180-4 section 5.1.1).
void sha1_end(struct sha1 *sha1, uint8_t digest[SHA1_DIGEST])
{
	static const uint8_t padding[SHA1_BLOCK] = {0x80};
	uint64_t bits = __builtin_bswap64(sha1->bytes * 8);

	sha1_add(sha1, padding, (SHA1_BLOCK + 55 - sha1->bytes % SHA1_BLOCK) % SHA1_BLOCK + 1);
	sha1_add(sha1, &bits, sizeof(bits));
	for (int i = 0; i < 5; i++)
		store32(digest + 4 * i, sha1->state[i]);
}
