// Shared segments: sealed memfds that begin with struct segment_header.
//
// segment_create and segment_check are declared in abi/core.h.
#ifndef BASE_SEGMENT_H
#define BASE_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Map a whole segment after segment_check; `least` is the size the caller will touch.
// Returns 0 or a negated errno; the mapping outlives the fd.
int segment_map(int fd, uint32_t kind, size_t least, bool writable, void **base, size_t *size);

#endif
