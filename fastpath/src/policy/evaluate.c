// Runs a policy program on a route.
#include <string.h>

#include "base/bytes.h"
#include "policy/match.h"
#include "policy/policy.h"
#include "policy/program.h"

enum { DEFAULT_LOCAL_PREF = 100 };     // to which is added where a route has none

// One evaluation: the numbers and lists as far as they have been changed.
struct run {
	const struct policy *policy;
	const struct policy_route *route;
	struct policy_room *room;
	struct policy_verdict *verdict;
};

static bool within(uint32_t value, const uint32_t *spans, uint32_t count)
{
	for (uint32_t i = 0; i < count; i += 2)
		if (value >= spans[i] && value <= spans[i + 1])
			return true;
	return false;
}

static bool in_tables(const struct run *run, const uint32_t *tables, uint32_t count, uint8_t family,
    const uint8_t *address, uint8_t length)
{
	if (family != 4 && family != 6)
		return false;
	for (uint32_t i = 0; i < count; i++)
		if (match_prefix(run->policy, tables[i], family, address, length))
			return true;
	return false;
}

static bool path_matches(const struct run *run, const uint32_t *automata, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (match_path(run->policy, automata[i], run->route->as_path, run->route->as_path_size))
			return true;
	return false;
}

static bool is_interface(const struct policy_route *route, const uint32_t *names, uint32_t count)
{
	for (uint32_t i = 0; i < count; i += POLICY_INTERFACE_SIZE / 4)
		if (strncmp(route->interface, (const char *)&names[i], POLICY_INTERFACE_SIZE) == 0)
			return true;
	return false;
}

static bool in_set(uint32_t set, uint8_t value)
{
	return value < 32 && (set >> value & 1) != 0;
}

static uint8_t bits_of(uint8_t family)
{
	return family == 4 ? 32 : 128;
}

static bool holds(const struct run *run, uint32_t op, const uint32_t *operands, uint32_t count)
{
	const struct policy_route *route = run->route;
	uint32_t has = route->has;
	switch (op) {
	case OP_PREFIX:
		return in_tables(run, operands, count, route->family, route->address, route->length);
	case OP_LENGTH:
		return within(route->length, operands, count);
	case OP_AS_PATH:
		return (has & POLICY_HAS_AS_PATH) && path_matches(run, operands, count);
	case OP_AS_PATH_LENGTH:
		return (has & POLICY_HAS_AS_PATH) &&
		    within(match_path_length(route->as_path, route->as_path_size), operands, count);
	case OP_COMMUNITY:
		return match_list(route->communities, route->communities_size, 1, operands, count);
	case OP_LARGE:
		return match_list(route->large, route->large_size, 3, operands, count);
	case OP_EXTENDED:
		return match_list(route->extended, route->extended_size, 2, operands, count);
	case OP_PROTOCOL:
		return in_set(operands[0], route->protocol);
	case OP_FAMILY:
		return in_set(operands[0], route->family);
	case OP_ORIGIN:
		return (has & POLICY_HAS_ORIGIN) && in_set(operands[0], route->origin);
	case OP_NEXT_HOP:
		return (has & POLICY_HAS_NEXT_HOP) && in_tables(run, operands, count, route->next_hop_family,
		    route->next_hop, bits_of(route->next_hop_family));
	case OP_NEIGHBOR:
		return (has & POLICY_HAS_NEIGHBOR) && in_tables(run, operands, count, route->neighbor_family,
		    route->neighbor, bits_of(route->neighbor_family));
	case OP_INTERFACE:
		return is_interface(route, operands, count);
	case OP_TAG:
		return within(route->tag, operands, count);
	case OP_METRIC:
		return within(route->metric, operands, count);
	case OP_MED:
		return (has & POLICY_HAS_MED) && within(route->med, operands, count);
	default:
		return (has & POLICY_HAS_LOCAL_PREF) && within(route->local_pref, operands, count);
	}
}

static void change_number(struct run *run, uint32_t which, uint32_t mode, uint32_t value)
{
	const struct policy_route *route = run->route;
	struct policy_verdict *verdict = run->verdict;
	uint32_t *const registers[] = {&verdict->local_pref, &verdict->med, &verdict->metric, &verdict->tag,
	    &verdict->preference, &verdict->weight};
	const uint32_t before[] = {
		route->has & POLICY_HAS_LOCAL_PREF ? route->local_pref : DEFAULT_LOCAL_PREF,
		route->has & POLICY_HAS_MED ? route->med : 0,
		route->metric, route->tag, route->preference, route->weight,
	};
	uint32_t *number = registers[which];
	if ((verdict->changed & 1u << which) == 0)
		*number = before[which];
	verdict->changed |= 1u << which;
	if (mode == MODE_ADD)
		*number = value > UINT32_MAX - *number ? UINT32_MAX : *number + value;
	else if (mode == MODE_REMOVE)
		*number = value > *number ? 0 : *number - value;
	else
		*number = value;
}

// A list that is being put together in the room.
struct list {
	uint8_t *bytes;
	uint32_t *size;
	uint32_t words;
	uint32_t limit;
};

static void list_remove(const struct list *list, const uint32_t *patterns, uint32_t count)
{
	uint32_t step = 4 * list->words;
	uint32_t kept = 0;
	for (uint32_t at = 0; at < *list->size; at += step)
		if (!match_element(list->bytes + at, list->words, patterns, count)) {
			memmove(list->bytes + kept, list->bytes + at, step);
			kept += step;
		}
	*list->size = kept;
}

static void list_add(const struct list *list, const uint32_t *values, uint32_t count)
{
	uint32_t step = 4 * list->words;
	for (uint32_t i = 0; i < count; i += list->words) {
		uint8_t element[12];
		for (uint32_t word = 0; word < list->words; word++)
			store32(element + 4 * word, values[i + word]);
		bool present = false;
		for (uint32_t at = 0; at < *list->size && !present; at += step)
			present = memcmp(list->bytes + at, element, step) == 0;
		if (!present && *list->size + step <= list->limit) {
			memcpy(list->bytes + *list->size, element, step);
			*list->size += step;
		}
	}
}

static void edit(struct run *run, uint32_t op, const uint32_t *operands, uint32_t count)
{
	const struct policy_route *route = run->route;
	struct policy_verdict *verdict = run->verdict;
	struct list list = {run->room->communities, &verdict->communities_size, 1, 0};
	const uint8_t *original = route->communities;
	uint32_t size = route->communities_size;
	uint32_t bit = POLICY_COMMUNITIES;
	if (op == OP_EDIT_LARGE) {
		list = (struct list){run->room->large, &verdict->large_size, 3, 0};
		original = route->large;
		size = route->large_size;
		bit = POLICY_LARGE;
	} else if (op == OP_EDIT_EXTENDED) {
		list = (struct list){run->room->extended, &verdict->extended_size, 2, 0};
		original = route->extended;
		size = route->extended_size;
		bit = POLICY_EXTENDED;
	}
	list.limit = POLICY_LIST_BYTES - POLICY_LIST_BYTES % (4 * list.words);
	if ((verdict->changed & bit) == 0) {
		size -= size % (4 * list.words);
		*list.size = size < list.limit ? size : list.limit;
		if (*list.size > 0)
			memcpy(list.bytes, original, *list.size);
	}
	verdict->changed |= bit;
	if (operands[0] == MODE_REMOVE) {
		list_remove(&list, operands + 1, count - 1);
		return;
	}
	if (operands[0] == MODE_SET)
		*list.size = 0;
	list_add(&list, operands + 1, count - 1);
}

// Put numbers before those that earlier terms put there; what has no room at the end is left out.
static void prepend(struct policy_verdict *verdict, const uint32_t *numbers, uint32_t count)
{
	uint32_t kept = verdict->prepend_count;
	if (kept > POLICY_MAX_PREPEND - count)
		kept = POLICY_MAX_PREPEND - count;
	memmove(verdict->prepend + count, verdict->prepend, kept * sizeof *numbers);
	memcpy(verdict->prepend, numbers, count * sizeof *numbers);
	verdict->prepend_count = kept + count;
	verdict->changed |= POLICY_PREPEND;
}

static void set_next_hop(struct policy_verdict *verdict, const uint32_t *operands)
{
	verdict->next_hop_kind = (uint8_t)operands[0];
	verdict->next_hop_family = (uint8_t)operands[1];
	for (uint32_t i = 0; i < 4; i++)
		store32(verdict->next_hop + 4 * i, operands[2 + i]);
	verdict->changed |= POLICY_NEXT_HOP;
}

static void act(struct run *run, uint32_t op, const uint32_t *operands, uint32_t count)
{
	if (op == OP_NUMBER) {
		change_number(run, operands[0], operands[1], operands[2]);
	} else if (op == OP_PREPEND) {
		prepend(run->verdict, operands, count);
	} else if (op == OP_SET_NEXT_HOP) {
		set_next_hop(run->verdict, operands);
	} else if (op == OP_SET_ORIGIN) {
		run->verdict->origin = (uint8_t)operands[0];
		run->verdict->changed |= POLICY_ORIGIN;
	} else {
		edit(run, op, operands, count);
	}
}

// Run one term; true: it has decided.
static bool term_decides(struct run *run, const uint32_t *at, const uint32_t *end)
{
	while (at < end) {
		uint32_t op = *at & 0xff;
		uint32_t count = *at >> 8;
		at++;
		if (op == OP_ACCEPT || op == OP_REJECT) {
			run->verdict->accept = op == OP_ACCEPT;
			return true;
		}
		if (op >= OP_NUMBER)
			act(run, op, at, count);
		else if (!holds(run, op, at, count))
			return false;
		at += count;
	}
	return false;
}

void policy_evaluate(const struct policy *policy, const struct policy_route *route, struct policy_room *room,
    struct policy_verdict *verdict)
{
	struct run run = {policy, route, room, verdict};
	const uint32_t *at = policy->words + policy->header->code;
	const uint32_t *end = at + policy->header->code_words;
	verdict->accept = false;
	verdict->changed = 0;
	verdict->prepend_count = 0;
	for (int32_t term = 0; at < end; term++, at += *at) {
		if (term_decides(&run, at + 1, at + *at)) {
			verdict->term = term;
			if (!verdict->accept)
				verdict->changed = 0;
			return;
		}
	}
	verdict->changed = 0;
	verdict->term = -1;
}
