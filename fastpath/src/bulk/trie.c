// Publishes lpm as the trie of abi/tables.h.
//
// A node of the published trie is a function of its lpm node and of what it inherits.  A large
// change builds everything anew beside and flips fib_root.  A small one goes down to the first
// node whose picture changes and, there and below where nothing more specific hides the change,
//   - stores single leaves in place if the runs stay as they are, else
//   - writes a copy of the block that the node lies in, with the node's new picture, and flips
//     the one word that leads to that block.
// Each store by itself changes the answer for some addresses from the old one to the new one,
// and for none to anything else.  All memory of a step is taken before its first store.
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/bytes.h"
#include "bulk/publish.h"
#include "bulk/writer.h"

// Routes from which on the direct table grows, and below which it shrinks again.
enum { DIRECT_MOST = 18, DIRECT_SOME = 12, GROW_SOME = 512, GROW_MOST = 65536, SHRINK_PART = 4 };

// Where a published node lies: node `index` of the block of `count` that the word leads to.
struct place {
	uint64_t word;   // offset of the u32: an entry of the direct table, or a child_base
	uint32_t index;
	uint32_t count;
};

// What one picture of a node needs, before it is published.
struct picture {
	struct fib_node node;
	uint16_t leaves[KEY_SLOTS];
	uint32_t leaf_count;
};

typedef bool (*visit_block)(struct table_writer *w, uint64_t offset, uint64_t bytes);

static uint32_t total(uint64_t mask)
{
	return count_ones(mask);
}

static uint64_t bit(uint32_t slot)
{
	return UINT64_C(1) << slot;
}

static uint32_t *word_at(const struct table_writer *w, uint64_t offset)
{
	return arena_at(&w->arena, offset);
}

static uint64_t place_block(const struct table_writer *w, const struct place *place)
{
	return (uint64_t)*word_at(w, place->word) * 8;
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
		.index = total(node->children & (bit(slot) - 1)),
		.count = total(node->children),
	};
}

static uint64_t node_bytes(uint32_t count)
{
	return count * sizeof(struct fib_node);
}

static uint64_t leaf_bytes(uint64_t leaf_starts)
{
	return total(leaf_starts) * sizeof(uint16_t);
}

// Visit the blocks under a node, deepest last; `levels` bounds a walk over what may be damaged.
static void node_visit(struct table_writer *w, struct fib_node node, visit_block visit, uint32_t levels)
{
	uint64_t leaves = (uint64_t)node.leaf_base * 8, nodes = (uint64_t)node.child_base * 8;
	if (node.leaf_starts != 0 && leaves <= w->size - leaf_bytes(node.leaf_starts))
		visit(w, leaves, leaf_bytes(node.leaf_starts));
	uint32_t count = total(node.children);
	if (count == 0 || levels == 0 || nodes > w->size - node_bytes(count))
		return;
	struct fib_node children[KEY_SLOTS];
	memcpy(children, arena_at(&w->arena, nodes), node_bytes(count));
	if (!visit(w, nodes, node_bytes(count)))
		return;
	for (uint32_t i = 0; i < count; i++)
		node_visit(w, children[i], visit, levels - 1);
}

static uint32_t levels_below(uint32_t f)
{
	return f == 0 ? 6 : 22;
}

static bool visit_give(struct table_writer *w, uint64_t offset, uint64_t bytes)
{
	writer_give(w, offset, bytes);
	return true;
}

static bool visit_retire(struct table_writer *w, uint64_t offset, uint64_t bytes)
{
	writer_retire(w, offset, bytes);
	return true;
}

static bool visit_claim(struct table_writer *w, uint64_t offset, uint64_t bytes)
{
	if (!arena_claim(&w->arena, offset, bytes))
		return false;
	limbo_add(&w->claimed, 0, offset, bytes);
	return true;
}

// Visit an entry of a direct table and all below it.
static void entry_visit(struct table_writer *w, uint32_t f, uint32_t entry, visit_block visit)
{
	uint64_t where = (uint64_t)entry * 8;
	if (entry & FIB_LEAF || where > w->size - sizeof(struct fib_node))
		return;
	struct fib_node node;
	memcpy(&node, arena_at(&w->arena, where), sizeof(node));
	if (visit(w, where, sizeof(node)))
		node_visit(w, node, visit, levels_below(f));
}

static void root_visit(struct table_writer *w, uint32_t f, uint64_t where, visit_block visit)
{
	if (where == 0 || where % 8 != 0 || where > w->size - sizeof(struct fib_root))
		return;
	struct fib_root root;
	memcpy(&root, arena_at(&w->arena, where), sizeof(root));
	uint64_t bytes = root.direct_bits > DIRECT_MOST ? w->size : sizeof(uint32_t) << root.direct_bits;
	if (root.direct % 8 != 0 || bytes >= w->size || root.direct > w->size - bytes ||
	    !visit(w, where, sizeof(root)) || !visit(w, root.direct, bytes))
		return;
	const uint32_t *direct = arena_at(&w->arena, root.direct);
	for (uint32_t i = 0; i < 1u << root.direct_bits; i++)
		entry_visit(w, f, direct[i], visit);
}

// The slots whose group is not that of the slot before; the first one is always among them.
static uint64_t values_change(const uint16_t values[KEY_SLOTS])
{
	enum { AT_ONCE = sizeof(uint64_t) / sizeof(uint16_t) };
	uint64_t starts = 1;
	for (uint32_t slot = 1; slot < KEY_SLOTS; slot += AT_ONCE) {
		uint32_t first = slot + AT_ONCE <= KEY_SLOTS ? slot : KEY_SLOTS - AT_ONCE;
		uint64_t here, before;
		memcpy(&here, &values[first], sizeof(here));
		memcpy(&before, &values[first - 1], sizeof(before));
		for (uint32_t i = first; here != before && i < first + AT_ONCE; i++)
			starts |= (uint64_t)(values[i] != values[i - 1]) << i;
	}
	return starts;
}

// Runs of equal groups over the slots that are leaves; a slot with a child goes with its run.
static void picture_leaves(struct picture *picture, uint64_t children, const uint16_t values[KEY_SLOTS])
{
	picture->leaf_count = 0;
	picture->node.children = children;
	picture->node.leaf_starts = 0;
	uint64_t starts = values_change(values);
	if (starts == 1) // no prefix of its own, or one that covers it: nodes on the way to others
		starts = ~children & (children + 1);
	else if (children != 0)
		starts = 0;
	if (starts != 0 || children == UINT64_MAX) { // most nodes
		picture->node.leaf_starts = starts;
		for (uint64_t left = starts; left != 0; left &= left - 1)
			picture->leaves[picture->leaf_count++] = values[__builtin_ctzll(left)];
		return;
	}
	for (uint64_t left = ~children; left != 0; left &= left - 1) {
		uint32_t slot = (uint32_t)__builtin_ctzll(left);
		if (picture->leaf_count != 0 && picture->leaves[picture->leaf_count - 1] == values[slot])
			continue;
		picture->node.leaf_starts |= bit(slot);
		picture->leaves[picture->leaf_count++] = values[slot];
	}
}

static int node_build(struct table_writer *w, const struct lpm_node *lpm, uint16_t inherited, struct fib_node *out);

static int leaves_write(struct table_writer *w, struct picture *picture)
{
	picture->node.leaf_base = 0;
	if (picture->leaf_count == 0)
		return 0;
	uint64_t where;
	int error = writer_take(w, picture->leaf_count * sizeof(uint16_t), &where);
	if (error < 0)
		return error;
	memcpy(arena_at(&w->arena, where), picture->leaves, picture->leaf_count * sizeof(uint16_t));
	picture->node.leaf_base = (uint32_t)(where / 8);
	return 0;
}

// Make a block of children: those in `keep` are copied from `old`, the others built.
static int children_write(struct table_writer *w, const struct lpm_node *lpm, const uint16_t values[KEY_SLOTS],
	const struct fib_node *old, uint64_t keep, uint32_t *child_base)
{
	*child_base = 0;
	if (lpm->children == 0)
		return 0;
	uint32_t count = total(lpm->children);
	uint64_t where;
	int error = writer_take(w, node_bytes(count), &where);
	if (error < 0)
		return error;
	struct fib_node *nodes = arena_at(&w->arena, where);
	const struct fib_node *kept = old == NULL ? NULL : arena_at(&w->arena, (uint64_t)old->child_base * 8);
	uint64_t built = 0;
	uint32_t i = 0;
	for (uint64_t left = lpm->children; left != 0; left &= left - 1, i++) {
		uint32_t slot = (uint32_t)__builtin_ctzll(left);
		if (keep & bit(slot)) {
			nodes[i] = kept[total(old->children & (bit(slot) - 1))];
			continue;
		}
		error = node_build(w, lpm_child(lpm, slot), values[slot], &nodes[i]);
		if (error < 0)
			break;
		built |= bit(i);
	}
	if (error < 0) {
		for (uint64_t left = built; left != 0; left &= left - 1)
			node_visit(w, nodes[__builtin_ctzll(left)], visit_give, levels_below(1));
		writer_give(w, where, node_bytes(count));
		return error;
	}
	*child_base = (uint32_t)(where / 8);
	return 0;
}

static int node_build(struct table_writer *w, const struct lpm_node *lpm, uint16_t inherited, struct fib_node *out)
{
	uint16_t values[KEY_SLOTS];
	struct picture picture;
	lpm_expand(lpm, inherited, values);
	picture_leaves(&picture, lpm->children, values);
	int error = leaves_write(w, &picture);
	if (error < 0)
		return error;
	error = children_write(w, lpm, values, NULL, 0, &picture.node.child_base);
	if (error < 0) {
		if (picture.leaf_count != 0)
			writer_give(w, (uint64_t)picture.node.leaf_base * 8, leaf_bytes(picture.node.leaf_starts));
		return error;
	}
	*out = picture.node;
	return 0;
}

// A new block of one node, for an entry of the direct table.
static int entry_build(struct table_writer *w, const struct lpm_node *lpm, uint16_t inherited, uint32_t *entry)
{
	uint64_t where;
	int error = writer_take(w, node_bytes(1), &where);
	if (error < 0)
		return error;
	error = node_build(w, lpm, inherited, arena_at(&w->arena, where));
	if (error < 0)
		writer_give(w, where, node_bytes(1));
	else
		*entry = (uint32_t)(where / 8);
	return error;
}

// Fill the part of a fresh direct table that lies under an lpm node at `depth`.
static int direct_build(struct table_writer *w, uint32_t *direct, uint32_t bits, const struct lpm_node *lpm,
	uint32_t depth, uint16_t inherited)
{
	if (depth == bits)
		return entry_build(w, lpm, inherited, direct);
	uint16_t values[KEY_SLOTS];
	lpm_expand(lpm, inherited, values);
	uint32_t width = 1u << (bits - depth - KEY_STRIDE);
	for (uint32_t slot = 0; slot < KEY_SLOTS; slot++) {
		uint32_t *part = &direct[slot * width];
		const struct lpm_node *child = lpm_child(lpm, slot);
		if (child == NULL) {
			for (uint32_t i = 0; i < width; i++)
				part[i] = FIB_LEAF | values[slot];
			continue;
		}
		int error = direct_build(w, part, bits, child, depth + KEY_STRIDE, values[slot]);
		if (error < 0)
			return error;
	}
	return 0;
}

static uint32_t bits_for(uint32_t count)
{
	return count >= GROW_MOST ? DIRECT_MOST : count >= GROW_SOME ? DIRECT_SOME : 0;
}

static struct fib_root *root_of(const struct table_writer *w, uint32_t f)
{
	uint64_t where = w->tables->fib_root[f];
	return where == 0 ? NULL : arena_at(&w->arena, where);
}

// The number of direct bits has become unfit for the number of routes.
static bool trie_unfit(const struct table_writer *w, uint32_t f)
{
	const struct fib_root *root = root_of(w, f);
	uint32_t count = w->lpm[f].count;
	if (root == NULL || count == 0)
		return (root == NULL) != (count == 0);
	uint32_t wanted = bits_for(count);
	if (wanted > root->direct_bits)
		return true;
	return wanted < root->direct_bits && bits_for(count * SHRINK_PART) < root->direct_bits;
}

// Build anew and flip; whatever was published before stays taken.
static int trie_replace(struct table_writer *w, uint32_t f)
{
	uint64_t where = 0, direct;
	if (w->lpm[f].count != 0) {
		uint32_t bits = bits_for(w->lpm[f].count);
		uint64_t bytes = sizeof(uint32_t) << bits;
		int error = writer_take(w, sizeof(struct fib_root), &where);
		if (error < 0)
			return error;
		error = writer_take(w, bytes, &direct);
		if (error < 0) {
			writer_give(w, where, sizeof(struct fib_root));
			return error;
		}
		struct fib_root *root = arena_at(&w->arena, where);
		*root = (struct fib_root){.epoch = w->tables->epoch, .direct = direct, .direct_bits = bits,
		                          .family = f == 0 ? FAMILY_IPV4 : FAMILY_IPV6};
		uint32_t *entries = arena_at(&w->arena, direct);
		for (uint32_t i = 0; i < 1u << bits; i++)
			entries[i] = FIB_LEAF;
		error = direct_build(w, entries, bits, &w->lpm[f].root, 0, w->lpm[f].fallback);
		if (error < 0) {
			root_visit(w, f, where, visit_give);
			return error;
		}
	}
	PUBLISH(&w->tables->fib_root[f], where, "fib root");
	return 0;
}

int trie_build(struct table_writer *w, uint32_t f)
{
	uint64_t old = w->tables->fib_root[f];
	int error = trie_replace(w, f);
	if (error == 0 && old != 0) // as one: nothing of it changes any more
		limbo_add(&w->limbo, w->tables->epoch, old, 0);
	return error;
}

void trie_give(struct table_writer *w, uint64_t root)
{
	const struct fib_root *old = arena_at(&w->arena, root);
	root_visit(w, family_index((uint8_t)old->family), root, visit_give);
}

void trie_recover(struct table_writer *w, uint32_t f)
{
	root_visit(w, f, w->tables->fib_root[f], visit_claim);
}

int trie_rebuild(struct table_writer *w)
{
	for (uint32_t f = 0; f < 2; f++) {
		int error = w->lpm[f].count != 0 || w->tables->fib_root[f] != 0 ? trie_replace(w, f) : 0;
		if (error < 0)
			return error;
	}
	for (const struct limbo_entry *entry; (entry = limbo_first(&w->claimed)) != NULL; limbo_pop(&w->claimed))
		writer_retire(w, entry->what, entry->bytes);
	return 0;
}

// Publish a node's new picture: copy its block, put the node in, flip the word.
static void place_replace(struct table_writer *w, const struct place *place, uint64_t fresh,
	const struct fib_node *node)
{
	uint64_t old = place_block(w, place);
	struct fib_node *nodes = arena_at(&w->arena, fresh);
	memcpy(nodes, arena_at(&w->arena, old), node_bytes(place->count));
	nodes[place->index] = *node;
	PUBLISH(word_at(w, place->word), (uint32_t)(fresh / 8), "fib block");
	writer_retire(w, old, node_bytes(place->count));
}

static int node_replace(struct table_writer *w, const struct place *place, const struct lpm_node *lpm,
	const uint16_t values[KEY_SLOTS], struct picture *picture)
{
	struct fib_node old = *place_node(w, place);
	uint64_t fresh;
	int error = writer_take(w, node_bytes(place->count), &fresh);
	if (error < 0)
		return error;
	error = leaves_write(w, picture);
	if (error == 0) {
		if (old.children == lpm->children)
			picture->node.child_base = old.child_base;
		else
			error = children_write(w, lpm, values, &old, old.children & lpm->children, &picture->node.child_base);
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
	if (old.children == lpm->children || old.children == 0)
		return 0;
	const struct fib_node *nodes = arena_at(&w->arena, (uint64_t)old.child_base * 8);
	for (uint64_t left = old.children & ~lpm->children; left != 0; left &= left - 1)
		node_visit(w, nodes[total(old.children & ((left & -left) - 1))], visit_retire, levels_below(1));
	writer_retire(w, (uint64_t)old.child_base * 8, node_bytes(total(old.children)));
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

// Bring one published node in line, and those below it that inherit in an `affected` slot.
static void node_sync(struct sync *sync, const struct place *place, const struct lpm_node *lpm,
	uint16_t inherited, uint64_t affected)
{
	struct table_writer *w = sync->w;
	uint16_t values[KEY_SLOTS];
	struct picture picture;
	lpm_expand(lpm, inherited, values);
	picture_leaves(&picture, lpm->children, values);
	const struct fib_node *node = place_node(w, place);
	uint64_t kept = node->children & lpm->children;
	if (node->leaf_starts == picture.node.leaf_starts && node->children == lpm->children) {
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
		const struct lpm_node *below = lpm_child(lpm, slot);
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
	entry_visit(sync->w, sync->f, old, visit_retire);
}

static void entry_sync(struct sync *sync, uint32_t *entry, const struct lpm_node *lpm, uint16_t inherited)
{
	if (!(*entry & FIB_LEAF)) {
		struct place place = {.word = (uint64_t)((uint8_t *)entry - sync->w->arena.base), .index = 0, .count = 1};
		node_sync(sync, &place, lpm, inherited, lpm_bare(lpm));
		return;
	}
	uint32_t value;
	int error = entry_build(sync->w, lpm, inherited, &value);
	if (error < 0)
		sync_failed(sync, error);
	else
		entry_store(sync, entry, value);
}

// Bring the part of the direct table in line that lies under `affected` slots of an lpm node at
// `depth`, less than `bits`; `entries` is the part under that node.
static void direct_sync(struct sync *sync, uint32_t *entries, uint32_t bits, const struct lpm_node *lpm,
	uint32_t depth, uint16_t inherited, uint64_t affected)
{
	uint16_t values[KEY_SLOTS];
	lpm_expand(lpm, inherited, values);
	uint32_t width = 1u << (bits - depth - KEY_STRIDE);
	for (uint64_t left = sync->all ? UINT64_MAX : affected; left != 0; left &= left - 1) {
		uint32_t slot = (uint32_t)__builtin_ctzll(left);
		uint32_t *part = &entries[slot * width];
		const struct lpm_node *child = lpm_child(lpm, slot);
		if (child == NULL)
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
	uint64_t affected = lpm_bare(&lpm->root);
	if (root->direct_bits == 0)
		entry_sync(sync, direct, &lpm->root, lpm->fallback);
	else
		direct_sync(sync, direct, root->direct_bits, &lpm->root, 0, lpm->fallback, affected);
	return sync->error;
}

int trie_repair(struct table_writer *w, uint32_t f)
{
	int error = trie_build(w, f);
	const struct fib_root *root = root_of(w, f);
	if (error == 0 || root == NULL)
		return error;
	// No room for two: what is published is brought in line in place.
	struct sync sync = {.w = w, .f = f, .all = true};
	return root_sync(&sync, root);
}

void trie_prefetch(const struct table_writer *w, uint32_t f, struct key key)
{
	const struct fib_root *root = root_of(w, f);
	if (root == NULL)
		return;
	const uint32_t *direct = arena_at(&w->arena, root->direct);
	uint32_t entry = direct[key_head(key, root->direct_bits)];
	if (!(entry & FIB_LEAF))
		__builtin_prefetch(arena_at(&w->arena, (uint64_t)entry * 8));
}

int trie_sync(struct table_writer *w, uint32_t f, struct key key, uint32_t length)
{
	if (trie_unfit(w, f)) {
		int error = trie_build(w, f);
		// Short of memory, a table of the wrong size does as well.
		if (error == 0 || w->lpm[f].count == 0)
			return error;
	}
	const struct fib_root *root = root_of(w, f);
	if (root == NULL)
		return w->lpm[f].count == 0 ? 0 : -ENOSPC;
	struct sync sync = {.w = w, .f = f};
	if (length == 0)
		return root_sync(&sync, root);

	uint32_t bits = root->direct_bits, depth = 0, index = 0;
	uint32_t *direct = arena_at(&w->arena, root->direct);
	const struct lpm_node *node = &w->lpm[f].root;
	uint16_t inherited = w->lpm[f].fallback;
	struct place place = {.word = root->direct, .index = 0, .count = 1};
	uint64_t affected = 0;
	for (; length > KEY_STRIDE; length -= KEY_STRIDE, key = key_tail(key, KEY_STRIDE)) {
		uint32_t slot = key_head(key, KEY_STRIDE);
		const struct lpm_node *child = lpm_child(node, slot);
		affected = bit(slot);
		// Where one of the two has no child, the picture of this node changes.
		if (child == NULL || (depth >= bits && !(place_node(w, &place)->children & bit(slot))))
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
		depth += KEY_STRIDE;
	}
	if (length <= KEY_STRIDE)
		affected = lpm_best(node, length, key_head(key, length));
	if (depth >= bits)
		node_sync(&sync, &place, node, inherited, affected);
	else
		direct_sync(&sync, &direct[(uint64_t)index << (bits - depth)], bits, node, depth, inherited, affected);
	return sync.error;
}
