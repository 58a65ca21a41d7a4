// Path attributes in canonical form: stepping, finding, writing.  RFC 4271 section 4.3.
#include <string.h>

#include "bgp/internal.h"

bool attribute_next(const uint8_t **at, const uint8_t *end, struct attribute *out)
{
	const uint8_t *p = *at;
	if (p >= end)
		return false;
	bool large = p[0] & FLAG_LONG;
	*out = (struct attribute){.flags = p[0], .type = p[1], .size = large ? load16(p + 2) : p[2], .value = p + (large ? 4 : 3)};
	*at = out->value + out->size;
	return true;
}

bool wire_find(const uint8_t *wire, uint32_t size, uint8_t type, struct attribute *out)
{
	const uint8_t *at = wire;
	while (attribute_next(&at, wire + size, out))
		if (out->type == type)
			return true;
	*out = (struct attribute){0};
	return false;
}

bool attributes_find(const struct attributes *set, uint8_t type, struct attribute *out)
{
	return wire_find(set->wire, set->size, type, out);
}

uint32_t attribute_put(uint8_t *to, uint8_t flags, uint8_t type, const uint8_t *value, uint32_t size)
{
	bool large = size > 255 || flags & FLAG_LONG;
	to[0] = (uint8_t)(large ? flags | FLAG_LONG : flags);
	to[1] = type;
	if (large)
		store16(to + 2, (uint16_t)size);
	else
		to[2] = (uint8_t)size;
	uint32_t head = large ? 4 : 3;
	if (size != 0)
		memcpy(to + head, value, size);
	return head + size;
}

uint32_t attributes_edit(const uint8_t *wire, uint32_t size, const struct edit *edits, uint32_t count, uint8_t *out,
	uint32_t room)
{
	const uint8_t *at = wire, *next = wire;
	struct attribute a = {0};
	bool more = attribute_next(&next, wire + size, &a);
	uint32_t written = 0, i = 0;
	while (more || i < count) {
		bool edited = i < count && (!more || edits[i].type <= a.type);
		if (edited && !edits[i].remove) {
			if (edits[i].size > ATTRIBUTES_ROOM || written + 4 + edits[i].size > room)
				return 0;
			// RFC 4271 section 5: nobody takes the Partial bit away from what he passes on.
			uint8_t partial = more && edits[i].type == a.type ? a.flags & FLAG_PARTIAL : 0;
			written += attribute_put(out + written, edits[i].flags | partial, edits[i].type, edits[i].value, edits[i].size);
		} else if (!edited) {
			if (written + (uint32_t)(next - at) > room)
				return 0;
			memcpy(out + written, at, (size_t)(next - at));
			written += (uint32_t)(next - at);
		}
		bool taken = more && (!edited || edits[i].type == a.type);
		i += edited;
		if (taken) {
			at = next;
			more = attribute_next(&next, wire + size, &a);
		}
	}
	return written;
}
