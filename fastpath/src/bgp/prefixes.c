// Prefixes of a family: open addressing over numbers, and what a prefix holds of its paths.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bgp/internal.h"

enum { LEAST_INDEX = 1024, FILL_AHEAD = 16 };

void routes_open(struct routes *routes, uint32_t f)
{
	routes->width = f == 0 ? 4 : 16;
	routes->stride = (uint32_t)sizeof(struct route) + 8;
}

void routes_close(struct bgp_table *t, struct routes *routes)
{
	for (uint32_t i = 0; i < routes->end; i++)
		if (route_at(routes, i)->count > 2)
			memory_give(t, route_at(routes, i)->paths);
	for (uint32_t i = 0; i * ROUTE_CHUNK < routes->end; i++)
		memory_give(t, routes->chunks[i]);
	memory_give(t, routes->chunks);
	memory_give(t, routes->index);
	memory_give(t, routes->wide);
	list_free(t, &routes->dirty);
	list_free(t, &routes->held);
	list_free(t, &routes->watched);
	list_free(t, &routes->fib);
}

uint32_t routes_hash(const struct bgp_table *t, uint32_t f, const uint8_t *address, uint32_t length)
{
	uint64_t hi = 0, lo = length;
	memcpy(&hi, address, f == 0 ? 4 : 8);
	if (f != 0) {
		memcpy(&lo, address + 8, 8);
		lo ^= (uint64_t)length << 56 | length;
	}
	unsigned __int128 wide = (unsigned __int128)(hi ^ t->seed) * (0xe7037ed1a0b428dbull ^ lo * 0x8ebc6af09c88c6e3ull);
	uint64_t mixed = ((uint64_t)wide ^ (uint64_t)(wide >> 64)) * 0x9e3779b97f4a7c15ull;
	return (uint32_t)(mixed >> 32);
}

void routes_prefetch(const struct routes *routes, uint32_t hash)
{
	if (routes->capacity != 0)
		__builtin_prefetch(&routes->index[hash & (routes->capacity - 1)]);
}

// An entry of the index: 1 + number of a route, and above it what the slot does not tell of the route's hash.  There are
// fewer routes than slots.
static uint32_t index_entry(uint32_t capacity, uint32_t hash, uint32_t found)
{
	return (hash & ~(capacity - 1)) | found;
}

static uint32_t index_number(uint32_t capacity, uint32_t entry)
{
	return entry & (capacity - 1);
}

static bool address_is(const struct routes *routes, const struct route *route, const uint8_t *address)
{
	if (routes->width == 4)
		return memcmp(route->address, address, 4) == 0;
	if (length_wide(routes, route->length))
		return memcmp(route_address(routes, route), address, 16) == 0;
	return memcmp(route->address, address, 8) == 0;
}

static uint32_t route_hash(const struct bgp_table *t, uint32_t f, const struct route *route)
{
	struct prefix prefix;
	route_prefix(&t->routes[f], route, &prefix);
	return routes_hash(t, f, prefix.address, prefix.length);
}

uint32_t routes_find(const struct bgp_table *t, uint32_t f, const uint8_t *address, uint32_t length, uint32_t hash)
{
	const struct routes *routes = &t->routes[f];
	if (routes->capacity == 0)
		return 0;
	for (uint32_t slot = hash & (routes->capacity - 1);; slot = (slot + 1) & (routes->capacity - 1)) {
		uint32_t entry = routes->index[slot];
		if (entry == 0)
			return 0;
		if ((entry ^ hash) >= routes->capacity) // not that one
			continue;
		uint32_t found = index_number(routes->capacity, entry);
		const struct route *route = route_at(routes, found - 1);
		if (route->length == length && address_is(routes, route, address))
			return found;
	}
}

static void index_put(uint32_t *index, uint32_t capacity, uint32_t hash, uint32_t found)
{
	uint32_t slot = hash & (capacity - 1);
	while (index[slot] != 0)
		slot = (slot + 1) & (capacity - 1);
	index[slot] = index_entry(capacity, hash, found);
}

static void index_fill(const struct bgp_table *t, uint32_t f, uint32_t *index, uint32_t capacity)
{
	const struct routes *routes = &t->routes[f];
	uint32_t hashes[FILL_AHEAD];
	for (uint32_t first = 0; first < routes->end; first += FILL_AHEAD) {
		uint32_t count = routes->end - first < FILL_AHEAD ? routes->end - first : FILL_AHEAD;
		for (uint32_t i = 0; i < count; i++) {
			const struct route *route = route_at(routes, first + i);
			hashes[i] = route->flags & ROUTE_LIVE ? route_hash(t, f, route) : 0;
			__builtin_prefetch(&index[hashes[i] & (capacity - 1)], 1);
		}
		for (uint32_t i = 0; i < count; i++)
			if (route_at(routes, first + i)->flags & ROUTE_LIVE)
				index_put(index, capacity, hashes[i], first + i + 1);
	}
}

static int index_grow(struct bgp_table *t, uint32_t f)
{
	struct routes *routes = &t->routes[f];
	uint32_t capacity = routes->capacity == 0 ? LEAST_INDEX : 2 * routes->capacity;
	uint32_t *index = capacity == 0 ? NULL : memory_take(t, capacity * sizeof(*index));
	if (index == NULL)
		return -ENOMEM;
	index_fill(t, f, index, capacity);
	memory_give(t, routes->index);
	routes->index = index;
	routes->capacity = capacity;
	return 0;
}

// A number that is free; 0 without memory, else 1 + number.
static uint32_t route_slot(struct bgp_table *t, struct routes *routes)
{
	if (routes->free != 0) {
		uint32_t found = routes->free;
		routes->free = route_at(routes, found - 1)->path[0];
		return found;
	}
	if (routes->end % ROUTE_CHUNK == 0) {
		uint32_t chunk = routes->end / ROUTE_CHUNK;
		if (chunk == routes->chunk_room) {
			uint32_t room = chunk == 0 ? 16 : 2 * chunk;
			uint8_t **chunks = memory_resize(t, routes->chunks, room * sizeof(*chunks));
			if (chunks == NULL)
				return 0;
			routes->chunks = chunks;
			routes->chunk_room = room;
		}
		routes->chunks[chunk] = memory_take(t, (size_t)ROUTE_CHUNK * routes->stride);
		if (routes->chunks[chunk] == NULL)
			return 0;
	}
	return ++routes->end;
}

// Keep the address of a prefix of more than 64 bits; 0 without memory, else 1 + number.
static uint32_t wide_take(struct bgp_table *t, struct routes *routes, const uint8_t *address)
{
	uint32_t taken = routes->wide_free;
	if (taken != 0) {
		memcpy(&routes->wide_free, routes->wide[taken - 1], sizeof(routes->wide_free));
	} else {
		if (routes->wide_end == routes->wide_room) {
			uint32_t room = routes->wide_room == 0 ? 64 : 2 * routes->wide_room;
			void *wide = memory_resize(t, routes->wide, room * sizeof(*routes->wide));
			if (wide == NULL)
				return 0;
			routes->wide = wide;
			routes->wide_room = room;
		}
		taken = ++routes->wide_end;
	}
	memcpy(routes->wide[taken - 1], address, sizeof(*routes->wide));
	return taken;
}

static void wide_give(struct routes *routes, uint32_t taken)
{
	memcpy(routes->wide[taken - 1], &routes->wide_free, sizeof(routes->wide_free));
	routes->wide_free = taken;
}

static void address_set(const struct routes *routes, struct route *route, const uint8_t *address, uint32_t wide)
{
	uint32_t number = wide - 1;
	if (wide != 0)
		memcpy(route->address, &number, sizeof(number));
	else
		memcpy(route->address, address, routes->width == 4 ? 4 : 8);
}

static void address_drop(struct routes *routes, const struct route *route)
{
	uint32_t number;
	memcpy(&number, route->address, sizeof(number));
	if (length_wide(routes, route->length))
		wide_give(routes, number + 1);
}

uint32_t routes_make(struct bgp_table *t, uint32_t f, const uint8_t *address, uint32_t length, uint32_t hash)
{
	struct routes *routes = &t->routes[f];
	uint32_t found = routes_find(t, f, address, length, hash);
	if (found != 0)
		return found;
	if ((uint64_t)(routes->count + 1) * 4 > (uint64_t)routes->capacity * 3 && index_grow(t, f) < 0)
		return 0;
	bool scanned = routes->scan == routes->end;
	uint32_t wide = length_wide(routes, length) ? wide_take(t, routes, address) : 0;
	if (wide == 0 && length_wide(routes, length))
		return 0;
	found = route_slot(t, routes);
	if (found == 0 && wide != 0)
		wide_give(routes, wide);
	if (found == 0)
		return 0;
	if (scanned)
		routes->scan = routes->end;
	struct route *route = route_at(routes, found - 1);
	memset(route, 0, routes->stride);
	route->length = (uint8_t)length;
	route->flags = ROUTE_LIVE;
	route->best = BEST_NONE;
	address_set(routes, route, address, wide);
	index_put(routes->index, routes->capacity, hash, found);
	routes->count++;
	return found;
}

static void index_remove(struct bgp_table *t, uint32_t f, uint32_t number)
{
	struct routes *routes = &t->routes[f];
	const struct route *route = route_at(routes, number);
	uint32_t mask = routes->capacity - 1;
	uint32_t hole = route_hash(t, f, route) & mask;
	while (index_number(routes->capacity, routes->index[hole]) != number + 1)
		hole = (hole + 1) & mask;
	for (uint32_t slot = hole;;) {
		slot = (slot + 1) & mask;
		uint32_t entry = routes->index[slot];
		if (entry == 0)
			break;
		const struct route *next = route_at(routes, index_number(routes->capacity, entry) - 1);
		uint32_t home = route_hash(t, f, next) & mask;
		if (((slot - home) & mask) < ((slot - hole) & mask))
			continue;
		routes->index[hole] = entry;
		hole = slot;
	}
	routes->index[hole] = 0;
}

static bool releasable(const struct bgp_table *t, uint32_t f, uint32_t number)
{
	const struct route *route = route_at(&t->routes[f], number);
	return route->count == 0 && route->group == 0 && route->flags == ROUTE_LIVE && !groups_refer(t, f, number);
}

static void route_free(struct routes *routes, uint32_t number)
{
	struct route *route = route_at(routes, number);
	address_drop(routes, route);
	route->flags = 0;
	route->path[0] = routes->free;
	routes->free = number + 1;
	routes->count--;
}

void routes_release(struct bgp_table *t, uint32_t f, uint32_t number)
{
	if (!releasable(t, f, number))
		return;
	index_remove(t, f, number);
	route_free(&t->routes[f], number);
}

void routes_release_list(struct bgp_table *t, uint32_t f, const uint32_t *numbers, uint32_t count)
{
	struct routes *routes = &t->routes[f];
	bool most = count > routes->count / 2;
	uint32_t before = routes->count;
	for (uint32_t i = 0; i < count; i++) {
		if (!most)
			routes_release(t, f, numbers[i]);
		else if (releasable(t, f, numbers[i]))
			route_free(routes, numbers[i]);
	}
	if (!most || routes->count == before)
		return;
	memset(routes->index, 0, routes->capacity * sizeof(*routes->index));
	index_fill(t, f, routes->index, routes->capacity);
}

int route_dirty(struct bgp_table *t, uint32_t f, uint32_t number)
{
	struct route *route = route_at(&t->routes[f], number);
	if (route->flags & ROUTE_DIRTY)
		return 0;
	if (list_push(t, &t->routes[f].dirty, number) < 0) {
		// The scan finds it when there is memory again.
		t->scan_all = true;
		t->routes[f].scan = 0;
		return -ENOMEM;
	}
	route->flags |= ROUTE_DIRTY;
	return 0;
}

static void peer_count(struct bgp_table *t, uint32_t f, uint32_t bundle, int change)
{
	const struct bundle *b = bundle_at(t, bundle);
	struct peer *peer = peer_find(t, b->peer);
	t->routes[f].paths += (uint64_t)(int64_t)change;
	if (peer == NULL)
		return;
	peer->received[f] += (uint64_t)(int64_t)change;
	if (b->verdict == BGP_ACCEPTED)
		peer->accepted[f] += (uint64_t)(int64_t)change;
	if (b->epoch != peer->epoch[f])
		peer->stale[f] += (uint64_t)(int64_t)change;
}

// Count the prefixes of which a neighbor has told any path.
static void peer_count_prefix(struct bgp_table *t, uint32_t f, const struct route *route, uint32_t number, int change)
{
	struct peer *peer = peer_find(t, number);
	if (peer == NULL)
		return;
	const uint32_t *paths = route_paths(route);
	for (uint32_t i = 0; i < route->count; i++)
		if (bundle_at(t, paths[i])->peer == number)
			return;
	peer->prefixes[f] += (uint64_t)(int64_t)change;
}

static uint32_t path_room(uint32_t count)
{
	uint32_t room = 4;
	while (room < count)
		room *= 2;
	return room;
}

static int path_add(struct bgp_table *t, struct route *route, uint32_t bundle)
{
	if (route->count == BEST_NONE)
		return -ENOSPC;
	if (route->count < 2) {
		route->path[route->count++] = bundle;
		return 0;
	}
	if (route->count == 2) {
		uint32_t *paths = memory_take(t, 4 * sizeof(*paths));
		if (paths == NULL)
			return -ENOMEM;
		memcpy(paths, route->path, sizeof(route->path));
		route->paths = paths;
	} else if (path_room(route->count) == route->count) {
		uint32_t *paths = memory_resize(t, route->paths, 2 * (size_t)route->count * sizeof(*paths));
		if (paths == NULL)
			return -ENOMEM;
		route->paths = paths;
	}
	route->paths[route->count++] = bundle;
	return 0;
}

static uint32_t path_find(const struct bgp_table *t, const struct route *route, uint32_t peer, uint32_t path_id)
{
	const uint32_t *paths = route_paths(route);
	for (uint32_t i = 0; i < route->count; i++) {
		const struct bundle *b = bundle_at(t, paths[i]);
		if (b->peer == peer && b->path_id == path_id)
			return i;
	}
	return UINT32_MAX;
}

int route_path_set(struct bgp_table *t, uint32_t f, uint32_t number, uint32_t bundle)
{
	struct route *route = route_at(&t->routes[f], number);
	const struct bundle *b = bundle_at(t, bundle);
	uint32_t place = path_find(t, route, b->peer, b->path_id);
	if (place == UINT32_MAX) {
		peer_count_prefix(t, f, route, b->peer, 1);
		int error = path_add(t, route, bundle);
		if (error < 0) {
			peer_count_prefix(t, f, route, b->peer, -1);
			bundle_drop(t, bundle);
			routes_release(t, f, number);
			return error;
		}
		peer_count(t, f, bundle, 1);
		return route_dirty(t, f, number);
	}
	uint32_t *paths = route_paths_mut(route);
	uint32_t old = paths[place];
	if (old == bundle) {
		bundle_drop(t, bundle);
		return 0;
	}
	peer_count(t, f, old, -1);
	peer_count(t, f, bundle, 1);
	paths[place] = bundle;
	if (place == route->best)
		route->flags |= ROUTE_TOUCHED;
	bundle_drop(t, old);
	return route_dirty(t, f, number);
}

void route_path_remove(struct bgp_table *t, uint32_t f, uint32_t number, uint32_t place)
{
	struct route *route = route_at(&t->routes[f], number);
	uint32_t *paths = route_paths_mut(route);
	uint32_t old = paths[place];
	uint32_t peer = bundle_at(t, old)->peer;
	peer_count(t, f, old, -1);
	if (place == route->best) {
		route->flags |= ROUTE_TOUCHED;
		route->best = BEST_NONE;
	} else if (route->best != BEST_NONE && place < route->best) {
		route->best--;
	}
	for (uint32_t i = place; i + 1 < route->count; i++)
		paths[i] = paths[i + 1];
	route->count--;
	if (route->count == 2) {
		uint32_t first = paths[0], second = paths[1];
		memory_give(t, paths);
		route->path[0] = first;
		route->path[1] = second;
	}
	peer_count_prefix(t, f, route, peer, -1);
	bundle_drop(t, old);
	(void)route_dirty(t, f, number);
}

bool route_path_clear(struct bgp_table *t, uint32_t f, uint32_t number, uint32_t peer, uint32_t path_id)
{
	uint32_t place = path_find(t, route_at(&t->routes[f], number), peer, path_id);
	if (place == UINT32_MAX)
		return false;
	route_path_remove(t, f, number, place);
	return true;
}

void route_prefix(const struct routes *routes, const struct route *route, struct prefix *out)
{
	*out = (struct prefix){.family = routes->width == 4 ? FAMILY_IPV4 : FAMILY_IPV6, .length = route->length};
	memcpy(out->address, route_address(routes, route),
	       routes->width == 4 ? 4 : length_wide(routes, route->length) ? 16 : 8);
}
