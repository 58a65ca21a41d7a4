// Which path is the best: RFC 4271 section 9.1.2.2, RFC 4456 section 9, RFC 5004 as an option.
//
// Each step takes away candidates that another one beats, until one is left.  What a MED beats
// depends on who else is left, hence steps over a set and not a comparison of two.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bgp/internal.h"

struct candidate {
	const struct bundle *bundle;
	const struct peer *peer;   // NULL: local
	uint16_t place;
	bool left;                 // not beaten in this round
	bool ranked;               // in an earlier round
};

static uint32_t local_pref(const struct candidate *c)
{
	const struct attributes *set = c->bundle->attributes;
	return set->has & HAS_LOCAL_PREF ? set->local_pref : DEFAULT_LOCAL_PREF;
}

static bool is_external(const struct candidate *c)
{
	return c->peer != NULL && c->peer->settings.kind == BGP_EXTERNAL;
}

static uint32_t originator(const struct bgp_table *t, const struct candidate *c)
{
	const struct attributes *set = c->bundle->attributes;
	if (set->has & HAS_ORIGINATOR)
		return set->originator;
	return c->peer == NULL ? t->identity.router_id : c->peer->settings.router_id;
}

// The smaller wins.
static uint64_t key_of_step(const struct bgp_table *t, const struct candidate *c, enum bgp_reason step)
{
	const struct attributes *set = c->bundle->attributes;
	switch (step) {
	case BGP_REASON_WEIGHT: return UINT32_MAX - c->bundle->weight;
	case BGP_REASON_LOCAL_PREF: return UINT32_MAX - local_pref(c);
	case BGP_REASON_LOCAL: return c->peer != NULL;
	case BGP_REASON_AS_PATH: return set->path_length;
	case BGP_REASON_ORIGIN: return set->origin;
	case BGP_REASON_EXTERNAL: return !is_external(c);
	case BGP_REASON_METRIC: return bundle_tracked(c->bundle) ? c->bundle->next_hop->metric : 0;
	case BGP_REASON_AGE: return c->place;
	case BGP_REASON_ROUTER_ID: return originator(t, c);
	case BGP_REASON_CLUSTER_LIST: return set->cluster_count;
	case BGP_REASON_PATH_ID: return c->bundle->path_id;
	default: return 0;
	}
}

static int address_compare(const struct candidate *a, const struct candidate *b)
{
	static const uint8_t zero[16];
	uint8_t family_a = a->peer == NULL ? FAMILY_IPV4 : a->peer->settings.family;
	uint8_t family_b = b->peer == NULL ? FAMILY_IPV4 : b->peer->settings.family;
	if (family_a != family_b)
		return family_a < family_b ? -1 : 1;
	return memcmp(a->peer == NULL ? zero : a->peer->settings.address, b->peer == NULL ? zero : b->peer->settings.address, 16);
}

// One round of elimination: who is left, and what beat the others.
struct round {
	const struct bgp_table *t;
	struct candidate *all;
	uint32_t count, left;
	uint8_t *reasons;          // by place; NULL: not wanted
};

static void beat(struct round *r, struct candidate *c, enum bgp_reason step)
{
	c->left = false;
	r->left--;
	if (r->reasons != NULL)
		r->reasons[c->place] = (uint8_t)step;
}

static void step_key(struct round *r, enum bgp_reason step)
{
	uint64_t lowest = UINT64_MAX;
	for (uint32_t i = 0; i < r->count && r->left > 1; i++) {
		if (!r->all[i].left)
			continue;
		uint64_t key = key_of_step(r->t, &r->all[i], step);
		lowest = key < lowest ? key : lowest;
	}
	for (uint32_t i = 0; i < r->count && r->left > 1; i++)
		if (r->all[i].left && key_of_step(r->t, &r->all[i], step) != lowest)
			beat(r, &r->all[i], step);
}

static int med_compare(const void *a, const void *b)
{
	const struct attributes *x = (*(struct candidate *const *)a)->bundle->attributes;
	const struct attributes *y = (*(struct candidate *const *)b)->bundle->attributes;
	if (x->first_as != y->first_as)
		return x->first_as < y->first_as ? -1 : 1;
	return x->med < y->med ? -1 : x->med > y->med;
}

// The lowest MED of each neighboring AS stays; RFC 4271 section 9.1.2.2 c.
static void step_med(struct round *r)
{
	struct candidate *some[64], **sorted = some;
	uint32_t count = 0;
	if (r->left < 2)
		return;
	if (r->left > 64 && (sorted = malloc(r->left * sizeof(*sorted))) == NULL)
		return; // a worse path for as long as memory is short
	for (uint32_t i = 0; i < r->count; i++)
		if (r->all[i].left)
			sorted[count++] = &r->all[i];
	qsort(sorted, count, sizeof(*sorted), med_compare);
	bool always = r->t->identity.always_compare_med;
	uint32_t lowest = UINT32_MAX;
	for (uint32_t i = 0; always && i < count; i++)
		lowest = sorted[i]->bundle->attributes->med < lowest ? sorted[i]->bundle->attributes->med : lowest;
	for (uint32_t i = 0; i < count; i++) {
		const struct attributes *set = sorted[i]->bundle->attributes;
		if (!always && (i == 0 || set->first_as != sorted[i - 1]->bundle->attributes->first_as))
			lowest = set->med;
		if (set->med > lowest)
			beat(r, sorted[i], BGP_REASON_MED);
	}
	if (sorted != some)
		free(sorted);
}

static void step_address(struct round *r)
{
	const struct candidate *lowest = NULL;
	for (uint32_t i = 0; i < r->count; i++)
		if (r->all[i].left && (lowest == NULL || address_compare(&r->all[i], lowest) < 0))
			lowest = &r->all[i];
	for (uint32_t i = 0; i < r->count; i++)
		if (r->all[i].left && address_compare(&r->all[i], lowest) != 0)
			beat(r, &r->all[i], BGP_REASON_ADDRESS);
}

static const enum bgp_reason before_med[] = {
	BGP_REASON_WEIGHT, BGP_REASON_LOCAL_PREF, BGP_REASON_LOCAL, BGP_REASON_AS_PATH, BGP_REASON_ORIGIN,
};

static struct candidate *first_left(const struct round *r)
{
	for (uint32_t i = 0; i < r->count; i++)
		if (r->all[i].left)
			return &r->all[i];
	return NULL;
}

static struct candidate *eliminate(struct round *r)
{
	r->left = 0;
	for (uint32_t i = 0; i < r->count; i++) {
		r->all[i].left = !r->all[i].ranked;
		r->left += r->all[i].left;
	}
	for (uint32_t i = 0; i < sizeof(before_med) / sizeof(before_med[0]); i++)
		step_key(r, before_med[i]);
	step_med(r);
	step_key(r, BGP_REASON_EXTERNAL);
	step_key(r, BGP_REASON_METRIC);
	struct candidate *first = first_left(r);
	if (r->left > 1 && !r->t->identity.compare_router_id && is_external(first))
		step_key(r, BGP_REASON_AGE);
	step_key(r, BGP_REASON_ROUTER_ID);
	step_key(r, BGP_REASON_CLUSTER_LIST);
	if (r->left > 1)
		step_address(r);
	step_key(r, BGP_REASON_PATH_ID);
	return first_left(r);
}

// Collect the candidates of a prefix.
static int round_begin(struct bgp_table *t, const struct route *route, struct round *r, uint8_t *reasons)
{
	const uint32_t *paths = route_paths(route);
	if (route->count > t->candidate_room) {
		uint32_t room = 2u * route->count;
		struct candidate *grown = memory_resize(t, t->candidates, room * sizeof(*grown));
		if (grown == NULL)
			return -ENOMEM;
		t->candidates = grown;
		t->candidate_room = room;
	}
	*r = (struct round){.t = t, .all = t->candidates, .reasons = reasons};
	for (uint16_t i = 0; i < route->count; i++) {
		const struct bundle *b = bundle_at(t, paths[i]);
		if (reasons != NULL)
			reasons[i] = b->verdict != BGP_ACCEPTED ? BGP_REASON_REFUSED : BGP_REASON_UNREACHABLE;
		if (bundle_usable(b))
			r->all[r->count++] = (struct candidate){.bundle = b, .peer = peer_find(t, b->peer), .place = i};
	}
	return 0;
}

int route_best(struct bgp_table *t, const struct route *route, uint16_t *best)
{
	*best = BEST_NONE;
	if (route->count == 0)
		return 0;
	if (route->count == 1) {
		if (bundle_usable(bundle_at(t, route_paths(route)[0])))
			*best = 0;
		return 0;
	}
	struct round r;
	int error = round_begin(t, route, &r, NULL);
	if (error == 0 && r.count != 0)
		*best = eliminate(&r)->place;
	return error;
}

int route_rank(struct bgp_table *t, const struct route *route, uint16_t *places, uint32_t most)
{
	struct round r;
	int error = round_begin(t, route, &r, NULL);
	if (error < 0)
		return error;
	uint32_t count = 0;
	for (; count < most && count < r.count; count++) {
		struct candidate *best = eliminate(&r);
		places[count] = best->place;
		best->ranked = true;
	}
	return (int)count;
}

// Nothing that says how good a path is tells them apart.
static bool equal(const struct bgp_table *t, const struct candidate *a, const struct candidate *b)
{
	static const enum bgp_reason steps[] = {
		BGP_REASON_WEIGHT, BGP_REASON_LOCAL_PREF, BGP_REASON_LOCAL, BGP_REASON_AS_PATH, BGP_REASON_ORIGIN,
		BGP_REASON_EXTERNAL, BGP_REASON_METRIC,
	};
	if (!bundle_tracked(b->bundle))
		return false;
	for (uint32_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
		if (key_of_step(t, a, steps[i]) != key_of_step(t, b, steps[i]))
			return false;
	const struct attributes *x = a->bundle->attributes, *y = b->bundle->attributes;
	bool same_as = x->first_as == y->first_as;
	if (!same_as && !t->identity.multipath_relax)
		return false;
	return x->med == y->med || !(same_as || t->identity.always_compare_med);
}

static bool hop_used(const struct route *route, const struct bgp_table *t, const uint16_t *places, int count,
	const struct next_hop *hop)
{
	for (int i = 0; i < count; i++)
		if (next_hop_same_way(bundle_at(t, route_paths(route)[places[i]])->next_hop, hop))
			return true;
	return false;
}

int route_used(struct bgp_table *t, const struct route *route, uint16_t places[MAX_GROUP_HOPS])
{
	if (route->best == BEST_NONE)
		return 0;
	struct candidate best = {.bundle = bundle_at(t, route_paths(route)[route->best]), .place = route->best};
	best.peer = peer_find(t, best.bundle->peer);
	uint32_t limit = is_external(&best) ? t->identity.multipath : t->identity.multipath_internal;
	limit = limit > MAX_GROUP_HOPS ? MAX_GROUP_HOPS : limit;
	places[0] = route->best;
	if (limit < 2 || route->count < 2 || !bundle_tracked(best.bundle))
		return 1;
	struct round r;
	int count = 1, error = round_begin(t, route, &r, NULL);
	if (error < 0)
		return error;
	for (uint32_t i = 0; i < r.count; i++)
		r.all[i].ranked = r.all[i].place == route->best;
	for (uint32_t ranked = 1; ranked < r.count && count < (int)limit; ranked++) {
		struct candidate *next = eliminate(&r);
		next->ranked = true;
		if (equal(t, &best, next) && !hop_used(route, t, places, count, next->bundle->next_hop))
			places[count++] = next->place;
	}
	return count;
}

int route_backup(struct bgp_table *t, const struct route *route, const uint16_t *places, uint32_t used, uint16_t *backup)
{
	*backup = BEST_NONE;
	if (route->count <= used)
		return 0;
	if (route->count == 2) { // the other one
		const struct bundle *b = bundle_at(t, route_paths(route)[1 - places[0]]);
		if (bundle_tracked(b) && bundle_usable(b) && !hop_used(route, t, places, 1, b->next_hop))
			*backup = (uint16_t)(1 - places[0]);
		return 0;
	}
	struct round r;
	int error = round_begin(t, route, &r, NULL);
	if (error < 0)
		return error;
	uint32_t left = 0;
	for (uint32_t i = 0; i < r.count; i++) {
		const struct bundle *b = r.all[i].bundle;
		r.all[i].ranked = !bundle_tracked(b) || hop_used(route, t, places, (int)used, b->next_hop);
		left += !r.all[i].ranked;
	}
	if (left != 0)
		*backup = eliminate(&r)->place;
	return 0;
}

int route_reasons(struct bgp_table *t, const struct route *route, uint8_t *reasons)
{
	struct round r;
	int error = round_begin(t, route, &r, reasons);
	if (error < 0 || r.count == 0)
		return error;
	reasons[eliminate(&r)->place] = BGP_REASON_BEST;
	uint16_t places[MAX_GROUP_HOPS];
	int used = route_used(t, route, places);
	for (int i = 0; i < used; i++)
		reasons[places[i]] = i == 0 ? BGP_REASON_BEST : BGP_REASON_MULTIPATH;
	return used < 0 ? used : 0;
}
