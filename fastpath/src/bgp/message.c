// One UPDATE: RFC 4271 section 4.3, with what RFC 7606 makes of malformed ones.
//
//   split: attributes by type --> check: each by its own rules --> canonical.c: canonical form
//     --> enter.c: loops, import policy, paths of its prefixes
//
// Syntax of NLRI is checked as a whole before anything of the message takes effect.
#include <errno.h>
#include <string.h>

#include "bgp/update.h"

static int reset(struct update *u, uint8_t subcode, uint8_t type)
{
	u->code = 3;
	u->subcode = subcode;
	u->peer->errors[BGP_RESET][type]++;
	return -EPROTO;
}

static void discard(struct update *u, uint8_t type)
{
	u->raws[type].whole = NULL;
	u->peer->errors[BGP_DISCARDED][type]++;
}

static bool nlri_valid(const struct section *s)
{
	const uint8_t *p = s->data, *end = p + s->size;
	uint32_t bits = s->f == 0 ? 32 : 128;
	while (p < end) {
		if (s->add_path) {
			if (end - p < 4)
				return false;
			p += 4;
		}
		if (p >= end || *p > bits || (*p + 7) / 8 > end - p - 1)
			return false;
		p += 1 + (*p + 7) / 8;
	}
	return true;
}

// Cut attributes apart; RFC 7606 sections 3 (g) and 4.
static int split(struct update *u, const uint8_t *p, uint32_t size)
{
	for (const uint8_t *end = p + size; p < end;) {
		uint32_t left = (uint32_t)(end - p), head = p[0] & FLAG_LONG ? 4 : 3;
		uint32_t length = left < head ? 0 : head == 4 ? load16(p + 2) : p[2];
		if (left < head || length > left - head) {
			update_withdraw(u, 0);
			return 0;
		}
		uint8_t type = p[1];
		if (u->raws[type].whole == NULL) {
			u->raws[type] = (struct raw){.whole = p, .value = p + head, .size = length, .flags = p[0]};
			u->order[u->raw_count++] = type;
		} else if (type == ATTRIBUTE_MP_REACH || type == ATTRIBUTE_MP_UNREACH) {
			return reset(u, 1, type);
		}
		p += head + length;
	}
	return 0;
}

// RFC 7606 section 7.2, RFC 7607.
static bool path_sound(const struct raw *raw, uint32_t width, bool confederation)
{
	if (!as_path_valid(raw->value, raw->size, width, confederation))
		return false;
	for (const uint8_t *p = raw->value, *end = p + raw->size; p < end; p += 2 + p[1] * width)
		for (uint32_t i = 0; i < p[1]; i++)
			if ((width == 4 ? load32(p + 2 + 4 * i) : load16(p + 2 + 2 * i)) == 0)
				return false;
	return true;
}

static bool aggregator_sound(const struct raw *raw, uint32_t width)
{
	return raw->size == width + 4 && (width == 4 ? load32(raw->value) : load16(raw->value)) != 0;
}

static bool listed(uint32_t size, uint32_t width)
{
	return size != 0 && size % width == 0;
}

// RFC 7606 section 7, by type: sound, to be discarded, or the routes are withdrawn.
static void check_value(struct update *u, uint8_t type)
{
	const struct raw *raw = &u->raws[type];
	uint32_t width = u->peer->settings.as4 ? 4 : 2;
	bool sound = true, discarded = false;
	switch (type) {
	case ATTRIBUTE_ORIGIN:
		sound = raw->size == 1 && raw->value[0] <= 2;
		break;
	case ATTRIBUTE_AS_PATH:
		sound = path_sound(raw, width, false);
		break;
	case ATTRIBUTE_NEXT_HOP: case ATTRIBUTE_MED: case ATTRIBUTE_LOCAL_PREF: case ATTRIBUTE_ORIGINATOR:
	case ATTRIBUTE_OTC:
		sound = raw->size == 4;
		break;
	case ATTRIBUTE_ATOMIC:
		discarded = raw->size != 0;
		break;
	case ATTRIBUTE_AGGREGATOR:
		discarded = !aggregator_sound(raw, width);
		break;
	case ATTRIBUTE_AS4_PATH:
		discarded = !path_sound(raw, 4, true);
		break;
	case ATTRIBUTE_AS4_AGGREGATOR:
		discarded = !aggregator_sound(raw, 4);
		break;
	case ATTRIBUTE_COMMUNITIES: case ATTRIBUTE_CLUSTER_LIST:
		sound = listed(raw->size, 4);
		break;
	case ATTRIBUTE_EXTENDED:
		sound = listed(raw->size, 8);
		break;
	case ATTRIBUTE_LARGE:
		sound = listed(raw->size, 12);
		break;
	default:
		break;
	}
	if (discarded)
		discard(u, type);
	else if (!sound)
		update_withdraw(u, type);
	u->present[type] = sound && !discarded;
}

// RFC 7606 sections 7.5, 7.9, 7.10; RFC 6793 section 4.1: what such a neighbor must not send.
static bool foreign(const struct update *u, uint8_t type)
{
	if (type == ATTRIBUTE_AS4_PATH || type == ATTRIBUTE_AS4_AGGREGATOR)
		return u->peer->settings.as4;
	return update_external(u) &&
	       (type == ATTRIBUTE_LOCAL_PREF || type == ATTRIBUTE_ORIGINATOR || type == ATTRIBUTE_CLUSTER_LIST);
}

static int check(struct update *u)
{
	for (uint32_t i = 0; i < u->raw_count; i++) {
		uint8_t type = u->order[i];
		struct raw *raw = &u->raws[type];
		uint8_t wanted = attribute_flags_of(type);
		if (wanted == 0 && !(raw->flags & FLAG_OPTIONAL)) {
			u->data = raw->whole;
			u->data_size = (uint32_t)(raw->value - raw->whole) + raw->size;
			return reset(u, 2, type);
		}
		if (wanted == 0) {
			if (!(raw->flags & FLAG_TRANSITIVE))
				raw->whole = NULL;
		} else if (foreign(u, type)) {
			discard(u, type);
		} else if ((raw->flags & (FLAG_OPTIONAL | FLAG_TRANSITIVE)) != wanted) {
			update_withdraw(u, type);
		} else {
			check_value(u, type);
		}
	}
	return 0;
}

static bool agreed(const struct update *u, uint32_t f)
{
	return u->peer->settings.families[f].enabled;
}

static uint32_t afi_index(const uint8_t *p)
{
	uint32_t afi = load16(p);
	return p[2] == 1 && (afi == 1 || afi == 2) ? afi - 1 : BGP_FAMILIES;
}

// RFC 4760 section 4; whether it ends an initial dump is the caller's.
static int take_unreach(struct update *u, uint32_t *f)
{
	const struct raw *raw = &u->raws[ATTRIBUTE_MP_UNREACH];
	*f = BGP_FAMILIES;
	if (raw->whole == NULL)
		return 0;
	if (raw->size < 3)
		return reset(u, 9, ATTRIBUTE_MP_UNREACH);
	uint32_t found = afi_index(raw->value);
	if (found == BGP_FAMILIES || !agreed(u, found))
		return 0;
	u->withdrawn[1] = (struct section){.data = raw->value + 3, .size = raw->size - 3, .f = found,
	                                   .add_path = u->peer->settings.families[found].receive_paths};
	*f = found;
	return nlri_valid(&u->withdrawn[1]) ? 0 : reset(u, 9, ATTRIBUTE_MP_UNREACH);
}

// RFC 4760 section 3, 2545, 8950; RFC 7606 section 7.11.
static int take_reach(struct update *u)
{
	const struct raw *raw = &u->raws[ATTRIBUTE_MP_REACH];
	if (raw->whole == NULL)
		return 0;
	if (raw->size < 5 || raw->value[3] > raw->size - 5)
		return reset(u, 9, ATTRIBUTE_MP_REACH);
	uint32_t found = afi_index(raw->value), size = raw->value[3];
	if (found == BGP_FAMILIES || !agreed(u, found))
		return 0;
	bool long_one = found == 1 || u->peer->settings.families[0].extended_next_hop;
	if (!((size == 4 && found == 0) || (long_one && (size == 16 || size == 32))))
		return reset(u, 9, ATTRIBUTE_MP_REACH);
	struct next_hop_key *hop = &u->hops[1];
	hop->family = size == 4 ? FAMILY_IPV4 : FAMILY_IPV6;
	memcpy(hop->address, raw->value + 4, size == 4 ? 4 : 16);
	hop->has_link_local = size == 32;
	if (size == 32)
		memcpy(hop->link_local, raw->value + 20, 16);
	u->announced[1] = (struct section){.data = raw->value + 5 + size, .size = raw->size - 5 - size, .f = found,
	                                   .add_path = u->peer->settings.families[found].receive_paths};
	return nlri_valid(&u->announced[1]) ? 0 : reset(u, 9, ATTRIBUTE_MP_REACH);
}

// RFC 4271 section 5: mandatory attributes.
static bool incomplete(const struct update *u)
{
	if (!u->present[ATTRIBUTE_ORIGIN] || !u->present[ATTRIBUTE_AS_PATH])
		return true;
	return !update_external(u) && !u->present[ATTRIBUTE_LOCAL_PREF];
}

// Cut the message into its parts.  1: it was the End-of-RIB of *f.
static int dissect(struct update *u, const uint8_t *data, uint32_t size, uint32_t *f)
{
	if (size < 4)
		return reset(u, 1, 0);
	uint32_t withdrawn = load16(data);
	if (withdrawn + 4 > size)
		return reset(u, 1, 0);
	uint32_t attributes = load16(data + 2 + withdrawn);
	if (withdrawn + 4 + attributes > size)
		return reset(u, 1, 0);
	const uint8_t *at = data + 4 + withdrawn;
	bool add_path = agreed(u, 0) && u->peer->settings.families[0].receive_paths;
	u->withdrawn[0] = (struct section){.data = data + 2, .size = withdrawn, .add_path = add_path};
	u->announced[0] = (struct section){.data = at + attributes, .size = size - 4 - withdrawn - attributes, .add_path = add_path};
	if (!nlri_valid(&u->withdrawn[0]) || !nlri_valid(&u->announced[0]))
		return reset(u, 10, 0);
	*f = 0;
	if (size == 4)
		return 1;
	int error = split(u, at, attributes);
	if (error == 0)
		error = check(u);
	if (error < 0)
		return error;
	bool bare = withdrawn == 0 && u->announced[0].size == 0 && u->raws[ATTRIBUTE_MP_REACH].whole == NULL;
	if (u->announced[0].size != 0 && !u->present[ATTRIBUTE_NEXT_HOP])
		update_withdraw(u, ATTRIBUTE_NEXT_HOP);
	uint32_t unreach;
	error = take_unreach(u, &unreach);
	if (error == 0)
		error = take_reach(u);
	if (error < 0)
		return error;
	*f = unreach;
	return bare && unreach != BGP_FAMILIES && u->withdrawn[1].size == 0;
}

static int take(struct update *u)
{
	bool routes = u->announced[0].size != 0 || u->announced[1].size != 0;
	if (routes && incomplete(u))
		update_withdraw(u, ATTRIBUTE_AS_PATH);
	if (u->outcome == OUTCOME_WITHDRAW && !routes) // RFC 7606 section 5.2
		return reset(u, 1, 0);
	if (!agreed(u, 0))
		u->withdrawn[0].size = u->announced[0].size = 0;
	update_leave(u, &u->withdrawn[0]);
	update_leave(u, &u->withdrawn[1]);
	if (!routes)
		return 0;
	if (u->present[ATTRIBUTE_NEXT_HOP]) {
		u->hops[0].family = FAMILY_IPV4;
		memcpy(u->hops[0].address, u->raws[ATTRIBUTE_NEXT_HOP].value, 4);
	}
	int error = u->outcome == OUTCOME_NONE ? update_enter(u) : 0;
	if (u->outcome == OUTCOME_WITHDRAW) {
		update_leave(u, &u->announced[0]);
		update_leave(u, &u->announced[1]);
	}
	return error;
}

struct attributes *message_canonical(struct bgp_table *t, const uint8_t *data, uint32_t size, int *error)
{
	static const uint8_t igp[4] = {FLAG_TRANSITIVE, ATTRIBUTE_ORIGIN, 1, 0}, no_path[3] = {FLAG_TRANSITIVE, ATTRIBUTE_AS_PATH, 0};
	struct peer *self = memory_take(t, sizeof(*self));
	*error = -ENOMEM;
	if (self == NULL)
		return NULL;
	self->settings.kind = BGP_INTERNAL;
	self->settings.as4 = 1;
	struct update u = {.t = t, .peer = self};
	struct attributes *set = NULL;
	*error = -EINVAL;
	if (split(&u, data, size) == 0 && check(&u) == 0 && u.outcome == OUTCOME_NONE) {
		if (u.raws[ATTRIBUTE_ORIGIN].whole == NULL)
			u.raws[ATTRIBUTE_ORIGIN] = (struct raw){.whole = igp, .value = igp + 3, .size = 1};
		if (u.raws[ATTRIBUTE_AS_PATH].whole == NULL)
			u.raws[ATTRIBUTE_AS_PATH] = (struct raw){.whole = no_path, .value = no_path + 3};
		uint32_t written = update_compose(&u, t->encoded);
		if (written != UINT32_MAX) {
			set = attributes_intern(t, t->encoded, written);
			*error = set == NULL ? -ENOMEM : 0;
		}
	}
	memory_give(t, self);
	return set;
}

static void event_put(struct bgp_event *events, uint32_t room, uint32_t *count, struct bgp_event event)
{
	if (*count < room)
		events[(*count)++] = event;
}

int message_update(struct bgp_table *t, struct peer *peer, const uint8_t *data, uint32_t size, uint32_t base,
	struct bgp_event *events, uint32_t room, uint32_t *count)
{
	struct update update = {.t = t, .peer = peer};
	uint64_t before[BGP_FAMILIES] = {peer->prefixes[0], peer->prefixes[1]};
	uint32_t f;
	int result = dissect(&update, data, size, &f);
	bool ended = result == 1;
	if (result >= 0)
		result = take(&update);
	peer->treated += result >= 0 && update.outcome == OUTCOME_WITHDRAW;
	if (ended && result >= 0)
		event_put(events, room, count, (struct bgp_event){.kind = BGP_EVENT_END_OF_RIB,
			.family = f == 0 ? FAMILY_IPV4 : FAMILY_IPV6});
	if (result == -EPROTO) {
		uint32_t offset = update.data == NULL ? 0 : base + (uint32_t)(update.data - data);
		event_put(events, room, count, (struct bgp_event){.kind = BGP_EVENT_ERROR, .code = update.code,
			.subcode = update.subcode, .offset = offset, .length = update.data_size});
		return result;
	}
	for (uint32_t i = 0; i < BGP_FAMILIES && result >= 0; i++) {
		uint32_t most = peer->settings.families[i].max_prefixes;
		if (most != 0 && before[i] <= most && peer->prefixes[i] > most)
			event_put(events, room, count, (struct bgp_event){.kind = BGP_EVENT_MAX_PREFIX,
				.family = i == 0 ? FAMILY_IPV4 : FAMILY_IPV6, .count = (uint32_t)peer->prefixes[i]});
	}
	return result;
}
