// Attributes that passed their checks in canonical form: ascending by type, with 4-byte AS numbers.
// RFC 6793 section 4.2.3, RFC 8092 section 5.
#include <string.h>

#include "bgp/update.h"

// The Optional and Transitive bits of a known type; 0: unknown.
uint8_t attribute_flags_of(uint8_t type)
{
	switch (type) {
	case ATTRIBUTE_ORIGIN: case ATTRIBUTE_AS_PATH: case ATTRIBUTE_NEXT_HOP: case ATTRIBUTE_LOCAL_PREF:
	case ATTRIBUTE_ATOMIC:
		return FLAG_TRANSITIVE;
	case ATTRIBUTE_MED: case ATTRIBUTE_ORIGINATOR: case ATTRIBUTE_CLUSTER_LIST: case ATTRIBUTE_MP_REACH:
	case ATTRIBUTE_MP_UNREACH:
		return FLAG_OPTIONAL;
	case ATTRIBUTE_AGGREGATOR: case ATTRIBUTE_COMMUNITIES: case ATTRIBUTE_EXTENDED: case ATTRIBUTE_AS4_PATH:
	case ATTRIBUTE_AS4_AGGREGATOR: case ATTRIBUTE_LARGE: case ATTRIBUTE_OTC:
		return FLAG_OPTIONAL | FLAG_TRANSITIVE;
	default:
		return 0;
	}
}

// Large communities, each once; RFC 8092 section 5.
static uint32_t large_once(const struct raw *raw, uint8_t *out)
{
	uint32_t size = 0;
	for (uint32_t i = 0; i < raw->size; i += 12) {
		bool seen = false;
		for (uint32_t j = 0; j < size && !seen; j += 12)
			seen = memcmp(out + j, raw->value + i, 12) == 0;
		if (seen)
			continue;
		memcpy(out + size, raw->value + i, 12);
		size += 12;
	}
	return size;
}

// RFC 6793 section 4.2.3.
static void widen(struct update *u, struct raw *as_path, uint8_t aggregator[8], struct raw *aggregated)
{
	const struct raw *as4 = &u->raws[ATTRIBUTE_AS4_PATH], *aggregator4 = &u->raws[ATTRIBUTE_AS4_AGGREGATOR];
	bool ignored = false;
	if (aggregated->whole != NULL) {
		ignored = aggregator4->whole != NULL && load16(aggregated->value) != AS_TRANS;
		if (aggregator4->whole != NULL && !ignored) {
			memcpy(aggregator, aggregator4->value, 8);
			aggregated->flags |= aggregator4->flags & FLAG_PARTIAL;
		} else {
			store32(aggregator, load16(aggregated->value));
			memcpy(aggregator + 4, aggregated->value + 2, 4);
		}
		aggregated->value = aggregator;
		aggregated->size = 8;
	}
	uint8_t *path = u->t->scratch[0], *wide = u->t->scratch[2];
	uint32_t size = as_path_widen(as_path->value, as_path->size, wide);
	if (as4->whole != NULL && !ignored) {
		as_path->size = as_path_merge(wide, size, as4->value, as4->size, path);
		as_path->value = path;
	} else {
		as_path->value = wide;
		as_path->size = size;
	}
}

uint32_t update_compose(struct update *u, uint8_t *out)
{
	static const uint8_t kept_apart[] = {
		ATTRIBUTE_NEXT_HOP, ATTRIBUTE_MP_REACH, ATTRIBUTE_MP_UNREACH, ATTRIBUTE_AS4_PATH, ATTRIBUTE_AS4_AGGREGATOR,
	};
	uint8_t aggregator[8];
	struct raw as_path = u->raws[ATTRIBUTE_AS_PATH], aggregated = u->raws[ATTRIBUTE_AGGREGATOR];
	if (!u->peer->settings.as4)
		widen(u, &as_path, aggregator, &aggregated);
	uint32_t size = 0;
	for (uint32_t type = 0; type < 256; type++) {
		struct raw raw = type == ATTRIBUTE_AS_PATH ? as_path : type == ATTRIBUTE_AGGREGATOR ? aggregated : u->raws[type];
		if (raw.whole == NULL || memchr(kept_apart, (int)type, sizeof(kept_apart)) != NULL)
			continue;
		if (type == ATTRIBUTE_LARGE) {
			raw.size = large_once(&raw, u->t->previous);
			raw.value = u->t->previous;
		}
		if (size + 4 + raw.size > ATTRIBUTES_ROOM)
			return UINT32_MAX;
		uint8_t flags = attribute_flags_of((uint8_t)type);
		if (flags == 0)
			flags = FLAG_OPTIONAL | FLAG_TRANSITIVE | FLAG_PARTIAL;
		else if (flags == (FLAG_OPTIONAL | FLAG_TRANSITIVE))
			flags |= raw.flags & FLAG_PARTIAL;
		size += attribute_put(out + size, flags, (uint8_t)type, raw.value, raw.size);
	}
	return size;
}
