// Removal of most routes of a family at once, as when the neighbor that told them is gone: what
// remains is built beside - lpm, trie, table of installed routes - and flipped to.
//
// All private memory is taken before anything changes.  The order is that of single removals:
// the trie first, then the table of installed routes, then the groups.
#include <stdlib.h>
#include <string.h>

#include "bulk/writer.h"

enum { AHEAD = 8 };

struct mass {
	struct table_writer *w;
	struct prefix_table *table;
	uint64_t *gone;       // a bit for each slot of the table
	uint32_t counts[2];   // of them, by family
	bool most[2];         // of the family: its lpm is replaced
	struct lpm kept[2];
};

static bool gone(const struct mass *m, uint64_t slot)
{
	return m->gone[slot / 64] >> slot % 64 & 1;
}

static void mark(struct mass *m, const struct route_change *changes, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		if (i + AHEAD < count) {
			struct prefix_entry ahead = change_entry(&changes[i + AHEAD]);
			prefixes_prefetch(m->w, &ahead);
		}
		struct prefix_entry entry = change_entry(&changes[i]);
		const struct prefix_entry *found = prefixes_find(m->w, &entry);
		uint64_t slot = found == NULL ? 0 : (uint64_t)(found - m->table->entries);
		if (found == NULL || gone(m, slot))
			continue;
		m->gone[slot / 64] |= UINT64_C(1) << slot % 64;
		m->counts[family_index(entry.family)]++;
	}
}

// Enter what stays of the families that lose most.
static bool keep(struct mass *m)
{
	for (uint64_t slot = 0; slot < m->table->capacity; slot++) {
		const struct prefix_entry *entry = &m->table->entries[slot];
		if (entry->family == FAMILY_NONE || gone(m, slot) || !m->most[family_index(entry->family)])
			continue;
		struct key key = key_of(entry->family, entry->address);
		if (lpm_set(&m->kept[family_index(entry->family)], key, entry->length, entry->group) < 0)
			return false;
	}
	return true;
}

static void clear_few(struct mass *m)
{
	for (uint64_t slot = 0; slot < m->table->capacity; slot++) {
		const struct prefix_entry *entry = &m->table->entries[slot];
		if (!gone(m, slot) || m->most[family_index(entry->family)])
			continue;
		lpm_clear(&m->w->lpm[family_index(entry->family)], key_of(entry->family, entry->address), entry->length);
	}
}

static void drop_groups(struct mass *m)
{
	for (uint64_t slot = 0; slot < m->table->capacity; slot++)
		if (gone(m, slot))
			group_drop(m->w, m->table->entries[slot].group);
}

static bool worth_while(struct mass *m)
{
	bool any = false;
	for (uint32_t f = 0; f < 2; f++) {
		m->most[f] = m->counts[f] >= BULK_LEAST && m->counts[f] >= m->w->lpm[f].count / 2;
		any |= m->most[f];
	}
	return any;
}

// From here on nothing but the segment can be short of memory.
static int carry_out(struct mass *m, uint64_t fresh)
{
	struct table_writer *w = m->w;
	clear_few(m);
	for (uint32_t f = 0; f < 2; f++) {
		if (m->most[f]) {
			w->spent[f] = w->lpm[f];
			w->lpm[f] = m->kept[f];
			m->kept[f] = (struct lpm){0};
		}
		w->owed[f] |= m->counts[f] != 0;
	}
	int error = owed_build(w);
	drop_groups(m);
	prefixes_flip(w, fresh);
	groups_settle(w);
	return error;
}

bool mass_remove(struct table_writer *w, const struct route_change *changes, uint32_t count, int *error)
{
	struct mass m = {.w = w, .table = prefixes_table(w)};
	if (m.table == NULL || count < BULK_LEAST || count < m.table->count / 8)
		return false;
	for (uint32_t i = 0; i < count; i++)
		if (changes[i].group != 0)
			return false;
	uint64_t fresh;
	m.gone = calloc(m.table->capacity / 64 + 1, sizeof(*m.gone));
	if (m.gone == NULL)
		return false;
	mark(&m, changes, count);
	bool done = worth_while(&m) && keep(&m) && prefixes_without(w, m.gone, m.counts[0] + m.counts[1], &fresh) == 0;
	if (done)
		*error = carry_out(&m, fresh);
	lpm_free(&m.kept[0]);
	lpm_free(&m.kept[1]);
	free(m.gone);
	return done;
}
