#include "base/md5.h"

#include <string.h>

// floor(2^32 * abs(sin(i + 1))): RFC 1321 section 3.4.
static const uint32_t sines[64] = {
	0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501,
	0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
	0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
	0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a,
	0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70,
	0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
	0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
	0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391,
};

static const uint8_t shifts[4][4] = {{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};

static inline uint32_t rotate(uint32_t value, int bits)
{
	return value << bits | value >> (32 - bits);
}

// One step; the four words change places instead of the names (RFC 1321 section 3.4).
#define STEP(function, index) do { \
	uint32_t sum = a + (function) + words[index] + sines[i]; \
	a = d; \
	d = c; \
	c = b; \
	b += rotate(sum, shifts[i / 16][i % 4]); \
} while (0)

static void md5_block(uint32_t state[4], const uint8_t *block)
{
	uint32_t words[16], a = state[0], b = state[1], c = state[2], d = state[3];

	memcpy(words, block, sizeof(words)); // little endian, as this machine is
	for (int i = 0; i < 16; i++)
		STEP(d ^ (b & (c ^ d)), i);
	for (int i = 16; i < 32; i++)
		STEP(c ^ (d & (b ^ c)), (5 * i + 1) % 16);
	for (int i = 32; i < 48; i++)
		STEP(b ^ c ^ d, (3 * i + 5) % 16);
	for (int i = 48; i < 64; i++)
		STEP(c ^ (b | ~d), 7 * i % 16);
	state[0] += a;
	state[1] += b;
	state[2] += c;
	state[3] += d;
}

void md5_begin(struct md5 *md5)
{
	md5->state[0] = 0x67452301;
	md5->state[1] = 0xefcdab89;
	md5->state[2] = 0x98badcfe;
	md5->state[3] = 0x10325476;
	md5->bytes = 0;
}

void md5_add(struct md5 *md5, const void *data, size_t bytes)
{
	const uint8_t *at = data;
	size_t held = md5->bytes % MD5_BLOCK;

	md5->bytes += bytes;
	if (held != 0) {
		size_t part = bytes < MD5_BLOCK - held ? bytes : MD5_BLOCK - held;
		memcpy(md5->block + held, at, part);
		if (held + part < MD5_BLOCK)
			return;
		md5_block(md5->state, md5->block);
		at += part;
		bytes -= part;
	}
	for (; bytes >= MD5_BLOCK; at += MD5_BLOCK, bytes -= MD5_BLOCK)
		md5_block(md5->state, at);
	if (bytes > 0)
		memcpy(md5->block, at, bytes);
}

// Padding: one bit, zeros, and the length in bits (RFC 1321 sections 3.1 and 3.2).
void md5_end(struct md5 *md5, uint8_t digest[MD5_DIGEST])
{
	static const uint8_t padding[MD5_BLOCK] = {0x80};
	uint64_t bits = md5->bytes * 8;

	md5_add(md5, padding, (MD5_BLOCK + 55 - md5->bytes % MD5_BLOCK) % MD5_BLOCK + 1);
	md5_add(md5, &bits, sizeof(bits));
	memcpy(digest, md5->state, MD5_DIGEST);
}
