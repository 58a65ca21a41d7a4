// The filters that control has compiled (abi/filter.h): one block, replaced as a whole.
#include "bulk/filter.h"

#include <errno.h>
#include <string.h>

#include "bulk/publish.h"
#include "table/filter.h"

static bool same(const struct filter_table *old, const struct filter_table *new)
{
	return old != NULL && old->bytes == new->bytes
		&& memcmp(&old->bytes, &new->bytes, new->bytes - offsetof(struct filter_table, bytes)) == 0;
}

static int publish(struct table_writer *w, const struct filter_table *new, uint64_t epoch, uint64_t *where)
{
	struct filter_table *block;
	int error = writer_take(w, new->bytes, where);

	if (error < 0)
		return error;
	block = arena_at(&w->arena, *where);
	memcpy(block, new, new->bytes);
	block->epoch = epoch;
	block->checksum = filter_checksum(block);
	if (filter_sound(block, block->bytes))
		return 0;
	writer_give(w, *where, new->bytes);
	return -EINVAL;
}

int table_writer_filter(struct table_writer *w, const void *table, uint64_t bytes)
{
	uint64_t old_where = w->tables->filter_root, where = 0;
	const struct filter_table *old = old_where == 0 ? NULL : arena_at(&w->arena, old_where), *new = table;
	uint64_t old_bytes = old == NULL ? 0 : old->bytes;
	int error;

	if (bytes == 0 ? old == NULL : bytes >= sizeof *new && new->bytes == bytes && same(old, new))
		return 0;
	if (bytes != 0) {
		if (bytes < sizeof *new || new->bytes != bytes || bytes > MAX_FILTER_BYTES)
			return -EINVAL;
		error = publish(w, new, (old == NULL ? w->tables->epoch : old->epoch) + 1, &where);
		if (error < 0)
			return error;
	}
	PUBLISH(&w->tables->filter_root, where, "filter root");
	if (old != NULL)
		writer_retire(w, old_where, old_bytes);
	writer_reclaim(w);
	return 0;
}

void filter_recover(struct table_writer *w)
{
	struct tables_view view;
	uint64_t where = w->tables->filter_root;

	if (where == 0)
		return;
	view_open(&view, w->tables, w->size);
	bool sound = view_range(&view, where, sizeof(struct filter_table));
	if (sound) {
		const struct filter_table *table = arena_at(&w->arena, where);
		sound = filter_sound(table, w->size - where) && arena_claim(&w->arena, where, table->bytes);
	}
	if (!sound)
		PUBLISH(&w->tables->filter_root, 0, "filter root refused");
}
