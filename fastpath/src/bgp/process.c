// What waits: best paths, and what follows from them for the FIB, the RIB and the neighbors.
#include <errno.h>
#include <string.h>

#include "bgp/internal.h"

enum {
	AHEAD = 8,
	LOOKS = 16,                // prefixes that a scan passes over cost a part of one that is judged
	LARGE = 131072,            // so many changes of the FIB are carried out at once, if they are most of it
	LARGE_BATCH = 1048576,
	LARGE_PART = 4,            // from this part of the FIB on
	SAMPLE = 64,
	IDLE_CALLS = 32            // so often a neighbor may be found not to read, before the FIB comes first
};

uint8_t bundle_preference(const struct bgp_table *t, const struct bundle *bundle)
{
	const struct peer *peer = peer_find(t, bundle->peer);
	if (bundle->has_preference)
		return bundle->preference;
	if (peer == NULL)
		return t->identity.preference_local;
	return peer->settings.kind == BGP_EXTERNAL ? t->identity.preference_external : t->identity.preference_internal;
}

static const struct bundle *best_bundle(const struct bgp_table *t, const struct route *route)
{
	return route->best == BEST_NONE ? NULL : bundle_at(t, route_paths(route)[route->best]);
}

// Have a prefix written into the FIB, in the state that it then has: after the neighbors were told.
static int fib_change(struct bgp_table *t, uint32_t f, uint32_t number)
{
	struct route *route = route_at(&t->routes[f], number);
	if (route->flags & ROUTE_FIB_WAITS)
		return 0;
	int error = list_push(t, &t->routes[f].fib, number);
	if (error == 0)
		route->flags |= ROUTE_FIB_WAITS;
	return error;
}

static void change_make(struct bgp_table *t, uint32_t f, struct route *route, struct route_change *change)
{
	*change = (struct route_change){
		.family = f == 0 ? FAMILY_IPV4 : FAMILY_IPV6, .length = route->length, .protocol = ROUTE_BGP,
	};
	struct prefix prefix;
	route_prefix(&t->routes[f], route, &prefix);
	memcpy(change->address, prefix.address, sizeof(change->address));
	const struct bundle *best = best_bundle(t, route);
	bool was = route->flags & ROUTE_INSTALLED, is = route->group != 0 && best != NULL;
	if (is) {
		change->group = t->groups[route->group]->fib;
		change->preference = bundle_preference(t, best);
		change->metric = best->attributes->med;
	}
	t->installed += (uint64_t)is - (uint64_t)was;
	route->flags = (uint8_t)(is ? route->flags | ROUTE_INSTALLED : route->flags & ~ROUTE_INSTALLED);
}

static uint32_t list_count(const struct list *list)
{
	return list->count - list->first;
}

static uint32_t fib_waiting(const struct bgp_table *t)
{
	return t->writer == NULL ? 0 : list_count(&t->routes[0].fib) + list_count(&t->routes[1].fib);
}

void fib_burst(struct bgp_table *t)
{
	t->burst = fib_waiting(t) + list_count(&t->routes[0].dirty) + list_count(&t->routes[1].dirty);
	t->idle_calls = 0;
}

// When most of the FIB comes or goes, building its tries anew a few times is cheaper than to change
// them prefix by prefix; not when prefixes only change their next hops.  What mostly goes, goes at
// once: only what remains is built.  Gives how many changes to carry out; 0: it is not so.
static uint32_t fib_large(const struct bgp_table *t)
{
	uint32_t waiting = fib_waiting(t), replaced = 0, removed = 0;
	if (waiting < LARGE || waiting < t->installed / LARGE_PART)
		return 0;
	uint32_t f = list_count(&t->routes[0].fib) >= list_count(&t->routes[1].fib) ? 0 : 1;
	const struct routes *routes = &t->routes[f];
	for (uint32_t i = 0; i < SAMPLE; i++) {
		uint32_t place = routes->fib.first + (uint32_t)((uint64_t)i * list_count(&routes->fib) / SAMPLE);
		const struct route *route = route_at(routes, routes->fib.items[place]);
		replaced += route->flags & ROUTE_INSTALLED && route->group != 0;
		removed += route->group == 0;
	}
	if (replaced >= SAMPLE / 2)
		return 0;
	return removed > SAMPLE / 2 || waiting < LARGE_BATCH ? waiting : LARGE_BATCH;
}

static void fib_prefetch(const struct routes *routes, uint32_t at)
{
	if (at < routes->fib.count)
		__builtin_prefetch(route_at(routes, routes->fib.items[at]));
}

// Make the changes of the next `count` prefixes of a family that wait; their number.
static uint32_t fib_collect(struct bgp_table *t, uint32_t f, uint32_t count, struct route_change *changes)
{
	struct routes *routes = &t->routes[f];
	const uint32_t *numbers = routes->fib.items + routes->fib.first;
	uint32_t made = 0;
	for (uint32_t i = 0; i < count; i++) {
		fib_prefetch(routes, routes->fib.first + i + AHEAD);
		struct route *route = route_at(routes, numbers[i]);
		route->flags &= (uint8_t)~ROUTE_FIB_WAITS;
		if (!(route->flags & ROUTE_HELD) && (route->flags & ROUTE_INSTALLED || route->group != 0))
			change_make(t, f, route, &changes[made++]);
	}
	routes_release_list(t, f, numbers, count);
	list_skip(t, &routes->fib, count);
	if (fib_waiting(t) == 0)
		t->burst = 0;
	return made;
}

// Write a batch of what waits.
static int fib_write(struct bgp_table *t, uint32_t room)
{
	struct route_change *changes = memory_take(t, room * sizeof(*changes));
	uint32_t count = 0;
	if (changes == NULL)
		return -ENOMEM;
	for (uint32_t f = 0; f < BGP_FAMILIES && room != 0; f++) {
		uint32_t part = list_count(&t->routes[f].fib) < room ? list_count(&t->routes[f].fib) : room;
		count += fib_collect(t, f, part, changes + count);
		room -= part;
	}
	int error = count == 0 ? 0 : table_writer_apply(t->writer, changes, count);
	memory_give(t, changes);
	if (error < 0) { // judged anew, and entered again, by the next scan
		t->scan_all = true;
		t->routes[0].scan = t->routes[1].scan = 0;
	}
	return error;
}

// What a failed neighbor has left is told to the others first.
static bool fib_leaves_room(struct bgp_table *t)
{
	return fib_waiting(t) <= t->burst && groups_owe(t) && t->idle_calls++ < IDLE_CALLS;
}

static int process_fib(struct bgp_table *t, uint32_t *budget)
{
	uint32_t waiting = fib_waiting(t);
	if (waiting == 0 || *budget == 0)
		return 0;
	uint32_t large = fib_large(t);
	if (large != 0) {
		*budget = 0;
		return fib_leaves_room(t) ? 0 : fib_write(t, large);
	}
	uint32_t room = *budget < FIB_BATCH ? *budget : FIB_BATCH;
	room = room < waiting ? room : waiting;
	*budget -= room;
	return fib_write(t, room);
}

// Bring the FIB in line; *moved: the next hops are others.
static int route_install(struct bgp_table *t, uint32_t f, uint32_t number, bool changed, bool *moved)
{
	struct route *route = route_at(&t->routes[f], number);
	int group = route->best == BEST_NONE ? 0 : hop_group_get(t, route);
	if (group < 0)
		return group;
	uint16_t old = route->group;
	*moved = old != group;
	route->group = (uint16_t)group;
	int error = (*moved || (changed && group != 0)) ? fib_change(t, f, number) : 0;
	if (old != 0)
		hop_group_drop(t, old);
	return error;
}

static int note(struct bgp_table *t, struct list *list, struct route *route, uint32_t number, uint8_t flag)
{
	if (route->flags & flag)
		return 0;
	int error = list_push(t, list, number);
	if (error == 0)
		route->flags |= flag;
	return error;
}

int route_process(struct bgp_table *t, uint32_t f, uint32_t number)
{
	struct routes *routes = &t->routes[f];
	struct route *route = route_at(routes, number);
	uint16_t best;
	route->flags &= (uint8_t)~ROUTE_DIRTY;
	int error = route_best(t, route, &best);
	if (error < 0)
		return error;
	bool changed = best != route->best || route->flags & ROUTE_TOUCHED, moved = false;
	route->best = best;
	route->flags &= (uint8_t)~ROUTE_TOUCHED;
	if (!(route->flags & ROUTE_HELD))
		error = route_install(t, f, number, changed, &moved);
	else
		error = note(t, &routes->held, route, number, ROUTE_HELD_CHANGED);
	if (error == 0 && t->watching)
		error = note(t, &routes->watched, route, number, ROUTE_WATCHED);
	if (error == 0)
		error = groups_mark(t, f, number, best == BEST_NONE ? 0 : route_paths(route)[best]);
	if (error < 0) { // again, when there is memory
		t->scan_all = true;
		routes->scan = 0;
		return error;
	}
	routes_release(t, f, number);
	return 0;
}

static void dirty_prefetch(const struct routes *routes, uint32_t ahead)
{
	uint32_t at = routes->dirty.first + ahead;
	if (at < routes->dirty.count)
		__builtin_prefetch(route_at(routes, routes->dirty.items[at]));
}

static int process_dirty(struct bgp_table *t, uint32_t *budget)
{
	for (uint32_t f = 0; f < BGP_FAMILIES; f++) {
		struct routes *routes = &t->routes[f];
		for (; *budget != 0 && !list_empty(&routes->dirty); --*budget) {
			dirty_prefetch(routes, AHEAD);
			int error = route_process(t, f, list_pop(t, &routes->dirty));
			if (error < 0)
				return error;
		}
	}
	return 0;
}

static bool scan_wanted(const struct bgp_table *t, const struct route *route)
{
	if (t->scan_all)
		return true;
	const uint32_t *paths = route_paths(route);
	for (uint32_t i = 0; i < route->count; i++) {
		const struct next_hop *hop = bundle_at(t, paths[i])->next_hop;
		if (hop != NULL && hop->changed)
			return true;
	}
	return false;
}

static bool scanning(const struct bgp_table *t)
{
	return t->routes[0].scan < t->routes[0].end || t->routes[1].scan < t->routes[1].end;
}

// All prefixes were seen since the last change of a next hop.
static void scan_end(struct bgp_table *t)
{
	t->scan_all = false;
	for (uint32_t i = 0; i < sizeof(t->next_hop_buckets) / sizeof(t->next_hop_buckets[0]); i++)
		for (struct next_hop *hop = t->next_hop_buckets[i]; hop != NULL; hop = hop->next)
			hop->changed = false;
}

static int process_scan(struct bgp_table *t, uint32_t *budget)
{
	if (!scanning(t))
		return 0;
	uint32_t looks = 0;
	for (uint32_t f = 0; f < BGP_FAMILIES; f++) {
		struct routes *routes = &t->routes[f];
		while (routes->scan < routes->end) {
			if (*budget == 0)
				return 0;
			uint32_t number = routes->scan++;
			struct route *route = route_at(routes, number);
			if (++looks % LOOKS == 0)
				--*budget;
			if (!(route->flags & ROUTE_LIVE) || !scan_wanted(t, route))
				continue;
			route->flags |= ROUTE_TOUCHED;
			int error = route->flags & ROUTE_DIRTY ? 0 : route_process(t, f, number);
			if (error < 0)
				return error;
			*budget -= *budget != 0;
		}
	}
	scan_end(t);
	return 0;
}

int bgp_process(struct bgp_table *t, uint32_t limit)
{
	// Under a lasting load the FIB has its share, too.
	uint32_t most = t->burst > LARGE_BATCH ? t->burst : LARGE_BATCH;
	uint32_t kept = fib_waiting(t) > most ? limit / 4 : 0, budget = limit - kept;
	int error = process_dirty(t, &budget);
	budget += kept;
	if (error == 0)
		error = process_scan(t, &budget);
	if (error == 0)
		error = groups_walk(t, &budget);
	if (error == 0)
		error = process_fib(t, &budget);
	return error < 0 ? error : bgp_waiting(t);
}

int bgp_waiting(const struct bgp_table *t)
{
	return !list_empty(&t->routes[0].dirty) || !list_empty(&t->routes[1].dirty) || scanning(t) || groups_waiting(t) ||
	       fib_waiting(t) != 0;
}

void bgp_route_fill(struct bgp_table *t, uint32_t f, const struct route *route, struct bgp_route *out)
{
	const struct bundle *best = best_bundle(t, route);
	memset(out, 0, offsetof(struct bgp_route, hops));
	route_prefix(&t->routes[f], route, &out->prefix);
	if (best == NULL || best->peer == 0) // a local one is the RIB's own
		return;
	int count = route_hops(t, route, out->hops);
	if (count <= 0)
		return;
	const struct peer *peer = peer_find(t, best->peer);
	out->hop_count = (uint32_t)count;
	out->installed = 1;
	out->preference = bundle_preference(t, best);
	out->internal = peer == NULL || peer->settings.kind != BGP_EXTERNAL;
	out->metric = best->attributes->med;
	out->attributes = best->attributes->wire;
	out->size = best->attributes->size;
}

static int drain(struct bgp_table *t, uint32_t f, struct list *list, uint8_t flag, struct bgp_route *out, uint32_t room)
{
	uint32_t count = 0;
	while (count < room && !list_empty(list)) {
		uint32_t number = list_pop(t, list);
		struct route *route = route_at(&t->routes[f], number);
		route->flags &= (uint8_t)~flag;
		bgp_route_fill(t, f, route, &out[count]);
		if (flag == ROUTE_HELD_CHANGED && t->writer != NULL && route->flags & ROUTE_HELD && out[count].installed)
			route->flags |= ROUTE_INSTALLED; // the RIB may write it
		count++;
		routes_release(t, f, number);
	}
	return (int)count;
}

int bgp_held(struct bgp_table *t, struct bgp_route *out, uint32_t room)
{
	int count = drain(t, 0, &t->routes[0].held, ROUTE_HELD_CHANGED, out, room);
	return count + drain(t, 1, &t->routes[1].held, ROUTE_HELD_CHANGED, out + count, room - (uint32_t)count);
}

int bgp_changes(struct bgp_table *t, struct bgp_route *out, uint32_t room)
{
	int count = drain(t, 0, &t->routes[0].watched, ROUTE_WATCHED, out, room);
	return count + drain(t, 1, &t->routes[1].watched, ROUTE_WATCHED, out + count, room - (uint32_t)count);
}

int bgp_fib(struct bgp_table *t, struct bgp_route *out, uint32_t room)
{
	if (t->writer != NULL) // process() writes them itself
		return 0;
	int count = drain(t, 0, &t->routes[0].fib, ROUTE_FIB_WAITS, out, room);
	return count + drain(t, 1, &t->routes[1].fib, ROUTE_FIB_WAITS, out + count, room - (uint32_t)count);
}

int bgp_watch(struct bgp_table *t, int enabled)
{
	t->watching = enabled;
	for (uint32_t f = 0; f < BGP_FAMILIES; f++) {
		struct routes *routes = &t->routes[f];
		while (!list_empty(&routes->watched)) {
			uint32_t number = list_pop(t, &routes->watched);
			route_at(routes, number)->flags &= (uint8_t)~ROUTE_WATCHED;
			routes_release(t, f, number);
		}
		for (uint32_t i = 0; enabled && i < routes->end; i++) {
			struct route *route = route_at(routes, i);
			if (route->flags & ROUTE_LIVE && route->best != BEST_NONE &&
			    note(t, &routes->watched, route, i, ROUTE_WATCHED) < 0)
				return -ENOMEM;
		}
	}
	return 0;
}

static int find_or_make(struct bgp_table *t, const struct prefix *prefix, uint32_t *f, uint32_t *number)
{
	*f = family_of(prefix->family);
	if (*f == BGP_FAMILIES || prefix->length > (*f == 0 ? 32 : 128))
		return -EINVAL;
	uint32_t made = routes_make(t, *f, prefix->address, prefix->length, routes_hash(t, *f, prefix->address, prefix->length));
	*number = made - 1;
	return made == 0 ? -ENOMEM : 0;
}

// Write at once how things stand, where something does.
static int write_now(struct bgp_table *t, uint32_t f, struct route *route)
{
	if (t->writer == NULL || (route->group == 0 && !(route->flags & ROUTE_INSTALLED)))
		return 0;
	struct route_change change;
	change_make(t, f, route, &change);
	return table_writer_apply(t->writer, &change, 1);
}

int bgp_hold(struct bgp_table *t, const struct prefix *prefix)
{
	uint32_t f, number;
	int error = find_or_make(t, prefix, &f, &number);
	if (error < 0)
		return error;
	struct route *route = route_at(&t->routes[f], number);
	if (route->flags & ROUTE_HELD)
		return 0;
	route->flags |= ROUTE_HELD;
	t->held_count++;
	// What stands in the FIB stays until the RIB writes over it; if there is nothing to write, it goes now.
	struct bgp_route known;
	bgp_route_fill(t, f, route, &known);
	uint16_t group = route->group;
	route->group = 0;
	if (!known.installed)
		error = write_now(t, f, route);
	else
		t->installed -= (route->flags & ROUTE_INSTALLED) != 0;
	if (group != 0)
		hop_group_drop(t, group);
	if (error < 0 || route->best == BEST_NONE)
		return error;
	return note(t, &t->routes[f].held, route, number, ROUTE_HELD_CHANGED);
}

int bgp_unhold(struct bgp_table *t, const struct prefix *prefix)
{
	uint32_t f = family_of(prefix->family);
	if (f == BGP_FAMILIES)
		return -EINVAL;
	uint32_t found = routes_find(t, f, prefix->address, prefix->length, routes_hash(t, f, prefix->address, prefix->length));
	if (found == 0 || !(route_at(&t->routes[f], found - 1)->flags & ROUTE_HELD))
		return 0;
	struct route *route = route_at(&t->routes[f], found - 1);
	route->flags &= (uint8_t)~ROUTE_HELD;
	t->held_count--;
	t->installed += (route->flags & ROUTE_INSTALLED) != 0;
	bool moved;
	int error = route_install(t, f, found - 1, true, &moved);
	if (error == 0)
		error = t->writer == NULL ? fib_change(t, f, found - 1) : write_now(t, f, route); // the RIB counts on it
	routes_release(t, f, found - 1);
	return error;
}

static void mask(uint8_t address[16], uint32_t length)
{
	for (uint32_t i = 0; i < 16; i++) {
		uint32_t kept = length > 8 * i ? length - 8 * i : 0;
		address[i] &= (uint8_t)(kept >= 8 ? 0xff : 0xff00 >> kept);
	}
}

int bgp_lookup(struct bgp_table *t, uint8_t family, const uint8_t address[16], uint32_t longest, struct bgp_route *out)
{
	uint32_t f = family_of(family);
	if (f == BGP_FAMILIES)
		return -EINVAL;
	uint32_t bits = f == 0 ? 32 : 128;
	uint8_t key[16];
	memcpy(key, address, sizeof(key));
	for (uint32_t length = longest < bits ? longest : bits;; length--) {
		mask(key, length);
		uint32_t found = routes_find(t, f, key, length, routes_hash(t, f, key, length));
		if (found != 0) {
			bgp_route_fill(t, f, route_at(&t->routes[f], found - 1), out);
			if (out->installed)
				return 1;
		}
		if (length == 0)
			return 0;
	}
}

static bool installed(const struct bgp_table *t, const struct prefix_entry *entry)
{
	uint32_t f = family_of(entry->family);
	if (f == BGP_FAMILIES)
		return false;
	uint32_t found = routes_find(t, f, entry->address, entry->length, routes_hash(t, f, entry->address, entry->length));
	if (found == 0)
		return false;
	const struct route *route = route_at(&t->routes[f], found - 1);
	return route->group != 0 || route->flags & ROUTE_HELD;
}

// Collect what a predecessor left; -ENOMEM.
static int sweep_collect(struct bgp_table *t, struct route_change **changes, uint32_t *count)
{
	struct prefix_entry entries[64];
	uint64_t cursor = 0;
	uint32_t room = 0;
	int found;
	while ((found = table_writer_routes(t->writer, &cursor, entries, 64)) > 0) {
		if (*count + 64 > room) {
			room = room == 0 ? 1024 : 2 * room;
			struct route_change *grown = memory_resize(t, *changes, room * sizeof(*grown));
			if (grown == NULL)
				return -ENOMEM;
			*changes = grown;
		}
		for (int i = 0; i < found; i++) {
			if (entries[i].protocol != ROUTE_BGP || installed(t, &entries[i]))
				continue;
			struct route_change *change = &(*changes)[(*count)++];
			*change = (struct route_change){.family = entries[i].family, .length = entries[i].length};
			memcpy(change->address, entries[i].address, sizeof(change->address));
		}
	}
	return found;
}

int bgp_sweep(struct bgp_table *t)
{
	struct route_change *changes = NULL;
	uint32_t count = 0;
	if (t->writer == NULL)
		return 0;
	int error = sweep_collect(t, &changes, &count);
	if (error == 0 && count != 0)
		error = table_writer_apply(t->writer, changes, count);
	memory_give(t, changes);
	return error;
}
