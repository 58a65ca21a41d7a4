// The Internet checksum; see cksum.h.
#include "base/cksum.h"

#include <string.h>

#include "base/bytes.h"

// One's complement addition is the same at any width, and 32-bit words cannot overflow
// the 64-bit sum below 16 GiB.  The compiler makes vectors of the inner loop.
uint64_t cksum_add(uint64_t sum, const void *bytes, size_t length)
{
	const uint8_t *at = bytes;

	// An incoming sum may be a whole pseudo header or a previous range: keep it small.
	sum = (sum & 0xffffffff) + (sum >> 32);
	for (; length >= 32; at += 32, length -= 32) {
		uint32_t words[8];
		memcpy(words, at, sizeof words);
		for (unsigned i = 0; i < 8; i++)
			sum += words[i];
	}
	for (; length >= 4; at += 4, length -= 4) {
		uint32_t word;
		memcpy(&word, at, sizeof word);
		sum += word;
	}
	if (length > 0) {
		uint32_t word = 0;
		memcpy(&word, at, length);
		sum += word;
	}
	return sum;
}

uint16_t cksum_fold(uint64_t sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

uint16_t cksum_finish(uint64_t sum)
{
	return (uint16_t)~cksum_fold(sum);
}

uint16_t cksum(const void *bytes, size_t length)
{
	return cksum_finish(cksum_add(0, bytes, length));
}

uint16_t cksum_finish_udp(uint64_t sum)
{
	uint16_t checksum = cksum_finish(sum);
	return checksum == 0 ? 0xffff : checksum;
}

uint64_t cksum_pseudo4(const uint8_t *source, const uint8_t *destination, uint8_t protocol, uint32_t length)
{
	uint8_t tail[4] = {0, protocol, 0, 0};

	store16(tail + 2, (uint16_t)length);
	return cksum_add(cksum_add(cksum_add(0, source, 4), destination, 4), tail, sizeof tail);
}

uint64_t cksum_pseudo6(const uint8_t *source, const uint8_t *destination, uint8_t protocol, uint32_t length)
{
	uint8_t tail[8] = {0, 0, 0, 0, 0, 0, 0, protocol};

	store32(tail, length);
	return cksum_add(cksum_add(cksum_add(0, source, 16), destination, 16), tail, sizeof tail);
}
