// Numbers in network byte order at any alignment.
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include <stdint.h>
#include <string.h>

static inline uint16_t load16(const void *at)
{
	uint16_t value;
	memcpy(&value, at, sizeof value);
	return __builtin_bswap16(value);
}

static inline uint32_t load32(const void *at)
{
	uint32_t value;
	memcpy(&value, at, sizeof value);
	return __builtin_bswap32(value);
}

static inline void store16(void *at, uint16_t value)
{
	value = __builtin_bswap16(value);
	memcpy(at, &value, sizeof value);
}

static inline void store32(void *at, uint32_t value)
{
	value = __builtin_bswap32(value);
	memcpy(at, &value, sizeof value);
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "network order is the other one");

#endif
