// The rates that control asks for (abi/police.h): one block, replaced as a whole.
#include "bulk/police.h"

#include <errno.h>
#include <string.h>

#include "base/crc32.h"
#include "bulk/publish.h"
#include "table/view.h"

static uint64_t table_bytes(const struct police_table *head)
{
	return sizeof(*head) + head->entry_count * sizeof(struct police_entry)
		+ head->peer_count * sizeof(struct police_peer);
}

static uint32_t table_checksum(const struct police_table *table)
{
	struct police_table head = *table;
	head.checksum = 0;
	uint32_t crc = crc32_update(0, &head, sizeof(head));
	return crc32_update(crc, table + 1, table_bytes(table) - sizeof(head));
}

static bool table_same(const struct police_table *old, const struct police_table *head,
	const struct police_entry *entries, const struct police_peer *peers)
{
	size_t entry_bytes = head->entry_count * sizeof(*entries), peer_bytes = head->peer_count * sizeof(*peers);
	return old->entry_count == head->entry_count && old->peer_count == head->peer_count &&
		memcmp(old->control, head->control, sizeof(head->control)) == 0 &&
		(entry_bytes == 0 || memcmp(old + 1, entries, entry_bytes) == 0) &&
		(peer_bytes == 0 || memcmp((const uint8_t *)(old + 1) + entry_bytes, peers, peer_bytes) == 0);
}

int table_writer_police(struct table_writer *w, const struct police_rate *control, const struct police_entry *entries,
	uint32_t entry_count, const struct police_peer *peers, uint32_t peer_count)
{
	if (entry_count > POLICE_DIRECTIONS * MAX_INTERFACES || peer_count > MAX_POLICE_PEERS)
		return -EINVAL;
	struct police_table head = {.entry_count = entry_count, .peer_count = peer_count};
	memcpy(head.control, control, sizeof(head.control));
	uint64_t old_where = w->tables->police_root, where;
	const struct police_table *old = old_where == 0 ? NULL : arena_at(&w->arena, old_where);
	if (old != NULL && table_same(old, &head, entries, peers))
		return 0;
	uint64_t old_bytes = old == NULL ? 0 : table_bytes(old);
	head.epoch = (old == NULL ? w->tables->epoch : old->epoch) + 1;
	int error = writer_take(w, table_bytes(&head), &where);
	if (error < 0)
		return error;
	struct police_table *table = arena_at(&w->arena, where);
	*table = head;
	if (entry_count > 0)
		memcpy(table + 1, entries, entry_count * sizeof(*entries));
	if (peer_count > 0)
		memcpy((uint8_t *)(table + 1) + entry_count * sizeof(*entries), peers, peer_count * sizeof(*peers));
	table->checksum = table_checksum(table);
	PUBLISH(&w->tables->police_root, where, "police root");
	if (old != NULL)
		writer_retire(w, old_where, old_bytes);
	writer_reclaim(w);
	return 0;
}

void police_recover(struct table_writer *w)
{
	struct tables_view view;
	uint64_t where = w->tables->police_root;
	if (where == 0)
		return;
	view_open(&view, w->tables, w->size);
	bool sound = view_range(&view, where, sizeof(struct police_table));
	if (sound) {
		const struct police_table *table = arena_at(&w->arena, where);
		sound = table->entry_count <= POLICE_DIRECTIONS * MAX_INTERFACES && table->peer_count <= MAX_POLICE_PEERS &&
			view_range(&view, where, table_bytes(table)) && table_checksum(table) == table->checksum &&
			arena_claim(&w->arena, where, table_bytes(table));
	}
	if (!sound)
		PUBLISH(&w->tables->police_root, 0, "police root refused");
}
