// What is pending for an update group, grouped by the bundle that is to be told.
#include <errno.h>
#include <string.h>

#include "bgp/internal.h"

void run_clear(struct bgp_table *t, struct run *run)
{
	for (uint32_t i = 0; i < run->chain_count; i++)
		if (run->chains[i].bundle != 0)
			bundle_drop(t, run->chains[i].bundle);
	run->count = run->chain_count = run->at = 0;
}

void run_free(struct bgp_table *t, struct run *run)
{
	run_clear(t, run);
	memory_give(t, run->items);
	memory_give(t, run->chains);
	memory_give(t, run->buckets);
	*run = (struct run){.bits = run->bits};
}

// RFC 4456 section 8: a path goes neither to whom it came from, nor back to its originator.
struct audience group_audience(const struct bgp_table *t, const struct update_group *g, uint32_t bundle)
{
	struct audience audience = {0};
	if (bundle == 0)
		return audience;
	const struct bundle *b = bundle_at(t, bundle);
	const struct peer *source = peer_find(t, b->peer);
	if (group_member(g, source))
		audience.except[0] = b->peer;
	bool reflected = source != NULL && source->settings.kind != BGP_EXTERNAL && g->key.kind != BGP_EXTERNAL;
	if (!reflected || !(b->attributes->has & HAS_ORIGINATOR))
		return audience;
	for (uint32_t i = 1; i < t->peer_room; i++)
		if (group_member(g, t->peers[i]) && t->peers[i]->settings.router_id == b->attributes->originator &&
		    i != audience.except[0])
			audience.except[1] = (uint16_t)i;
	return audience;
}

static bool excluded(struct audience audience, uint32_t peer)
{
	return audience.except[0] == peer || audience.except[1] == peer;
}

static void count_excluded(struct bgp_table *t, struct update_group *g, uint32_t bundle, int change)
{
	struct audience audience = group_audience(t, g, bundle);
	for (uint32_t i = 0; i < 2; i++)
		if (audience.except[i] != 0)
			peer_find(t, audience.except[i])->out[g->f].excluded += (uint64_t)(int64_t)change;
}

void group_set_told(struct bgp_table *t, struct update_group *g, uint32_t number, uint32_t bundle)
{
	uint32_t old = g->out[number];
	if (old == bundle)
		return;
	count_excluded(t, g, old, -1);
	count_excluded(t, g, bundle, 1);
	g->advertised += (bundle != 0) - (uint64_t)(old != 0);
	g->out[number] = bundle;
	if (bundle != 0)
		bundle_keep(t, bundle);
	if (old != 0)
		bundle_drop(t, old);
}

static uint32_t chain_hash(uint32_t bundle, struct audience a)
{
	uint64_t mixed = (bundle | (uint64_t)a.only << 32 | (uint64_t)a.except[0] << 48) * 0x9e3779b97f4a7c15ull;
	return (uint32_t)((mixed ^ a.except[1] * 0xc2b2ae3d27d4eb4full) >> 32);
}

static bool audience_same(struct audience a, struct audience b)
{
	return a.only == b.only && a.except[0] == b.except[0] && a.except[1] == b.except[1];
}

static int chains_grow(struct bgp_table *t, struct run *run)
{
	uint32_t room = run->chain_room == 0 ? 16 : 2 * run->chain_room, count = 2 * room;
	struct chain *chains = memory_resize(t, run->chains, room * sizeof(*chains));
	if (chains == NULL)
		return -ENOMEM;
	run->chains = chains;
	uint32_t *buckets = memory_take(t, count * sizeof(*buckets));
	if (buckets == NULL)
		return -ENOMEM;
	memory_give(t, run->buckets);
	run->buckets = buckets;
	run->bucket_count = count;
	run->chain_room = room;
	for (uint32_t i = 0; i < run->chain_count; i++) {
		uint32_t slot = chain_hash(chains[i].bundle, chains[i].audience) & (count - 1);
		while (buckets[slot] != 0)
			slot = (slot + 1) & (count - 1);
		buckets[slot] = i + 1;
	}
	return 0;
}

// Find or make; NULL without memory.
static struct chain *chain_get(struct bgp_table *t, struct run *run, uint32_t bundle, struct audience audience, bool *made)
{
	struct chain *recent = run->recent < run->chain_count ? &run->chains[run->recent] : NULL;
	*made = false;
	if (recent != NULL && recent->bundle == bundle && audience_same(recent->audience, audience))
		return recent; // prefixes of one bundle often come together
	if (run->chain_count == run->chain_room && chains_grow(t, run) < 0)
		return NULL;
	uint32_t slot = chain_hash(bundle, audience) & (run->bucket_count - 1);
	for (; run->buckets[slot] != 0; slot = (slot + 1) & (run->bucket_count - 1)) {
		struct chain *chain = &run->chains[run->buckets[slot] - 1];
		if (chain->bundle == bundle && audience_same(chain->audience, audience)) {
			run->recent = run->buckets[slot] - 1;
			return chain;
		}
	}
	struct chain *chain = &run->chains[run->chain_count];
	*chain = (struct chain){.bundle = bundle, .audience = audience};
	run->recent = run->chain_count;
	run->buckets[slot] = ++run->chain_count;
	if (bundle != 0) // its number must not become another's while the run lasts
		bundle_keep(t, bundle);
	*made = true;
	return chain;
}

static int item_add(struct bgp_table *t, struct update_group *g, uint32_t bundle, struct audience audience,
	uint32_t route, uint32_t path_id)
{
	struct run *run = &g->run;
	bool made;
	if (run->count == run->room) {
		uint32_t room = run->room == 0 ? 64 : 2 * run->room;
		struct item *items = memory_resize(t, run->items, room * sizeof(*items));
		if (items == NULL)
			return -ENOMEM;
		run->items = items;
		run->room = room;
	}
	struct chain *chain = chain_get(t, run, bundle, audience, &made);
	if (chain == NULL)
		return -ENOMEM;
	run->items[run->count] = (struct item){.route = route, .path_id = path_id, .next = chain->first};
	chain->first = ++run->count;
	bit_set(run->bits, route);
	return 0;
}

// Whether members get a path at all.
static int wanted_check(struct bgp_table *t, struct update_group *g, uint32_t bundle, const struct prefix *prefix,
	bool *wanted)
{
	struct rewritten result;
	*wanted = false;
	if (bundle == 0 || !rewrite_allowed(t, g, bundle_at(t, bundle)))
		return 0;
	if (rewrite_by_prefix(t, &g->key)) {
		*wanted = rewrite(t, g, bundle_at(t, bundle), prefix, t->encoded, &result);
		return 0;
	}
	bool made;
	struct chain *chain = chain_get(t, &g->run, bundle, group_audience(t, g, bundle), &made);
	if (chain == NULL)
		return -ENOMEM;
	if (chain->judged != 1 + g->run.keys) {
		chain->judged = 1 + g->run.keys;
		chain->denied = !rewrite(t, g, bundle_at(t, bundle), prefix, t->encoded, &result);
	}
	*wanted = !chain->denied;
	return 0;
}

static bool same(struct bgp_table *t, struct update_group *g, uint32_t a, uint32_t b, const struct prefix *prefix)
{
	struct run *run = &g->run;
	if (!audience_same(group_audience(t, g, a), group_audience(t, g, b)))
		return false;
	if (run->same_a != a || run->same_b != b || rewrite_by_prefix(t, &g->key)) {
		run->same = rewrite_same(t, g, bundle_at(t, a), bundle_at(t, b), prefix);
		run->same_a = a;
		run->same_b = b;
	}
	return run->same;
}

// A prefix that members were not told of: they are, unless nobody gets it.  Prefixes of one bundle often come together,
// and what is found for one of them holds for all, where no policy looks at the prefix.
static int build_first(struct bgp_table *t, struct update_group *g, uint32_t number, uint32_t best, const struct route *route)
{
	struct run *run = &g->run;
	if (run->known != best || rewrite_by_prefix(t, &g->key)) {
		struct prefix prefix;
		route_prefix(&t->routes[g->f], route, &prefix);
		run->known = 0;
		int error = wanted_check(t, g, best, &prefix, &run->known_wanted);
		if (error < 0)
			return error;
		run->known = best;
		run->known_audience = group_audience(t, g, best);
		run->known_unheard = group_unheard(t, g, &run->known_audience);
	}
	int error = 0;
	if (run->known_wanted && !run->known_unheard)
		error = item_add(t, g, best, run->known_audience, number, 0);
	if (error == 0 && run->known_wanted)
		group_set_told(t, g, number, best);
	return error;
}

static int build_one(struct bgp_table *t, struct update_group *g, uint32_t number)
{
	const struct route *route = route_at(&t->routes[g->f], number);
	uint32_t best = route->best == BEST_NONE ? 0 : route_paths(route)[route->best], told = g->out[number];
	struct prefix prefix;
	bool wanted = false;
	if (best == told && !g->run.forced)
		return 0;
	if (told == 0 && best != 0)
		return build_first(t, g, number, best, route);
	route_prefix(&t->routes[g->f], route, &prefix);
	int error = wanted_check(t, g, best, &prefix, &wanted);
	if (error < 0)
		return error;
	best = wanted ? best : 0;
	if (best == told && (!g->run.forced || best == 0))
		return 0;
	struct audience before = group_audience(t, g, told), after = group_audience(t, g, best);
	// An item counts only as long as members are said to know what it tells.
	if (best == 0) {
		error = item_add(t, g, 0, before, number, 0);
	} else if (told == 0 || g->run.forced || !same(t, g, told, best, &prefix)) {
		error = item_add(t, g, best, after, number, 0);
		for (uint32_t i = 0; i < 2 && error == 0 && told != 0; i++)
			if (after.except[i] != 0 && !excluded(before, after.except[i]))
				error = item_add(t, g, 0, (struct audience){.only = after.except[i]}, number, 0);
	}
	if (error == 0)
		group_set_told(t, g, number, best);
	return error;
}

// --- several paths of a prefix: RFC 7911 ---

static struct sent *sent_find(struct bgp_table *t, struct sent_paths *sent, const struct bundle *b)
{
	for (uint32_t i = 0; sent != NULL && i < sent->count; i++) {
		const struct bundle *known = bundle_at(t, sent->list[i].bundle);
		if (known->peer == b->peer && known->path_id == b->path_id)
			return &sent->list[i];
	}
	return NULL;
}

static uint32_t free_id(const struct sent_paths *sent)
{
	for (uint32_t id = 1;; id++) {
		bool taken = false;
		for (uint32_t i = 0; i < sent->count && !taken; i++)
			taken = sent->list[i].path_id == id;
		if (!taken)
			return id;
	}
}

static struct sent *sent_add(struct bgp_table *t, struct update_group *g, uint32_t number)
{
	struct sent_paths *sent = g->sent[number];
	uint32_t count = sent == NULL ? 0 : sent->count;
	if (sent == NULL || count == sent->room) {
		uint32_t room = count == 0 ? 2 : 2 * count;
		struct sent_paths *grown = memory_resize(t, sent, sizeof(*grown) + room * sizeof(grown->list[0]));
		if (grown == NULL)
			return NULL;
		grown->count = count;
		grown->room = room;
		g->sent[number] = sent = grown;
	}
	sent->list[count] = (struct sent){.path_id = free_id(sent) & 0x7fffffff};
	sent->count++;
	return &sent->list[count];
}

// Collect the paths to be told: the best ones that may leave.
static int several_wanted(struct bgp_table *t, struct update_group *g, const struct route *route,
	const struct prefix *prefix, uint32_t *out, uint32_t most)
{
	uint16_t *places = memory_take(t, (route->count + 1u) * sizeof(*places));
	if (places == NULL)
		return -ENOMEM;
	int ranked = route_rank(t, route, places, route->count), count = 0;
	for (int i = 0; i < ranked && count < (int)most; i++) {
		uint32_t bundle = route_paths(route)[places[i]];
		struct audience audience = group_audience(t, g, bundle);
		struct rewritten result;
		if (audience.except[0] != 0 || audience.except[1] != 0 || !rewrite_allowed(t, g, bundle_at(t, bundle)) ||
		    !rewrite(t, g, bundle_at(t, bundle), prefix, t->encoded, &result))
			continue;
		out[count++] = bundle;
	}
	memory_give(t, places);
	return ranked < 0 ? ranked : count;
}

static int several_withdraw(struct bgp_table *t, struct update_group *g, uint32_t number, const uint32_t *wanted, int count)
{
	struct sent_paths *sent = g->sent[number];
	for (uint32_t i = sent == NULL ? 0 : sent->count; i-- > 0;) {
		const struct bundle *known = bundle_at(t, sent->list[i].bundle);
		bool stays = false;
		for (int j = 0; j < count && !stays; j++)
			stays = bundle_at(t, wanted[j])->peer == known->peer && bundle_at(t, wanted[j])->path_id == known->path_id;
		if (stays)
			continue;
		int error = item_add(t, g, 0, (struct audience){0}, number, sent->list[i].path_id);
		if (error < 0)
			return error;
		bundle_drop(t, sent->list[i].bundle);
		sent->list[i] = sent->list[--sent->count];
	}
	return 0;
}

static int several_tell(struct bgp_table *t, struct update_group *g, uint32_t number, const uint32_t *wanted, int count,
	const struct prefix *prefix)
{
	for (int i = 0; i < count; i++) {
		struct sent *known = sent_find(t, g->sent[number], bundle_at(t, wanted[i]));
		bool forced = g->run.forced || (known != NULL && known->otherwise);
		if (known != NULL && known->bundle == wanted[i] && !forced)
			continue;
		bool equal = known != NULL && !forced && same(t, g, known->bundle, wanted[i], prefix);
		if (known == NULL)
			known = sent_add(t, g, number);
		if (known == NULL)
			return -ENOMEM;
		uint32_t old = known->bundle;
		known->bundle = wanted[i];
		known->otherwise = false;
		bundle_keep(t, wanted[i]);
		if (old != 0)
			bundle_drop(t, old);
		int error = equal ? 0 : item_add(t, g, wanted[i], (struct audience){0}, number, known->path_id);
		if (error < 0)
			return error;
	}
	return 0;
}

static int build_several(struct bgp_table *t, struct update_group *g, uint32_t number)
{
	const struct route *route = route_at(&t->routes[g->f], number);
	uint32_t most = g->key.family.send_paths < route->count ? g->key.family.send_paths : route->count;
	struct prefix prefix;
	route_prefix(&t->routes[g->f], route, &prefix);
	uint32_t *wanted = memory_take(t, (most + 1u) * sizeof(*wanted));
	if (wanted == NULL)
		return -ENOMEM;
	bool before = g->sent[number] != NULL;
	int count = several_wanted(t, g, route, &prefix, wanted, most);
	int error = count < 0 ? count : several_withdraw(t, g, number, wanted, count);
	if (error == 0)
		error = several_tell(t, g, number, wanted, count, &prefix);
	memory_give(t, wanted);
	if (error == 0 && g->sent[number] != NULL && g->sent[number]->count == 0) {
		memory_give(t, g->sent[number]);
		g->sent[number] = NULL;
	}
	g->advertised += (g->sent[number] != NULL) - (uint64_t)before;
	return error;
}

// Withdrawals leave first: an identifier that became free may be given again in the same run.
static void withdrawals_first(struct run *run)
{
	uint32_t done = 0;
	for (uint32_t i = 0; i < run->chain_count; i++) {
		if (run->chains[i].bundle != 0)
			continue;
		struct chain chain = run->chains[i];
		run->chains[i] = run->chains[done];
		run->chains[done++] = chain;
	}
}

int run_take_withdrawals(struct bgp_table *t, const struct run *from, struct update_group *to, uint32_t peer)
{
	for (uint32_t i = from->at; i < from->chain_count; i++) {
		const struct chain *chain = &from->chains[i];
		if (chain->bundle != 0 || !for_member(&chain->audience, peer))
			continue;
		for (uint32_t at = chain->first; at != 0; at = from->items[at - 1].next) {
			int error = item_add(t, to, 0, (struct audience){0}, from->items[at - 1].route, 0);
			if (error < 0)
				return error;
		}
	}
	to->run.recent = UINT32_MAX;
	if (to->run.bucket_count != 0)
		memset(to->run.buckets, 0, to->run.bucket_count * sizeof(*to->run.buckets));
	return 0;
}

int run_build(struct bgp_table *t, struct update_group *g, uint32_t *budget)
{
	struct run *run = &g->run;
	if (!run->building) {
		run->building = true;
		run->forced = g->forced;
		g->forced = false;
	}
	run->same_a = run->same_b = run->known = 0;
	while (!list_empty(&g->pending) && *budget != 0) {
		uint32_t number = g->pending.items[g->pending.first];
		int error = g->several ? build_several(t, g, number) : build_one(t, g, number);
		if (error < 0) { // again, when there is memory, and whatever members are said to know
			run->forced = true;
			return error;
		}
		(void)list_pop(t, &g->pending);
		bit_clear(g->pending_bits, number);
		if (!bit_get(run->bits, number) && group_told(g, number) == 0)
			routes_release(t, g->f, number);
		--*budget;
	}
	if (list_empty(&g->pending)) {
		run->building = false;
		run->at = 0;
		withdrawals_first(run);
		run->recent = UINT32_MAX;
		if (run->bucket_count != 0)
			memset(run->buckets, 0, run->bucket_count * sizeof(*run->buckets));
	}
	return 0;
}
