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

// What the kids of a tail are.
static const struct lpm_node tail_mark;

static bool is_tail(const struct lpm_node *node)
{
	return node->children == 0 && node->kids != NULL;
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
	if (is_tail(node))
		return;
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

enum set { SET_SAME, SET_NEW, SET_MOVED };

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

static int child_add(struct lpm_node *node, uint32_t slot)
{
	uint32_t count = total(node->children), place = rank(node->children, slot);
	struct lpm_node *kids = realloc(node->kids, (count + 1) * sizeof(*kids));
	if (kids == NULL)
		return -ENOMEM;
	memmove(&kids[place + 1], &kids[place], (count - place) * sizeof(*kids));
	kids[place] = (struct lpm_node){0};
	node->kids = kids;
	node->children |= bit(slot);
	return 0;
}

static void child_remove(struct lpm_node *node, uint32_t slot)
{
	uint32_t count = total(node->children), place = rank(node->children, slot);
	memmove(&node->kids[place], &node->kids[place + 1], (count - place - 1) * sizeof(*node->kids));
	node->children &= ~bit(slot);
	if (count == 1) {
		free(node->kids);
		node->kids = NULL;
	}
}

static bool node_empty(const struct lpm_node *node)
{
	return (node->shorts | node->fulls | node->children) == 0; // a tail's length is never 0
}

static struct lpm_node *child_of(struct lpm_node *node, uint32_t slot)
{
	return node->children >> slot & 1 ? &node->kids[rank(node->children, slot)] : NULL;
}

const struct lpm_node *lpm_child(const struct lpm_node *node, uint32_t slot)
{
	return node->children >> slot & 1 ? &node->kids[rank(node->children, slot)] : NULL;
}

static void tail_make(struct lpm_node *node, struct key key, uint32_t length, uint16_t group)
{
	*node = (struct lpm_node){.shorts = key.hi, .fulls = length, .few = {group}};
	node->kids = (struct lpm_node *)(uintptr_t)&tail_mark; // never followed
}

static bool tail_is(const struct lpm_node *node, struct key key, uint32_t length)
{
	return node->fulls == length && node->shorts == key.hi;
}

static int node_set(struct lpm_node *node, struct key key, uint32_t length, uint16_t group, uint32_t depth);

// Make an ordinary node of a tail.  -ENOMEM leaves the tail.
static int tail_open(struct lpm_node *node, uint32_t depth)
{
	struct lpm_node tail = *node;
	*node = (struct lpm_node){0};
	int error = node_set(node, (struct key){.hi = tail.shorts}, (uint32_t)tail.fulls, tail.few[0], depth);
	if (error < 0)
		*node = tail;
	return error;
}

// `length` is what is left of the prefix at this node, at least 1; `depth` what is above it.  Gives enum set.
static int node_set(struct lpm_node *node, struct key key, uint32_t length, uint16_t group, uint32_t depth)
{
	if (is_tail(node)) {
		if (tail_is(node, key, length)) {
			bool moved = node->few[0] != group;
			node->few[0] = group;
			return moved ? SET_MOVED : SET_SAME;
		}
		if (tail_open(node, depth) < 0)
			return -ENOMEM;
	}
	if (length <= KEY_STRIDE)
		return group_set(node, length, key_head(key, length), group);
	uint32_t slot = key_head(key, KEY_STRIDE);
	struct key rest = key_tail(key, KEY_STRIDE);
	length -= KEY_STRIDE;
	depth += KEY_STRIDE;
	struct lpm_node *child = child_of(node, slot);
	if (child == NULL) {
		if (child_add(node, slot) < 0)
			return -ENOMEM;
		child = child_of(node, slot);
		if (depth >= LPM_TAILS && length <= LPM_TAIL_BITS) {
			tail_make(child, rest, length, group);
			return SET_NEW;
		}
	}
	int error = node_set(child, rest, length, group, depth);
	if (node_empty(child)) // made for nothing
		child_remove(node, slot);
	return error;
}

static bool node_clear(struct lpm_node *node, struct key key, uint32_t length)
{
	if (is_tail(node)) {
		if (!tail_is(node, key, length))
			return false;
		*node = (struct lpm_node){0};
		return true;
	}
	if (length <= KEY_STRIDE) {
		uint32_t value = key_head(key, length);
		if (!group_present(node, length, value))
			return false;
		group_clear(node, length, value);
		return true;
	}
	uint32_t slot = key_head(key, KEY_STRIDE);
	struct lpm_node *child = child_of(node, slot);
	if (child == NULL || !node_clear(child, key_tail(key, KEY_STRIDE), length - KEY_STRIDE))
		return false;
	if (node_empty(child))
		child_remove(node, slot);
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

// Room for several children at once; they are empty.
static int children_add(struct lpm_node *node, uint64_t slots)
{
	uint64_t wanted = node->children | slots;
	uint32_t from = total(node->children), to = total(wanted);
	if (wanted == node->children)
		return 0;
	struct lpm_node *kids = realloc(node->kids, to * sizeof(*kids));
	if (kids == NULL)
		return -ENOMEM;
	for (uint64_t left = wanted; left != 0;) {
		uint32_t slot = 63 - (uint32_t)__builtin_clzll(left);
		left &= ~bit(slot);
		kids[--to] = node->children >> slot & 1 ? kids[--from] : (struct lpm_node){0};
	}
	node->kids = kids;
	node->children = wanted;
	return 0;
}

// Those that were made for nothing.
static void children_sweep(struct lpm_node *node)
{
	for (uint64_t left = node->children; left != 0; left &= left - 1) {
		uint32_t slot = (uint32_t)__builtin_ctzll(left);
		if (node_empty(child_of(node, slot)))
			child_remove(node, slot);
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

// Both arrays are used up.
static void node_fill(struct fill *fill, struct lpm_node *node, struct lpm_prefix *list, uint32_t count,
	struct lpm_prefix *spare, uint32_t depth)
{
	enum { FEW = 2 };
	uint32_t ends[KEY_SLOTS];
	if (count > FEW && is_tail(node))
		fill->error = tail_open(node, depth) < 0 ? -ENOMEM : fill->error;
	if (count <= FEW || is_tail(node)) {
		for (uint32_t i = 0; i < count; i++)
			fill_one(fill, node, &list[i], depth);
		return;
	}
	uint64_t slots = fill_sort(fill, node, list, count, spare, depth, ends), old = node->children;
	if (children_add(node, slots) < 0) {
		fill->error = -ENOMEM;
		return;
	}
	depth += KEY_STRIDE;
	for (uint32_t begin = 0; slots != 0; slots &= slots - 1) {
		uint32_t slot = (uint32_t)__builtin_ctzll(slots), here = ends[slot] - begin;
		const struct lpm_prefix *first = &spare[begin];
		struct lpm_node *child = child_of(node, slot);
		if (here == 1 && !(old >> slot & 1) && depth >= LPM_TAILS && first->length <= depth + LPM_TAIL_BITS) {
			tail_make(child, key_below(first->key, depth), first->length - depth, first->group);
			fill->fresh++;
		} else {
			node_fill(fill, child, &spare[begin], here, &list[begin], depth);
		}
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
	for (; !is_tail(node) && length > KEY_STRIDE; length -= KEY_STRIDE, key = key_tail(key, KEY_STRIDE)) {
		node = lpm_child(node, key_head(key, KEY_STRIDE));
		if (node == NULL)
			return 0;
	}
	if (is_tail(node))
		return tail_is(node, key, length) ? node->few[0] : 0;
	uint32_t value = key_head(key, length);
	return group_present(node, length, value) ? groups_of(node)[group_place(node, length, value)] : 0;
}

void lpm_prefetch(const struct lpm *lpm, struct key key, uint32_t length)
{
	const struct lpm_node *node = &lpm->root;
	for (uint32_t level = 0; level < 2 && length > KEY_STRIDE; level++, length -= KEY_STRIDE) {
		node = lpm_child(node, key_head(key, KEY_STRIDE));
		if (node == NULL)
			return;
		key = key_tail(key, KEY_STRIDE);
	}
	__builtin_prefetch(lpm_child(node, key_head(key, KEY_STRIDE)));
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

void lpm_expand(const struct lpm_node *node, uint16_t inherited, uint16_t values[KEY_SLOTS])
{
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

uint16_t lpm_slot(const struct lpm_node *node, uint32_t slot, uint16_t inherited)
{
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

uint64_t lpm_bare(const struct lpm_node *node)
{
	return is_tail(node) ? 0 : ~covered_beyond(node, 0);
}

uint64_t lpm_best(const struct lpm_node *node, uint32_t bits, uint32_t value)
{
	return is_tail(node) ? 0 : cover(bits, value) & ~covered_beyond(node, bits);
}

uint32_t lpm_passage(const struct lpm_node *node)
{
	bool one = node->children != 0 && (node->children & (node->children - 1)) == 0;
	return one && (node->shorts | node->fulls) == 0 ? (uint32_t)__builtin_ctzll(node->children) : KEY_SLOTS;
}

uint32_t lpm_single(const struct lpm_node *node, uint64_t *bits, uint16_t *group)
{
	if (is_tail(node)) {
		*bits = node->shorts;
		*group = node->few[0];
		return (uint32_t)node->fulls;
	}
	if (node->children != 0 || group_count(node) != 1)
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
