// libFuzzer target: the BGP table, fed by three hostile neighbors.
//
// The input is a list of steps: what (u8), length (u16), bytes.  What the low bits name is done to
// the neighbor of the high ones: bytes are a session's, wrapped into an UPDATE or as they are, a
// local route's attributes, or choose settings.  After each step all that waits is done, each
// neighbor is exported to, and groups of the FIB are those that the paths ask for, with their
// backups, where the first byte has it write to a segment; the third reads 2-byte AS numbers, the second several paths.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "abi/bgp.h"
#include "abi/core.h"
#include "bgp/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PEERS = 3, ROOM = 2 * BGP_MESSAGE_EXTENDED, EVENTS = 16 };
enum step { FEED, FEED_UPDATE, DOWN, UP, STALE, FLUSH, REFRESH, ORIGINATE, WITHDRAW, HOLD, HOPS, SHOW, STEPS };

static void must(int good)
{
	if (!good)
		abort();
}

static struct bgp_settings settings_of(uint32_t peer, uint8_t choice)
{
	struct bgp_settings s = {
		.kind = (uint8_t)(choice % 3 + 1), .family = FAMILY_IPV4, .as4 = peer != 3, .role = (int8_t)(choice / 8 % 6 - 1),
		.extended_messages = choice & 1, .send_communities = 1, .remove_private_as = choice >> 2 & 1,
		.as_override = choice >> 3 & 1, .next_hop_unchanged = choice >> 4 & 1, .local_as = 65000,
		.remote_as = choice % 3 == 0 ? 65000 + peer : 65000, .router_id = peer, .allow_own_as = choice >> 5 & 1,
		.address = {192, 0, 2, (uint8_t)peer},
	};
	for (uint32_t f = 0; f < BGP_FAMILIES; f++) {
		s.families[f] = (struct bgp_family){
			.enabled = 1, .receive_paths = choice >> 6 & 1, .extended_next_hop = 1, .send_paths = peer == 2 ? 3 : 0,
			.next_hop_family = f == 0 ? FAMILY_IPV4 : FAMILY_IPV6, .next_hop = {32, 1, 2, 3}, .max_prefixes = 3,
		};
	}
	return s;
}

// Resolve what waits for it, all in the same way.
static void resolve(struct bgp_table *t, uint8_t choice)
{
	struct bgp_next_hop hops[8];
	struct nexthop way = {.kind = NEXTHOP_FORWARD, .interface = 1, .weight = 1};
	for (int count; (count = bgp_new_next_hops(t, hops, 8)) > 0;)
		for (int i = 0; i < count; i++)
			must(bgp_next_hop_set(t, hops[i].id, choice, &way, hops[i].id % 4 != 0) == 0);
	uint32_t dead[8];
	while (bgp_dead_next_hops(t, dead, 8) > 0)
		;
}

static void settle(struct bgp_table *t, uint8_t *room, uint8_t choice)
{
	struct bgp_route *routes = (void *)room;
	for (int round = 0; round < 2; round++) {
		while (bgp_process(t, 1 + choice % 16) > 0)
			;
		resolve(t, choice);
	}
	while (bgp_process(t, 64) > 0)
		;
	for (uint32_t peer = 1; peer <= PEERS; peer++) {
		int size;
		while ((size = bgp_export(t, peer, room, ROOM)) > 0)
			for (int at = 0; at < size; at += room[at + 16] << 8 | room[at + 17])
				must(size - at >= BGP_HEADER && room[at] == 0xff && room[at + 18] == 2);
		must(size == 0);
	}
	while (bgp_fib(t, routes, 8) > 0 || bgp_held(t, routes, 8) > 0 || bgp_changes(t, routes, 8) > 0)
		;
}

// Each prefix has the group, with the backup, that its paths of now ask for.
static void settled(struct bgp_table *t)
{
	for (uint32_t f = 0; f < BGP_FAMILIES; f++) {
		for (uint32_t i = 0; i < t->routes[f].end; i++) {
			const struct route *route = route_at(&t->routes[f], i);
			if (!(route->flags & ROUTE_LIVE) || route->flags & ROUTE_HELD)
				continue;
			int group = route->best == BEST_NONE ? 0 : hop_group_get(t, route);
			must(group >= 0 && group == route->group);
			if (group != 0)
				hop_group_drop(t, (uint16_t)group);
		}
	}
}

static void feed(struct bgp_table *t, uint32_t peer, const uint8_t *data, uint32_t size)
{
	struct bgp_event events[EVENTS];
	struct bgp_fed fed;
	for (int more = 1; more > 0 && size != 0;) {
		more = bgp_feed(t, peer, data, size, events, EVENTS, &fed);
		must(more >= 0 && fed.consumed <= size);
		for (uint32_t i = 0; i < fed.events; i++) {
			must(events[i].offset <= size && events[i].length <= size - events[i].offset);
			if (events[i].kind == BGP_EVENT_ERROR)
				must(bgp_peer_down(t, peer, events[i].code & 3) == 0);
		}
		data += fed.consumed;
		size -= fed.consumed;
	}
}

static void feed_update(struct bgp_table *t, uint32_t peer, const uint8_t *data, uint32_t size, uint8_t *room)
{
	uint32_t length = BGP_HEADER + size;
	memset(room, 0xff, 16);
	room[16] = (uint8_t)(length >> 8);
	room[17] = (uint8_t)length;
	room[18] = 2;
	memcpy(room + BGP_HEADER, data, size);
	// In a block of its own size, so that a byte too many is seen.
	uint8_t *exact = malloc(length);
	must(exact != NULL);
	memcpy(exact, room, length);
	feed(t, peer, exact, length);
	free(exact);
}

static struct prefix prefix_of(const uint8_t *data, uint32_t size)
{
	struct prefix prefix = {.family = size != 0 && data[0] & 1 ? FAMILY_IPV6 : FAMILY_IPV4, .length = 8};
	prefix.address[0] = size > 1 ? data[1] : 10;
	return prefix;
}

static void show(struct bgp_table *t, uint32_t peer)
{
	struct bgp_path *paths = calloc(64, sizeof(*paths));
	struct bgp_counts *counts = calloc(1, sizeof(*counts));
	must(paths != NULL && counts != NULL);
	for (uint32_t view = 0; view < 3; view++) {
		(void)bgp_routes(t, FAMILY_IPV4, view, peer, NULL, paths, 64);
		(void)bgp_routes(t, FAMILY_IPV6, view, peer, NULL, paths, 64);
	}
	must(bgp_counts(t, peer, counts) == 0);
	must(counts->families[0].received >= counts->families[0].accepted);
	free(paths);
	free(counts);
}

static void act(struct bgp_table *t, uint32_t what, uint32_t peer, const uint8_t *data, uint32_t size, uint8_t *room)
{
	static const uint8_t hop[16] = {192, 0, 2, 9};
	struct prefix prefix = prefix_of(data, size);
	uint8_t choice = size == 0 ? 0 : data[0];
	struct bgp_settings settings = settings_of(peer, choice);
	switch (what % STEPS) {
	case FEED: feed(t, peer, data, size); break;
	case FEED_UPDATE: feed_update(t, peer, data, size, room); break;
	case DOWN: must(bgp_peer_down(t, peer, choice & 3) == 0); break;
	case UP: must(bgp_peer_up(t, peer, &settings) == 0); break;
	case STALE: must(bgp_peer_stale(t, peer, prefix.family) == 0); break;
	case FLUSH: must(bgp_peer_flush(t, peer, prefix.family, choice >> 1 & 1) == 0); break;
	case REFRESH: must(bgp_refresh(t, peer, prefix.family) == 0); break;
	case ORIGINATE: (void)bgp_originate(t, &prefix, FAMILY_IPV4, hop, data, size, ROUTE_STATIC); break;
	case WITHDRAW: must(bgp_unoriginate(t, &prefix) == 0); break;
	case HOLD: must((choice & 2 ? bgp_hold : bgp_unhold)(t, &prefix) == 0); break;
	case HOPS: must(bgp_watch(t, choice & 1) == 0); break;
	default: show(t, peer); break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct bgp_table *t;
	struct bgp_identity identity = {
		.local_as = 65000, .router_id = 9, .multipath = 4, .multipath_internal = 2, .multipath_relax = 1,
		.compare_router_id = 1, .preference_external = 20, .preference_internal = 200,
	};
	uint8_t *room = malloc(ROOM);
	struct table_writer *writer = NULL;
	int fd = -1;
	if (size != 0 && data[0] & 2) {
		fd = segment_create(SEGMENT_TABLES, 1 << 20, 1, "fuzz");
		must(fd >= 0 && table_writer_open(fd, -1, &writer) == 0);
	}
	identity.multipath = size != 0 && data[0] & 1 ? 4 : 1;
	must(room != NULL && bgp_table_open(writer, &t) == 0 && bgp_configure(t, &identity) == 0);
	for (uint32_t peer = 1; peer <= PEERS; peer++) {
		struct bgp_settings settings = settings_of(peer, (uint8_t)(size == 0 ? 0 : data[0] + 3 * peer));
		must(bgp_peer_add(t, peer) == 0 && bgp_peer_up(t, peer, &settings) == 0);
	}
	for (size_t at = 1; at + 3 <= size;) {
		uint32_t what = data[at], length = (uint32_t)data[at + 1] << 8 | data[at + 2];
		at += 3;
		length = length > size - at ? (uint32_t)(size - at) : length;
		length = length > 4000 ? 4000 : length;
		act(t, what & 15, 1 + (what >> 4) % PEERS, data + at, length, room);
		settle(t, room, (uint8_t)what);
		settled(t);
		at += length;
	}
	for (uint32_t peer = 1; peer <= PEERS; peer++)
		must(bgp_peer_delete(t, peer) == 0);
	while (bgp_process(t, 64) > 0)
		;
	struct bgp_totals totals;
	must(bgp_totals(t, &totals) == 0 && totals.groups == 0);
	bgp_table_close(t);
	if (writer != NULL) {
		table_writer_close(writer);
		close(fd);
	}
	free(room);
	return 0;
}
