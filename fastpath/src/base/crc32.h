// CRC-32 (ISO 3309, reflected, as in zlib and Ethernet), for chunks that are written once.
#ifndef BASE_CRC32_H
#define BASE_CRC32_H

#include <stddef.h>
#include <stdint.h>

// Go on with `crc` over more bytes; the first call starts with 0.
uint32_t crc32_update(uint32_t crc, const void *data, size_t bytes);

#endif
