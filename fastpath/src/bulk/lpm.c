#include "bulk/lpm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

static uint64_t bit(uint32_t index)
{
	return UINT64_C(1) << index;
}

// Set bits of `mask` below `index`.
static uint32_t rank(uint64_t mask, uint32_t index)
{
	return count_ones(mask & (bit(index) - 1));
}

static uint32_t total(uint64_t mask)
{
	return count_ones(mask);
}

// The slots under a prefix of `bits` bits with that value.
static uint64_t cover(uint32_t bits, uint32_t value)
{
	uint32_t width = 1u << (KEY_STRIDE - bits);
	uint64_t slots = width == KEY_SLOTS ? UINT64_MAX : bit(width) - 1;
	return slots << value * width;
}

static const struct lpm_node *node_of(struct lpm_ref ref)
{
	return (const struct lpm_node *)ref.word;
}

static const struct lpm_tail *tail_of(struct lpm_ref ref)
{
	return (const struct lpm_tail *)(ref.word - 1);
}

static uint64_t tail_bits(const struct lpm_tail *tail)
{
	return (uint64_t)tail->high << 32 | tail->low;
}

// The tails of a node with so many children.
static struct lpm_tail *tails_at(struct lpm_node *kids, uint32_t children)
{
	return (struct lpm_tail *)(void *)(kids + children);
}

static uint32_t group_count(const struct lpm_node *node)
{
	return total(node->shorts) + total(node->fulls);
}

static const uint16_t *groups_of(const struct lpm_node *node)
{
	return group_count(node) > LPM_FEW ? node->groups : node->few;
}

static uint16_t *groups_mut(struct lpm_node *node)
{
	return group_count(node) > LPM_FEW ? node->groups : node->few;
}

static void node_free(struct lpm_node *node)
{
	for (uint32_t i = 0, count = total(node->children); i < count; i++) {
		if (i + 1 < count)
			__builtin_prefetch(node->kids[i + 1].kids);
		node_free(&node->kids[i]);
	}
	free(node->kids);
	if (group_count(node) > LPM_FEW)
		free(node->groups);
}

void lpm_free(struct lpm *lpm)
{
	node_free(&lpm->root);
	*lpm = (struct lpm){0};
}

// Where the group of a prefix stands in its node, or would stand.
static uint32_t group_place(const struct lpm_node *node, uint32_t bits, uint32_t value)
{
	if (bits < KEY_STRIDE)
		return rank(node->shorts, 1u << bits | value);
	return total(node->shorts) + rank(node->fulls, value);
}

static bool group_present(const struct lpm_node *node, uint32_t bits, uint32_t value)
{
	return bits < KEY_STRIDE ? node->shorts >> (1u << bits | value) & 1 : node->fulls >> value & 1;
}

static void group_mark(struct lpm_node *node, uint32_t bits, uint32_t value)
{
	if (bits < KEY_STRIDE)
		node->shorts ^= bit(1u << bits | value);
	else
		node->fulls ^= bit(value);
}

// Have room for one more than `count`; NULL without memory.
static uint16_t *groups_grow(struct lpm_node *node, uint32_t count)
{
	if (count < LPM_FEW)
		return node->few;
	uint16_t *groups = realloc(count == LPM_FEW ? NULL : node->groups, (count + 1) * sizeof(*groups));
	if (groups == NULL)
		return NULL;
	if (count == LPM_FEW)
		memcpy(groups, node->few, sizeof(node->few));
	node->groups = groups;
	return groups;
}

enum set { SET_SAME, SET_NEW, SET_MOVED, SET_OPENED };

// enum set, -ENOMEM
static int group_set(struct lpm_node *node, uint32_t bits, uint32_t value, uint16_t group)
{
	uint32_t place = group_place(node, bits, value);
	bool fresh = !group_present(node, bits, value);
	if (fresh) {
		uint32_t count = group_count(node);
		uint16_t *groups = groups_grow(node, count);
		if (groups == NULL)
			return -ENOMEM;
		memmove(&groups[place + 1], &groups[place], (count - place) * sizeof(*groups));
		group_mark(node, bits, value);
	}
	bool moved = groups_mut(node)[place] != group;
	groups_mut(node)[place] = group;
	return fresh ? SET_NEW : moved ? SET_MOVED : SET_SAME;
}

static void group_clear(struct lpm_node *node, uint32_t bits, uint32_t value)
{
	uint32_t place = group_place(node, bits, value);
	uint32_t count = group_count(node);
	uint16_t *groups = groups_mut(node);
	memmove(&groups[place], &groups[place + 1], (count - place - 1) * sizeof(*groups));
	group_mark(node, bits, value);
	if (count == LPM_FEW + 1) {
		memcpy(node->few, groups, sizeof(node->few));
		free(groups);
	}
}

static size_t kids_bytes(uint64_t children, uint64_t tails)
{
	return total(children) * sizeof(struct lpm_node) + total(tails) * sizeof(struct lpm_tail);
}

// Let some slots have empty nodes, or tails that the caller fills, in addition; slots have one of both at most.
static int kids_add(struct lpm_node *node, uint64_t children, uint64_t tails)
{
	uint64_t more = children | node->children, ends = tails | node->tails;
	if (more == node->children && ends == node->tails)
		return 0;
	struct lpm_node *kids = realloc(node->kids, kids_bytes(more, ends));
	if (kids == NULL)
		return -ENOMEM;
	struct lpm_tail *old_tails = tails_at(kids, total(node->children)), *new_tails = tails_at(kids, total(more));
	uint32_t from = total(node->tails), to = total(ends);
	// From the end, since the new places are behind the old ones.
	for (uint64_t left = ends; left != 0;) {
		uint32_t slot = 63 - (uint32_t)__builtin_clzll(left);
		left &= ~bit(slot);
		new_tails[--to] = node->tails >> slot & 1 ? old_tails[--from] : (struct lpm_tail){0};
	}
	from = total(node->children), to = total(more);
	for (uint64_t left = more; to != from;) {
		uint32_t slot = 63 - (uint32_t)__builtin_clzll(left);
		left &= ~bit(slot);
		kids[--to] = node->children >> slot & 1 ? kids[--from] : (struct lpm_node){0};
	}
	node->kids = kids;
	node->children = more;
	node->tails = ends;
	return 0;
}

static struct lpm_node *child_at(const struct lpm_node *node, uint32_t slot)
{
	return node->children >> slot & 1 ? &node->kids[rank(node->children, slot)] : NULL;
}

static struct lpm_tail *tail_at(const struct lpm_node *node, uint32_t slot)
{
	return node->tails >> slot & 1 ? tails_at(node->kids, total(node->children)) + rank(node->tails, slot) : NULL;
}

// Let a slot have nothing.  What is left may keep more room than it needs.
static void kid_remove(struct lpm_node *node, uint32_t slot)
{
	uint32_t children = total(node->children), tails = total(node->tails);
	struct lpm_tail *ends = tails_at(node->kids, children);
	if (node->tails >> slot & 1) {
		uint32_t place = rank(node->tails, slot);
		memmove(&ends[place], &ends[place + 1], (tails - place - 1) * sizeof(*ends));
		node->tails &= ~bit(slot);
	} else {
		uint32_t place = rank(node->children, slot);
		uint8_t *gap = (uint8_t *)&node->kids[place];
		memmove(gap, gap + sizeof(*node->kids), (size_t)((uint8_t *)(ends + tails) - gap) - sizeof(*node->kids));
		node->children &= ~bit(slot);
	}
	if ((node->children | node->tails) == 0) {
		free(node->kids);
		node->kids = NULL;
	}
}

static bool node_empty(const struct lpm_node *node)
{
	return (node->shorts | node->fulls | node->children | node->tails) == 0;
}

static struct lpm_tail tail_make(struct key key, uint32_t length, uint16_t group)
{
	return (struct lpm_tail){.high = (uint32_t)(key.hi >> 32), .low = (uint32_t)key.hi, .group = group,
	                         .length = (uint16_t)length};
}

static bool tail_is(const struct lpm_tail *tail, struct key key, uint32_t length)
{
	return tail->length == length && tail_bits(tail) == key.hi;
}

static int node_set(struct lpm_node *node, struct key key, uint32_t length, uint16_t group, uint32_t depth);

// Make a node of a tail; `depth` is what is above it.  -ENOMEM leaves the tail.
static int tail_open(struct lpm_node *node, uint32_t slot, uint32_t depth)
{
	struct lpm_tail tail = *tail_at(node, slot);
	struct lpm_node opened = {0};
	int error = node_set(&opened, (struct key){.hi = tail_bits(&tail)}, tail.length, tail.group, depth);
	if (error >= 0)
		error = kids_add(node, bit(slot), 0);
	if (error < 0) {
		node_free(&opened);
		return error;
	}
	struct lpm_tail *ends = tails_at(node->kids, total(node->children));
	uint32_t place = rank(node->tails, slot), count = total(node->tails);
	memmove(&ends[place], &ends[place + 1], (count - place - 1) * sizeof(*ends));
	node->tails &= ~bit(slot);
	*child_at(node, slot) = opened;
	return 0;
}

// Enter what is left of a prefix into the tail under a slot, or make it a node where it is that of another one.
// Gives enum set; SET_OPENED: there is a node now.
static int tail_set(struct lpm_node *node, uint32_t slot, struct key key, uint32_t length, uint16_t group,
	uint32_t depth)
{
	struct lpm_tail *tail = tail_at(node, slot);
	if (!tail_is(tail, key, length)) {
		int error = tail_open(node, slot, depth);
		return error < 0 ? error : SET_OPENED;
	}
	bool moved = tail->group != group;
	tail->group = group;
	return moved ? SET_MOVED : SET_SAME;
}

// `length` is what is left of the prefix at this node, at least 1; `depth` what is above it.  Gives enum set.
static int node_set(struct lpm_node *node, struct key key, uint32_t length, uint16_t group, uint32_t depth)
{
	if (length <= KEY_STRIDE)
		return group_set(node, length, key_head(key, length), group);
	uint32_t slot = key_head(key, KEY_STRIDE);
	struct key rest = key_tail(key, KEY_STRIDE);
	length -= KEY_STRIDE;
	depth += KEY_STRIDE;
	if (node->tails >> slot & 1) {
		int result = tail_set(node, slot, rest, length, group, depth);
		if (result != SET_OPENED)
			return result;
	}
	bool fresh = !(node->children >> slot & 1);
	bool tail = fresh && depth >= LPM_TAILS && length <= LPM_TAIL_BITS;
	if (fresh && kids_add(node, tail ? 0 : bit(slot), tail ? bit(slot) : 0) < 0)
		return -ENOMEM;
	if (tail) {
		*tail_at(node, slot) = tail_make(rest, length, group);
		return SET_NEW;
	}
	struct lpm_node *child = child_at(node, slot);
	int error = node_set(child, rest, length, group, depth);
	if (node_empty(child)) // made for nothing
		kid_remove(node, slot);
	return error;
}

static bool node_clear(struct lpm_node *node, struct key key, uint32_t length)
{
	if (length <= KEY_STRIDE) {
		uint32_t value = key_head(key, length);
		if (!group_present(node, length, value))
			return false;
		group_clear(node, length, value);
		return true;
	}
	uint32_t slot = key_head(key, KEY_STRIDE);
	struct key rest = key_tail(key, KEY_STRIDE);
	struct lpm_node *child = child_at(node, slot);
	const struct lpm_tail *tail = tail_at(node, slot);
	if (tail != NULL ? !tail_is(tail, rest, length - KEY_STRIDE) :
	    child == NULL || !node_clear(child, rest, length - KEY_STRIDE))
		return false;
	if (tail != NULL || node_empty(child))
		kid_remove(node, slot);
	return true;
}

int lpm_set(struct lpm *lpm, struct key key, uint32_t length, uint16_t group)
{
	int result = lpm->fallback == 0 ? SET_NEW : SET_SAME;
	if (length == 0)
		lpm->fallback = group;
	else
		result = node_set(&lpm->root, key, length, group, 0);
	lpm->count += result == SET_NEW;
	return result < 0 ? result : 0;
}

// The bits of a key from `depth` on.
static struct key key_below(struct key key, uint32_t depth)
{
	return depth < 64 ? key_tail(key, depth) : key_tail((struct key){.hi = key.lo}, depth - 64);
}

// Those that were made for nothing.
static void children_sweep(struct lpm_node *node)
{
	for (uint64_t left = node->children; left != 0; left &= left - 1) {
		uint32_t slot = (uint32_t)__builtin_ctzll(left);
		if (node_empty(child_at(node, slot)))
			kid_remove(node, slot);
	}
}

struct fill {
	uint32_t fresh;
	bool moved;
	int error;
};

static void fill_one(struct fill *fill, struct lpm_node *node, const struct lpm_prefix *p, uint32_t depth)
{
	int result = node_set(node, key_below(p->key, depth), p->length - depth, p->group, depth);
	fill->fresh += result == SET_NEW;
	fill->moved |= result == SET_MOVED;
	fill->error = result < 0 ? result : fill->error;
}

// Sort prefixes under a node by its slots, and keep their order in each; those of the node itself are entered.
// `ends` tells where the prefixes of each slot end.
static uint64_t fill_sort(struct fill *fill, struct lpm_node *node, const struct lpm_prefix *list, uint32_t count,
	struct lpm_prefix *sorted, uint32_t depth, uint32_t ends[KEY_SLOTS])
{
	uint64_t slots = 0;
	memset(ends, 0, KEY_SLOTS * sizeof(ends[0]));
	for (uint32_t i = 0; i < count; i++)
		if (list[i].length > depth + KEY_STRIDE)
			ends[key_head(key_below(list[i].key, depth), KEY_STRIDE)]++;
	for (uint32_t slot = 0, sum = 0; slot < KEY_SLOTS; slot++) {
		uint32_t here = ends[slot];
		slots |= (uint64_t)(here != 0) << slot;
		ends[slot] = sum;
		sum += here;
	}
	for (uint32_t i = 0; i < count; i++) {
		if (list[i].length > depth + KEY_STRIDE)
			sorted[ends[key_head(key_below(list[i].key, depth), KEY_STRIDE)]++] = list[i];
		else
			fill_one(fill, node, &list[i], depth);
	}
	return slots;
}

static void node_fill(struct fill *fill, struct lpm_node *node, struct lpm_prefix *list, uint32_t count,
	struct lpm_prefix *spare, uint32_t depth);

// Those that lie under one slot, which has a node, a tail to be filled for the only one, or an old tail; `depth` is
// what is above them.
static void slot_fill(struct fill *fill, struct lpm_node *node, uint32_t slot, struct lpm_prefix *list, uint32_t count,
	struct lpm_prefix *spare, uint32_t depth)
{
	struct lpm_tail *tail = tail_at(node, slot);
	if (tail != NULL && tail->length == 0) {
		*tail = tail_make(key_below(list->key, depth), list->length - depth, list->group);
		fill->fresh++;
		return;
	}
	for (; tail != NULL && count != 0; list++, spare++, count--) {
		int result = tail_set(node, slot, key_below(list->key, depth), list->length - depth, list->group, depth);
		fill->moved |= result == SET_MOVED;
		fill->error = result < 0 ? result : fill->error;
		if (result == SET_OPENED)
			break;
	}
	if (count != 0)
		node_fill(fill, child_at(node, slot), list, count, spare, depth);
}

// Both arrays are used up.
static void node_fill(struct fill *fill, struct lpm_node *node, struct lpm_prefix *list, uint32_t count,
	struct lpm_prefix *spare, uint32_t depth)
{
	enum { FEW = 2 };
	uint32_t ends[KEY_SLOTS];
	if (count <= FEW) {
		for (uint32_t i = 0; i < count; i++)
			fill_one(fill, node, &list[i], depth);
		return;
	}
	uint64_t slots = fill_sort(fill, node, list, count, spare, depth, ends), tails = 0;
	uint64_t fresh = slots & ~(node->children | node->tails);
	depth += KEY_STRIDE;
	for (uint64_t left = depth >= LPM_TAILS ? fresh : 0; left != 0; left &= left - 1) {
		uint32_t slot = (uint32_t)__builtin_ctzll(left), begin = slot == 0 ? 0 : ends[slot - 1];
		if (ends[slot] - begin == 1 && spare[begin].length <= depth + LPM_TAIL_BITS)
			tails |= bit(slot);
	}
	if (kids_add(node, fresh & ~tails, tails) < 0) {
		fill->error = -ENOMEM;
		return;
	}
	for (uint32_t begin = 0; slots != 0; slots &= slots - 1) {
		uint32_t slot = (uint32_t)__builtin_ctzll(slots);
		slot_fill(fill, node, slot, &spare[begin], ends[slot] - begin, &list[begin], depth);
		begin = ends[slot];
	}
	if (fill->error < 0)
		children_sweep(node);
}

int lpm_fill(struct lpm *lpm, struct lpm_prefix *list, uint32_t count, struct lpm_prefix *spare, bool *changed)
{
	struct fill fill = {0};
	uint32_t kept = 0;
	for (uint32_t i = 0; i < count; i++) {
		if (list[i].length != 0) {
			list[kept++] = list[i];
			continue;
		}
		fill.fresh += lpm->fallback == 0;
		fill.moved |= lpm->fallback != list[i].group;
		lpm->fallback = list[i].group;
	}
	node_fill(&fill, &lpm->root, list, kept, spare, 0);
	lpm->count += fill.fresh;
	*changed = fill.fresh != 0 || fill.moved || fill.error < 0;
	return fill.error < 0 ? fill.error : (int)fill.fresh;
}

uint16_t lpm_get(const struct lpm *lpm, struct key key, uint32_t length)
{
	if (length == 0)
		return lpm->fallback;
	const struct lpm_node *node = &lpm->root;
	for (; length > KEY_STRIDE; length -= KEY_STRIDE) {
		uint32_t slot = key_head(key, KEY_STRIDE);
		const struct lpm_tail *tail = tail_at(node, slot);
		key = key_tail(key, KEY_STRIDE);
		if (tail != NULL)
			return tail_is(tail, key, length - KEY_STRIDE) ? tail->group : 0;
		node = child_at(node, slot);
		if (node == NULL)
			return 0;
	}
	uint32_t value = key_head(key, length);
	return group_present(node, length, value) ? groups_of(node)[group_place(node, length, value)] : 0;
}

void lpm_prefetch(const struct lpm *lpm, struct key key, uint32_t length)
{
	const struct lpm_node *node = &lpm->root;
	for (uint32_t level = 0; level < 2 && length > KEY_STRIDE; level++, length -= KEY_STRIDE) {
		node = child_at(node, key_head(key, KEY_STRIDE));
		if (node == NULL)
			return;
		key = key_tail(key, KEY_STRIDE);
	}
	uint32_t slot = key_head(key, KEY_STRIDE);
	__builtin_prefetch(node->tails >> slot & 1 ? (const void *)tail_at(node, slot) : child_at(node, slot));
}

void lpm_clear(struct lpm *lpm, struct key key, uint32_t length)
{
	if (length == 0) {
		lpm->count -= lpm->fallback != 0;
		lpm->fallback = 0;
	} else if (node_clear(&lpm->root, key, length)) {
		lpm->count--;
	}
}

uint64_t lpm_children(struct lpm_ref ref)
{
	return lpm_is_tail(ref) ? 0 : node_of(ref)->children | node_of(ref)->tails;
}

struct lpm_ref lpm_child(struct lpm_ref ref, uint32_t slot)
{
	if (lpm_is_tail(ref))
		return (struct lpm_ref){0};
	const struct lpm_tail *tail = tail_at(node_of(ref), slot);
	return (struct lpm_ref){tail != NULL ? (uintptr_t)tail + 1 : (uintptr_t)child_at(node_of(ref), slot)};
}

void lpm_expand(struct lpm_ref ref, uint16_t inherited, uint16_t values[KEY_SLOTS])
{
	const struct lpm_node *node = node_of(ref);
	for (uint32_t slot = 0; slot < KEY_SLOTS; slot++)
		values[slot] = inherited;
	// Ascending bits are ascending lengths: a longer prefix overwrites a shorter one.
	const uint16_t *group = groups_of(node);
	for (uint64_t left = node->shorts; left != 0; left &= left - 1, group++) {
		uint32_t index = (uint32_t)__builtin_ctzll(left);
		uint32_t bits = 31 - (uint32_t)__builtin_clz(index);
		uint32_t width = 1u << (KEY_STRIDE - bits), start = (index ^ 1u << bits) * width;
		for (uint32_t slot = start; slot < start + width; slot++)
			values[slot] = *group;
	}
	for (uint64_t left = node->fulls; left != 0; left &= left - 1, group++)
		values[__builtin_ctzll(left)] = *group;
}

uint16_t lpm_slot(struct lpm_ref ref, uint32_t slot, uint16_t inherited)
{
	const struct lpm_node *node = node_of(ref);
	for (uint32_t bits = KEY_STRIDE; bits > 0; bits--) {
		uint32_t value = slot >> (KEY_STRIDE - bits);
		if (group_present(node, bits, value))
			return groups_of(node)[group_place(node, bits, value)];
	}
	return inherited;
}

// Slots under the prefixes of the node that are longer than `bits`.
static uint64_t covered_beyond(const struct lpm_node *node, uint32_t bits)
{
	uint64_t slots = node->fulls;
	if (bits >= KEY_STRIDE - 1)
		return bits < KEY_STRIDE ? slots : 0;
	for (uint64_t left = node->shorts & ~(bit(2u << bits) - 1); left != 0; left &= left - 1) {
		uint32_t index = (uint32_t)__builtin_ctzll(left);
		uint32_t length = 31 - (uint32_t)__builtin_clz(index);
		slots |= cover(length, index ^ 1u << length);
	}
	return slots;
}

uint64_t lpm_bare(struct lpm_ref ref)
{
	return lpm_is_tail(ref) ? 0 : ~covered_beyond(node_of(ref), 0);
}

uint64_t lpm_best(struct lpm_ref ref, uint32_t bits, uint32_t value)
{
	return lpm_is_tail(ref) ? 0 : cover(bits, value) & ~covered_beyond(node_of(ref), bits);
}

uint32_t lpm_passage(struct lpm_ref ref)
{
	uint64_t children = lpm_children(ref);
	bool one = children != 0 && (children & (children - 1)) == 0;
	return one && (node_of(ref)->shorts | node_of(ref)->fulls) == 0 ? (uint32_t)__builtin_ctzll(children) : KEY_SLOTS;
}

uint32_t lpm_single(struct lpm_ref ref, uint64_t *bits, uint16_t *group)
{
	if (lpm_is_tail(ref)) {
		*bits = tail_bits(tail_of(ref));
		*group = tail_of(ref)->group;
		return tail_of(ref)->length;
	}
	const struct lpm_node *node = node_of(ref);
	if (lpm_children(ref) != 0 || group_count(node) != 1)
		return 0;
	*group = node->few[0];
	uint32_t index = (uint32_t)__builtin_ctzll(node->fulls != 0 ? node->fulls : node->shorts), length = KEY_STRIDE;
	if (node->fulls == 0) {
		length = 31 - (uint32_t)__builtin_clz(index);
		index ^= 1u << length;
	}
	*bits = (uint64_t)index << (64 - length);
	return length;
}
