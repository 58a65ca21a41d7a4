// The table as a whole, and its neighbors: how they come, change and go.
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/random.h>

#include "bgp/internal.h"

static uint64_t seed_make(void)
{
	uint64_t seed;
	if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) != (ssize_t)sizeof(seed)) {
		const void *random = (const void *)(uintptr_t)getauxval(AT_RANDOM);
		memcpy(&seed, random, sizeof(seed));
	}
	return seed;
}

int bgp_table_open(struct table_writer *writer, struct bgp_table **out)
{
	struct bgp_table *t = calloc(1, sizeof(*t));
	if (t == NULL)
		return -ENOMEM;
	t->writer = writer;
	t->seed = seed_make();
	t->identity = (struct bgp_identity){.multipath = 1, .multipath_internal = 1, .compare_router_id = 1,
	                                    .preference_external = 20, .preference_internal = 200, .preference_local = 200};
	routes_open(&t->routes[0], 0);
	routes_open(&t->routes[1], 1);
	t->policy_room = calloc(1, sizeof(*t->policy_room));
	if (t->policy_room == NULL) {
		free(t);
		return -ENOMEM;
	}
	*out = t;
	return 0;
}

void bgp_table_close(struct bgp_table *t)
{
	if (t == NULL)
		return;
	update_groups_close(t);
	for (uint32_t i = 0; i < t->peer_room; i++)
		memory_give(t, t->peers[i]);
	memory_give(t, t->peers);
	routes_close(t, &t->routes[0]);
	routes_close(t, &t->routes[1]);
	for (uint32_t i = 0; i < t->attribute_capacity; i++) {
		for (struct attributes *set = t->attribute_buckets[i], *next; set != NULL; set = next) {
			next = set->next;
			memory_give(t, set);
		}
	}
	memory_give(t, t->attribute_buckets);
	memory_give(t, t->bundles);
	memory_give(t, t->bundle_buckets);
	for (uint32_t i = 0; i < sizeof(t->next_hop_buckets) / sizeof(t->next_hop_buckets[0]); i++) {
		for (struct next_hop *hop = t->next_hop_buckets[i], *next; hop != NULL; hop = next) {
			next = hop->next;
			memory_give(t, hop->hops);
			memory_give(t, hop);
		}
	}
	next_hops_close(t);
	for (uint32_t i = 0; i < t->group_room; i++)
		memory_give(t, t->groups[i]);
	memory_give(t, t->groups);
	for (uint32_t i = 0; i < t->program_count; i++)
		policy_free(t->programs[i].policy);
	memory_give(t, t->programs);
	memory_give(t, t->candidates);
	memory_give(t, t->shown);
	free(t->policy_room);
	free(t);
}

struct peer *peer_find(const struct bgp_table *t, uint32_t number)
{
	return number != 0 && number < t->peer_room ? t->peers[number] : NULL;
}

struct policy *program_find(const struct bgp_table *t, uint32_t number)
{
	for (uint32_t i = 0; i < t->program_count; i++)
		if (t->programs[i].number == number)
			return t->programs[i].policy;
	return NULL;
}

static void program_remove(struct bgp_table *t, uint32_t place)
{
	policy_free(t->programs[place].policy);
	t->programs[place] = t->programs[--t->program_count];
}

void programs_sweep(struct bgp_table *t)
{
	for (uint32_t i = t->program_count; i-- > 0;)
		if (t->programs[i].retired && !groups_use_policy(t, t->programs[i].number))
			program_remove(t, i);
}

int bgp_policy(struct bgp_table *t, uint32_t number, const void *program, uint32_t size)
{
	struct policy *policy = NULL;
	int error = size == 0 ? 0 : policy_load(program, size, &policy);
	if (error != 0)
		return error < 0 ? error : -error;
	for (uint32_t i = 0; i < t->program_count; i++) {
		if (t->programs[i].number != number)
			continue;
		t->programs[i].retired = policy == NULL;
		if (policy == NULL) {
			programs_sweep(t);
			return 0;
		}
		policy_free(t->programs[i].policy);
		t->programs[i].policy = policy;
		return 0;
	}
	if (policy == NULL)
		return 0;
	if (t->program_count == t->program_room) {
		uint32_t room = t->program_room == 0 ? 8 : 2 * t->program_room;
		struct program *grown = memory_resize(t, t->programs, room * sizeof(*grown));
		if (grown == NULL) {
			policy_free(policy);
			return -ENOMEM;
		}
		t->programs = grown;
		t->program_room = room;
	}
	t->programs[t->program_count++] = (struct program){.number = number, .policy = policy};
	return 0;
}

int bgp_configure(struct bgp_table *t, const struct bgp_identity *identity)
{
	struct bgp_identity old = t->identity;
	if (memcmp(&old, identity, sizeof(old)) == 0)
		return 0;
	t->identity = *identity;
	t->scan_all = true;
	t->routes[0].scan = t->routes[1].scan = 0;
	if (old.local_as == identity->local_as && old.router_id == identity->router_id && old.cluster_id == identity->cluster_id)
		return 0;
	int result = 0;
	for (uint32_t i = 1; i < t->peer_room; i++) {
		for (uint32_t f = 0; f < BGP_FAMILIES; f++) {
			struct peer *peer = t->peers[i];
			int error = peer != NULL && peer->out[f].group != NULL ? group_restart(t, peer, f) : 0;
			result = error < 0 ? error : result;
		}
	}
	return result;
}

int bgp_peer_add(struct bgp_table *t, uint32_t number)
{
	if (number == 0 || number >= MAX_PEERS)
		return -EINVAL;
	if (number >= t->peer_room) {
		uint32_t room = (number + 64) / 64 * 64;
		struct peer **grown = memory_resize(t, t->peers, room * sizeof(*grown));
		if (grown == NULL)
			return -ENOMEM;
		memset(grown + t->peer_room, 0, (room - t->peer_room) * sizeof(*grown));
		t->peers = grown;
		t->peer_room = room;
	}
	if (t->peers[number] != NULL)
		return -EEXIST;
	t->peers[number] = memory_take(t, sizeof(struct peer));
	if (t->peers[number] == NULL)
		return -ENOMEM;
	t->peers[number]->number = number;
	return 0;
}

// Remove the paths of a neighbor, or only those of earlier epochs.
static void flush(struct bgp_table *t, const struct peer *peer, uint32_t f, bool stale_only)
{
	struct routes *routes = &t->routes[f];
	if (stale_only ? peer->stale[f] == 0 : peer->received[f] == 0)
		return;
	for (uint32_t i = 0; i < routes->end; i++) {
		const struct route *route = route_at(routes, i);
		for (uint32_t place = route->flags & ROUTE_LIVE ? route->count : 0; place-- > 0;) {
			const struct bundle *b = bundle_at(t, route_paths(route)[place]);
			if (b->peer == peer->number && (!stale_only || b->epoch != peer->epoch[f]))
				route_path_remove(t, f, i, place);
		}
	}
	fib_burst(t);
}

static void mark_stale(struct peer *peer, uint32_t f)
{
	peer->epoch[f]++;
	peer->stale[f] = peer->received[f];
}

int bgp_peer_down(struct bgp_table *t, uint32_t number, uint32_t keep)
{
	struct peer *peer = peer_find(t, number);
	if (peer == NULL)
		return -ENOENT;
	peer->up = false;
	if (keep == 0)
		next_hops_fail(t, number, true);
	for (uint32_t f = 0; f < BGP_FAMILIES; f++) {
		group_leave(t, peer, f);
		if (keep >> f & 1)
			mark_stale(peer, f);
		else
			flush(t, peer, f, false);
	}
	return 0;
}

int bgp_peer_delete(struct bgp_table *t, uint32_t number)
{
	int error = bgp_peer_down(t, number, 0);
	if (error < 0)
		return error;
	memory_give(t, t->peers[number]);
	t->peers[number] = NULL;
	return 0;
}

int bgp_peer_up(struct bgp_table *t, uint32_t number, const struct bgp_settings *settings)
{
	struct peer *peer = peer_find(t, number);
	if (peer == NULL)
		return -ENOENT;
	for (uint32_t f = 0; f < BGP_FAMILIES; f++)
		group_leave(t, peer, f);
	peer->settings = *settings;
	peer->up = true;
	next_hops_fail(t, number, false);
	int error = 0;
	for (uint32_t f = 0; f < BGP_FAMILIES && error == 0; f++)
		error = settings->families[f].enabled ? group_join(t, peer, f) : 0;
	return error;
}

int bgp_peer_change(struct bgp_table *t, uint32_t number, const struct bgp_settings *settings)
{
	struct peer *peer = peer_find(t, number);
	if (peer == NULL)
		return -ENOENT;
	if (!peer->up || memcmp(&peer->settings, settings, sizeof(*settings)) == 0)
		return 0;
	struct export_key old[BGP_FAMILIES], new;
	for (uint32_t f = 0; f < BGP_FAMILIES; f++)
		export_key_make(peer, f, &old[f]);
	peer->settings = *settings;
	int result = 0;
	for (uint32_t f = 0; f < BGP_FAMILIES; f++) {
		export_key_make(peer, f, &new);
		if (peer->out[f].group == NULL || memcmp(&old[f], &new, sizeof(new)) == 0)
			continue;
		int error = group_change(t, peer, f);
		result = error < 0 ? error : result;
	}
	return result;
}

int bgp_peer_flush(struct bgp_table *t, uint32_t number, uint8_t family, int stale_only)
{
	struct peer *peer = peer_find(t, number);
	uint32_t f = family_of(family);
	if (peer == NULL || f == BGP_FAMILIES)
		return -ENOENT;
	flush(t, peer, f, stale_only);
	return 0;
}

int bgp_peer_stale(struct bgp_table *t, uint32_t number, uint8_t family)
{
	struct peer *peer = peer_find(t, number);
	uint32_t f = family_of(family);
	if (peer == NULL || f == BGP_FAMILIES)
		return -ENOENT;
	mark_stale(peer, f);
	return 0;
}

int bgp_refresh(struct bgp_table *t, uint32_t number, uint8_t family)
{
	struct peer *peer = peer_find(t, number);
	uint32_t f = family_of(family);
	if (peer == NULL || f == BGP_FAMILIES)
		return -ENOENT;
	return peer->out[f].group == NULL ? 0 : group_restart(t, peer, f);
}

int bgp_originate(struct bgp_table *t, const struct prefix *prefix, uint8_t next_hop_family, const uint8_t next_hop[16],
	const uint8_t *attributes, uint32_t size, uint8_t protocol)
{
	uint32_t f = family_of(prefix->family);
	if (f == BGP_FAMILIES || prefix->length > (f == 0 ? 32 : 128))
		return -EINVAL;
	int error;
	struct bundle bundle = {.weight = LOCAL_WEIGHT, .protocol = protocol, .attributes = message_canonical(t, attributes, size, &error)};
	if (bundle.attributes == NULL)
		return error;
	struct next_hop_key key = {.family = next_hop_family};
	memcpy(key.address, next_hop, sizeof(key.address));
	bundle.next_hop = next_hop_family == 0 ? NULL : next_hop_get(t, &key);
	uint32_t number = next_hop_family != 0 && bundle.next_hop == NULL ? 0 : bundle_intern(t, &bundle);
	attributes_drop(t, bundle.attributes);
	if (bundle.next_hop != NULL)
		next_hop_drop(t, bundle.next_hop);
	if (number == 0)
		return -ENOMEM;
	uint32_t made = routes_make(t, f, prefix->address, prefix->length, routes_hash(t, f, prefix->address, prefix->length));
	if (made == 0) {
		bundle_drop(t, number);
		return -ENOMEM;
	}
	return route_path_set(t, f, made - 1, number);
}

int bgp_unoriginate(struct bgp_table *t, const struct prefix *prefix)
{
	uint32_t f = family_of(prefix->family);
	if (f == BGP_FAMILIES || prefix->length > (f == 0 ? 32 : 128))
		return -EINVAL;
	uint32_t found = routes_find(t, f, prefix->address, prefix->length, routes_hash(t, f, prefix->address, prefix->length));
	if (found != 0)
		route_path_clear(t, f, found - 1, 0, 0);
	return 0;
}
