// Next hops, which others resolve, and the FIB's groups of them.
//
// A group stands for what paths in use announce, not for what that resolves to: when the way to a
// next hop changes, one store in the segment moves all its routes.  Behind its next hops a group has a
// backup, that of the best path that leads elsewhere: when all of them fail, or the neighbor does that
// brought them, the same store moves the routes there, before a single one was judged anew.
// Not supported: backups for what other protocols offer, and more than one of them.
#include <errno.h>
#include <string.h>

#include "bgp/internal.h"

enum {
	HOP_BUCKETS = 256, MOST_HOP_GROUPS = MAX_GROUPS - 1,
	MOST_WITH_BACKUP = MAX_GROUPS / 2 // there are more pairs of next hops than next hops
};

static int groups_flip(struct bgp_table *t);

static struct next_hop **hop_bucket(struct bgp_table *t, const struct next_hop_key *key)
{
	return &t->next_hop_buckets[hash_bytes(t->seed, key, sizeof(*key)) % HOP_BUCKETS];
}

struct next_hop *next_hop_get(struct bgp_table *t, const struct next_hop_key *key)
{
	struct next_hop **bucket = hop_bucket(t, key);
	for (struct next_hop *hop = *bucket; hop != NULL; hop = hop->next) {
		if (memcmp(&hop->key, key, sizeof(*key)) == 0) {
			hop->refs++;
			return hop;
		}
	}
	struct next_hop *hop = memory_take(t, sizeof(*hop));
	if (hop == NULL)
		return NULL;
	hop->key = *key;
	hop->refs = 1;
	hop->next = *bucket;
	*bucket = hop;
	t->next_hop_count++;
	return hop;
}

void next_hop_drop(struct bgp_table *t, struct next_hop *hop)
{
	if (--hop->refs != 0)
		return;
	struct next_hop **link = hop_bucket(t, &hop->key);
	while (*link != hop)
		link = &(*link)->next;
	*link = hop->next;
	memory_give(t, hop->hops);
	memory_give(t, hop);
	t->next_hop_count--;
}

static void next_hop_owner(struct bgp_table *t, struct next_hop *hop, uint32_t peer)
{
	if (hop->users != 0 && hop->of == peer)
		return;
	hop->of = hop->users == 0 ? peer : SEVERAL;
	if (!hop->failed)
		return;
	hop->failed = false;
	hop->moved = true;
	(void)groups_flip(t);
}

void next_hops_fail(struct bgp_table *t, uint32_t peer, bool failed)
{
	bool any = false;
	for (uint32_t i = 0; i < HOP_BUCKETS; i++) {
		for (struct next_hop *hop = t->next_hop_buckets[i]; hop != NULL; hop = hop->next) {
			hop->moved = hop->of == peer && hop->failed != failed;
			hop->failed = hop->moved ? failed : hop->failed;
			any |= hop->moved;
		}
	}
	if (any)
		(void)groups_flip(t); // what could not be written is judged and written prefix by prefix
}

// A number for a next hop that is to be resolved, unless it has one.
int next_hop_use(struct bgp_table *t, struct next_hop *hop, uint32_t peer)
{
	next_hop_owner(t, hop, peer);
	if (hop->users++ != 0)
		return 0;
	if (t->next_hop_end == t->next_hop_room) {
		uint32_t room = t->next_hop_room == 0 ? 64 : 2 * t->next_hop_room;
		struct next_hop **grown = memory_resize(t, t->next_hops, room * sizeof(*grown));
		if (grown == NULL) {
			hop->users--;
			return -ENOMEM;
		}
		t->next_hops = grown;
		t->next_hop_room = room;
		if (t->next_hop_end == 0)
			t->next_hops[t->next_hop_end++] = NULL;
	}
	if (list_push(t, &t->new_hops, t->next_hop_end) < 0) {
		hop->users--;
		return -ENOMEM;
	}
	hop->id = t->next_hop_end++;
	hop->reported = false;
	t->next_hops[hop->id] = hop;
	return 0;
}

void next_hop_unuse(struct bgp_table *t, struct next_hop *hop)
{
	if (--hop->users != 0)
		return;
	t->next_hops[hop->id] = NULL;
	if (hop->reported)
		(void)list_push(t, &t->dead_hops, hop->id); // without memory it stays tracked in vain
	hop->id = 0;
	hop->count = 0;
	hop->metric = 0;
	memory_give(t, hop->hops);
	hop->hops = NULL;
}

void next_hops_close(struct bgp_table *t)
{
	memory_give(t, t->next_hops);
	list_free(t, &t->new_hops);
	list_free(t, &t->dead_hops);
}

static bool link_local(const uint8_t *address)
{
	return address[0] == 0xfe && (address[1] & 0xc0) == 0x80;
}

// RFC 2545 section 3: packets go to the link-local address only where there is no global one.
bool next_hop_on_link(const struct next_hop *hop)
{
	static const uint8_t zero[16];
	return hop->key.family == FAMILY_IPV6 &&
	       (link_local(hop->key.address) || memcmp(hop->key.address, zero, sizeof(zero)) == 0);
}

// Where packets go.
static const uint8_t *way(const struct next_hop *hop)
{
	return next_hop_on_link(hop) && hop->key.has_link_local ? hop->key.link_local : hop->key.address;
}

bool next_hop_same_way(const struct next_hop *a, const struct next_hop *b)
{
	bool on_link = next_hop_on_link(a);
	return a->key.family == b->key.family && on_link == next_hop_on_link(b) &&
	       (!on_link || a->key.interface == b->key.interface) && memcmp(way(a), way(b), 16) == 0;
}

int bgp_new_next_hops(struct bgp_table *t, struct bgp_next_hop *out, uint32_t room)
{
	uint32_t count = 0;
	while (count < room && !list_empty(&t->new_hops)) {
		uint32_t id = list_pop(t, &t->new_hops);
		struct next_hop *hop = t->next_hops[id];
		if (hop == NULL)
			continue;
		bool on_link = next_hop_on_link(hop);
		out[count] = (struct bgp_next_hop){.id = id, .family = hop->key.family, .interface = on_link ? hop->key.interface : 0};
		memcpy(out[count].address, way(hop), sizeof(out[count].address));
		hop->reported = true;
		count++;
	}
	return (int)count;
}

int bgp_dead_next_hops(struct bgp_table *t, uint32_t *out, uint32_t room)
{
	uint32_t count = 0;
	while (count < room && !list_empty(&t->dead_hops))
		out[count++] = list_pop(t, &t->dead_hops);
	return (int)count;
}

static bool hops_same(const struct nexthop *a, const struct nexthop *b)
{
	return a->kind == b->kind && a->interface == b->interface && a->weight == b->weight && a->family == b->family &&
	       memcmp(a->via, b->via, sizeof(a->via)) == 0;
}

static uint32_t hops_add(struct nexthop out[MAX_GROUP_HOPS], uint32_t count, const struct nexthop *hop)
{
	for (uint32_t i = 0; i < count; i++)
		if (hops_same(&out[i], hop))
			return count;
	if (count < MAX_GROUP_HOPS)
		out[count++] = *hop;
	return count;
}

// What some next hops resolve to together; `sound`: but for those that have failed.
static uint32_t hops_merge(struct next_hop *const *list, uint32_t count, bool sound, struct nexthop out[MAX_GROUP_HOPS])
{
	uint32_t merged = 0;
	for (uint32_t i = 0; i < count; i++)
		for (uint32_t j = 0; list[i] != NULL && !(sound && list[i]->failed) && j < list[i]->count; j++)
			merged = hops_add(out, merged, &list[i]->hops[j]);
	return merged;
}

static const struct nexthop black_hole = {.kind = NEXTHOP_BLACKHOLE, .weight = 1};
static const struct nexthop unreachable = {.kind = NEXTHOP_UNREACHABLE, .weight = 1};

int route_hops(struct bgp_table *t, const struct route *route, struct nexthop out[MAX_GROUP_HOPS])
{
	uint16_t places[MAX_GROUP_HOPS];
	int used = route_used(t, route, places);
	uint32_t count = 0;
	for (int i = 0; i < used; i++) {
		const struct bundle *b = bundle_at(t, route_paths(route)[places[i]]);
		if (b->discard)
			count = hops_add(out, count, &black_hole);
		for (uint32_t j = 0; bundle_tracked(b) && j < b->next_hop->count; j++)
			count = hops_add(out, count, &b->next_hop->hops[j]);
	}
	return used < 0 ? used : (int)count;
}

// Point a group of the segment at what its next hops resolve to now.
static int group_flip(struct bgp_table *t, struct hop_group *group)
{
	struct nexthop hops[MAX_GROUP_HOPS], backup[MAX_GROUP_HOPS];
	uint32_t count = hops_merge(group->hops, group->count, true, hops);
	uint32_t backups = hops_merge(&group->hops[group->count], 1, true, backup), behind = 0;
	for (; count != 0 && behind < backups && count + behind < MAX_GROUP_HOPS; behind++)
		hops[count + behind] = backup[behind];
	if (count == 0)
		count = hops_merge(&group->hops[group->count], 1, true, hops);
	if (count == 0)
		count = hops_merge(group->hops, group->count, false, hops);
	if (count == 0) // of its routes process() has better, or none
		hops[count++] = group->hops[0] == NULL ? black_hole : unreachable;
	if (t->writer == NULL)
		return 0;
	if (group->fib != 0)
		return table_writer_group_set(t->writer, group->fib, hops, count, behind);
	int made = table_writer_group_new(t->writer, hops, count, behind);
	if (made < 0)
		return made;
	group->fib = (uint16_t)made;
	return 0;
}

static struct hop_group **group_bucket(struct bgp_table *t, uint32_t hash)
{
	return &t->group_buckets[hash % GROUP_BUCKETS];
}

static int group_number(struct bgp_table *t)
{
	uint32_t number = t->group_low == 0 ? 1 : t->group_low;
	while (number < t->group_room && t->groups[number] != NULL)
		number++;
	if (number > MOST_HOP_GROUPS)
		return -ENOSPC;
	if (number >= t->group_room) {
		uint32_t room = t->group_room == 0 ? 16 : 2 * t->group_room;
		struct hop_group **grown = memory_resize(t, t->groups, room * sizeof(*grown));
		if (grown == NULL)
			return -ENOMEM;
		memset(grown + t->group_room, 0, (room - t->group_room) * sizeof(*grown));
		t->groups = grown;
		t->group_room = room;
	}
	t->group_low = number;
	return (int)number;
}

static int group_make(struct bgp_table *t, struct next_hop **hops, uint32_t count, uint32_t hash)
{
	int number = group_number(t);
	if (number < 0)
		return number;
	size_t size = (count + 1) * sizeof(*hops);
	struct hop_group *group = memory_take(t, sizeof(*group) + size);
	if (group == NULL)
		return -ENOMEM;
	group->number = (uint16_t)number;
	group->hash = hash;
	group->count = count;
	memcpy(group->hops, hops, size);
	int error = group_flip(t, group);
	if (error < 0) {
		memory_give(t, group);
		return error;
	}
	for (uint32_t i = 0; i <= count; i++)
		if (hops[i] != NULL)
			hops[i]->refs++;
	group->next = *group_bucket(t, hash);
	*group_bucket(t, hash) = group;
	t->groups[number] = group;
	t->group_count++;
	return number;
}

// The group of some next hops and the backup behind them.
static int group_get(struct bgp_table *t, struct next_hop **hops, uint32_t count)
{
	size_t size = (count + 1) * sizeof(*hops);
	uint32_t hash = (uint32_t)hash_bytes(t->seed, hops, size);
	for (struct hop_group *group = *group_bucket(t, hash); group != NULL; group = group->next) {
		if (group->hash == hash && group->count == count && memcmp(group->hops, hops, size) == 0) {
			group->routes++;
			return group->number;
		}
	}
	if (hops[count] != NULL && t->group_count >= MOST_WITH_BACKUP)
		return -ENOSPC;
	int number = group_make(t, hops, count, hash);
	if (number > 0)
		t->groups[number]->routes++;
	return number;
}

int hop_group_get(struct bgp_table *t, const struct route *route)
{
	uint16_t places[MAX_GROUP_HOPS], backup = BEST_NONE;
	struct next_hop *hops[MAX_GROUP_HOPS + 1];
	int used = route_used(t, route, places);
	uint32_t count = 0;
	for (int i = 0; i < used; i++) {
		const struct bundle *b = bundle_at(t, route_paths(route)[places[i]]);
		if (b->discard || bundle_tracked(b))
			hops[count++] = b->discard ? NULL : b->next_hop;
	}
	if (used < 0 || count == 0)
		return used < 0 ? used : 0;
	int error = t->writer == NULL || hops[0] == NULL ? 0 : route_backup(t, route, places, (uint32_t)used, &backup);
	if (error < 0)
		return error;
	hops[count] = backup == BEST_NONE ? NULL : bundle_at(t, route_paths(route)[backup])->next_hop;
	int number = group_get(t, hops, count);
	if (number == -ENOSPC && hops[count] != NULL) {
		hops[count] = NULL;
		number = group_get(t, hops, count);
	}
	return number;
}

void hop_group_drop(struct bgp_table *t, uint16_t number)
{
	struct hop_group *group = t->groups[number];
	if (--group->routes != 0)
		return;
	struct hop_group **link = group_bucket(t, group->hash);
	while (*link != group)
		link = &(*link)->next;
	*link = group->next;
	t->groups[number] = NULL;
	t->group_count--;
	if (number < t->group_low)
		t->group_low = number;
	if (group->fib != 0)
		(void)table_writer_group_release(t->writer, group->fib);
	for (uint32_t i = 0; i <= group->count; i++)
		if (group->hops[i] != NULL)
			next_hop_drop(t, group->hops[i]);
	memory_give(t, group);
}

// Flip the groups of all next hops that have moved.
static int groups_flip(struct bgp_table *t)
{
	int result = 0;
	for (uint32_t i = 0; i < t->group_room; i++) {
		struct hop_group *group = t->groups[i];
		bool of_it = false;
		for (uint32_t j = 0; group != NULL && j <= group->count; j++)
			of_it |= group->hops[j] != NULL && group->hops[j]->moved;
		int error = of_it ? group_flip(t, group) : 0;
		result = error < 0 ? error : result;
	}
	for (uint32_t i = 0; i < HOP_BUCKETS; i++)
		for (struct next_hop *hop = t->next_hop_buckets[i]; hop != NULL; hop = hop->next)
			hop->moved = false;
	return result;
}

int bgp_next_hop_set(struct bgp_table *t, uint32_t id, uint32_t metric, const struct nexthop *hops, uint32_t count)
{
	struct next_hop *hop = id < t->next_hop_end ? t->next_hops[id] : NULL;
	if (hop == NULL)
		return 0;
	count = count > MAX_GROUP_HOPS ? MAX_GROUP_HOPS : count;
	bool same = hop->count == count && hop->metric == metric;
	for (uint32_t i = 0; same && i < count; i++)
		same = hops_same(&hop->hops[i], &hops[i]);
	if (same)
		return 0;
	struct nexthop *copy = count == 0 ? NULL : memory_take(t, count * sizeof(*copy));
	if (copy == NULL && count != 0)
		return -ENOMEM;
	if (count != 0)
		memcpy(copy, hops, count * sizeof(*copy));
	bool judged = (hop->count == 0) != (count == 0) || hop->metric != metric;
	memory_give(t, hop->hops);
	hop->hops = copy;
	hop->count = count;
	hop->metric = metric;
	if (judged || t->watching || t->held_count != 0 || t->writer == NULL) {
		hop->changed = true;
		t->routes[0].scan = t->routes[1].scan = 0;
	}
	hop->moved = true;
	return groups_flip(t);
}
