// The Internet checksum: RFC 1071 for whole ranges, RFC 1624 for changes.
//
// A sum here is what the bytes add up to in the order in which they lie in memory, so
// that a checksum field is stored and loaded without swapping.  Partial sums are 64 bits
// wide and are folded once, at the end.
#ifndef BASE_CKSUM_H
#define BASE_CKSUM_H

#include <stddef.h>
#include <stdint.h>

// Add `length` bytes to a sum.  An odd length counts as padded with a zero byte, so only
// the last range of several may be odd.
uint64_t cksum_add(uint64_t sum, const void *bytes, size_t length);
// 16 bits of one's complement sum: 0xffff or 0 where the range with its checksum is right.
uint16_t cksum_fold(uint64_t sum);
// The checksum field for a sum (memory order), and for a range whose field is zero.
uint16_t cksum_finish(uint64_t sum);
uint16_t cksum(const void *bytes, size_t length);
// UDP: a checksum of zero means none, so zero is sent as 0xffff (RFC 768, RFC 8200).
uint16_t cksum_finish_udp(uint64_t sum);

// Pseudo headers; `length` of the upper-layer packet.  RFC 793, RFC 8200 section 8.1.
uint64_t cksum_pseudo4(const uint8_t *source, const uint8_t *destination, uint8_t protocol, uint32_t length);
uint64_t cksum_pseudo6(const uint8_t *source, const uint8_t *destination, uint8_t protocol, uint32_t length);

// A checksum after one of the 16-bit words under it was replaced; RFC 1624, equation 3.
// All three are in memory order.
static inline uint16_t cksum_replace16(uint16_t checksum, uint16_t before, uint16_t after)
{
	uint32_t sum = (uint16_t)~checksum + (uint32_t)(uint16_t)~before + after;
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

#endif
