// The writer of a tables segment: open, publish, apply (abi/core.h).
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/crc32.h"
#include "base/segment.h"
#include "bulk/mirror.h"
#include "bulk/publish.h"
#include "bulk/recover.h"
#include "bulk/writer.h"
#include "table/view.h"

enum {
	BULK_PART = 4,      // BULK_LEAST changes, and a quarter of what is installed: build anew
	RECLAIM_EVERY = 1024,
	AHEAD = 6
};

int writer_take(struct table_writer *w, uint64_t bytes, uint64_t *offset)
{
	int error = arena_take(&w->arena, bytes, offset);
	if (error != -ENOSPC || limbo_first(&w->limbo) == NULL)
		return error;
	writer_reclaim(w);
	error = arena_take(&w->arena, bytes, offset);
	// The first wait is for what was retired before the last one began.
	for (int turn = 0; error == -ENOSPC && turn < 2 && mirror_wait(w); turn++) {
		writer_reclaim(w);
		error = arena_take(&w->arena, bytes, offset);
	}
	return error;
}

void writer_give(struct table_writer *w, uint64_t offset, uint64_t bytes)
{
	arena_give(&w->arena, offset, bytes);
}

void writer_retire(struct table_writer *w, uint64_t offset, uint64_t bytes)
{
	limbo_add(&w->limbo, w->tables->epoch, offset, bytes);
}

// The epoch of the reader that has been reading longest; UINT64_MAX if nobody reads.
static uint64_t oldest_reader(const struct table_writer *w)
{
	uint64_t oldest = UINT64_MAX;
	for (int i = 0; w->state != NULL && i < MAX_WORKERS; i++) {
		uint64_t epoch = __atomic_load_n(&w->state->workers[i].reader_epoch, __ATOMIC_ACQUIRE);
		if (epoch != 0 && epoch < oldest)
			oldest = epoch;
	}
	return mirror_oldest(w, oldest);
}

static void limbo_reclaim(struct table_writer *w, uint64_t oldest)
{
	const struct limbo_entry *entry = limbo_first(&w->limbo);
	for (; entry != NULL && entry->epoch < oldest; entry = limbo_first(&w->limbo)) {
		struct limbo_entry found = *entry;
		limbo_pop(&w->limbo);
		if (found.bytes != 0)
			arena_give(&w->arena, found.what, found.bytes);
		else if (found.what == LIMBO_ARENA)
			arena_release(&w->arena);
		else if (found.what >= MAX_GROUPS)
			trie_give(w, found.what);
		else
			group_reclaim(w, (uint16_t)found.what, found.epoch);
	}
}

void writer_reclaim(struct table_writer *w)
{
	w = w->owner != NULL ? w->owner : w;
	struct table_writer *mirror = mirror_writer(w);
	if (limbo_first(&w->limbo) == NULL && (mirror == NULL || limbo_first(&mirror->limbo) == NULL))
		return;
	PUBLISH(&w->tables->epoch, w->tables->epoch + 1, "epoch");
	mirror_epoch(w);
	// Counterpart of the fence in view_enter.
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	uint64_t oldest = oldest_reader(w);
	if (mirror != NULL)
		limbo_reclaim(mirror, oldest);
	limbo_reclaim(w, oldest);
}

uint64_t root_bytes(const struct tables_root *root)
{
	return sizeof(*root) + root->interface_count * sizeof(struct interface_entry) +
	       root->address_count * sizeof(struct address_entry) + root->rule_count * sizeof(struct rule_entry);
}

static void root_arrange(struct tables_root *root, uint64_t where)
{
	root->interfaces = where + sizeof(*root);
	root->addresses = root->interfaces + root->interface_count * sizeof(struct interface_entry);
	root->rules = root->addresses + root->address_count * sizeof(struct address_entry);
}

bool root_contiguous(const struct table_writer *w, uint64_t where)
{
	const struct tables_root *root = arena_at(&w->arena, where);
	struct tables_root expected = *root;
	root_arrange(&expected, where);
	return memcmp(&expected, root, sizeof(expected)) == 0;
}

static void root_checksum(struct tables_root *root)
{
	root->checksum = 0;
	root->checksum = crc32_update(0, root, root_bytes(root));
}

static int writer_start(struct table_writer *w, int tables_fd, int state_fd)
{
	size_t size;
	void *base;
	w->fd = fcntl(tables_fd, F_DUPFD_CLOEXEC, 0);
	if (w->fd < 0)
		return -errno;
	int error = segment_map(w->fd, SEGMENT_TABLES, sizeof(struct tables_segment), true, &base, &size);
	if (error < 0)
		return error;
	w->tables = base;
	w->size = size;
	if (state_fd >= 0) {
		void *state;
		error = segment_map(state_fd, SEGMENT_STATE, sizeof(struct state_segment), false, &state, &size);
		if (error < 0)
			return error;
		w->state = state;
	}
	error = arena_open(&w->arena, w->fd, base, w->size, sizeof(struct tables_segment), &w->tables->arena_end);
	if (error == 0)
		error = arena_back(&w->arena, 0, ARENA_PAGE);
	if (error == 0)
		error = groups_open(w);
	return error < 0 ? error : writer_recover(w);
}

int table_writer_open(int tables_fd, int state_ro_fd, struct table_writer **out)
{
	struct table_writer *w = calloc(1, sizeof(*w));
	if (w == NULL)
		return -ENOMEM;
	w->fd = -1;
	int error = writer_start(w, tables_fd, state_ro_fd);
	if (error < 0) {
		table_writer_close(w);
		return error;
	}
	*out = w;
	return 0;
}

void table_writer_close(struct table_writer *w)
{
	if (w == NULL)
		return;
	mirror_close(w);
	if (w->tables != NULL)
		munmap(w->tables, w->size);
	if (w->state != NULL)
		munmap((void *)(uintptr_t)w->state, sizeof(*w->state));
	if (w->fd >= 0)
		close(w->fd);
	arena_close(&w->arena);
	limbo_close(&w->limbo);
	limbo_close(&w->claimed);
	groups_close(w);
	lpm_free(&w->lpm[0]);
	lpm_free(&w->lpm[1]);
	free(w);
}

// Whether the published arrays are these already.
static bool root_same(const struct tables_root *old, const struct tables_root *new)
{
	return old->interface_count == new->interface_count && old->address_count == new->address_count &&
	       old->rule_count == new->rule_count && memcmp(old + 1, new + 1, root_bytes(new) - sizeof(*new)) == 0;
}

// An empty table may come as NULL, which memcpy must never see.
static void copy_table(struct table_writer *w, uint64_t where, const void *entries, size_t size)
{
	if (size != 0)
		memcpy(arena_at(&w->arena, where), entries, size);
}

int table_writer_publish(struct table_writer *w, const struct interface_entry *interfaces, uint32_t interface_count,
	const struct address_entry *addresses, uint32_t address_count, const struct rule_entry *rules, uint32_t rule_count)
{
	if (interface_count >= MAX_INTERFACES || address_count > MAX_ADDRESSES || rule_count > MAX_RULES)
		return -EINVAL;
	struct tables_root head = {
		.interface_count = interface_count, .address_count = address_count, .rule_count = rule_count,
	};
	uint64_t old_where = w->tables->root, where;
	struct tables_root *old = old_where == 0 ? NULL : arena_at(&w->arena, old_where);
	int error = writer_take(w, root_bytes(&head), &where);
	if (error < 0)
		return error;
	struct tables_root *root = arena_at(&w->arena, where);
	*root = head;
	root->epoch = (old == NULL ? w->tables->epoch : old->epoch) + 1;
	root_arrange(root, where);
	copy_table(w, root->interfaces, interfaces, interface_count * sizeof(*interfaces));
	copy_table(w, root->addresses, addresses, address_count * sizeof(*addresses));
	copy_table(w, root->rules, rules, rule_count * sizeof(*rules));
	root_checksum(root);

	struct tables_view view;
	view_open(&view, w->tables, w->size);
	bool valid = view_root_valid(&view, where);
	if (!valid || (old != NULL && root_same(old, root))) {
		writer_give(w, where, root_bytes(&head));
		return valid ? 0 : -EINVAL;
	}
	PUBLISH(&w->tables->root, where, "root");
	if (old != NULL)
		writer_retire(w, old_where, root_bytes(old));
	writer_reclaim(w);
	return 0;
}

static int change_check(const struct table_writer *w, const struct route_change *change)
{
	if ((change->family != FAMILY_IPV4 && change->family != FAMILY_IPV6) || change->length > key_width(change->family))
		return -EINVAL;
	if (!key_ends_at(key_of(FAMILY_IPV6, change->address), change->length))
		return -EINVAL;
	return change->group == 0 || group_exists(w, change->group) ? 0 : -ENOENT;
}

struct prefix_entry change_entry(const struct route_change *change)
{
	struct prefix_entry entry = {
		.family = change->family, .length = change->length, .group = change->group,
		.protocol = change->protocol, .preference = change->preference, .metric = change->metric,
	};
	memcpy(entry.address, change->address, sizeof(entry.address));
	return entry;
}

// Enter a route into lpm and the table.  Returns 1 if the trie has to follow, 0 if not.
static int route_install(struct table_writer *w, const struct route_change *change)
{
	struct lpm *lpm = &w->lpm[family_index(change->family)];
	struct key key = key_of(change->family, change->address);
	struct prefix_entry entry = change_entry(change);
	const struct prefix_entry *found = prefixes_find(w, &entry);
	bool moved = lpm_get(lpm, key, change->length) != change->group;
	if (!moved && found != NULL && memcmp(found, &entry, sizeof(entry)) == 0)
		return 0;
	int error = found == NULL ? prefixes_reserve(w, 1) : 0;
	if (error == 0)
		error = lpm_set(lpm, key, change->length, change->group);
	if (error < 0)
		return error;
	found = prefixes_find(w, &entry);
	uint16_t old = found == NULL ? 0 : found->group;
	group_use(w, change->group);
	prefixes_put(w, &entry);
	if (old != 0)
		group_drop(w, old);
	return moved;
}

// Enter a route into the table, for which there is room.
static void entry_install(struct table_writer *w, const struct prefix_entry *entry)
{
	struct prefix_entry *slot = prefixes_slot(w, entry);
	uint16_t old = slot->family == FAMILY_NONE ? 0 : slot->group;
	group_use(w, entry->group);
	prefixes_place(w, slot, entry);
	if (old != 0)
		group_drop(w, old);
}

// Enter many, part by part of the table, so that what is touched stays at hand; each prefix's in their order.
static void entries_install(struct table_writer *w, const struct route_change *changes, uint32_t count,
	struct prefix_entry *sorted)
{
	enum { PARTS = 256 };
	uint32_t ends[PARTS + 1] = {0};
	for (uint32_t i = 0; i < count; i++) {
		struct prefix_entry entry = change_entry(&changes[i]);
		ends[prefixes_part(&entry, PARTS) + 1]++;
	}
	for (uint32_t part = 0; part < PARTS; part++)
		ends[part + 1] += ends[part];
	for (uint32_t i = 0; i < count; i++) {
		struct prefix_entry entry = change_entry(&changes[i]);
		sorted[ends[prefixes_part(&entry, PARTS)]++] = entry;
	}
	for (uint32_t i = 0; i < count; i++)
		entry_install(w, &sorted[i]);
}

// Let lpm have what the table has, where a change could not be carried out.
static void lpm_follow(struct table_writer *w, const struct route_change *change)
{
	struct prefix_entry entry = change_entry(change);
	const struct prefix_entry *found = prefixes_find(w, &entry);
	struct lpm *lpm = &w->lpm[family_index(change->family)];
	struct key key = key_of(change->family, change->address);
	if (found == NULL)
		lpm_clear(lpm, key, change->length);
	else
		(void)lpm_set(lpm, key, change->length, found->group); // it is there: no memory is taken
}

// The trie leads to its group no more.
static void route_forget(struct table_writer *w, const struct route_change *change)
{
	struct prefix_entry entry = change_entry(change);
	const struct prefix_entry *found = prefixes_find(w, &entry);
	if (found == NULL)
		return;
	uint16_t group = found->group;
	prefixes_remove(w, &entry);
	group_drop(w, group);
}

// Let the trie follow lpm below one prefix.
static int family_sync(struct table_writer *w, const struct route_change *change)
{
	uint32_t f = family_index(change->family);
	struct key key = key_of(change->family, change->address);
	int error = trie_sync(w, f, key, change->length);
	w->owed[f] = error < 0;
	mirror_sync(w, f, key, change->length);
	return error;
}

static int apply_one(struct table_writer *w, const struct route_change *change)
{
	int result = 0;
	struct lpm *lpm = &w->lpm[family_index(change->family)];
	struct key key = key_of(change->family, change->address);
	if (change->group != 0) {
		result = route_install(w, change);
		if (result > 0)
			result = family_sync(w, change);
	} else if (lpm_get(lpm, key, change->length) != 0) {
		lpm_clear(lpm, key, change->length);
		result = family_sync(w, change);
		// Even if the trie still leads there: it will be built without it.
		route_forget(w, change);
	}
	groups_settle(w);
	if (w->limbo.count >= RECLAIM_EVERY)
		writer_reclaim(w);
	return result;
}

// What a change will look at is fetched while earlier ones are carried out.
static void change_prefetch(const struct table_writer *w, const struct route_change *change)
{
	struct prefix_entry entry = change_entry(change);
	struct key key = key_of(change->family, change->address);
	prefixes_prefetch(w, &entry);
	lpm_prefetch(&w->lpm[family_index(change->family)], key, change->length);
	trie_prefetch(w, family_index(change->family), key);
}

int owed_build(struct table_writer *w)
{
	int result = 0;
	for (uint32_t f = 0; f < 2; f++) {
		int error = w->owed[f] ? trie_repair(w, f) : 0;
		if (w->owed[f])
			mirror_repair(w, f);
		w->owed[f] = error < 0;
		result = error < 0 ? error : result;
	}
	return result;
}

// Memory for a moment: in large pages, and not through malloc, which would keep it.
static void *scratch_take(size_t bytes)
{
	void *block = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (block == MAP_FAILED)
		return NULL;
	(void)madvise(block, bytes, MADV_HUGEPAGE);
	return block;
}

// Changes that only install: their prefixes by family into lpm, then into the table, where each is looked for once.
// On an error lpm is as it was.
static int install_many(struct table_writer *w, const struct route_change *changes, uint32_t count)
{
	size_t bytes = 2 * (size_t)count * sizeof(struct lpm_prefix);
	struct lpm_prefix *list = scratch_take(bytes);
	uint64_t fresh = 0;
	int error = list == NULL ? -ENOMEM : 0;
	for (uint32_t f = 0; f < 2 && error == 0; f++) {
		uint32_t own = 0;
		for (uint32_t i = 0; i < count; i++)
			if (family_index(changes[i].family) == f)
				list[own++] = (struct lpm_prefix){.key = key_of(changes[i].family, changes[i].address),
				                                  .length = changes[i].length, .group = changes[i].group};
		bool changed = false;
		int filled = own == 0 ? 0 : lpm_fill(&w->lpm[f], list, own, list + own, &changed);
		w->owed[f] |= changed;
		error = filled < 0 ? filled : 0;
		fresh += filled < 0 ? 0 : (uint64_t)filled;
	}
	if (error == 0 && fresh != 0)
		error = prefixes_reserve(w, fresh);
	if (error == 0)
		entries_install(w, changes, count, (struct prefix_entry *)(void *)list);
	for (uint32_t i = 0; i < count && error < 0; i++)
		lpm_follow(w, &changes[i]);
	if (list != NULL)
		munmap(list, bytes);
	return error;
}

// One by one.  What goes does so even when there is no room for what comes.
static int change_many(struct table_writer *w, const struct route_change *changes, uint32_t count)
{
	int error = 0;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t f = family_index(changes[i].family);
		if (i + AHEAD < count)
			change_prefetch(w, &changes[i + AHEAD]);
		if (changes[i].group != 0) {
			int moved = error < 0 ? 0 : route_install(w, &changes[i]);
			w->owed[f] |= moved > 0;
			error = moved < 0 ? moved : error;
			continue;
		}
		uint32_t before = w->lpm[f].count;
		lpm_clear(&w->lpm[f], key_of(changes[i].family, changes[i].address), changes[i].length);
		w->owed[f] |= w->lpm[f].count != before;
	}
	return error;
}

// Many changes, or a trie that lags behind: enter them all, then build the tries once.
static int apply_many(struct table_writer *w, const struct route_change *changes, uint32_t count)
{
	uint32_t removed = 0;
	for (uint32_t i = 0; i < count; i++)
		removed += changes[i].group == 0;
	int error = removed == 0 && count >= BULK_LEAST ? install_many(w, changes, count) : change_many(w, changes, count);
	int built = owed_build(w);
	for (uint32_t i = 0; i < count && removed != 0; i++) {
		const struct lpm *lpm = &w->lpm[family_index(changes[i].family)];
		if (changes[i].group == 0 && lpm_get(lpm, key_of(changes[i].family, changes[i].address), changes[i].length) == 0)
			route_forget(w, &changes[i]);
	}
	groups_settle(w);
	return error < 0 ? error : built;
}

// Each with its trie.  What goes does so even when there is no room for what comes.
static int apply_few(struct table_writer *w, const struct route_change *changes, uint32_t count)
{
	int result = 0;
	for (uint32_t i = 0; i < count; i++) {
		if (i + AHEAD < count)
			change_prefetch(w, &changes[i + AHEAD]);
		int error = result == 0 || changes[i].group == 0 ? apply_one(w, &changes[i]) : 0;
		result = result == 0 ? error : result;
	}
	return result;
}

static int apply_end(struct table_writer *w, int error)
{
	prefixes_shrink(w);
	PUBLISH(&w->tables->generation, w->tables->generation + 1, "generation");
	lpm_free(&w->spent[0]);
	lpm_free(&w->spent[1]);
	writer_reclaim(w);
	return error;
}

int table_writer_apply(struct table_writer *w, const struct route_change *changes, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		int error = change_check(w, &changes[i]);
		if (error < 0)
			return error;
	}
	PUBLISH(&w->tables->generation, w->tables->generation + 1, "generation");
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	int error = 0;
	if (mass_remove(w, changes, count, &error))
		return apply_end(w, error);
	bool large = count >= BULK_LEAST && count >= (w->lpm[0].count + w->lpm[1].count) / BULK_PART;
	if (large || w->owed[0] || w->owed[1])
		error = apply_many(w, changes, count);
	else
		error = apply_few(w, changes, count);
	return apply_end(w, error);
}

int table_writer_routes(struct table_writer *w, uint64_t *cursor, struct prefix_entry *entries, uint32_t room)
{
	const struct prefix_table *table = prefixes_table(w);
	uint32_t filled = 0;
	for (; table != NULL && *cursor < table->capacity && filled < room && filled < INT32_MAX; ++*cursor)
		if (table->entries[*cursor].family != FAMILY_NONE)
			entries[filled++] = table->entries[*cursor];
	return (int)filled;
}

int table_writer_reclaim(struct table_writer *w)
{
	int error = owed_build(w);
	groups_settle(w);
	writer_reclaim(w);
	arena_trim(&w->arena);
	return error;
}
