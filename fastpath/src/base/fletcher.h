// Fletcher's checksum as ISO 8473 has it: RFC 905 annex B, RFC 1008.
#ifndef BASE_FLETCHER_H
#define BASE_FLETCHER_H

#include <stdint.h>

// The two check octets, first one high, for `length` octets in which they stand at `field`; what
// stands there counts as zero.  Never 0: that means "none".
uint16_t fletcher_check(const uint8_t *bytes, uint32_t length, uint32_t field);

#endif
