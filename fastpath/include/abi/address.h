// Addresses and prefixes as they lie in shared memory.
//
// An address is 16 bytes in network order; IPv4 fills the first four and the
// other twelve are zero.  The family stands beside it as 4 or 6, 0 for none.
#ifndef ABI_ADDRESS_H
#define ABI_ADDRESS_H

#include <stdint.h>

enum address_family { FAMILY_NONE = 0, FAMILY_IPV4 = 4, FAMILY_IPV6 = 6 };

struct prefix {
	uint8_t address[16];
	uint8_t family;
	uint8_t length;
	uint8_t reserved[6];
};

#endif
