// Fletcher's checksum over an LSA, which it covers but for its age; RFC 2328 section 12.1.7.
#include "base/fletcher.h"

#include "abi/spf.h"

enum {
	LSA_AGE = 2,         // octets that are not covered
	LSA_FIELD = 16,      // where the checksum stands
	LSA_HEADER = 20,
	// RFC 1008 section 8: so many octets cannot overflow the sums, which are 32 bits wide and
	// below 255 before.
	CHUNK = 4096
};

uint16_t fletcher_check(const uint8_t *bytes, uint32_t length, uint32_t field)
{
	uint32_t first = 0, second = 0;
	for (uint32_t at = 0; at < length;) {
		uint32_t end = length - at > CHUNK ? at + CHUNK : length;
		for (; at < end; at++) {
			first += at - field < 2 ? 0 : bytes[at];
			second += first;
		}
		first %= 255;
		second %= 255;
	}
	uint32_t after = (length - field - 1) % 255;
	uint32_t high = (after * first + 255 - second) % 255;
	if (high == 0)
		high = 255;
	uint32_t low = (510 - first - high) % 255;
	if (low == 0)
		low = 255;
	return (uint16_t)(high << 8 | low);
}

uint32_t fletcher_lsa(const uint8_t *lsa, uint32_t length)
{
	if (length < LSA_HEADER)
		return 0;
	return fletcher_check(lsa + LSA_AGE, length - LSA_AGE, LSA_FIELD - LSA_AGE);
}
