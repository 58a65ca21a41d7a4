// What operators ask for: paths in the order of prefixes, reasons, counters.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bgp/internal.h"

static int prefix_compare(const struct routes *routes, const struct route *a, const uint8_t *address, uint32_t length)
{
	struct prefix prefix;
	route_prefix(routes, a, &prefix);
	int order = memcmp(prefix.address, address, routes->width);
	return order != 0 ? order : (prefix.length > length) - (prefix.length < length);
}

// The first prefixes after one, as a heap with the last of them on top.
struct page {
	const struct routes *routes;
	uint32_t *heap;
	uint32_t count, room;
};

static bool after(const struct page *p, uint32_t a, uint32_t b)
{
	struct prefix other;
	route_prefix(p->routes, route_at(p->routes, b), &other);
	return prefix_compare(p->routes, route_at(p->routes, a), other.address, other.length) > 0;
}

static void heap_down(const struct page *p, uint32_t i, uint32_t count)
{
	for (uint32_t child; (child = 2 * i + 1) < count; i = child) {
		if (child + 1 < count && after(p, p->heap[child + 1], p->heap[child]))
			child++;
		if (!after(p, p->heap[child], p->heap[i]))
			return;
		uint32_t item = p->heap[i];
		p->heap[i] = p->heap[child];
		p->heap[child] = item;
	}
}

static void page_add(struct page *p, uint32_t number)
{
	if (p->count < p->room) {
		p->heap[p->count++] = number;
		if (p->count == p->room)
			for (uint32_t i = p->count; i-- > 0;)
				heap_down(p, i, p->count);
	} else if (after(p, p->heap[0], number)) {
		p->heap[0] = number;
		heap_down(p, 0, p->count);
	}
}

static void page_sort(struct page *p)
{
	for (uint32_t i = p->count; i-- > 0;)
		heap_down(p, i, p->count);
	for (uint32_t left = p->count; left > 1; left--) {
		uint32_t item = p->heap[0];
		p->heap[0] = p->heap[left - 1];
		p->heap[left - 1] = item;
		heap_down(p, 0, left - 1);
	}
}

static void path_fill(const struct bgp_table *t, const struct bundle *b, struct bgp_path *out)
{
	const struct peer *peer = peer_find(t, b->peer);
	out->peer = b->peer;
	out->path_id = b->path_id;
	out->weight = b->weight;
	out->verdict = b->verdict;
	out->attributes = b->attributes->wire;
	out->size = b->attributes->size;
	if (b->next_hop != NULL) {
		out->next_hop_family = b->next_hop->key.family;
		memcpy(out->next_hop, b->next_hop->key.address, sizeof(out->next_hop));
		if (bundle_tracked(b)) {
			out->metric = b->next_hop->metric;
			out->next_hop_interface = next_hop_on_link(b->next_hop) ? b->next_hop->key.interface : 0;
		}
	}
	for (uint32_t f = 0; peer != NULL && f < BGP_FAMILIES; f++)
		out->stale |= family_of(out->prefix.family) == f && b->epoch != peer->epoch[f];
}

// All paths of a prefix, in view "loc" or "in"; the best first.
static int paths_fill(struct bgp_table *t, uint32_t f, const struct route *route, uint32_t peer, bool all,
	struct bgp_path *out, uint32_t room)
{
	uint8_t *reasons = memory_take(t, route->count + 1u);
	uint16_t *order = memory_take(t, (route->count + 1u) * sizeof(*order));
	int error = reasons == NULL || order == NULL ? -ENOMEM : route_reasons(t, route, reasons);
	int ranked = error < 0 ? error : route_rank(t, route, order, route->count);
	uint32_t count = 0, total = 0;
	for (uint32_t i = 0; ranked >= 0 && i < 2u * route->count; i++) {
		uint32_t place = i < route->count ? (i < (uint32_t)ranked ? order[i] : route->count) : i - route->count;
		if (place == route->count)
			continue;
		const struct bundle *b = bundle_at(t, route_paths(route)[place]);
		if ((i >= route->count && bundle_usable(b)) || (!all && b->peer != peer))
			continue;
		if (total++ >= room)
			continue;
		struct bgp_path *path = &out[count++];
		memset(path, 0, sizeof(*path));
		route_prefix(&t->routes[f], route, &path->prefix);
		path_fill(t, b, path);
		path->reason = reasons[place];
		path->best = path->reason == BGP_REASON_BEST ? 1 : path->reason == BGP_REASON_MULTIPATH ? 2 : 0;
	}
	memory_give(t, reasons);
	memory_give(t, order);
	return ranked < 0 ? ranked : (int)total;
}

// What a neighbor was told of a prefix.  Attributes are written to the heap of `show`.
static int told_fill(struct bgp_table *t, uint32_t f, uint32_t number, const struct peer *peer, struct bgp_path *out,
	uint32_t room)
{
	const struct update_group *g = peer->out[f].group;
	const struct route *route = route_at(&t->routes[f], number);
	if (g == NULL || group_told(g, number) == 0)
		return 0;
	uint32_t count = g->several ? g->sent[number]->count : 1, filled = 0;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t bundle = g->several ? g->sent[number]->list[i].bundle : g->out[number];
		struct audience audience = group_audience(t, g, bundle);
		if (audience.except[0] == peer->number || audience.except[1] == peer->number)
			continue;
		if (filled++ >= room)
			continue;
		struct bgp_path *path = &out[filled - 1];
		memset(path, 0, sizeof(*path));
		route_prefix(&t->routes[f], route, &path->prefix);
		path_fill(t, bundle_at(t, bundle), path);
		path->path_id = g->several ? g->sent[number]->list[i].path_id : 0;
		struct rewritten shape;
		if (!rewrite(t, g, bundle_at(t, bundle), &path->prefix, t->encoded, &shape))
			continue;
		uint8_t *copy = memory_resize(t, t->shown, t->shown_size + shape.size + 1);
		if (copy == NULL)
			return -ENOMEM;
		t->shown = copy;
		memcpy(copy + t->shown_size, t->encoded, shape.size);
		path->size = shape.size;
		path->reserved2 = t->shown_size;
		path->attributes = NULL;
		path->next_hop_family = shape.next_hop_size == 0 ? 0 : FAMILY_IPV6;
		memcpy(path->next_hop, shape.next_hop, sizeof(path->next_hop));
		t->shown_size += shape.size;
	}
	return (int)filled;
}

static int page_fill(struct bgp_table *t, const struct page *page, uint32_t f, uint32_t view, uint32_t peer,
	struct bgp_path *out, uint32_t room)
{
	const struct peer *told = peer_find(t, peer);
	uint32_t filled = 0;
	t->shown_size = 0;
	for (uint32_t i = 0; i < page->count; i++) {
		const struct route *route = route_at(page->routes, page->heap[i]);
		int count = view == BGP_VIEW_OUT ? told_fill(t, f, page->heap[i], told, out + filled, room - filled)
		                                 : paths_fill(t, f, route, peer, view == BGP_VIEW_LOC, out + filled, room - filled);
		if (count < 0)
			return count;
		if ((uint32_t)count > room - filled) {
			if (filled == 0)
				return -ENOBUFS;
			break;
		}
		filled += (uint32_t)count;
	}
	for (uint32_t i = 0; view == BGP_VIEW_OUT && i < filled; i++)
		out[i].attributes = t->shown + out[i].reserved2;
	return (int)filled;
}

// Whether a prefix has anything to show.
static bool shown(const struct bgp_table *t, uint32_t f, uint32_t number, uint32_t view, uint32_t peer)
{
	const struct route *route = route_at(&t->routes[f], number);
	if (view == BGP_VIEW_OUT) {
		const struct update_group *g = peer_find(t, peer)->out[f].group;
		return g != NULL && group_told(g, number) != 0;
	}
	if (view == BGP_VIEW_LOC)
		return route->count != 0;
	for (uint32_t i = 0; i < route->count; i++)
		if (bundle_at(t, route_paths(route)[i])->peer == peer)
			return true;
	return false;
}

int bgp_routes(struct bgp_table *t, uint8_t family, uint32_t view, uint32_t peer, const struct prefix *from,
	struct bgp_path *out, uint32_t room)
{
	uint32_t f = family_of(family);
	if (f == BGP_FAMILIES || room == 0 || view > BGP_VIEW_OUT)
		return -EINVAL;
	if (view == BGP_VIEW_OUT && peer_find(t, peer) == NULL)
		return -ENOENT;
	struct routes *routes = &t->routes[f];
	struct page page = {.routes = routes, .heap = memory_take(t, room * sizeof(uint32_t)), .room = room};
	if (page.heap == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < routes->end; i++) {
		const struct route *route = route_at(routes, i);
		if (route->flags & ROUTE_LIVE && shown(t, f, i, view, peer) &&
		    (from == NULL || from->family == 0 || prefix_compare(routes, route, from->address, from->length) > 0))
			page_add(&page, i);
	}
	page_sort(&page);
	int result = page_fill(t, &page, f, view, peer, out, room);
	memory_give(t, page.heap);
	return result;
}

int bgp_explain(struct bgp_table *t, const struct prefix *prefix, struct bgp_path *out, uint32_t room)
{
	uint32_t f = family_of(prefix->family);
	if (f == BGP_FAMILIES)
		return -EINVAL;
	uint32_t found = routes_find(t, f, prefix->address, prefix->length, routes_hash(t, f, prefix->address, prefix->length));
	if (found == 0)
		return 0;
	int count = paths_fill(t, f, route_at(&t->routes[f], found - 1), 0, true, out, room);
	return count > (int)room ? -ENOBUFS : count;
}

int bgp_dump(struct bgp_table *t, uint8_t family, uint64_t *cursor, struct bgp_path *out, uint32_t room)
{
	uint32_t f = family_of(family), filled = 0;
	if (f == BGP_FAMILIES)
		return -EINVAL;
	struct routes *routes = &t->routes[f];
	for (; *cursor < routes->end; ++*cursor) {
		const struct route *route = route_at(routes, (uint32_t)*cursor);
		if (!(route->flags & ROUTE_LIVE))
			continue;
		if (route->count > room - filled)
			return filled == 0 ? -ENOBUFS : (int)filled;
		for (uint32_t i = 0; i < route->count; i++) {
			struct bgp_path *path = &out[filled++];
			memset(path, 0, sizeof(*path));
			route_prefix(routes, route, &path->prefix);
			path_fill(t, bundle_at(t, route_paths(route)[i]), path);
			path->best = i == route->best;
		}
	}
	return (int)filled;
}

int bgp_counts(struct bgp_table *t, uint32_t number, struct bgp_counts *out)
{
	const struct peer *peer = peer_find(t, number);
	if (peer == NULL)
		return -ENOENT;
	memset(out, 0, sizeof(*out));
	out->updates = peer->updates;
	out->updates_sent = peer->updates_sent;
	out->withdrawn = peer->withdrawn;
	out->treated_as_withdrawn = peer->treated;
	for (uint32_t f = 0; f < BGP_FAMILIES; f++) {
		const struct membership *m = &peer->out[f];
		out->families[f] = (struct bgp_family_counts){
			.received = peer->received[f], .accepted = peer->accepted[f], .stale = peer->stale[f],
			.sent = m->group == NULL ? 0 : m->group->advertised - m->excluded,
		};
	}
	_Static_assert(sizeof(out->errors) == sizeof(peer->errors), "counters of errors");
	memcpy(out->errors, peer->errors, sizeof(out->errors));
	memcpy(out->refused, peer->refused, sizeof(out->refused));
	return 0;
}

int bgp_totals(struct bgp_table *t, struct bgp_totals *out)
{
	*out = (struct bgp_totals){
		.attributes = t->attribute_count, .bundles = t->bundle_count, .next_hops = t->next_hop_count,
		.hop_groups = t->group_count, .bytes = t->bytes,
	};
	for (uint32_t f = 0; f < BGP_FAMILIES; f++) {
		out->prefixes[f] = t->routes[f].count;
		out->paths[f] = t->routes[f].paths;
	}
	for (const struct update_group *g = t->update_groups; g != NULL; g = g->next)
		out->groups++;
	return 0;
}
