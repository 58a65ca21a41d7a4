// UPDATEs out: all prefixes of a bundle in as few messages as they fit in.
// RFC 4271 section 4.3, 4760, 4724 section 2 (End-of-RIB), 7911, 8654.
#include <errno.h>
#include <string.h>

#include "bgp/internal.h"

enum { LEAST_CHUNK = 4096, UPDATE = 2 };

void chunk_drop(struct bgp_table *t, struct chunk *chunk)
{
	memory_give(t, chunk->bytes);
	memory_give(t, chunk);
}

static bool audience_same(struct audience a, struct audience b)
{
	return a.only == b.only && a.except[0] == b.except[0] && a.except[1] == b.except[1];
}

static int chunk_add(struct bgp_table *t, struct update_group *g, struct audience audience)
{
	if (g->chunk_count == g->chunk_room) {
		uint32_t room = g->chunk_room == 0 ? 4 : 2 * g->chunk_room;
		struct chunk **chunks = memory_resize(t, g->chunks, room * sizeof(*chunks));
		if (chunks == NULL)
			return -ENOMEM;
		g->chunks = chunks;
		g->chunk_room = room;
	}
	struct chunk *chunk = memory_take(t, sizeof(*chunk));
	if (chunk == NULL)
		return -ENOMEM;
	chunk->readers = g->members;
	chunk->audience = audience;
	g->chunks[g->chunk_count++] = chunk;
	return 0;
}

// Append one message to the group's last chunk, or to a new one.
static int message_add(struct bgp_table *t, struct update_group *g, struct audience audience, uint32_t size)
{
	struct chunk *last = g->chunk_count == 0 ? NULL : g->chunks[g->chunk_count - 1];
	if (last == NULL || last->sealed || !audience_same(last->audience, audience) ||
	    last->size + size > BGP_MESSAGE_EXTENDED) {
		int error = chunk_add(t, g, audience);
		if (error < 0)
			return error;
		last = g->chunks[g->chunk_count - 1];
	}
	if (last->size + size > last->room) {
		uint32_t room = 2 * (last->size + size);
		room = room < LEAST_CHUNK && size > 512 ? LEAST_CHUNK : room;
		uint8_t *bytes = memory_resize(t, last->bytes, room);
		if (bytes == NULL)
			return -ENOMEM;
		last->bytes = bytes;
		last->room = room;
	}
	memset(t->message, 0xff, 16);
	store16(t->message + 16, (uint16_t)size);
	t->message[18] = UPDATE;
	memcpy(last->bytes + last->size, t->message, size);
	last->size += size;
	last->messages++;
	g->chunk_bytes += size;
	return 0;
}

// A message under way: prefixes are put at `used`, what stands before them is the same in each.
struct packer {
	struct bgp_table *t;
	struct update_group *g;
	struct audience audience;
	const uint8_t *attributes; // NULL: a withdrawal
	const struct rewritten *shape;
	uint32_t begin, used;      // of the prefixes
};

static void packer_begin(struct packer *p)
{
	uint8_t *m = p->t->message;
	const struct rewritten *shape = p->shape;
	uint32_t at = BGP_HEADER + 2;
	if (p->attributes == NULL) {
		at += p->g->f == 0 ? 0 : 2 + 4 + 3;
	} else if (shape->next_hop_size == 0) {
		store16(m + BGP_HEADER, 0);
		store16(m + at, (uint16_t)shape->size);
		memcpy(m + at + 2, p->attributes, shape->size);
		at += 2 + shape->size;
	} else {
		uint8_t *reach = m + at + 2 + 4;
		store16(m + BGP_HEADER, 0);
		store16(reach, (uint16_t)(p->g->f + 1));
		reach[2] = 1;
		reach[3] = (uint8_t)shape->next_hop_size;
		memcpy(reach + 4, shape->next_hop, shape->next_hop_size);
		reach[4 + shape->next_hop_size] = 0;
		at += 2 + 4 + 5 + shape->next_hop_size;
	}
	p->begin = p->used = at;
}

static uint32_t packer_tail(const struct packer *p)
{
	if (p->attributes == NULL)
		return p->g->f == 0 ? 2 : 0;
	return p->shape->next_hop_size == 0 ? 0 : p->shape->size;
}

// The head of an attribute with a two-byte length, which begins at the message's attributes.
static void multiprotocol(uint8_t *at, uint8_t type, uint32_t size, uint32_t others)
{
	store16(at, (uint16_t)(4 + size + others));
	at[2] = FLAG_OPTIONAL | FLAG_LONG;
	at[3] = type;
	store16(at + 4, (uint16_t)size);
}

static int packer_end(struct packer *p)
{
	uint8_t *m = p->t->message;
	uint32_t nlri = p->used - p->begin;
	if (nlri == 0)
		return 0;
	if (p->attributes == NULL && p->g->f == 0) {
		store16(m + BGP_HEADER, (uint16_t)nlri);
		store16(m + p->used, 0);
	} else if (p->attributes == NULL) {
		store16(m + BGP_HEADER, 0);
		multiprotocol(m + BGP_HEADER + 2, ATTRIBUTE_MP_UNREACH, 3 + nlri, 0);
		store16(m + BGP_HEADER + 8, (uint16_t)(p->g->f + 1));
		m[BGP_HEADER + 10] = 1;
	} else if (p->shape->next_hop_size != 0) {
		multiprotocol(m + BGP_HEADER + 2, ATTRIBUTE_MP_REACH, 5 + p->shape->next_hop_size + nlri, p->shape->size);
		memcpy(m + p->used, p->attributes, p->shape->size);
	}
	int error = message_add(p->t, p->g, p->audience, p->used + packer_tail(p));
	p->used = p->begin;
	return error;
}

static int packer_add(struct packer *p, const struct item *item)
{
	const struct routes *routes = &p->t->routes[p->g->f];
	const struct route *route = route_at(routes, item->route);
	uint32_t bytes = (route->length + 7u) / 8, size = 1 + bytes + (p->g->several ? 4 : 0);
	if (p->used + size + packer_tail(p) > group_limit(p->g)) {
		int error = packer_end(p);
		if (error < 0)
			return error;
		packer_begin(p);
	}
	uint8_t *at = p->t->message + p->used;
	if (p->g->several) {
		store32(at, item->path_id);
		at += 4;
	}
	*at++ = route->length;
	memcpy(at, route_address(routes, route), bytes);
	p->used += size;
	return 0;
}

bool group_unheard(const struct bgp_table *t, const struct update_group *g, const struct audience *a)
{
	uint32_t out = 0;
	if (a->only != 0)
		return !group_member(g, peer_find(t, a->only));
	for (uint32_t i = 0; i < 2; i++)
		out += a->except[i] != 0 && group_member(g, peer_find(t, a->except[i]));
	return out >= g->members;
}

// Whether the item still tells what members are to know: a run may last, and a prefix change again meanwhile.
static bool current(const struct update_group *g, const struct chain *chain, const struct item *item)
{
	if (chain->bundle == 0)
		return true;
	if (!g->several)
		return g->out[item->route] == chain->bundle;
	const struct sent_paths *sent = g->sent[item->route];
	for (uint32_t i = 0; sent != NULL && i < sent->count; i++)
		if (sent->list[i].path_id == item->path_id)
			return sent->list[i].bundle == chain->bundle;
	return false;
}

static int pack_all(struct packer *p, const struct chain *chain)
{
	const struct item *items = p->g->run.items;
	packer_begin(p);
	for (uint32_t i = chain->first; i != 0; i = items[i - 1].next) {
		int error = current(p->g, chain, &items[i - 1]) ? packer_add(p, &items[i - 1]) : 0;
		if (error < 0)
			return error;
	}
	return packer_end(p);
}

// A policy looks at prefixes: those for which it says the same leave together.
static int pack_by_prefix(struct packer *p, const struct bundle *bundle, const struct chain *chain)
{
	uint32_t first = chain->first;
	struct bgp_table *t = p->t;
	struct item *items = p->g->run.items;
	const struct routes *routes = &t->routes[p->g->f];
	while (first != 0) {
		struct rewritten shape, other;
		struct prefix prefix;
		uint32_t rest = 0, next;
		route_prefix(routes, route_at(routes, items[first - 1].route), &prefix);
		bool allowed = rewrite(t, p->g, bundle, &prefix, t->encoded, &shape);
		p->attributes = t->encoded;
		p->shape = &shape;
		if (allowed)
			packer_begin(p);
		for (uint32_t i = first; i != 0; i = next) {
			next = items[i - 1].next;
			route_prefix(routes, route_at(routes, items[i - 1].route), &prefix);
			if (!current(p->g, chain, &items[i - 1]))
				continue;
			bool too = rewrite(t, p->g, bundle, &prefix, t->previous, &other);
			bool equal = too == allowed && (!too || (other.size == shape.size && other.next_hop_size == shape.next_hop_size &&
				memcmp(other.next_hop, shape.next_hop, shape.next_hop_size) == 0 &&
				memcmp(t->previous, t->encoded, shape.size) == 0));
			if (!equal) {
				items[i - 1].next = rest;
				rest = i;
				continue;
			}
			int error = too ? packer_add(p, &items[i - 1]) : 0;
			if (error < 0)
				return error;
		}
		int error = allowed ? packer_end(p) : 0;
		if (error < 0)
			return error;
		first = rest;
	}
	return 0;
}

int pack_chain(struct bgp_table *t, struct update_group *g, const struct chain *chain)
{
	struct packer packer = {.t = t, .g = g, .audience = chain->audience};
	if (chain->first == 0 || group_unheard(t, g, &chain->audience))
		return 0;
	if (chain->bundle == 0)
		return pack_all(&packer, chain);
	const struct bundle *bundle = bundle_at(t, chain->bundle);
	if (rewrite_by_prefix(t, &g->key))
		return pack_by_prefix(&packer, bundle, chain);
	struct rewritten shape;
	struct prefix prefix = {.family = g->f == 0 ? FAMILY_IPV4 : FAMILY_IPV6};
	if (!rewrite(t, g, bundle, &prefix, t->encoded, &shape))
		return 0;
	packer.attributes = t->encoded;
	packer.shape = &shape;
	return pack_all(&packer, chain);
}

int pack_end_of_rib(struct bgp_table *t, struct update_group *g)
{
	static const uint8_t ipv6[] = {0, 0, 0, 6, FLAG_OPTIONAL, ATTRIBUTE_MP_UNREACH, 3, 0, 2, 1};
	uint32_t size = g->f == 0 ? 4 : sizeof(ipv6);
	memset(t->message + BGP_HEADER, 0, 4);
	if (g->f != 0)
		memcpy(t->message + BGP_HEADER, ipv6, sizeof(ipv6));
	return message_add(t, g, (struct audience){0}, BGP_HEADER + size);
}
