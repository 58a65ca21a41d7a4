// Update groups: neighbors that are told the same.
//
//   best path changes --> pending --run.c--> chains of one bundle each --pack.c--> chunks --> members
//
// A group knows for each prefix what its members were told, so that nothing is sent twice or
// withdrawn in vain.  A member that comes, asks for a refresh or falls behind gets a group of its
// own; once both have nothing pending, groups with the same key know the same and become one.
#include <errno.h>
#include <string.h>

#include "bgp/internal.h"

enum {
	LOOKS = 16,
	AT_ONCE = 32768,           // so many pending prefixes are grouped without process()
	MOST_BACKLOG = 16 << 20    // bytes; members that are the last to read so much go their own way
};

int group_grow(struct bgp_table *t, struct update_group *g, uint32_t number)
{
	if (number < g->room)
		return 0;
	uint32_t end = t->routes[g->f].end, room = (end + end / 4 + 1024) / 64 * 64;
	uint32_t words = room / 64, old = g->room / 64;
	uint64_t *bits = memory_resize(t, g->pending_bits, words * sizeof(*bits));
	if (bits == NULL)
		return -ENOMEM;
	g->pending_bits = bits;
	uint64_t *busy = memory_resize(t, g->run.bits, words * sizeof(*busy));
	if (busy == NULL)
		return -ENOMEM;
	g->run.bits = busy;
	size_t each = g->several ? sizeof(*g->sent) : sizeof(*g->out);
	void *told = memory_resize(t, g->several ? (void *)g->sent : g->out, room * each);
	if (told == NULL)
		return -ENOMEM;
	memset((uint8_t *)told + g->room * each, 0, (room - g->room) * each);
	memset(bits + old, 0, (words - old) * sizeof(*bits));
	memset(busy + old, 0, (words - old) * sizeof(*busy));
	if (g->several)
		g->sent = told;
	else
		g->out = told;
	g->room = room;
	return 0;
}

uint32_t group_told(const struct update_group *g, uint32_t number)
{
	if (number >= g->room)
		return 0;
	return g->several ? g->sent[number] != NULL : g->out[number];
}

static int group_mark(struct bgp_table *t, struct update_group *g, uint32_t number)
{
	int error = group_grow(t, g, number);
	if (error < 0 || bit_get(g->pending_bits, number))
		return error;
	error = list_push(t, &g->pending, number);
	if (error == 0)
		bit_set(g->pending_bits, number);
	return error;
}

int groups_mark(struct bgp_table *t, uint32_t f, uint32_t number, uint32_t best)
{
	for (struct update_group *g = t->update_groups; g != NULL; g = g->next) {
		if (g->f != f || (g->walking && number >= g->walk) || (!g->several && group_told(g, number) == best))
			continue;
		int error = group_mark(t, g, number);
		if (error < 0)
			return error;
	}
	return 0;
}

bool groups_refer(const struct bgp_table *t, uint32_t f, uint32_t number)
{
	for (const struct update_group *g = t->update_groups; g != NULL; g = g->next)
		if (g->f == f && number < g->room &&
		    (group_told(g, number) != 0 || bit_get(g->pending_bits, number) || bit_get(g->run.bits, number)))
			return true;
	return false;
}

static struct update_group *group_make(struct bgp_table *t, const struct export_key *key, uint32_t f)
{
	struct update_group *g = memory_take(t, sizeof(*g));
	if (g == NULL)
		return NULL;
	g->key = *key;
	g->f = f;
	g->several = key->family.send_paths != 0;
	g->next = t->update_groups;
	t->update_groups = g;
	return g;
}

static void chunks_clear(struct bgp_table *t, struct update_group *g)
{
	for (uint32_t i = 0; i < g->chunk_count; i++)
		chunk_drop(t, g->chunks[i]);
	g->chunk_count = 0;
}

static void told_free(struct bgp_table *t, struct update_group *g)
{
	for (uint32_t i = 0; i < g->room; i++) {
		if (!g->several && g->out[i] != 0)
			bundle_drop(t, g->out[i]);
		for (uint32_t j = 0; g->several && g->sent[i] != NULL && j < g->sent[i]->count; j++)
			bundle_drop(t, g->sent[i]->list[j].bundle);
		if (g->several)
			memory_give(t, g->sent[i]);
	}
	memory_give(t, g->out);
	memory_give(t, g->sent);
}

static void group_free(struct bgp_table *t, struct update_group *g)
{
	struct update_group **link = &t->update_groups;
	while (*link != g)
		link = &(*link)->next;
	*link = g->next;
	chunks_clear(t, g);
	memory_give(t, g->chunks);
	told_free(t, g);
	run_free(t, &g->run);
	// Prefixes that only this group remembered.
	struct routes *routes = &t->routes[g->f];
	for (uint32_t i = 0; i < g->room && i < routes->end; i++)
		if (route_at(routes, i)->flags == ROUTE_LIVE && route_at(routes, i)->count == 0)
			routes_release(t, g->f, i);
	memory_give(t, g->run.bits);
	memory_give(t, g->pending_bits);
	list_free(t, &g->pending);
	memory_give(t, g);
	programs_sweep(t);
}

bool groups_use_policy(const struct bgp_table *t, uint32_t number)
{
	for (const struct update_group *g = t->update_groups; g != NULL; g = g->next)
		if (g->key.family.export_policy == number || (g->comparing && g->before.family.export_policy == number))
			return true;
	return false;
}

void update_groups_close(struct bgp_table *t)
{
	while (t->update_groups != NULL)
		group_free(t, t->update_groups);
}

static void member_add(struct update_group *g, struct peer *peer)
{
	peer->out[g->f] = (struct membership){.group = g, .next_chunk = g->first_chunk + g->chunk_count};
	g->members++;
}

int group_join(struct bgp_table *t, struct peer *peer, uint32_t f)
{
	struct export_key key;
	export_key_make(peer, f, &key);
	for (struct update_group *g = t->update_groups; g != NULL; g = g->next) {
		if (g->f == f && g->fresh && memcmp(&g->key, &key, sizeof(key)) == 0) {
			member_add(g, peer);
			return 0;
		}
	}
	struct update_group *g = group_make(t, &key, f);
	if (g == NULL)
		return -ENOMEM;
	g->walking = g->fresh = g->end_of_rib = true;
	member_add(g, peer);
	return 0;
}

static void trim(struct bgp_table *t, struct update_group *g)
{
	uint32_t done = 0;
	while (done < g->chunk_count && g->chunks[done]->readers == 0) {
		g->chunk_bytes -= g->chunks[done]->size;
		chunk_drop(t, g->chunks[done++]);
	}
	if (done == 0)
		return;
	memmove(g->chunks, g->chunks + done, (g->chunk_count - done) * sizeof(*g->chunks));
	g->chunk_count -= done;
	g->first_chunk += done;
}

static struct chunk *chunk_of(const struct update_group *g, uint64_t number)
{
	return g->chunks[number - g->first_chunk];
}

void group_leave(struct bgp_table *t, struct peer *peer, uint32_t f)
{
	struct membership *m = &peer->out[f];
	struct update_group *g = m->group;
	if (g == NULL)
		return;
	for (uint64_t i = m->next_chunk; i < g->first_chunk + g->chunk_count; i++)
		chunk_of(g, i)->readers--;
	*m = (struct membership){0};
	if (--g->members == 0)
		group_free(t, g);
	else
		trim(t, g);
}

bool for_member(const struct audience *a, uint32_t peer)
{
	return a->only != 0 ? a->only == peer : a->except[0] != peer && a->except[1] != peer;
}

// Take the messages that one member has not read into a group of its own.
static int split_chunks(struct bgp_table *t, struct update_group *from, struct update_group *to, const struct peer *peer)
{
	uint64_t next = peer->out[from->f].next_chunk, end = from->first_chunk + from->chunk_count;
	if (next == end)
		return 0;
	to->chunks = memory_take(t, (size_t)(end - next) * sizeof(*to->chunks));
	if (to->chunks == NULL)
		return -ENOMEM;
	to->chunk_room = (uint32_t)(end - next);
	for (; next < end; next++) {
		const struct chunk *chunk = chunk_of(from, next);
		if (!for_member(&chunk->audience, peer->number))
			continue;
		struct chunk *copy = memory_take(t, sizeof(*copy));
		uint8_t *bytes = copy == NULL ? NULL : memory_take(t, chunk->size);
		if (bytes == NULL) {
			memory_give(t, copy);
			return -ENOMEM;
		}
		memcpy(bytes, chunk->bytes, chunk->size);
		*copy = (struct chunk){.readers = 1, .size = chunk->size, .room = chunk->size, .messages = chunk->messages,
		                       .sealed = true, .bytes = bytes};
		to->chunks[to->chunk_count++] = copy;
		to->chunk_bytes += copy->size;
	}
	return 0;
}

// Take over what members were told, and what waits or was grouped and has not left.
static int split_state(struct bgp_table *t, const struct update_group *from, struct update_group *to, uint32_t peer)
{
	if (from->room != 0 && group_grow(t, to, from->room - 1) < 0)
		return -ENOMEM;
	for (uint32_t i = 0; i < from->room; i++) {
		to->out[i] = from->out[i];
		if (to->out[i] != 0)
			bundle_keep(t, to->out[i]);
		if (bit_get(from->pending_bits, i) || bit_get(from->run.bits, i))
			if (group_mark(t, to, i) < 0)
				return -ENOMEM;
	}
	to->advertised = from->advertised;
	to->walking = from->walking;
	to->comparing = from->comparing;
	to->before = from->before;
	to->walk = from->walk;
	to->end_of_rib = from->end_of_rib;
	to->forced = from->forced || from->run.count != 0 || (from->run.building && from->run.forced);
	return run_take_withdrawals(t, &from->run, to, peer);
}

static int group_split(struct bgp_table *t, struct peer *peer, uint32_t f)
{
	struct update_group *from = peer->out[f].group;
	struct update_group *to = group_make(t, &from->key, f);
	if (to == NULL)
		return -ENOMEM;
	int error = split_state(t, from, to, peer->number);
	if (error == 0)
		error = split_chunks(t, from, to, peer);
	if (error < 0) {
		group_free(t, to);
		return error;
	}
	uint64_t excluded = peer->out[f].excluded;
	group_leave(t, peer, f);
	peer->out[f] = (struct membership){.group = to, .excluded = excluded};
	to->members = 1;
	return 0;
}

// Give the neighbor a group of its own, which begins to look at all routes by its settings.
static int group_rekey(struct bgp_table *t, struct peer *peer, uint32_t f)
{
	if (peer->out[f].group->members > 1) {
		int error = group_split(t, peer, f);
		if (error < 0)
			return error;
	}
	struct update_group *g = peer->out[f].group;
	g->before = g->key;
	export_key_make(peer, f, &g->key);
	g->run.keys++;
	g->walk = 0;
	g->walking = true;
	return 0;
}

// What is being grouped goes on in the same run.
static void group_force(struct update_group *g)
{
	g->forced = true;
	g->run.forced |= g->run.building;
}

int group_restart(struct bgp_table *t, struct peer *peer, uint32_t f)
{
	int error = group_rekey(t, peer, f);
	if (error < 0)
		return error;
	struct update_group *g = peer->out[f].group;
	group_force(g);
	g->comparing = false;
	programs_sweep(t);
	return 0;
}

int group_change(struct bgp_table *t, struct peer *peer, uint32_t f)
{
	// Of a walk that has not ended, some routes were told by this key and others by that.
	const struct update_group *old = peer->out[f].group;
	if (old->walking && (old->comparing || old->forced))
		return group_restart(t, peer, f);
	int error = group_rekey(t, peer, f);
	if (error == 0)
		peer->out[f].group->comparing = true;
	return error;
}

// What a part of a walk has found out about bundles.
struct memo {
	bool by_prefix;
	struct {
		uint32_t bundle;
		bool differs;
	} known[512];
};

static bool told_otherwise(struct bgp_table *t, const struct update_group *g, uint32_t bundle,
	const struct prefix *prefix, struct memo *memo, uint32_t *budget)
{
	uint32_t slot = bundle % (sizeof(memo->known) / sizeof(memo->known[0]));
	if (memo->by_prefix || memo->known[slot].bundle != bundle) {
		memo->known[slot].bundle = bundle;
		memo->known[slot].differs = rewrite_differs(t, g, bundle_at(t, bundle), prefix);
		*budget -= *budget > 1;
	}
	return memo->known[slot].differs;
}

// Find what members were told of a prefix otherwise than they would be now.
static bool walk_compare(struct bgp_table *t, struct update_group *g, uint32_t number, struct memo *memo,
	uint32_t *budget)
{
	struct prefix prefix;
	if (group_told(g, number) == 0)
		return false;
	route_prefix(&t->routes[g->f], route_at(&t->routes[g->f], number), &prefix);
	if (!g->several)
		return told_otherwise(t, g, g->out[number], &prefix, memo, budget);
	for (uint32_t i = 0; i < g->sent[number]->count; i++)
		if (told_otherwise(t, g, g->sent[number]->list[i].bundle, &prefix, memo, budget))
			g->sent[number]->list[i].otherwise = true;
	return false; // others of its paths stay as they are
}

static bool walk_wants(const struct update_group *g, const struct route *route, uint32_t number)
{
	uint32_t best = route->best == BEST_NONE ? 0 : route_paths(route)[route->best];
	uint32_t told = group_told(g, number);
	if (g->several || (g->forced && !g->comparing))
		return best != 0 || told != 0;
	return best != told;
}

static int walk(struct bgp_table *t, struct update_group *g, uint32_t *budget)
{
	const struct routes *routes = &t->routes[g->f];
	struct memo memo = {0};
	memo.by_prefix = rewrite_by_prefix(t, &g->key) || (g->comparing && rewrite_by_prefix(t, &g->before));
	while (g->walk < routes->end && *budget != 0) {
		uint32_t number = g->walk;
		const struct route *route = route_at(routes, number);
		bool live = route->flags & ROUTE_LIVE, wanted = live && walk_wants(g, route, number);
		if (live && g->comparing && walk_compare(t, g, number, &memo, budget)) {
			wanted = true;
			group_force(g);
		}
		int error = wanted ? group_mark(t, g, number) : 0;
		if (error < 0)
			return error;
		*budget -= wanted || number % LOOKS == 0;
		g->walk++;
	}
	g->walking = g->walk < routes->end;
	if (!g->walking && g->comparing) {
		g->comparing = false;
		programs_sweep(t);
	}
	return 0;
}

static bool run_idle(const struct update_group *g)
{
	return !g->run.building && g->run.at == g->run.chain_count;
}

static uint32_t pending_count(const struct update_group *g)
{
	return g->pending.count - g->pending.first;
}

static bool build_waits(const struct update_group *g)
{
	return !g->walking && (g->run.building || (run_idle(g) && pending_count(g) > AT_ONCE));
}

int groups_walk(struct bgp_table *t, uint32_t *budget)
{
	int error = 0;
	for (struct update_group *g = t->update_groups; g != NULL && error == 0 && *budget != 0; g = g->next) {
		if (g->walking)
			error = walk(t, g, budget);
		if (error == 0 && *budget != 0 && build_waits(g))
			error = run_build(t, g, budget);
	}
	return error;
}

bool groups_waiting(const struct bgp_table *t)
{
	for (const struct update_group *g = t->update_groups; g != NULL; g = g->next)
		if (g->walking || build_waits(g))
			return true;
	return false;
}

bool groups_owe(const struct bgp_table *t)
{
	for (const struct update_group *g = t->update_groups; g != NULL; g = g->next)
		if (pending_count(g) != 0 || !run_idle(g) || g->chunk_count != 0)
			return true;
	return false;
}

// The items of a run have left: nothing refers to their prefixes any more.
static void run_end(struct bgp_table *t, struct update_group *g)
{
	struct run *run = &g->run;
	for (uint32_t i = 0; i < run->count; i++)
		bit_clear(run->bits, run->items[i].route);
	for (uint32_t i = 0; i < run->count; i++)
		if (group_told(g, run->items[i].route) == 0)
			routes_release(t, g->f, run->items[i].route);
	run_clear(t, run);
	if (run->room > AT_ONCE)
		run_free(t, run);
}

// Make more messages.  1: some were made; 0: there is nothing to be told, or not now.
static int fill(struct bgp_table *t, struct update_group *g)
{
	uint32_t budget = AT_ONCE;
	int error = 0;
	if (g->walking)
		return 0;
	if (run_idle(g) && pending_count(g) != 0)
		error = run_build(t, g, &budget);
	if (error < 0 || g->run.building)
		return error;
	if (g->run.at < g->run.chain_count) {
		g->fresh = false;
		uint64_t before = g->chunk_bytes;
		while (error == 0 && g->run.at < g->run.chain_count && g->chunk_bytes - before < BGP_MESSAGE_EXTENDED) {
			error = pack_chain(t, g, &g->run.chains[g->run.at]);
			g->run.at += error == 0;
		}
		if (g->run.at == g->run.chain_count)
			run_end(t, g);
		return error < 0 ? error : 1;
	}
	run_end(t, g);
	if (!g->end_of_rib)
		return 0;
	error = pack_end_of_rib(t, g);
	g->fresh = false;
	g->end_of_rib = error < 0;
	return error < 0 ? error : 1;
}

static bool drained(const struct update_group *g)
{
	return !g->walking && pending_count(g) == 0 && run_idle(g) && g->chunk_count == 0 && !g->end_of_rib && !g->several;
}

// Two groups of one key that have nothing pending have told the same: one is enough.
static void merge(struct bgp_table *t, struct update_group *g)
{
	struct update_group *other = t->update_groups;
	while (other != NULL && (other == g || other->f != g->f || !drained(other) ||
	                         memcmp(&other->key, &g->key, sizeof(g->key)) != 0))
		other = other->next;
	if (other == NULL)
		return;
	for (uint32_t i = 1; i < t->peer_room; i++) {
		struct peer *peer = t->peers[i];
		if (!group_member(g, peer))
			continue;
		uint64_t excluded = peer->out[g->f].excluded;
		member_add(other, peer);
		peer->out[g->f].excluded = excluded;
	}
	group_free(t, g);
}

// Members that hold up too much memory go their own way.
static void part(struct bgp_table *t, struct update_group *g)
{
	for (uint32_t i = 1; i < t->peer_room && g->members > 1 && g->chunk_bytes > MOST_BACKLOG; i++)
		if (group_member(g, t->peers[i]) && t->peers[i]->out[g->f].next_chunk == g->first_chunk &&
		    group_split(t, t->peers[i], g->f) < 0)
			return;
}

// Copy what a member has not read.  1: there was no room for all.
static int copy_out(struct bgp_table *t, struct peer *peer, uint32_t f, uint8_t *buffer, uint32_t room, uint32_t *size)
{
	for (;;) {
		struct membership *m = &peer->out[f];
		struct update_group *g = m->group;
		for (; m->next_chunk < g->first_chunk + g->chunk_count; m->next_chunk++) {
			struct chunk *chunk = chunk_of(g, m->next_chunk);
			if (chunk->size != 0 && for_member(&chunk->audience, peer->number)) {
				if (chunk->size > room - *size)
					return 1;
				memcpy(buffer + *size, chunk->bytes, chunk->size);
				*size += chunk->size;
				peer->updates_sent += chunk->messages;
			}
			chunk->sealed = true;
			chunk->readers--;
		}
		trim(t, g);
		int more = fill(t, g);
		if (more <= 0)
			return more;
	}
}

int bgp_export(struct bgp_table *t, uint32_t number, uint8_t *buffer, uint32_t room)
{
	struct peer *peer = peer_find(t, number);
	uint32_t size = 0;
	if (peer == NULL || room < BGP_MESSAGE_EXTENDED)
		return peer == NULL ? -ENOENT : -EINVAL;
	for (uint32_t f = 0; f < BGP_FAMILIES; f++) {
		struct update_group *g = peer->out[f].group;
		if (g == NULL)
			continue;
		int full = copy_out(t, peer, f, buffer, room, &size);
		if (full < 0 && size == 0)
			return full;
		trim(t, g);
		part(t, g);
		if (full != 0)
			break;
		if (drained(peer->out[f].group))
			merge(t, peer->out[f].group);
	}
	if (size != 0)
		t->idle_calls = 0;
	return (int)size;
}
