// Routes of an UPDATE into the table: RFC 4271 section 9.1.2 (loops), 4456 section 8, 9234 section 5, 8212, and
// the import policy.
#include <errno.h>
#include <string.h>

#include "bgp/update.h"

// RFC 4271 section 6.3: an address that can be no next hop.
static bool martian(const struct next_hop_key *hop)
{
	static const uint8_t zero[16], loopback[16] = {[15] = 1};
	if (hop->family == FAMILY_IPV4)
		return hop->address[0] == 0 || hop->address[0] == 127 || hop->address[0] >= 224;
	return hop->address[0] == 0xff || memcmp(hop->address, zero, 16) == 0 || memcmp(hop->address, loopback, 16) == 0;
}

// The same section: a prefix of addresses that nobody has beyond a link.
static bool prefix_martian(uint32_t f, const uint8_t *address, uint32_t length)
{
	static const uint8_t zero[15];
	if (f == 0)
		return (length >= 8 && (address[0] == 0 || address[0] == 127)) || (length >= 4 && address[0] >> 4 == 14);
	if (length >= 8 && address[0] == 0xff)
		return true;
	if (length >= 10 && address[0] == 0xfe && address[1] >> 6 == 2)
		return true;
	return length == 128 && memcmp(address, zero, sizeof(zero)) == 0 && address[15] <= 1;
}

static bool leaked(const struct peer *peer, const struct attributes *set)
{
	int role = peer->settings.role;
	if (peer->settings.kind != BGP_EXTERNAL || !(set->has & HAS_OTC))
		return false;
	return role == ROLE_PROVIDER || role == ROLE_ROUTE_SERVER ||
	       (role == ROLE_PEER && set->otc != peer->settings.remote_as);
}

static bool from_above(const struct peer *peer)
{
	int role = peer->settings.role;
	return peer->settings.kind == BGP_EXTERNAL && (role == ROLE_CUSTOMER || role == ROLE_CLIENT || role == ROLE_PEER);
}

static uint8_t judge(const struct update *u, const struct attributes *set, const struct next_hop_key *hop, uint32_t f)
{
	const struct bgp_settings *s = &u->peer->settings;
	const struct bgp_identity *own = &u->t->identity;
	struct attribute path, clusters;
	attributes_find(set, ATTRIBUTE_AS_PATH, &path);
	uint32_t seen = as_path_count(path.value, path.size, own->local_as);
	if (s->local_as != own->local_as)
		seen += as_path_count(path.value, path.size, s->local_as);
	if (seen > s->allow_own_as)
		return BGP_REFUSED_AS_LOOP;
	if (set->has & HAS_ORIGINATOR && set->originator == own->router_id)
		return BGP_REFUSED_ORIGINATOR;
	uint32_t cluster = own->cluster_id != 0 ? own->cluster_id : own->router_id;
	if (attributes_find(set, ATTRIBUTE_CLUSTER_LIST, &clusters))
		for (uint32_t i = 0; i < clusters.size; i += 4)
			if (load32(clusters.value + i) == cluster)
				return BGP_REFUSED_CLUSTER;
	if (martian(hop))
		return BGP_REFUSED_NEXT_HOP;
	if (leaked(u->peer, set))
		return BGP_REFUSED_OTC;
	return s->families[f].import_deny ? BGP_REFUSED_NO_POLICY : BGP_ACCEPTED;
}

// What the routes of one section have in common.
struct common {
	struct bundle bundle;      // before the policy
	struct next_hop_key hop;
	const struct policy *policy;
	bool by_prefix;
	uint32_t ready;            // bundle of all, with a reference of ours; 0: by prefix
};

static int hop_replace(struct update *u, struct bundle *bundle, struct next_hop_key key)
{
	struct next_hop *hop = next_hop_get(u->t, &key);
	if (hop == NULL)
		return -ENOMEM;
	if (bundle->next_hop != NULL)
		next_hop_drop(u->t, bundle->next_hop);
	bundle->next_hop = hop;
	return 0;
}

// Apply the import policy's edits; `bundle` has references of its own, given up on failure too.
static int policy_take(struct update *u, struct bundle *bundle, const struct policy_verdict *v)
{
	struct bgp_table *t = u->t;
	struct edit edits[16];
	uint32_t count = policy_edits(bundle->attributes, v, t->policy_room, t->scratch[0], edits);
	if (count != 0) {
		const struct attributes *old = bundle->attributes;
		uint32_t size = attributes_edit(old->wire, old->size, edits, count, t->encoded, ATTRIBUTES_ROOM);
		struct attributes *set = size == 0 ? NULL : attributes_intern(t, t->encoded, size);
		if (set == NULL && size != 0)
			return -ENOMEM;
		if (set == NULL) { // too large to be told to anybody
			bundle->verdict = BGP_REFUSED_POLICY;
			return 0;
		}
		attributes_drop(t, bundle->attributes);
		bundle->attributes = set;
	}
	if (v->changed & POLICY_WEIGHT)
		bundle->weight = v->weight;
	if (v->changed & POLICY_TAG)
		bundle->tag = v->tag;
	if (v->changed & POLICY_PREFERENCE) {
		bundle->has_preference = 1;
		bundle->preference = (uint8_t)(v->preference > 255 ? 255 : v->preference);
	}
	if (!(v->changed & POLICY_NEXT_HOP))
		return 0;
	if (v->next_hop_kind == POLICY_TO_DISCARD)
		bundle->discard = 1;
	struct next_hop_key key = {.interface = u->peer->settings.interface};
	if (v->next_hop_kind == POLICY_TO_ADDRESS) {
		key.family = v->next_hop_family;
		memcpy(key.address, v->next_hop, sizeof(key.address));
	} else if (v->next_hop_kind == POLICY_TO_PEER) {
		key.family = u->peer->settings.family;
		memcpy(key.address, u->peer->settings.address, sizeof(key.address));
	}
	return key.family == 0 ? 0 : hop_replace(u, bundle, key);
}

// The bundle for one prefix; 0 without memory.
static uint32_t bundle_make(struct update *u, const struct common *common, const struct prefix *prefix)
{
	struct bgp_table *t = u->t;
	struct bundle bundle = common->bundle;
	bundle.attributes->refs++;
	bundle.next_hop->refs++;
	int error = 0;
	if (bundle.verdict == BGP_ACCEPTED && common->policy != NULL) {
		const struct bgp_settings *s = &u->peer->settings;
		struct policy_route route;
		struct policy_verdict verdict;
		policy_route_fill(&bundle, prefix, &route);
		route.has |= POLICY_HAS_NEIGHBOR;
		route.neighbor_family = s->family;
		memcpy(route.neighbor, s->address, sizeof(route.neighbor));
		memcpy(route.interface, s->interface_name, sizeof(s->interface_name));
		policy_evaluate(common->policy, &route, t->policy_room, &verdict);
		if (!verdict.accept)
			bundle.verdict = BGP_REFUSED_POLICY;
		else
			error = policy_take(u, &bundle, &verdict);
	}
	uint32_t number = error < 0 ? 0 : bundle_intern(t, &bundle);
	attributes_drop(t, bundle.attributes);
	next_hop_drop(t, bundle.next_hop);
	return number;
}

enum { AHEAD = 16 };

struct parsed {
	uint8_t address[16];
	uint32_t length, path_id, hash;
};

static const uint8_t *nlri_parse(struct bgp_table *t, const struct section *s, const uint8_t *p, struct parsed *out)
{
	out->path_id = 0;
	if (s->add_path) {
		out->path_id = load32(p);
		p += 4;
	}
	uint32_t length = *p++, bytes = (length + 7) / 8;
	memset(out->address, 0, sizeof(out->address));
	memcpy(out->address, p, bytes);
	if (length % 8 != 0)
		out->address[bytes - 1] &= (uint8_t)(0xff00 >> length % 8);
	out->length = length;
	out->hash = routes_hash(t, s->f, out->address, length);
	routes_prefetch(&t->routes[s->f], out->hash);
	return p + bytes;
}

void update_leave(struct update *u, const struct section *s)
{
	struct bgp_table *t = u->t;
	struct parsed batch[AHEAD];
	if (s->size == 0)
		return;
	for (const uint8_t *p = s->data, *end = p + s->size; p < end;) {
		uint32_t count = 0;
		while (p < end && count < AHEAD)
			p = nlri_parse(t, s, p, &batch[count++]);
		for (uint32_t i = 0; i < count; i++) {
			uint32_t found = routes_find(t, s->f, batch[i].address, batch[i].length, batch[i].hash);
			if (found != 0)
				route_path_clear(t, s->f, found - 1, u->peer->number, batch[i].path_id);
		}
		u->peer->withdrawn += count;
	}
}

// One path; takes no reference of the common bundle.
static int announce(struct update *u, const struct section *s, struct common *common, const struct parsed *one)
{
	struct bgp_table *t = u->t;
	uint32_t bundle;
	if (common->ready != 0 && one->path_id == common->bundle.path_id) {
		bundle = common->ready;
		bundle_keep(t, bundle);
	} else {
		struct prefix prefix = {.family = s->f == 0 ? FAMILY_IPV4 : FAMILY_IPV6, .length = (uint8_t)one->length};
		memcpy(prefix.address, one->address, sizeof(prefix.address));
		common->bundle.path_id = one->path_id;
		bundle = bundle_make(u, common, &prefix);
		if (bundle == 0)
			return -ENOMEM;
		if (!common->by_prefix) {
			if (common->ready != 0)
				bundle_drop(t, common->ready);
			common->ready = bundle;
			bundle_keep(t, bundle);
		}
	}
	uint8_t verdict = bundle_at(t, bundle)->verdict;
	uint32_t found = routes_make(t, s->f, one->address, one->length, one->hash);
	if (found == 0) {
		bundle_drop(t, bundle);
		return -ENOMEM;
	}
	u->peer->refused[verdict]++;
	return route_path_set(t, s->f, found - 1, bundle);
}

static int section_announce(struct update *u, const struct section *s, struct common *common)
{
	struct parsed batch[AHEAD];
	int error = 0;
	for (const uint8_t *p = s->data, *end = p + s->size; p < end && error == 0;) {
		uint32_t count = 0;
		while (p < end && count < AHEAD)
			p = nlri_parse(u->t, s, p, &batch[count++]);
		for (uint32_t i = 0; i < count && error == 0; i++) {
			if (prefix_martian(s->f, batch[i].address, batch[i].length))
				u->peer->refused[BGP_REFUSED_PREFIX]++;
			else
				error = announce(u, s, common, &batch[i]);
		}
	}
	return error;
}

// Enter the routes of one section: judged together, but for policies that look at the prefix.
static int section_take(struct update *u, uint32_t i, struct attributes *set)
{
	const struct section *s = &u->announced[i];
	if (s->size == 0)
		return 0;
	const struct bgp_settings *settings = &u->peer->settings;
	struct common common = {.hop = u->hops[i]};
	common.hop.interface = settings->interface;
	common.bundle = (struct bundle){
		.attributes = set, .peer = (uint16_t)u->peer->number, .epoch = u->peer->epoch[s->f], .weight = settings->weight,
		.verdict = judge(u, set, &u->hops[i], s->f), .path_id = UINT32_MAX,
	};
	uint32_t number = settings->families[s->f].import_policy;
	common.policy = number == 0 ? NULL : program_find(u->t, number);
	if (number != 0 && common.policy == NULL && common.bundle.verdict == BGP_ACCEPTED)
		common.bundle.verdict = BGP_REFUSED_POLICY;
	common.by_prefix = common.policy != NULL && policy_looks_at_prefix(common.policy);
	common.bundle.next_hop = next_hop_get(u->t, &common.hop);
	if (common.bundle.next_hop == NULL)
		return -ENOMEM;
	int error = section_announce(u, s, &common);
	if (common.ready != 0)
		bundle_drop(u->t, common.ready);
	next_hop_drop(u->t, common.bundle.next_hop);
	return error;
}

// RFC 9234 section 5: a route from above is marked.
static uint32_t otc_add(const struct update *u, uint8_t *wire, uint32_t size)
{
	uint8_t value[4];
	store32(value, u->peer->settings.remote_as);
	struct edit edit = {.type = ATTRIBUTE_OTC, .flags = FLAG_OPTIONAL | FLAG_TRANSITIVE, .size = 4, .value = value};
	uint32_t added = attributes_edit(wire, size, &edit, 1, u->t->previous, ATTRIBUTES_ROOM);
	memcpy(wire, u->t->previous, added);
	return added;
}

int update_enter(struct update *u)
{
	struct bgp_table *t = u->t;
	uint32_t size = update_compose(u, t->encoded);
	if (size == UINT32_MAX) {
		update_withdraw(u, 0);
		return 0;
	}
	if (from_above(u->peer) && !u->present[ATTRIBUTE_OTC])
		size = otc_add(u, t->encoded, size);
	struct attributes *set = size == 0 ? NULL : attributes_intern(t, t->encoded, size);
	if (set == NULL)
		return -ENOMEM;
	int error = 0;
	// RFC 4271 section 6.3: a neighbor of another AS stands first in its paths.
	if (update_external(u) && u->peer->settings.enforce_first_as && set->first_as != u->peer->settings.remote_as)
		update_withdraw(u, ATTRIBUTE_AS_PATH);
	else
		error = section_take(u, 0, set);
	if (error == 0 && u->outcome == OUTCOME_NONE)
		error = section_take(u, 1, set);
	attributes_drop(t, set);
	return error;
}
