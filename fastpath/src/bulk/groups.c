// Next-hop groups: found by content, counted by routes and by holders; or a holder's own, with backups.
//
// A number is used again only after no reader can have it from a leaf that led there.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/crc32.h"
#include "bulk/mirror.h"
#include "bulk/publish.h"
#include "bulk/writer.h"

union group_draft {
	struct nexthop_group group;
	uint8_t room[sizeof(struct nexthop_group) + MAX_GROUP_HOPS * sizeof(struct nexthop)];
};

static uint64_t group_bytes(const struct nexthop_group *group)
{
	return sizeof(*group) + (group->count + group->backups) * sizeof(struct nexthop);
}

static struct nexthop_group *group_block(const struct table_writer *w, uint16_t group)
{
	return arena_at(&w->arena, w->tables->groups[group]);
}

static uint32_t group_checksum(const struct nexthop_group *group)
{
	struct nexthop_group head = *group;
	head.checksum = 0;
	uint32_t crc = crc32_update(0, &head, sizeof(head));
	return crc32_update(crc, group->hops, (head.count + head.backups) * sizeof(struct nexthop));
}

static bool hop_valid(const struct nexthop *hop)
{
	return hop->kind >= NEXTHOP_FORWARD && hop->kind <= NEXTHOP_UNREACHABLE && hop->weight != 0 &&
	       hop->interface < MAX_INTERFACES &&
	       (hop->family == FAMILY_NONE || hop->family == FAMILY_IPV4 || hop->family == FAMILY_IPV6);
}

static int group_compose(union group_draft *draft, const struct nexthop *hops, uint32_t count, uint32_t backups)
{
	if (count == 0 || count > MAX_GROUP_HOPS || backups > MAX_GROUP_HOPS - count)
		return -EINVAL;
	memset(draft, 0, sizeof(*draft));
	uint64_t total = 0, end = 0;
	for (uint32_t i = 0; i < count + backups; i++) {
		if (!hop_valid(&hops[i]))
			return -EINVAL;
		end = (i == count ? 0 : end) + hops[i].weight;
		total = i < count ? end : total;
		if (end > UINT32_MAX)
			return -EINVAL;
		draft->group.hops[i] = hops[i];
		draft->group.hops[i].weight_end = (uint32_t)end;
		draft->group.hops[i].reserved = 0;
	}
	draft->group.count = count;
	draft->group.backups = backups;
	draft->group.total_weight = (uint32_t)total;
	draft->group.checksum = group_checksum(&draft->group);
	return 0;
}

int groups_open(struct table_writer *w)
{
	// Zeroed and large: pages of it exist once they are touched.
	w->groups = calloc(MAX_GROUPS, sizeof(*w->groups));
	w->group_low = 1;
	return w->groups == NULL ? -ENOMEM : 0;
}

void groups_close(struct table_writer *w)
{
	free(w->groups);
	free(w->dying);
}

static void bucket_add(struct table_writer *w, uint16_t group, uint32_t hash)
{
	uint16_t *bucket = &w->buckets[hash % GROUP_BUCKETS];
	w->groups[group].hash = hash;
	w->groups[group].next = *bucket;
	*bucket = group;
}

static void bucket_remove(struct table_writer *w, uint16_t group)
{
	if (w->groups[group].own)
		return;
	uint16_t *link = &w->buckets[w->groups[group].hash % GROUP_BUCKETS];
	while (*link != group)
		link = &w->groups[*link].next;
	*link = w->groups[group].next;
}

bool group_exists(const struct table_writer *w, uint16_t group)
{
	return w->groups[group].live;
}

static uint16_t group_find(const struct table_writer *w, const union group_draft *draft)
{
	uint32_t hash = draft->group.checksum;
	for (uint16_t group = w->buckets[hash % GROUP_BUCKETS]; group != 0; group = w->groups[group].next)
		if (w->groups[group].hash == hash &&
		    memcmp(group_block(w, group), draft, group_bytes(&draft->group)) == 0)
			return group;
	return 0;
}

static int group_write(struct table_writer *w, const union group_draft *draft, uint64_t *where)
{
	uint64_t bytes = group_bytes(&draft->group);
	int error = writer_take(w, bytes, where);
	if (error == 0)
		memcpy(arena_at(&w->arena, *where), draft, bytes);
	return error;
}

// The page of a group's word is given memory before the first store into it.
static int group_back(struct table_writer *w, uint32_t group)
{
	uint64_t offset = (uint64_t)((uint8_t *)&w->tables->groups[group] - (uint8_t *)w->tables);
	uint64_t first = (uint64_t)((uint8_t *)w->tables->groups - (uint8_t *)w->tables) / ARENA_PAGE;
	bool *backed = &w->group_pages[offset / ARENA_PAGE - first];
	if (*backed)
		return 0;
	int error = arena_back(&w->arena, offset / ARENA_PAGE * ARENA_PAGE, ARENA_PAGE);
	*backed = error == 0;
	return error;
}

static int group_make(struct table_writer *w, const union group_draft *draft, bool own)
{
	uint32_t group = w->group_low;
	while (group < MAX_GROUPS && w->groups[group].live)
		group++;
	w->group_low = group;
	if (group == MAX_GROUPS)
		return -ENOSPC;
	uint64_t where;
	int error = group_back(w, group);
	if (error == 0)
		error = group_write(w, draft, &where);
	if (error < 0)
		return error;
	w->groups[group].live = 1;
	w->groups[group].own = own;
	if (!own)
		bucket_add(w, (uint16_t)group, draft->group.checksum);
	PUBLISH(&w->tables->groups[group], where, "group");
	mirror_group(w, (uint16_t)group);
	return (int)group;
}

int table_writer_group(struct table_writer *w, const struct nexthop *hops, uint32_t count)
{
	union group_draft draft;
	int result = group_compose(&draft, hops, count, 0);
	if (result < 0)
		return result;
	result = group_find(w, &draft);
	if (result == 0)
		result = group_make(w, &draft, false);
	if (result < 0)
		return result;
	w->groups[result].held++;
	w->groups[result].dying = 0;
	return result;
}

int table_writer_group_new(struct table_writer *w, const struct nexthop *hops, uint32_t count, uint32_t backups)
{
	union group_draft draft;
	int result = group_compose(&draft, hops, count, backups);
	if (result == 0)
		result = group_make(w, &draft, true);
	if (result > 0)
		w->groups[result].held = 1;
	return result;
}

int table_writer_group_set(struct table_writer *w, uint16_t group, const struct nexthop *hops, uint32_t count,
	uint32_t backups)
{
	union group_draft draft;
	int error = group_compose(&draft, hops, count, backups);
	if (error < 0)
		return error;
	if (!group_exists(w, group))
		return -ENOENT;
	uint64_t old = w->tables->groups[group];
	uint64_t old_bytes = group_bytes(group_block(w, group));
	if (old_bytes == group_bytes(&draft.group) && memcmp(arena_at(&w->arena, old), &draft, old_bytes) == 0)
		return 0;
	uint64_t where;
	error = group_write(w, &draft, &where);
	if (error < 0)
		return error;
	bucket_remove(w, group);
	if (!w->groups[group].own)
		bucket_add(w, group, draft.group.checksum);
	PUBLISH(&w->tables->groups[group], where, "group flip");
	mirror_group(w, group);
	writer_retire(w, old, old_bytes);
	return 0;
}

static void group_check_references(struct table_writer *w, uint16_t group)
{
	struct group_info *info = &w->groups[group];
	if (info->routes != 0 || info->held != 0 || info->dying)
		return;
	if (w->dying_count == w->dying_room) {
		uint32_t room = w->dying_room == 0 ? 16 : 2 * w->dying_room;
		uint16_t *dying = realloc(w->dying, room * sizeof(*dying));
		if (dying == NULL) // it stays until the next open
			return;
		w->dying = dying;
		w->dying_room = room;
	}
	info->dying = 1;
	w->dying[w->dying_count++] = group;
}

int table_writer_group_release(struct table_writer *w, uint16_t group)
{
	if (!group_exists(w, group) || w->groups[group].held == 0)
		return -ENOENT;
	w->groups[group].held--;
	group_check_references(w, group);
	groups_settle(w);
	return 0;
}

int table_writer_group_used(const struct table_writer *w, uint16_t group)
{
	return !group_exists(w, group) ? -ENOENT : w->groups[group].routes != 0;
}

void group_use(struct table_writer *w, uint16_t group)
{
	w->groups[group].routes++;
	w->groups[group].dying = 0;
}

void group_drop(struct table_writer *w, uint16_t group)
{
	w->groups[group].routes--;
	group_check_references(w, group);
}

void groups_settle(struct table_writer *w)
{
	if (w->owed[0] || w->owed[1])
		return;
	for (uint32_t i = 0; i < w->dying_count; i++) {
		struct group_info *info = &w->groups[w->dying[i]];
		if (!info->dying) // somebody wanted it after all
			continue;
		info->retired = w->tables->epoch;
		limbo_add(&w->limbo, info->retired, w->dying[i], 0);
	}
	w->dying_count = 0;
}

void group_reclaim(struct table_writer *w, uint16_t group, uint64_t epoch)
{
	struct group_info *info = &w->groups[group];
	if (!info->dying || info->retired != epoch)
		return;
	uint64_t where = w->tables->groups[group];
	uint64_t bytes = group_bytes(group_block(w, group));
	bucket_remove(w, group);
	*info = (struct group_info){0};
	PUBLISH(&w->tables->groups[group], 0, "group gone");
	mirror_group(w, group);
	writer_give(w, where, bytes);
	if (group < w->group_low)
		w->group_low = group;
}

static bool group_recover(struct table_writer *w, uint16_t group, uint64_t where)
{
	if (where % ARENA_UNIT != 0 || where > w->size - sizeof(struct nexthop_group))
		return false;
	const struct nexthop_group *block = arena_at(&w->arena, where);
	uint32_t count = block->count;
	if (count == 0 || count > MAX_GROUP_HOPS || block->backups > MAX_GROUP_HOPS - count ||
	    group_bytes(block) > w->size - where || block->checksum != group_checksum(block) ||
	    !arena_claim(&w->arena, where, group_bytes(block)))
		return false;
	w->groups[group].live = 1;
	bucket_add(w, group, block->checksum);
	return true;
}

int groups_recover(struct table_writer *w)
{
	// Read through the fd: a fault on a mapped hole would give each page of words its memory.
	uint64_t words[ARENA_PAGE / sizeof(uint64_t)];
	off_t offset = (off_t)((uint8_t *)w->tables->groups - (uint8_t *)w->tables);
	for (uint32_t first = 0; first < MAX_GROUPS; first += ARENA_PAGE / sizeof(uint64_t)) {
		if (pread(w->fd, words, sizeof(words), offset + (off_t)first * 8) != (ssize_t)sizeof(words))
			return -EIO;
		for (uint32_t i = 0; i < ARENA_PAGE / sizeof(uint64_t); i++) {
			if (words[i] == 0 || (first + i != 0 && group_recover(w, (uint16_t)(first + i), words[i])))
				continue;
			PUBLISH(&w->tables->groups[first + i], 0, "group refused");
		}
	}
	return 0;
}

void groups_sweep(struct table_writer *w)
{
	for (uint32_t group = 1; group < MAX_GROUPS; group++)
		if (w->groups[group].live)
			group_check_references(w, (uint16_t)group);
	groups_settle(w);
}
