// SHA-1 (FIPS 180-4), for the authentication of BFD alone (RFC 5880): as a hash against collisions it is broken.
#ifndef BASE_SHA1_H
#define BASE_SHA1_H

#include <stddef.h>
#include <stdint.h>

enum { SHA1_DIGEST = 20, SHA1_BLOCK = 64 };

struct sha1 {
	uint32_t state[5];
	uint64_t bytes;             // taken in so far
	uint8_t block[SHA1_BLOCK];  // the last bytes % SHA1_BLOCK of them
};

void sha1_begin(struct sha1 *sha1);
void sha1_add(struct sha1 *sha1, const void *data, size_t bytes);
void sha1_end(struct sha1 *sha1, uint8_t digest[SHA1_DIGEST]);

#endif
