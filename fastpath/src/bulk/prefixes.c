// Installed routes: an open-addressing hash in the segment (struct prefix_table).
//
// Readers without C probe it, and a control that comes back starts from it.  Removal shifts
// entries back instead of leaving tombstones; a writer that dies meanwhile leaves an entry twice
// or a gap in a probe sequence, which prefixes_recover finds and repairs.
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "bulk/publish.h"
#include "bulk/writer.h"

enum { LEAST_CAPACITY = (ARENA_PAGE - sizeof(struct prefix_table)) / sizeof(struct prefix_entry) };

// family, length and group are one aligned word: the one that makes an entry appear, change and go.  Protocol and
// preference are the next one, stored before it.
enum { WORD_PLACE, WORD_ORIGIN };

static uint32_t *entry_word(struct prefix_entry *entry, uint32_t word)
{
	return (uint32_t *)(void *)((uint8_t *)entry + offsetof(struct prefix_entry, family)) + word;
}

static uint32_t entry_value(const struct prefix_entry *entry, uint32_t word)
{
	uint32_t value;
	memcpy(&value, &entry->family + word * sizeof(value), sizeof(value));
	return value;
}

static uint64_t table_bytes(uint64_t capacity)
{
	return sizeof(struct prefix_table) + capacity * sizeof(struct prefix_entry);
}

static uint64_t home_of(uint64_t capacity, const struct prefix_entry *entry)
{
	// All 16 bytes, in either family.
	return key_home(key_of(FAMILY_IPV6, entry->address), entry->family, entry->length, capacity);
}

static bool same_prefix(const struct prefix_entry *a, const struct prefix_entry *b)
{
	return a->family == b->family && a->length == b->length && memcmp(a->address, b->address, sizeof(a->address)) == 0;
}

struct prefix_table *prefixes_table(const struct table_writer *w)
{
	uint64_t where = w->tables->prefix_root;
	return where == 0 ? NULL : arena_at(&w->arena, where);
}

// The entry of this prefix, or the free slot where it belongs; NULL in a full table.
static struct prefix_entry *table_probe(struct prefix_table *table, const struct prefix_entry *wanted)
{
	uint64_t slot = home_of(table->capacity, wanted);
	for (uint64_t i = 0; i < table->capacity; i++) {
		struct prefix_entry *entry = &table->entries[slot];
		if (entry->family == FAMILY_NONE || same_prefix(entry, wanted))
			return entry;
		slot = slot + 1 == table->capacity ? 0 : slot + 1;
	}
	return NULL;
}

struct prefix_entry *prefixes_find(const struct table_writer *w, const struct prefix_entry *wanted)
{
	struct prefix_table *table = prefixes_table(w);
	struct prefix_entry *entry = table == NULL ? NULL : table_probe(table, wanted);
	return entry == NULL || entry->family == FAMILY_NONE ? NULL : entry;
}

void prefixes_prefetch(const struct table_writer *w, const struct prefix_entry *wanted)
{
	const struct prefix_table *table = prefixes_table(w);
	if (table != NULL)
		__builtin_prefetch(&table->entries[home_of(table->capacity, wanted)]);
}

static bool entry_valid(const struct table_writer *w, const struct prefix_entry *entry)
{
	if ((entry->family != FAMILY_IPV4 && entry->family != FAMILY_IPV6) || entry->length > key_width(entry->family))
		return false;
	return key_ends_at(key_of(FAMILY_IPV6, entry->address), entry->length) && group_exists(w, entry->group);
}

// Copy what is valid, but for some slots, into a table of another capacity.
static int table_copy(struct table_writer *w, uint64_t capacity, const uint64_t *without, uint64_t *fresh)
{
	const struct prefix_table *old = prefixes_table(w);
	int error = writer_take(w, table_bytes(capacity), fresh);
	if (error < 0)
		return error;
	struct prefix_table *new = arena_at(&w->arena, *fresh);
	memset(new, 0, table_bytes(capacity));
	new->capacity = capacity;
	for (uint64_t i = 0; old != NULL && i < old->capacity; i++) {
		const struct prefix_entry *entry = &old->entries[i];
		if ((without != NULL && without[i / 64] >> i % 64 & 1) || !entry_valid(w, entry))
			continue;
		struct prefix_entry *slot = table_probe(new, entry);
		new->count += slot->family == FAMILY_NONE;
		*slot = *entry;
	}
	return 0;
}

void prefixes_flip(struct table_writer *w, uint64_t fresh)
{
	const struct prefix_table *old = prefixes_table(w);
	uint64_t old_where = w->tables->prefix_root;
	PUBLISH(&w->tables->prefix_root, fresh, "prefix root");
	if (old != NULL)
		writer_retire(w, old_where, table_bytes(old->capacity));
}

static int table_move(struct table_writer *w, uint64_t capacity)
{
	uint64_t fresh;
	int error = table_copy(w, capacity, NULL, &fresh);
	if (error == 0)
		prefixes_flip(w, fresh);
	return error;
}

// The capacity that fills whole pages and is seven eighths full at most.
static uint64_t capacity_for(uint64_t count)
{
	uint64_t bytes = table_bytes(count + count / 7 + 1);
	bytes = (bytes + ARENA_PAGE - 1) / ARENA_PAGE * ARENA_PAGE;
	return (bytes - sizeof(struct prefix_table)) / sizeof(struct prefix_entry);
}

int prefixes_without(struct table_writer *w, const uint64_t *slots, uint64_t count, uint64_t *fresh)
{
	uint64_t left = prefixes_table(w)->count - count;
	return table_copy(w, capacity_for(left + left / 2), slots, fresh);
}

int prefixes_reserve(struct table_writer *w, uint64_t more)
{
	const struct prefix_table *table = prefixes_table(w);
	uint64_t count = table == NULL ? 0 : table->count;
	if (table != NULL && (count + more) * 8 <= table->capacity * 7)
		return 0;
	uint64_t wanted = more > count / 4 ? count + more : count + count / 4;
	int error = table_move(w, capacity_for(wanted));
	// Short of memory, a table that is fuller than we like does as well.
	if (error < 0 && table != NULL && count + more < table->capacity)
		return 0;
	return error;
}

void prefixes_shrink(struct table_writer *w)
{
	const struct prefix_table *table = prefixes_table(w);
	if (table != NULL && table->capacity > LEAST_CAPACITY && table->count < table->capacity / 8)
		(void)table_move(w, capacity_for(table->count + table->count / 2));
}

// Fill a free slot; the word that makes it appear comes last.
static void entry_fill(struct prefix_entry *slot, const struct prefix_entry *entry)
{
	memcpy(slot->address, entry->address, sizeof(slot->address));
	slot->metric = entry->metric;
	*entry_word(slot, WORD_ORIGIN) = entry_value(entry, WORD_ORIGIN);
	PUBLISH(entry_word(slot, WORD_PLACE), entry_value(entry, WORD_PLACE), "prefix entry");
}

uint32_t prefixes_part(const struct prefix_entry *entry, uint32_t parts)
{
	return (uint32_t)(key_hash(key_of(FAMILY_IPV6, entry->address), entry->family, entry->length) * parts >> 32);
}

struct prefix_entry *prefixes_slot(const struct table_writer *w, const struct prefix_entry *wanted)
{
	return table_probe(prefixes_table(w), wanted);
}

void prefixes_place(struct table_writer *w, struct prefix_entry *slot, const struct prefix_entry *entry)
{
	struct prefix_table *table = prefixes_table(w);
	if (slot->family == FAMILY_NONE) {
		entry_fill(slot, entry);
		PUBLISH(&table->count, table->count + 1, "prefix count");
		return;
	}
	PUBLISH(&slot->metric, entry->metric, "prefix metric");
	PUBLISH(entry_word(slot, WORD_ORIGIN), entry_value(entry, WORD_ORIGIN), "prefix origin");
	PUBLISH(entry_word(slot, WORD_PLACE), entry_value(entry, WORD_PLACE), "prefix entry");
}

void prefixes_put(struct table_writer *w, const struct prefix_entry *entry)
{
	prefixes_place(w, prefixes_slot(w, entry), entry);
}

void prefixes_remove(struct table_writer *w, const struct prefix_entry *wanted)
{
	struct prefix_table *table = prefixes_table(w);
	struct prefix_entry *entry = prefixes_find(w, wanted);
	if (entry == NULL)
		return;
	uint64_t hole = (uint64_t)(entry - table->entries);
	PUBLISH(entry_word(&table->entries[hole], WORD_PLACE), 0, "prefix removed");
	// Close the gap: an entry moves back if the hole lies between its home and its slot.
	uint64_t slot = hole;
	for (;;) {
		slot = slot + 1 == table->capacity ? 0 : slot + 1;
		struct prefix_entry *next = &table->entries[slot];
		if (next->family == FAMILY_NONE)
			break;
		uint64_t home = home_of(table->capacity, next);
		uint64_t reach = slot >= home ? slot - home : slot + table->capacity - home;
		uint64_t gap = slot >= hole ? slot - hole : slot + table->capacity - hole;
		if (gap > reach)
			continue;
		entry_fill(&table->entries[hole], next);
		PUBLISH(entry_word(next, WORD_PLACE), 0, "prefix moved");
		hole = slot;
	}
	PUBLISH(&table->count, table->count - 1, "prefix count");
}

void prefixes_recover(struct table_writer *w)
{
	uint64_t where = w->tables->prefix_root;
	if (where == 0)
		return;
	bool inside = where % ARENA_UNIT == 0 && where <= w->size - sizeof(struct prefix_table);
	uint64_t capacity = inside ? prefixes_table(w)->capacity : 0;
	if (capacity == 0 || capacity > w->size / sizeof(struct prefix_entry) ||
	    !arena_claim(&w->arena, where, table_bytes(capacity)))
		PUBLISH(&w->tables->prefix_root, 0, "prefix root");
}

int prefixes_repair(struct table_writer *w)
{
	struct prefix_table *table = prefixes_table(w);
	if (table == NULL)
		return 0;
	uint64_t valid = 0, broken = 0;
	for (uint64_t i = 0; i < table->capacity; i++) {
		const struct prefix_entry *entry = &table->entries[i];
		if (entry->family == FAMILY_NONE)
			continue;
		if (entry_valid(w, entry) && table_probe(table, entry) == entry)
			valid++;
		else
			broken++;
	}
	if (broken == 0 && table->count == valid && valid < table->capacity)
		return 0;
	// An entry that cannot be found may still be the only one of its prefix.
	return table_move(w, capacity_for(valid + broken));
}
