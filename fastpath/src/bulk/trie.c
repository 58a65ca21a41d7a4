// Keeps the published trie in line with lpm.
//
// A large change builds everything anew beside and flips fib_root (trie_build.c).  A small one goes
// down to the first node whose picture changes and, there and below where nothing more specific
// hides the change,
//   - stores single leaves, or the answers of a path, in place if the node stays as it is, else
//   - writes a copy of the block that the node lies in, with the node's new picture, and flips
//     the one word that leads to that block.
// Each store by itself changes the answer for some addresses from the old one to the new one,
// and for none to anything else.  All memory of a step is taken before its first store.
//
// A path is split where it no longer tells what lpm holds, and never made longer here: what
// becomes one is drawn as one when it is built the next time.
#include <errno.h>

#include "bulk/publish.h"
#include "bulk/trie.h"

// Where a published node lies: node `index` of the block of `count` that the word leads to.
struct place {
	uint64_t word;   // offset of the u32: an entry of the direct table, or a child_base
	uint32_t index;
	uint32_t count;
};

static uint32_t *word_at(const struct table_writer *w, uint64_t offset)
{
	return arena_at(&w->arena, offset);
}

static uint64_t place_block(const struct table_writer *w, const struct place *place)
{
	return (uint64_t)(*word_at(w, place->word) & ~FIB_PATH) * 8;
}

static uint64_t place_offset(const struct table_writer *w, const struct place *place)
{
	return place_block(w, place) + place->index * sizeof(struct fib_node);
}

static struct fib_node *place_node(const struct table_writer *w, const struct place *place)
{
	return arena_at(&w->arena, place_offset(w, place));
}

static struct place place_child(const struct table_writer *w, const struct place *place, uint32_t slot)
{
	const struct fib_node *node = place_node(w, place);
	return (struct place){
		.word = place_offset(w, place) + offsetof(struct fib_node, child_base),
		.index = slots_total(node->children & (slot_bit(slot) - 1)),
		.count = slots_total(node->children),
	};
}

// The node behind a path.
static struct place place_behind(const struct table_writer *w, const struct place *place)
{
	return (struct place){.word = place_offset(w, place) + offsetof(struct fib_node, child_base), .index = 0, .count = 1};
}

// Publish a node's new picture: copy its block, put the node in, flip the word.
static void place_replace(struct table_writer *w, const struct place *place, uint64_t fresh,
	const struct fib_node *node)
{
	uint64_t old = place_block(w, place);
	struct fib_node *nodes = arena_at(&w->arena, fresh);
	memcpy(nodes, arena_at(&w->arena, old), node_bytes(place->count));
	nodes[place->index] = *node;
	uint32_t *word = word_at(w, place->word);
	PUBLISH(word, (*word & FIB_PATH) | (uint32_t)(fresh / 8), "fib block");
	writer_retire(w, old, node_bytes(place->count));
}

static int node_replace(struct table_writer *w, const struct place *place, struct lpm_ref lpm,
	const uint16_t values[KEY_SLOTS], struct picture *picture)
{
	struct fib_node old = *place_node(w, place);
	uint64_t fresh;
	int error = writer_take(w, node_bytes(place->count), &fresh);
	if (error < 0)
		return error;
	error = trie_write_leaves(w, picture);
	if (error == 0) {
		if (old.children == lpm_children(lpm))
			picture->node.child_base = old.child_base;
		else
			error = trie_write_children(w, lpm, values, &old, old.children & lpm_children(lpm), &picture->node.child_base);
		if (error < 0 && picture->leaf_count != 0)
			writer_give(w, (uint64_t)picture->node.leaf_base * 8, leaf_bytes(picture->node.leaf_starts));
	}
	if (error < 0) {
		writer_give(w, fresh, node_bytes(place->count));
		return error;
	}
	place_replace(w, place, fresh, &picture->node);
	if (old.leaf_starts != 0)
		writer_retire(w, (uint64_t)old.leaf_base * 8, leaf_bytes(old.leaf_starts));
	if (old.children == lpm_children(lpm) || old.children == 0)
		return 0;
	const struct fib_node *nodes = arena_at(&w->arena, (uint64_t)old.child_base * 8);
	for (uint64_t left = old.children & ~lpm_children(lpm); left != 0; left &= left - 1)
		trie_visit_node(w, nodes[slots_total(old.children & ((left & -left) - 1))], trie_visit_retire);
	writer_retire(w, (uint64_t)old.child_base * 8, node_bytes(slots_total(old.children)));
	return 0;
}

// What a walk over published nodes is for.  Without memory for one node it goes on with the
// others, some of which may give memory back, and tells at the end.
struct sync {
	struct table_writer *w;
	uint32_t f;
	bool all;   // compare every node, not only those that inherit the change
	int error;  // the first one
};

static void sync_failed(struct sync *sync, int error)
{
	if (sync->error == 0)
		sync->error = error;
}

static void node_sync(struct sync *sync, const struct place *place, struct lpm_ref lpm, uint16_t inherited,
	uint64_t affected);

// Go down lpm along a path that has a node behind it; none where lpm has no such nodes.
static struct lpm_ref path_descend(const struct fib_path *path, struct lpm_ref lpm, uint16_t *inherited)
{
	uint64_t bits = path->path;
	for (uint32_t left = path_bits(path); !lpm_none(lpm) && left != 0; left -= KEY_STRIDE, bits <<= KEY_STRIDE) {
		uint32_t slot = (uint32_t)(bits >> (64 - KEY_STRIDE));
		struct lpm_ref child = lpm_child(lpm, slot);
		if (!lpm_none(child))
			*inherited = lpm_slot(lpm, slot, *inherited);
		lpm = child;
	}
	return lpm;
}

// A path tells what lpm holds, but for its answers.
static bool path_holds(const struct fib_path *path, struct lpm_ref lpm, struct lpm_ref *behind,
	uint16_t *hit)
{
	bool ends = path->child_base == FIB_PATH;
	uint64_t bits = path->path, rest;
	uint32_t left = path_bits(path);
	for (; left != 0; left -= KEY_STRIDE, bits <<= KEY_STRIDE) {
		*behind = (struct lpm_ref){0};
		if (ends && lpm_single(lpm, &rest, hit) == left && rest == bits)
			return true;
		uint32_t slot = (uint32_t)(bits >> (64 - KEY_STRIDE));
		if (left < KEY_STRIDE || lpm_passage(lpm) != slot)
			return false;
		lpm = lpm_child(lpm, slot);
	}
	*behind = lpm;
	*hit = 0;
	return !ends;
}

static void path_replace(struct sync *sync, const struct place *place, struct lpm_ref lpm, uint16_t inherited)
{
	struct table_writer *w = sync->w;
	struct fib_node old = *place_node(w, place), new;
	struct fib_path path = node_path(&old);
	struct place child = place_behind(w, place);
	struct trie_kept kept = {.used = false};
	uint16_t below = inherited;
	uint64_t fresh;
	if (node_is_path(&old) && path.child_base != FIB_PATH)
		kept.lpm = path_descend(&path, lpm, &below);
	if (!lpm_none(kept.lpm)) { // first let it inherit what it will, and then take it over
		if (below != path.miss || sync->all)
			node_sync(sync, &child, kept.lpm, below, lpm_bare(kept.lpm));
		old = *place_node(w, place);
		kept.node = *place_node(w, &child);
	}
	int error = writer_take(w, node_bytes(place->count), &fresh);
	if (error == 0) {
		w->kept = lpm_none(kept.lpm) ? NULL : &kept;
		error = trie_build_node(w, lpm, inherited, &new);
		w->kept = NULL;
		if (error < 0)
			writer_give(w, fresh, node_bytes(place->count));
	}
	if (error < 0) {
		sync_failed(sync, error);
		return;
	}
	place_replace(w, place, fresh, &new);
	if (kept.used)
		writer_retire(w, node_below(&old), node_bytes(1));
	else
		trie_visit_node(w, old, trie_visit_retire);
}

static void path_sync(struct sync *sync, const struct place *place, struct lpm_ref lpm, uint16_t inherited)
{
	struct table_writer *w = sync->w;
	struct fib_node *node = place_node(w, place);
	struct fib_path path = node_path(node);
	struct lpm_ref behind;
	uint16_t hit;
	if (!path_holds(&path, lpm, &behind, &hit)) {
		path_replace(sync, place, lpm, inherited);
		return;
	}
	bool inherits = path.miss != inherited;
	path.miss = inherited;
	path.hit = hit;
	struct fib_node new;
	memcpy(&new, &path, sizeof(new));
	if (node->leaf_starts != new.leaf_starts) // the word with both answers
		PUBLISH(&node->leaf_starts, new.leaf_starts, "fib path");
	if (!lpm_none(behind) && (inherits || sync->all)) {
		struct place child = place_behind(w, place);
		node_sync(sync, &child, behind, inherited, lpm_bare(behind));
	}
}

// Bring one published node in line, and those below it that inherit in an `affected` slot.
static void node_sync(struct sync *sync, const struct place *place, struct lpm_ref lpm,
	uint16_t inherited, uint64_t affected)
{
	struct table_writer *w = sync->w;
	if (node_is_path(place_node(w, place))) {
		path_sync(sync, place, lpm, inherited);
		return;
	}
	if (lpm_is_tail(lpm)) { // one that came while the trie lagged behind
		path_replace(sync, place, lpm, inherited);
		return;
	}
	uint16_t values[KEY_SLOTS];
	struct picture picture;
	lpm_expand(lpm, inherited, values);
	trie_picture(&picture, lpm_children(lpm), values);
	const struct fib_node *node = place_node(w, place);
	uint64_t kept = node->children & lpm_children(lpm);
	if (node->leaf_starts == picture.node.leaf_starts && node->children == lpm_children(lpm)) {
		uint16_t *leaves = arena_at(&w->arena, (uint64_t)node->leaf_base * 8);
		for (uint32_t i = 0; i < picture.leaf_count; i++)
			if (leaves[i] != picture.leaves[i])
				PUBLISH(&leaves[i], picture.leaves[i], "fib leaf");
	} else {
		int error = node_replace(w, place, lpm, values, &picture);
		if (error < 0)
			sync_failed(sync, error);
	}
	for (uint64_t left = sync->all ? kept : affected & kept; left != 0; left &= left - 1) {
		uint32_t slot = (uint32_t)__builtin_ctzll(left);
		struct lpm_ref below = lpm_child(lpm, slot);
		struct place child = place_child(w, place, slot);
		node_sync(sync, &child, below, values[slot], lpm_bare(below));
	}
}

static void entry_store(const struct sync *sync, uint32_t *entry, uint32_t value)
{
	uint32_t old = *entry;
	if (old == value)
		return;
	PUBLISH(entry, value, "fib entry");
	trie_visit_entry(sync->w, old, trie_visit_retire);
}

static void entry_sync(struct sync *sync, uint32_t *entry, struct lpm_ref lpm, uint16_t inherited)
{
	if (!(*entry & FIB_LEAF)) {
		struct place place = {.word = (uint64_t)((uint8_t *)entry - sync->w->arena.base), .index = 0, .count = 1};
		node_sync(sync, &place, lpm, inherited, lpm_bare(lpm));
		return;
	}
	uint32_t value;
	int error = trie_build_entry(sync->w, lpm, inherited, &value);
	if (error < 0)
		sync_failed(sync, error);
	else
		entry_store(sync, entry, value);
}

// Bring the part of the direct table in line that lies under `affected` slots of an lpm node at
// `depth`, less than `bits`; `entries` is the part under that node.
static void direct_sync(struct sync *sync, uint32_t *entries, uint32_t bits, struct lpm_ref lpm,
	uint32_t depth, uint16_t inherited, uint64_t affected)
{
	uint16_t values[KEY_SLOTS];
	lpm_expand(lpm, inherited, values);
	uint32_t width = 1u << (bits - depth - KEY_STRIDE);
	for (uint64_t left = sync->all ? UINT64_MAX : affected; left != 0; left &= left - 1) {
		uint32_t slot = (uint32_t)__builtin_ctzll(left);
		uint32_t *part = &entries[slot * width];
		struct lpm_ref child = lpm_child(lpm, slot);
		if (lpm_none(child))
			for (uint32_t i = 0; i < width; i++)
				entry_store(sync, &part[i], FIB_LEAF | values[slot]);
		else if (width == 1)
			entry_sync(sync, part, child, values[slot]);
		else
			direct_sync(sync, part, bits, child, depth + KEY_STRIDE, values[slot], lpm_bare(child));
	}
}

// Begin at the top.
static int root_sync(struct sync *sync, const struct fib_root *root)
{
	const struct lpm *lpm = &sync->w->lpm[sync->f];
	uint32_t *direct = arena_at(&sync->w->arena, root->direct);
	struct lpm_ref top = lpm_top(lpm);
	if (root->direct_bits == 0)
		entry_sync(sync, direct, top, lpm->fallback);
	else
		direct_sync(sync, direct, root->direct_bits, top, 0, lpm->fallback, lpm_bare(top));
	return sync->error;
}

int trie_repair(struct table_writer *w, uint32_t f)
{
	int error = trie_build(w, f);
	const struct fib_root *root = trie_root(w, f);
	if (error == 0 || root == NULL)
		return error;
	// No room for two: what is published is brought in line in place.
	struct sync sync = {.w = w, .f = f, .all = true};
	return root_sync(&sync, root);
}

void trie_prefetch(const struct table_writer *w, uint32_t f, struct key key)
{
	const struct fib_root *root = trie_root(w, f);
	if (root == NULL)
		return;
	const uint32_t *direct = arena_at(&w->arena, root->direct);
	uint32_t entry = direct[key_head(key, root->direct_bits)];
	if (!(entry & FIB_LEAF))
		__builtin_prefetch(arena_at(&w->arena, (uint64_t)entry * 8));
}

// Pass a path that a longer prefix goes through: the number of its bits, and the lpm node behind it.  0: the change
// begins here.
static uint32_t path_pass(const struct table_writer *w, const struct place *place, struct key key, uint32_t length,
	struct lpm_ref *lpm, uint16_t *inherited)
{
	struct fib_path path = node_path(place_node(w, place));
	if (path.child_base == FIB_PATH || length <= path_bits(&path) || (key.hi ^ path.path) >> path.shift != 0)
		return 0;
	uint16_t below = *inherited;
	struct lpm_ref behind = path_descend(&path, *lpm, &below);
	if (lpm_none(behind))
		return 0;
	*lpm = behind;
	*inherited = below;
	return path_bits(&path);
}

int trie_sync(struct table_writer *w, uint32_t f, struct key key, uint32_t length)
{
	if (trie_unfit(w, f)) {
		int error = trie_build(w, f);
		// Short of memory, a table of the wrong size does as well.
		if (error == 0 || w->lpm[f].count == 0)
			return error;
	}
	const struct fib_root *root = trie_root(w, f);
	if (root == NULL)
		return w->lpm[f].count == 0 ? 0 : -ENOSPC;
	struct sync sync = {.w = w, .f = f};
	if (length == 0)
		return root_sync(&sync, root);

	uint32_t bits = root->direct_bits, depth = 0, index = 0;
	uint32_t *direct = arena_at(&w->arena, root->direct);
	struct lpm_ref node = lpm_top(&w->lpm[f]);
	uint16_t inherited = w->lpm[f].fallback;
	struct place place = {.word = root->direct, .index = 0, .count = 1};
	uint64_t affected = 0;
	while (length > KEY_STRIDE) {
		uint32_t slot = key_head(key, KEY_STRIDE), step = KEY_STRIDE;
		struct lpm_ref child = lpm_child(node, slot);
		affected = slot_bit(slot);
		if (depth >= bits && node_is_path(place_node(w, &place))) {
			step = path_pass(w, &place, key, length, &node, &inherited);
			if (step == 0)
				break;
			place = place_behind(w, &place);
		} else {
			// Where one of the two has no child, the picture of this node changes.
			if (lpm_none(child) || (depth >= bits && !(place_node(w, &place)->children & slot_bit(slot))))
				break;
			if (depth >= bits)
				place = place_child(w, &place, slot);
			else if (depth + KEY_STRIDE == bits && direct[index << KEY_STRIDE | slot] & FIB_LEAF)
				break;
			index = index << KEY_STRIDE | slot;
			if (depth + KEY_STRIDE == bits)
				place.word = root->direct + index * sizeof(uint32_t);
			inherited = lpm_slot(node, slot, inherited);
			node = child;
		}
		depth += step;
		length -= step;
		key = key_tail(key, step);
	}
	if (length <= KEY_STRIDE)
		affected = lpm_best(node, length, key_head(key, length));
	if (depth >= bits)
		node_sync(&sync, &place, node, inherited, affected);
	else
		direct_sync(&sync, &direct[(uint64_t)index << (bits - depth)], bits, node, depth, inherited, affected);
	return sync.error;
}
