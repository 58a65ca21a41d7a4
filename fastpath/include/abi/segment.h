// The header that every shared segment begins with.
//
// A segment has one writer.  An attaching process compares magic, kind, size and
// ABI hash before it believes anything else in it.
#ifndef ABI_SEGMENT_H
#define ABI_SEGMENT_H

#include <stdint.h>
#include "abi/limits.h"

#define SEGMENT_MAGIC 0x636e617262616e61 // "anabranc", little-endian

enum segment_kind { SEGMENT_TABLES = 1, SEGMENT_STATE = 2, SEGMENT_LINK = 3 };

struct segment_header {
	uint64_t magic;                   // SEGMENT_MAGIC, stored last at creation
	uint64_t abi_hash;                // of the stripped text of include/abi
	uint64_t size;                    // bytes of the whole segment
	uint32_t kind;                    // enum segment_kind
	uint32_t router_id;
	char router_name[ROUTER_NAME_SIZE]; // NUL-terminated
	uint64_t created_ns;              // CLOCK_BOOTTIME
	uint8_t reserved[56];
};

#endif
