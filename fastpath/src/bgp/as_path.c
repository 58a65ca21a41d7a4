// AS_PATH in wire form: segments of type, count and numbers.  RFC 4271 section 5.1.2, RFC 6793.
#include <string.h>

#include "bgp/internal.h"

bool as_path_valid(const uint8_t *data, uint32_t size, uint32_t width, bool confederation)
{
	while (size != 0) {
		// RFC 7606 section 7.2: unknown type, overrun, one byte left, or a count of zero.
		if (size < 2 || data[0] < AS_SET || data[0] > (confederation ? AS_CONFED_SET : AS_SEQUENCE) || data[1] == 0)
			return false;
		uint32_t bytes = 2 + data[1] * width;
		if (bytes > size)
			return false;
		data += bytes;
		size -= bytes;
	}
	return true;
}

uint32_t as_path_length(const uint8_t *data, uint32_t size)
{
	uint32_t length = 0;
	for (const uint8_t *end = data + size; data < end; data += 2 + data[1] * 4)
		length += data[0] == AS_SET ? 1 : data[0] == AS_SEQUENCE ? data[1] : 0;
	return length;
}

uint32_t as_path_count(const uint8_t *data, uint32_t size, uint32_t as)
{
	uint32_t found = 0;
	for (const uint8_t *end = data + size; data < end; data += 2 + data[1] * 4)
		for (uint32_t i = 0; i < data[1]; i++)
			found += load32(data + 2 + 4 * i) == as;
	return found;
}

uint32_t as_path_first(const uint8_t *data, uint32_t size)
{
	return size >= 6 && data[0] == AS_SEQUENCE ? load32(data + 2) : 0;
}

uint32_t as_path_widen(const uint8_t *data, uint32_t size, uint8_t *out)
{
	uint8_t *to = out;
	for (const uint8_t *end = data + size; data < end; data += 2 + data[1] * 2) {
		*to++ = data[0];
		*to++ = data[1];
		for (uint32_t i = 0; i < data[1]; i++, to += 4)
			store32(to, load16(data + 2 + 2 * i));
	}
	return (uint32_t)(to - out);
}

// RFC 6793 section 6: segments of a confederation have no place in AS4_PATH; what else there is counts.
static uint32_t without_confederation(const uint8_t *data, uint32_t size, uint8_t *out)
{
	uint8_t *to = out;
	uint32_t bytes;
	for (const uint8_t *end = data + size; data < end; data += bytes) {
		bytes = 2 + data[1] * 4u;
		if (data[0] != AS_SET && data[0] != AS_SEQUENCE)
			continue;
		memcpy(to, data, bytes);
		to += bytes;
	}
	return (uint32_t)(to - out);
}

uint32_t as_path_merge(const uint8_t *path, uint32_t size, const uint8_t *path4, uint32_t size4, uint8_t *out)
{
	uint32_t length = as_path_length(path, size), length4 = as_path_length(path4, size4);
	if (length < length4) {
		memcpy(out, path, size);
		return size;
	}
	// As much of the front of AS_PATH as makes the two equally long.
	uint32_t missing = length - length4;
	uint8_t *to = out;
	for (const uint8_t *at = path; missing != 0 && at < path + size; at += 2 + at[1] * 4) {
		uint32_t numbers = at[1];
		if (at[0] == AS_SEQUENCE && numbers > missing)
			numbers = missing;
		*to++ = at[0];
		*to++ = (uint8_t)numbers;
		memcpy(to, at + 2, numbers * 4);
		to += numbers * 4;
		missing -= at[0] == AS_SET ? 1 : numbers;
	}
	size4 = without_confederation(path4, size4, to);
	// Two sequences that meet become one, where there is room.
	uint8_t *last = out;
	while (to != out && last + 2 + last[1] * 4 < to)
		last += 2 + last[1] * 4;
	if (to != out && size4 != 0 && last[0] == AS_SEQUENCE && to[0] == AS_SEQUENCE && last[1] + to[1] <= 255) {
		last[1] = (uint8_t)(last[1] + to[1]);
		memmove(to, to + 2, size4 - 2);
		return (uint32_t)(to - out) + size4 - 2;
	}
	return (uint32_t)(to - out) + size4;
}

uint32_t as_path_prepend(const uint8_t *data, uint32_t size, const uint32_t *numbers, uint32_t count, uint8_t *out)
{
	bool sequence = size != 0 && data[0] == AS_SEQUENCE && data[1] + count <= 255;
	uint8_t *to = out;
	*to++ = AS_SEQUENCE;
	*to++ = (uint8_t)(count + (sequence ? data[1] : 0));
	for (uint32_t i = 0; i < count; i++, to += 4)
		store32(to, numbers[i]);
	uint32_t skip = sequence ? 2 : 0;
	if (size != 0)
		memcpy(to, data + skip, size - skip);
	return (uint32_t)(to - out) + size - skip;
}

uint32_t as_path_narrow(const uint8_t *data, uint32_t size, uint8_t *out, bool *lossy)
{
	uint8_t *to = out;
	for (const uint8_t *end = data + size; data < end; data += 2 + data[1] * 4) {
		*to++ = data[0];
		*to++ = data[1];
		for (uint32_t i = 0; i < data[1]; i++, to += 2) {
			uint32_t as = load32(data + 2 + 4 * i);
			*lossy |= as > UINT16_MAX;
			store16(to, (uint16_t)(as > UINT16_MAX ? AS_TRANS : as));
		}
	}
	return (uint32_t)(to - out);
}

// RFC 6996.
static bool as_private(uint32_t as)
{
	return (as >= 64512 && as <= 65534) || (as >= 4200000000u && as <= 4294967294u);
}

uint32_t as_path_without_private(const uint8_t *data, uint32_t size, uint32_t keep, uint8_t *out)
{
	uint8_t *to = out;
	for (const uint8_t *end = data + size; data < end; data += 2 + data[1] * 4) {
		uint8_t *head = to;
		to += 2;
		for (uint32_t i = 0; i < data[1]; i++) {
			uint32_t as = load32(data + 2 + 4 * i);
			if (as_private(as) && as != keep)
				continue;
			memcpy(to, data + 2 + 4 * i, 4);
			to += 4;
		}
		head[0] = data[0];
		head[1] = (uint8_t)((to - head - 2) / 4);
		if (head[1] == 0)
			to = head;
	}
	return (uint32_t)(to - out);
}

void as_path_override(uint8_t *data, uint32_t size, uint32_t from, uint32_t to)
{
	for (const uint8_t *end = data + size; data < end; data += 2 + data[1] * 4)
		for (uint32_t i = 0; i < data[1]; i++)
			if (load32(data + 2 + 4 * i) == from)
				store32(data + 2 + 4 * i, to);
}
