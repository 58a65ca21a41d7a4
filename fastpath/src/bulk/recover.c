// What a dead writer left: claim its memory, repair its tables, rebuild the private structures.
//
// It may have died between any two stores.  What counts is the table of installed routes; the
// trie is built anew from it, so that a store that was missing there is made up for.
#include <errno.h>
#include <string.h>

#include "bulk/bfd.h"
#include "bulk/filter.h"
#include "bulk/police.h"
#include "bulk/publish.h"
#include "bulk/recover.h"
#include "table/view.h"

// A root and its arrays are one block.
static void root_recover(struct table_writer *w)
{
	struct tables_view view;
	uint64_t where = w->tables->root;
	view_open(&view, w->tables, w->size);
	bool sound = where != 0 && view_root_valid(&view, where) && root_contiguous(w, where) &&
	             arena_claim(&w->arena, where, root_bytes(arena_at(&w->arena, where)));
	if (where != 0 && !sound)
		PUBLISH(&w->tables->root, 0, "root refused");
}

// Enter the installed routes into lpm, and count the groups that they use.
static int routes_load(struct table_writer *w)
{
	const struct prefix_table *table = prefixes_table(w);
	for (uint64_t i = 0; table != NULL && i < table->capacity; i++) {
		const struct prefix_entry *entry = &table->entries[i];
		if (entry->family == FAMILY_NONE)
			continue;
		struct key key = key_of(entry->family, entry->address);
		if (lpm_set(&w->lpm[family_index(entry->family)], key, entry->length, entry->group) < 0)
			return -ENOMEM;
		group_use(w, entry->group);
	}
	return 0;
}

int writer_recover(struct table_writer *w)
{
	struct tables_segment *tables = w->tables;
	PUBLISH(&tables->mirrored, 0, "mirrored"); // what was copied follows us no more
	root_recover(w);
	bfd_recover(w);
	filter_recover(w);
	police_recover(w);
	int error = groups_recover(w);
	if (error < 0)
		return error;
	prefixes_recover(w);
	trie_recover(w, 0);
	trie_recover(w, 1);
	arena_hold(&w->arena);
	if (tables->epoch == 0)
		PUBLISH(&tables->epoch, 1, "epoch");
	if (tables->generation % 2 == 0)
		PUBLISH(&tables->generation, tables->generation + 1, "generation");
	limbo_add(&w->limbo, tables->epoch, LIMBO_ARENA, 0);
	writer_reclaim(w);

	error = prefixes_repair(w);
	if (error == 0)
		error = routes_load(w);
	if (error == 0)
		error = trie_rebuild(w);
	if (error < 0)
		return error;
	groups_sweep(w);
	PUBLISH(&tables->generation, tables->generation + 1, "generation");
	writer_reclaim(w);
	return 0;
}
