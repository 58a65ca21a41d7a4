// The BFD sessions that control asks for (abi/bfd.h): one block, replaced as a whole.
#include "bulk/bfd.h"

#include <errno.h>
#include <string.h>

#include "base/crc32.h"
#include "bulk/publish.h"
#include "table/view.h"

static uint64_t table_bytes(uint32_t count)
{
	return sizeof(struct bfd_table) + count * sizeof(struct bfd_entry);
}

static uint32_t table_checksum(const struct bfd_table *table)
{
	struct bfd_table head = *table;
	head.checksum = 0;
	uint32_t crc = crc32_update(0, &head, sizeof(head));
	return crc32_update(crc, table->entries, table->count * sizeof(struct bfd_entry));
}

int table_writer_bfd(struct table_writer *w, const struct bfd_entry *entries, uint32_t count)
{
	if (count > MAX_BFD_SESSIONS)
		return -EINVAL;
	uint64_t old_where = w->tables->bfd_root, where = 0;
	const struct bfd_table *old = old_where == 0 ? NULL : arena_at(&w->arena, old_where);
	uint32_t old_count = old == NULL ? 0 : old->count;
	if (old_count == count && (count == 0 || memcmp(old->entries, entries, count * sizeof(*entries)) == 0))
		return 0;
	if (count > 0) {
		int error = writer_take(w, table_bytes(count), &where);
		if (error < 0)
			return error;
		struct bfd_table *table = arena_at(&w->arena, where);
		*table = (struct bfd_table){.epoch = (old == NULL ? w->tables->epoch : old->epoch) + 1, .count = count};
		memcpy(table->entries, entries, count * sizeof(*entries));
		table->checksum = table_checksum(table);
	}
	PUBLISH(&w->tables->bfd_root, where, "bfd root");
	if (old != NULL)
		writer_retire(w, old_where, table_bytes(old_count));
	writer_reclaim(w);
	return 0;
}

void bfd_recover(struct table_writer *w)
{
	struct tables_view view;
	uint64_t where = w->tables->bfd_root;
	if (where == 0)
		return;
	view_open(&view, w->tables, w->size);
	bool sound = view_range(&view, where, sizeof(struct bfd_table));
	if (sound) {
		const struct bfd_table *table = arena_at(&w->arena, where);
		sound = table->count <= MAX_BFD_SESSIONS && view_range(&view, where, table_bytes(table->count)) &&
			table_checksum(table) == table->checksum && arena_claim(&w->arena, where, table_bytes(table->count));
	}
	if (!sound)
		PUBLISH(&w->tables->bfd_root, 0, "bfd root refused");
}
