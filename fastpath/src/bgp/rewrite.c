// A path as neighbors are told of it: RFC 4271 section 5.1, 1997, 4456 section 8, 6793 section
// 4.2.2, 8950, 9234 section 5, and policies.
#include <string.h>

#include "bgp/internal.h"

enum { WELL_KNOWN = FLAG_TRANSITIVE, OPTIONAL = FLAG_OPTIONAL, BOTH = FLAG_OPTIONAL | FLAG_TRANSITIVE };
enum { ROOM_POLICY, ROOM_PATH, ROOM_PREPENDED, ROOM_NARROW, ROOM_CLUSTERS, ROOM_EXTENDED, ROOM_VALUES };

void export_key_make(const struct peer *peer, uint32_t f, struct export_key *out)
{
	const struct bgp_settings *s = &peer->settings;
	memset(out, 0, sizeof(*out));
	out->family = s->families[f];
	// What comes in does not make a group.
	out->family.receive_paths = out->family.import_deny = 0;
	out->family.max_prefixes = out->family.import_policy = 0;
	out->local_as = s->local_as;
	out->kind = s->kind;
	out->as4 = s->as4;
	out->extended = s->extended_messages;
	out->next_hop_self = s->next_hop_self;
	out->next_hop_unchanged = s->next_hop_unchanged;
	out->send_communities = s->send_communities;
	out->role = (uint32_t)(int32_t)s->role;
	out->remove_private_as = s->remove_private_as;
	out->as_override = s->as_override;
	out->remote_as = s->as_override || s->remove_private_as ? s->remote_as : 0;
	out->peer = s->families[f].send_paths != 0 ? peer->number : 0;
	if (s->families[f].export_policy == 0)
		return;
	out->neighbor_family = s->family;
	memcpy(out->neighbor, s->address, sizeof(out->neighbor));
	memcpy(out->interface, s->interface_name, sizeof(out->interface));
}

static uint8_t kind_of(const struct bgp_table *t, const struct bundle *b)
{
	const struct peer *peer = peer_find(t, b->peer);
	return peer == NULL ? BGP_LOCAL : peer->settings.kind;
}

bool rewrite_allowed(const struct bgp_table *t, const struct update_group *g, const struct bundle *b)
{
	const struct export_key *key = &g->key;
	uint8_t has = b->attributes->has, kind = kind_of(t, b);
	if (key->family.export_deny || has & HAS_NO_ADVERTISE || (b->peer != 0 && kind == BGP_LOCAL))
		return false;
	if (key->kind != BGP_EXTERNAL)
		return kind != BGP_INTERNAL || key->kind != BGP_INTERNAL;
	bool above = key->role == ROLE_CUSTOMER || key->role == ROLE_CLIENT || key->role == ROLE_PEER;
	return !(has & HAS_NO_EXPORT) && !(has & HAS_OTC && above);
}

bool rewrite_by_prefix(const struct bgp_table *t, const struct export_key *key)
{
	const struct policy *policy = key->family.export_policy == 0 ? NULL : program_find(t, key->family.export_policy);
	return policy != NULL && policy_looks_at_prefix(policy);
}

void policy_route_fill(const struct bundle *bundle, const struct prefix *prefix, struct policy_route *out)
{
	const struct attributes *set = bundle->attributes;
	const struct next_hop *hop = bundle->next_hop;
	*out = (struct policy_route){
		.has = POLICY_HAS_ORIGIN | POLICY_HAS_AS_PATH, .family = prefix->family, .length = prefix->length,
		.protocol = bundle->peer == 0 ? bundle->protocol : ROUTE_BGP, .origin = set->origin,
		.local_pref = set->local_pref, .med = set->med, .weight = bundle->weight, .tag = bundle->tag,
	};
	memcpy(out->address, prefix->address, sizeof(out->address));
	if (set->has & HAS_LOCAL_PREF)
		out->has |= POLICY_HAS_LOCAL_PREF;
	if (set->has & HAS_MED)
		out->has |= POLICY_HAS_MED;
	if (hop != NULL) {
		out->has |= POLICY_HAS_NEXT_HOP;
		out->next_hop_family = hop->key.family;
		memcpy(out->next_hop, hop->key.address, sizeof(out->next_hop));
	}
	const uint8_t *at = set->wire;
	struct attribute a;
	while (attribute_next(&at, set->wire + set->size, &a)) {
		switch (a.type) {
		case ATTRIBUTE_AS_PATH:
			out->as_path = a.value;
			out->as_path_size = a.size;
			break;
		case ATTRIBUTE_COMMUNITIES:
			out->communities = a.value;
			out->communities_size = a.size;
			break;
		case ATTRIBUTE_EXTENDED:
			out->extended = a.value;
			out->extended_size = a.size;
			break;
		case ATTRIBUTE_LARGE:
			out->large = a.value;
			out->large_size = a.size;
			break;
		default:
			break;
		}
	}
}

static struct edit list_edit(uint8_t type, const uint8_t *value, uint32_t size)
{
	return (struct edit){.type = type, .flags = BOTH, .remove = size == 0, .size = size, .value = value};
}

uint32_t policy_edits(const struct attributes *set, const struct policy_verdict *v, const struct policy_room *room,
	uint8_t *buffer, struct edit *edits)
{
	uint32_t count = 0;
	uint8_t *values = buffer;
	uint8_t *path = buffer + 16;
	if (v->changed & POLICY_ORIGIN) {
		values[0] = v->origin;
		edits[count++] = (struct edit){.type = ATTRIBUTE_ORIGIN, .flags = WELL_KNOWN, .size = 1, .value = values};
	}
	if (v->changed & POLICY_PREPEND && v->prepend_count != 0) {
		struct attribute old;
		attributes_find(set, ATTRIBUTE_AS_PATH, &old);
		uint32_t size = as_path_prepend(old.value, old.size, v->prepend, v->prepend_count, path);
		edits[count++] = (struct edit){.type = ATTRIBUTE_AS_PATH, .flags = WELL_KNOWN, .size = size, .value = path};
	}
	if (v->changed & POLICY_MED) {
		store32(values + 4, v->med);
		edits[count++] = (struct edit){.type = ATTRIBUTE_MED, .flags = OPTIONAL, .size = 4, .value = values + 4};
	}
	if (v->changed & POLICY_LOCAL_PREF) {
		store32(values + 8, v->local_pref);
		edits[count++] = (struct edit){.type = ATTRIBUTE_LOCAL_PREF, .flags = WELL_KNOWN, .size = 4, .value = values + 8};
	}
	if (v->changed & POLICY_COMMUNITIES)
		edits[count++] = list_edit(ATTRIBUTE_COMMUNITIES, room->communities, v->communities_size);
	if (v->changed & POLICY_EXTENDED)
		edits[count++] = list_edit(ATTRIBUTE_EXTENDED, room->extended, v->extended_size);
	if (v->changed & POLICY_LARGE)
		edits[count++] = list_edit(ATTRIBUTE_LARGE, room->large, v->large_size);
	return count;
}

// A path on its way out.
struct leaving {
	struct bgp_table *t;
	const struct export_key *key;
	const struct bundle *bundle;
	uint8_t kind;              // of its source
	const uint8_t *wire;       // after the policy
	uint32_t size;
	bool med_set;
	uint8_t to;                // enum policy_next_hop; 0: as it was
	struct next_hop_key hop;
	struct edit edits[16];
	uint32_t count;
};

static void put(struct leaving *l, uint8_t type, uint8_t flags, const uint8_t *value, uint32_t size)
{
	l->edits[l->count++] = (struct edit){.type = type, .flags = flags, .size = size, .value = value};
}

static void drop(struct leaving *l, uint8_t type)
{
	l->edits[l->count++] = (struct edit){.type = type, .remove = true};
}

static bool policy_pass(struct leaving *l, const struct prefix *prefix)
{
	struct bgp_table *t = l->t;
	const struct attributes *set = l->bundle->attributes;
	const struct policy *policy = program_find(t, l->key->family.export_policy);
	if (policy == NULL) // RFC 8212: what is not there lets nothing pass
		return false;
	struct policy_route route;
	struct policy_verdict verdict;
	policy_route_fill(l->bundle, prefix, &route);
	route.has |= POLICY_HAS_NEIGHBOR;
	route.neighbor_family = l->key->neighbor_family;
	memcpy(route.neighbor, l->key->neighbor, sizeof(route.neighbor));
	memcpy(route.interface, l->key->interface, sizeof(l->key->interface));
	policy_evaluate(policy, &route, t->policy_room, &verdict);
	if (!verdict.accept)
		return false;
	struct edit edits[16];
	uint32_t count = policy_edits(set, &verdict, t->policy_room, t->scratch[ROOM_PATH], edits);
	if (count != 0) {
		l->size = attributes_edit(set->wire, set->size, edits, count, t->scratch[ROOM_POLICY], ATTRIBUTES_ROOM);
		l->wire = t->scratch[ROOM_POLICY];
		if (l->size == 0)
			return false;
	}
	l->med_set |= (verdict.changed & POLICY_MED) != 0;
	if (verdict.changed & POLICY_NEXT_HOP) {
		l->to = verdict.next_hop_kind;
		l->hop = (struct next_hop_key){.family = verdict.next_hop_family};
		memcpy(l->hop.address, verdict.next_hop, sizeof(l->hop.address));
	}
	return l->to != POLICY_TO_DISCARD;
}

static void hop_own(struct leaving *l)
{
	const struct bgp_family *family = &l->key->family;
	l->hop = (struct next_hop_key){.family = family->next_hop_family, .has_link_local = family->has_link_local};
	memcpy(l->hop.address, family->next_hop, sizeof(l->hop.address));
	memcpy(l->hop.link_local, family->next_hop_link_local, sizeof(l->hop.link_local));
}

// Choose the next hop to be told; its family 0: there is none that may be.
static void hop_choose(struct leaving *l)
{
	const struct next_hop *known = l->bundle->next_hop;
	bool reflected = l->kind == BGP_INTERNAL || l->kind == BGP_CLIENT;
	if (l->to == POLICY_TO_ADDRESS)
		return;
	if (l->to == POLICY_TO_PEER) {
		l->hop = (struct next_hop_key){.family = l->key->neighbor_family};
		memcpy(l->hop.address, l->key->neighbor, sizeof(l->hop.address));
	} else if (l->to == POLICY_TO_SELF || known == NULL || l->bundle->discard) {
		hop_own(l);
	} else if (l->key->next_hop_unchanged) {
		l->hop = known->key;
	} else if (l->key->kind == BGP_EXTERNAL || (l->key->next_hop_self && !reflected) || !bundle_tracked(l->bundle) ||
	           (next_hop_on_link(known) && known->key.interface != 0)) {
		hop_own(l);
	} else {
		l->hop = (struct next_hop_key){.family = known->key.family};
		memcpy(l->hop.address, known->key.address, sizeof(l->hop.address));
	}
}

// Between neighbors of other ASes; the path is in `path` from then on.
static void path_external(struct leaving *l, struct attribute *path)
{
	struct bgp_table *t = l->t;
	const struct export_key *key = l->key;
	uint8_t *room = t->scratch[ROOM_PATH], *prepended = t->scratch[ROOM_PREPENDED];
	// The neighbor's own number stays, or it could not see that the path leads back to it.
	uint32_t keep = key->as_override ? 0 : key->remote_as;
	if (key->remove_private_as)
		path->size = as_path_without_private(path->value, path->size, keep, room);
	else if (path->size != 0)
		memcpy(room, path->value, path->size);
	if (key->as_override)
		as_path_override(room, path->size, key->remote_as, key->local_as);
	uint32_t own = t->identity.local_as;
	if (own != key->local_as) {
		path->size = as_path_prepend(room, path->size, &own, 1, prepended);
		memcpy(room, prepended, path->size);
	}
	path->size = as_path_prepend(room, path->size, &key->local_as, 1, prepended);
	path->value = prepended;
}

// AS_PATH, and for 2-byte speakers what AS4_ attributes will say beside; RFC 6793 section 4.2.2.
static bool put_path(struct leaving *l, struct attribute *path)
{
	bool lossy = false;
	if (l->key->as4) {
		put(l, ATTRIBUTE_AS_PATH, WELL_KNOWN, path->value, path->size);
		return false;
	}
	uint8_t *narrow = l->t->scratch[ROOM_NARROW];
	uint32_t size = as_path_narrow(path->value, path->size, narrow, &lossy);
	put(l, ATTRIBUTE_AS_PATH, WELL_KNOWN, narrow, size);
	return lossy;
}

static bool put_aggregator(struct leaving *l, const struct attribute *aggregator, uint8_t *value)
{
	if (l->key->as4 || aggregator->value == NULL)
		return false;
	uint32_t as = load32(aggregator->value);
	store16(value, (uint16_t)(as > UINT16_MAX ? AS_TRANS : as));
	memcpy(value + 2, aggregator->value + 4, 4);
	put(l, ATTRIBUTE_AGGREGATOR, BOTH, value, 6);
	return as > UINT16_MAX;
}

static void put_reflection(struct leaving *l, uint8_t *value)
{
	struct bgp_table *t = l->t;
	struct attribute originator, clusters;
	if (l->key->kind == BGP_EXTERNAL) {
		drop(l, ATTRIBUTE_ORIGINATOR);
		drop(l, ATTRIBUTE_CLUSTER_LIST);
		return;
	}
	if (l->kind == BGP_LOCAL || l->kind == BGP_EXTERNAL)
		return;
	if (!wire_find(l->wire, l->size, ATTRIBUTE_ORIGINATOR, &originator)) {
		store32(value, peer_find(t, l->bundle->peer)->settings.router_id);
		put(l, ATTRIBUTE_ORIGINATOR, OPTIONAL, value, 4);
	}
	wire_find(l->wire, l->size, ATTRIBUTE_CLUSTER_LIST, &clusters);
	uint8_t *list = t->scratch[ROOM_CLUSTERS];
	store32(list, t->identity.cluster_id != 0 ? t->identity.cluster_id : t->identity.router_id);
	if (clusters.size != 0)
		memcpy(list + 4, clusters.value, clusters.size);
	put(l, ATTRIBUTE_CLUSTER_LIST, OPTIONAL, list, 4 + clusters.size);
}

// Extended communities that do not go beyond an AS stay behind; RFC 4360 section 6.
static void put_extended(struct leaving *l)
{
	struct attribute a;
	if (!l->key->send_communities) {
		drop(l, ATTRIBUTE_EXTENDED);
		return;
	}
	if (l->key->kind != BGP_EXTERNAL || !wire_find(l->wire, l->size, ATTRIBUTE_EXTENDED, &a))
		return;
	uint8_t *kept = l->t->scratch[ROOM_EXTENDED];
	uint32_t size = 0;
	for (uint32_t i = 0; i + 8 <= a.size; i += 8) {
		if (a.value[i] & 0x40)
			continue;
		memcpy(kept + size, a.value + i, 8);
		size += 8;
	}
	l->edits[l->count++] = list_edit(ATTRIBUTE_EXTENDED, kept, size);
}

static void put_preferences(struct leaving *l, uint8_t *value)
{
	struct attribute a;
	if (l->key->kind == BGP_EXTERNAL) {
		if (!l->med_set)
			drop(l, ATTRIBUTE_MED);
		drop(l, ATTRIBUTE_LOCAL_PREF);
	} else if (!wire_find(l->wire, l->size, ATTRIBUTE_LOCAL_PREF, &a)) {
		store32(value, DEFAULT_LOCAL_PREF);
		put(l, ATTRIBUTE_LOCAL_PREF, WELL_KNOWN, value, 4);
	}
}

static void put_otc(struct leaving *l, uint8_t *value)
{
	struct attribute a;
	bool below = l->key->role == ROLE_PROVIDER || l->key->role == ROLE_ROUTE_SERVER || l->key->role == ROLE_PEER;
	if (l->key->kind != BGP_EXTERNAL || !below || wire_find(l->wire, l->size, ATTRIBUTE_OTC, &a))
		return;
	store32(value, l->key->local_as);
	put(l, ATTRIBUTE_OTC, BOTH, value, 4);
}

// Gather the edits, ascending by type.
static void edits_make(struct leaving *l)
{
	uint8_t *values = l->t->scratch[ROOM_VALUES];
	struct attribute path, aggregator;
	wire_find(l->wire, l->size, ATTRIBUTE_AS_PATH, &path);
	wire_find(l->wire, l->size, ATTRIBUTE_AGGREGATOR, &aggregator);
	if (l->key->kind == BGP_EXTERNAL)
		path_external(l, &path);
	bool long_path = put_path(l, &path);
	if (l->hop.family == FAMILY_IPV4)
		put(l, ATTRIBUTE_NEXT_HOP, WELL_KNOWN, l->hop.address, 4);
	put_preferences(l, values);
	bool long_aggregator = put_aggregator(l, &aggregator, values + 8);
	if (!l->key->send_communities)
		drop(l, ATTRIBUTE_COMMUNITIES);
	put_reflection(l, values + 16);
	put_extended(l);
	if (long_path)
		put(l, ATTRIBUTE_AS4_PATH, BOTH, path.value, path.size);
	if (long_aggregator)
		put(l, ATTRIBUTE_AS4_AGGREGATOR, BOTH | (aggregator.flags & FLAG_PARTIAL), aggregator.value, 8);
	if (!l->key->send_communities)
		drop(l, ATTRIBUTE_LARGE);
	put_otc(l, values + 24);
}

bool rewrite(struct bgp_table *t, const struct update_group *g, const struct bundle *bundle, const struct prefix *prefix,
	uint8_t *out, struct rewritten *result)
{
	const struct export_key *key = &g->key;
	struct leaving l = {
		.t = t, .key = key, .bundle = bundle, .kind = kind_of(t, bundle),
		.wire = bundle->attributes->wire, .size = bundle->attributes->size, .med_set = bundle->peer == 0,
	};
	if (bundle->peer != 0 && l.kind == BGP_LOCAL) // its neighbor is gone, and so it will be
		return false;
	if (key->family.export_policy != 0 && !policy_pass(&l, prefix))
		return false;
	hop_choose(&l);
	uint8_t family = g->f == 0 ? FAMILY_IPV4 : FAMILY_IPV6;
	if (l.hop.family == 0 || (l.hop.family != family && (family == FAMILY_IPV6 || !key->family.extended_next_hop)))
		return false;
	edits_make(&l);
	*result = (struct rewritten){.size = attributes_edit(l.wire, l.size, l.edits, l.count, out, ATTRIBUTES_ROOM)};
	if (result->size == 0)
		return false;
	if (l.hop.family == FAMILY_IPV6) {
		result->next_hop_size = l.hop.has_link_local ? 32 : 16;
		memcpy(result->next_hop, l.hop.address, 16);
		memcpy(result->next_hop + 16, l.hop.link_local, 16);
	}
	// RFC 8654 section 5: what no message can hold with one prefix is not sent.
	uint32_t used = BGP_HEADER + 4 + result->size + (result->next_hop_size == 0 ? 0 : 4 + 5 + result->next_hop_size);
	uint32_t longest = (g->f == 0 ? 5u : 17u) + (g->several ? 4u : 0u);
	return used + longest <= group_limit(g);
}

static bool rewritten_same(const struct bgp_table *t, const struct rewritten *x, const struct rewritten *y)
{
	return x->size == y->size && x->next_hop_size == y->next_hop_size &&
	       memcmp(x->next_hop, y->next_hop, x->next_hop_size) == 0 && memcmp(t->previous, t->encoded, x->size) == 0;
}

bool rewrite_differs(struct bgp_table *t, const struct update_group *g, const struct bundle *b,
	const struct prefix *prefix)
{
	struct update_group old = {.key = g->before, .f = g->f, .several = g->several};
	struct rewritten x, y;
	return !rewrite_allowed(t, &old, b) || !rewrite(t, &old, b, prefix, t->previous, &x) ||
	       !rewrite_allowed(t, g, b) || !rewrite(t, g, b, prefix, t->encoded, &y) || !rewritten_same(t, &x, &y);
}

bool rewrite_same(struct bgp_table *t, const struct update_group *g, const struct bundle *a, const struct bundle *b,
	const struct prefix *prefix)
{
	struct rewritten x, y;
	struct attribute path_a, path_b;
	attributes_find(a->attributes, ATTRIBUTE_AS_PATH, &path_a);
	attributes_find(b->attributes, ATTRIBUTE_AS_PATH, &path_b);
	bool rewritten_path = g->key.remove_private_as || g->key.as_override || g->key.family.export_policy != 0;
	if (!rewritten_path && (path_a.size != path_b.size || memcmp(path_a.value, path_b.value, path_a.size) != 0))
		return false;
	if (!rewrite(t, g, a, prefix, t->previous, &x) || !rewrite(t, g, b, prefix, t->encoded, &y))
		return false;
	return rewritten_same(t, &x, &y);
}
