// Probes of the table of installed routes.  Its writer is another process, which may be at work:
// each word is checked before it is followed, and the probes are bounded.
#include "table/installed.h"

#include "table/key.h"

enum { MAX_PROBES = 64, AHEAD = 16 };

struct probe {
	const struct prefix_table *table;
	uint64_t capacity;
};

static bool probe_open(const struct tables_view *view, struct probe *probe)
{
	uint64_t where = __atomic_load_n(&view_tables(view)->prefix_root, __ATOMIC_ACQUIRE);

	if (where == 0 || !view_range(view, where, sizeof(struct prefix_table)))
		return false;
	probe->table = (const void *)(view->base + where);
	probe->capacity = __atomic_load_n(&probe->table->capacity, __ATOMIC_RELAXED);
	return probe->capacity != 0 && probe->capacity <= view->size / sizeof(struct prefix_entry)
		&& view_range(view, where, sizeof(struct prefix_table) + probe->capacity * sizeof(struct prefix_entry));
}

static struct key truncated(struct key key, uint32_t length)
{
	uint32_t low = length > 64 ? length - 64 : 0;

	key.hi &= length == 0 ? 0 : length >= 64 ? UINT64_MAX : UINT64_MAX << (64 - length);
	key.lo &= low == 0 ? 0 : low >= 64 ? UINT64_MAX : UINT64_MAX << (64 - low);
	return key;
}

// The group of an installed prefix; 0: there is none.
static uint16_t probe_group(const struct probe *probe, uint8_t family, struct key key, uint8_t length)
{
	uint64_t slot = key_home(key, family, length, probe->capacity);

	for (uint32_t i = 0; i < MAX_PROBES; i++) {
		const struct prefix_entry *entry = &probe->table->entries[slot];
		struct key there;

		if (entry->family == FAMILY_NONE)
			return 0;
		there = key_of(FAMILY_IPV6, entry->address);
		if (entry->family == family && entry->length == length && there.hi == key.hi && there.lo == key.lo)
			return entry->group;
		slot = slot + 1 == probe->capacity ? 0 : slot + 1;
	}
	return 0;
}

static void prefetch(const struct probe *probe, uint8_t family, struct key key, uint32_t length)
{
	if (length <= key_width(family))
		__builtin_prefetch(&probe->table->entries[key_home(truncated(key, length), family, (uint8_t)length,
			probe->capacity)]);
}

bool installed_is_default(const struct tables_view *view, uint8_t family, const uint8_t *address, uint16_t group)
{
	struct key key = key_of(family, address);
	struct probe probe;

	if (!probe_open(view, &probe) || probe_group(&probe, family, (struct key){0}, 0) != group)
		return false;
	for (uint32_t length = 1; length < AHEAD; length++)
		prefetch(&probe, family, key, length);
	for (uint32_t length = 1; length <= key_width(family); length++) {
		prefetch(&probe, family, key, length + AHEAD - 1);
		if (probe_group(&probe, family, truncated(key, length), (uint8_t)length) != 0)
			return false;
	}
	return true;
}
