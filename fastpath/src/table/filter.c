// The match of a packet against a compiled list (abi/filter.h).
//
// A binary search for each address and port, a table look-up for each other field, then the rows
// of the classes that were found, in common: a list of 2,000 entries costs some 40 steps for the
// addresses and, with the summaries, a few words of each row.
#include "table/filter.h"

#include <stddef.h>

// The last of the intervals that begin at or before the value; the first one begins at 0.
static inline uint32_t interval32(const uint32_t *starts, uint32_t count, uint32_t value)
{
	const uint32_t *base = starts;

	while (count > 1) {
		uint32_t half = count / 2;
		base = base[half] <= value ? base + half : base;
		count -= half;
	}
	return (uint32_t)(base - starts);
}

static inline uint32_t interval128(const uint64_t *starts, uint32_t count, struct key value)
{
	const uint64_t *base = starts;

	while (count > 1) {
		uint32_t half = count / 2;
		const uint64_t *middle = base + 2 * (size_t)half;
		bool below = middle[0] < value.hi || (middle[0] == value.hi && middle[1] <= value.lo);
		base = below ? middle : base;
		count -= half;
	}
	return (uint32_t)((base - starts) / 2);
}

static inline uint32_t interval_of(const void *starts, uint32_t count, uint8_t family, struct key address)
{
	if (family == FAMILY_IPV4)
		return interval32(starts, count, (uint32_t)(address.hi >> 32));
	return interval128(starts, count, address);
}

static inline uint32_t class_at(const struct filter_view *filters, const struct filter_field *field, uint32_t place)
{
	return ((const uint16_t *)filter_at(filters, field->classes))[place];
}

static uint32_t class_of(const struct filter_view *filters, const struct filter_field *field, uint32_t kind,
	uint8_t family, const struct filter_key *key)
{
	const void *starts = filter_at(filters, field->starts);

	switch (kind) {
	case FIELD_SOURCE:
		return class_at(filters, field, interval_of(starts, field->count, family, key->source));
	case FIELD_DESTINATION:
		return class_at(filters, field, interval_of(starts, field->count, family, key->destination));
	case FIELD_SOURCE_PORT:
		return class_at(filters, field, interval32(starts, field->count, key->source_port));
	case FIELD_DESTINATION_PORT:
		return class_at(filters, field, interval32(starts, field->count, key->destination_port));
	case FIELD_PROTOCOL:
		return class_at(filters, field, key->protocol);
	case FIELD_FORM:
		return class_at(filters, field, key->form);
	default:
		return class_at(filters, field, key->flags);
	}
}

uint32_t filter_match(const struct filter_view *filters, const struct filter_list *list, uint8_t family,
	const struct filter_key *key)
{
	const struct filter_classifier *classifier = &list->classifiers[family == FAMILY_IPV6];
	const uint64_t *rows[FILTER_FIELDS + 1] = {filter_at(filters, classifier->all)};
	uint64_t summary = rows[0][0];
	uint32_t count = 1;

	for (uint32_t kind = 0; kind < FILTER_FIELDS && summary != 0; kind++) {
		const struct filter_field *field = &classifier->fields[kind];
		const uint64_t *row;

		if (field->count == 0)
			continue;
		row = filter_at(filters, field->rows);
		row += (size_t)class_of(filters, field, kind, family, key) * (1 + classifier->words);
		summary &= row[0];
		rows[count++] = row;
	}
	for (; summary != 0; summary &= summary - 1) {
		uint32_t word = (uint32_t)__builtin_ctzll(summary);
		uint64_t common = UINT64_MAX;

		if (word >= classifier->words)
			break; // its writer is another process
		for (uint32_t i = 0; i < count; i++)
			common &= rows[i][1 + word];
		if (common != 0) {
			uint32_t entry = word * 64 + (uint32_t)__builtin_ctzll(common);
			return entry < list->entry_count ? entry : list->entry_count;
		}
	}
	return list->entry_count;
}

const struct filter_list *filter_bound(const struct filter_view *filters, uint16_t interface, unsigned direction)
{
	const struct filter_interface *bound = filters->by_index[interface % MAX_INTERFACES];

	if (bound == NULL || bound->acl[direction] == 0)
		return NULL;
	return (const struct filter_list *)filter_at(filters, filters->table->lists) + (bound->acl[direction] - 1);
}

const struct filter_entry *filter_counted(const struct filter_view *filters, uint8_t family, const uint8_t *address)
{
	const struct filter_prefixes *prefixes = &filters->table->prefixes[family == FAMILY_IPV6];
	uint32_t place, class;

	if (prefixes->count == 0)
		return NULL;
	place = interval_of(filter_at(filters, prefixes->starts), prefixes->count, family, key_of(family, address));
	class = ((const uint16_t *)filter_at(filters, prefixes->classes))[place];
	return class == 0 ? NULL : (const struct filter_entry *)filter_at(filters, prefixes->entries) + (class - 1);
}
