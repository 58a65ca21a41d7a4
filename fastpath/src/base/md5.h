// MD5 (RFC 1321), for RFC 2385 alone: as a hash against collisions it is broken.
#ifndef BASE_MD5_H
#define BASE_MD5_H

#include <stddef.h>
#include <stdint.h>

enum { MD5_DIGEST = 16, MD5_BLOCK = 64 };

struct md5 {
	uint32_t state[4];
	uint64_t bytes;             // taken in so far
	uint8_t block[MD5_BLOCK];   // the last bytes % MD5_BLOCK of them
};

void md5_begin(struct md5 *md5);
void md5_add(struct md5 *md5, const void *data, size_t bytes);
void md5_end(struct md5 *md5, uint8_t digest[MD5_DIGEST]);

#endif
