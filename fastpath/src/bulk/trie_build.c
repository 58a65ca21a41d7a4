// Builds the published trie (abi/tables.h) from lpm, and gives it back.
//
// A node of the published trie is a function of its lpm node and of what it inherits.  Nodes with
// nothing but one child, and a last one with nothing but one prefix, become one path.
#include <errno.h>

#include "abi/bypass.h"
#include "bulk/publish.h"
#include "bulk/trie.h"

// Routes from which on the direct table grows, and below which it shrinks again.
enum { DIRECT_SOME = 12, GROW_SOME = 512, GROW_MOST = 65536, SHRINK_PART = 4 };
enum { PATH_CHAIN = 9 * KEY_STRIDE, PATH_BITS = LPM_TAIL_BITS, DEEPEST = 22 };

static uint64_t child_bytes(const struct fib_node *node)
{
	return node_bytes(node_is_path(node) ? node_below(node) != 0 : slots_total(node->children));
}

// `levels` bounds a walk over what may be damaged.
static void visit_below(struct table_writer *w, struct fib_node node, trie_visitor visit, uint32_t levels)
{
	uint64_t leaves = (uint64_t)node.leaf_base * 8, nodes = node_below(&node), bytes = child_bytes(&node);
	if (!node_is_path(&node) && node.leaf_starts != 0 && leaves <= w->size - leaf_bytes(node.leaf_starts))
		visit(w, leaves, leaf_bytes(node.leaf_starts));
	if (bytes == 0 || levels == 0 || nodes > w->size - bytes)
		return;
	struct fib_node children[KEY_SLOTS];
	memcpy(children, arena_at(&w->arena, nodes), bytes);
	if (!visit(w, nodes, bytes))
		return;
	for (uint32_t i = 0; i < bytes / sizeof(struct fib_node); i++)
		visit_below(w, children[i], visit, levels - 1);
}

void trie_visit_node(struct table_writer *w, struct fib_node node, trie_visitor visit)
{
	visit_below(w, node, visit, DEEPEST);
}

// What was taken over from a published trie stays.
bool trie_visit_give(struct table_writer *w, uint64_t offset, uint64_t bytes)
{
	const struct trie_kept *kept = w->kept;
	if (kept != NULL && (offset == node_below(&kept->node) ||
	                     (!node_is_path(&kept->node) && offset == (uint64_t)kept->node.leaf_base * 8)))
		return false;
	writer_give(w, offset, bytes);
	return true;
}

bool trie_visit_retire(struct table_writer *w, uint64_t offset, uint64_t bytes)
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

void trie_visit_entry(struct table_writer *w, uint32_t entry, trie_visitor visit)
{
	uint64_t where = (uint64_t)entry * 8;
	if (entry & FIB_LEAF || where > w->size - sizeof(struct fib_node))
		return;
	struct fib_node node;
	memcpy(&node, arena_at(&w->arena, where), sizeof(node));
	if (visit(w, where, sizeof(node)))
		trie_visit_node(w, node, visit);
}

static void root_visit(struct table_writer *w, uint64_t where, trie_visitor visit)
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
		trie_visit_entry(w, direct[i], visit);
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

// A slot with a child goes with its run.
void trie_picture(struct picture *picture, uint64_t children, const uint16_t values[KEY_SLOTS])
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
		picture->node.leaf_starts |= slot_bit(slot);
		picture->leaves[picture->leaf_count++] = values[slot];
	}
}

int trie_write_leaves(struct table_writer *w, struct picture *picture)
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

int trie_write_children(struct table_writer *w, struct lpm_ref lpm, const uint16_t values[KEY_SLOTS],
	const struct fib_node *old, uint64_t keep, uint32_t *child_base)
{
	*child_base = 0;
	if (lpm_children(lpm) == 0)
		return 0;
	uint32_t count = slots_total(lpm_children(lpm));
	uint64_t where;
	int error = writer_take(w, node_bytes(count), &where);
	if (error < 0)
		return error;
	struct fib_node *nodes = arena_at(&w->arena, where);
	const struct fib_node *kept = old == NULL ? NULL : arena_at(&w->arena, (uint64_t)old->child_base * 8);
	uint64_t built = 0;
	uint32_t i = 0;
	for (uint64_t left = lpm_children(lpm); left != 0; left &= left - 1, i++) {
		uint32_t slot = (uint32_t)__builtin_ctzll(left);
		if (keep & slot_bit(slot)) {
			nodes[i] = kept[slots_total(old->children & (slot_bit(slot) - 1))];
			continue;
		}
		error = trie_build_node(w, lpm_child(lpm, slot), values[slot], &nodes[i]);
		if (error < 0)
			break;
		built |= slot_bit(i);
	}
	if (error < 0) {
		for (uint64_t left = built; left != 0; left &= left - 1)
			trie_visit_node(w, nodes[__builtin_ctzll(left)], trie_visit_give);
		writer_give(w, where, node_bytes(count));
		return error;
	}
	*child_base = (uint32_t)(where / 8);
	return 0;
}

// The path that begins at an lpm node, its bits 0 if there is none, and what is behind it, none where it ends at
// `hit`.  It does not go beyond a node that is taken over.
static uint32_t path_draw(const struct table_writer *w, struct lpm_ref lpm, struct fib_path *path,
	struct lpm_ref *behind)
{
	uint32_t bits = 0, slot, length;
	uint64_t rest;
	uint16_t hit;
	*path = (struct fib_path){.child_base = FIB_PATH};
	*behind = lpm;
	while (bits < PATH_CHAIN && (slot = lpm_passage(*behind)) != KEY_SLOTS) {
		bits += KEY_STRIDE;
		path->path |= (uint64_t)slot << (64 - bits);
		*behind = lpm_child(*behind, slot);
		if (w->kept != NULL && lpm_same(*behind, w->kept->lpm))
			return bits;
	}
	length = lpm_single(*behind, &rest, &hit);
	if (length != 0 && bits + length <= PATH_BITS) {
		path->path |= rest >> bits;
		path->hit = hit;
		bits += length;
		*behind = (struct lpm_ref){0};
	}
	return bits;
}

static int plain_build(struct table_writer *w, struct lpm_ref lpm, uint16_t inherited, struct fib_node *out)
{
	uint16_t values[KEY_SLOTS];
	struct picture picture;
	lpm_expand(lpm, inherited, values);
	trie_picture(&picture, lpm_children(lpm), values);
	int error = trie_write_leaves(w, &picture);
	if (error < 0)
		return error;
	error = trie_write_children(w, lpm, values, NULL, 0, &picture.node.child_base);
	if (error < 0) {
		if (picture.leaf_count != 0)
			writer_give(w, (uint64_t)picture.node.leaf_base * 8, leaf_bytes(picture.node.leaf_starts));
		return error;
	}
	*out = picture.node;
	return 0;
}

int trie_build_node(struct table_writer *w, struct lpm_ref lpm, uint16_t inherited, struct fib_node *out)
{
	struct fib_path path;
	struct lpm_ref behind;
	if (w->kept != NULL && lpm_same(lpm, w->kept->lpm)) {
		*out = w->kept->node;
		w->kept->used = true;
		return 0;
	}
	uint32_t bits = path_draw(w, lpm, &path, &behind), below = 0;
	if (bits == 0)
		return plain_build(w, lpm, inherited, out);
	int error = lpm_none(behind) ? 0 : trie_build_entry(w, behind, inherited, &below);
	path.miss = inherited;
	path.shift = 64 - bits;
	path.child_base |= below;
	if (error == 0)
		memcpy(out, &path, sizeof(path));
	return error;
}

int trie_build_entry(struct table_writer *w, struct lpm_ref lpm, uint16_t inherited, uint32_t *entry)
{
	uint64_t where;
	int error = writer_take(w, node_bytes(1), &where);
	if (error < 0)
		return error;
	error = trie_build_node(w, lpm, inherited, arena_at(&w->arena, where));
	if (error < 0)
		writer_give(w, where, node_bytes(1));
	else
		*entry = (uint32_t)(where / 8);
	return error;
}

// Fill the part of a fresh direct table that lies under an lpm node at `depth`.
static int direct_build(struct table_writer *w, uint32_t *direct, uint32_t bits, struct lpm_ref lpm,
	uint32_t depth, uint16_t inherited)
{
	if (depth == bits)
		return trie_build_entry(w, lpm, inherited, direct);
	uint16_t values[KEY_SLOTS];
	lpm_expand(lpm, inherited, values);
	uint32_t width = 1u << (bits - depth - KEY_STRIDE);
	for (uint32_t slot = 0; slot < KEY_SLOTS; slot++) {
		uint32_t *part = &direct[slot * width];
		struct lpm_ref child = lpm_child(lpm, slot);
		if (lpm_none(child)) {
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

// BPF programs count bits with some twenty instructions.  So the mirror's direct table for IPv4, whose prefixes are
// short enough for that to help, is as large as leaves room for two more of its kind: it is built anew beside itself.
static uint32_t bits_of_mirror(const struct table_writer *w)
{
	uint32_t bits = DIRECT_MOST;
	while (bits > 0 && (w->size - sizeof(struct bypass_fib)) / 3 < sizeof(uint32_t) << bits)
		bits -= KEY_STRIDE;
	return bits;
}

static uint32_t bits_for(const struct table_writer *w, uint32_t f, uint32_t count)
{
	if (w->owner != NULL && f == 0 && count < GROW_MOST)
		return bits_of_mirror(w);
	return count >= GROW_MOST ? DIRECT_MOST : count >= GROW_SOME ? DIRECT_SOME : 0;
}

struct fib_root *trie_root(const struct table_writer *w, uint32_t f)
{
	uint64_t where = w->tables->fib_root[f];
	return where == 0 ? NULL : arena_at(&w->arena, where);
}

bool trie_unfit(const struct table_writer *w, uint32_t f)
{
	const struct fib_root *root = trie_root(w, f);
	uint32_t count = w->lpm[f].count;
	if (root == NULL || count == 0)
		return (root == NULL) != (count == 0);
	uint32_t wanted = bits_for(w, f, count);
	if (wanted > root->direct_bits)
		return true;
	return wanted < root->direct_bits && bits_for(w, f, count * SHRINK_PART) < root->direct_bits;
}

// Build anew and flip; whatever was published before stays taken.
static int trie_replace(struct table_writer *w, uint32_t f)
{
	uint64_t where = 0, direct;
	if (w->lpm[f].count != 0) {
		uint32_t bits = bits_for(w, f, w->lpm[f].count);
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
		error = direct_build(w, entries, bits, lpm_top(&w->lpm[f]), 0, w->lpm[f].fallback);
		if (error < 0) {
			root_visit(w, where, trie_visit_give);
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
	root_visit(w, root, trie_visit_give);
}

void trie_recover(struct table_writer *w, uint32_t f)
{
	root_visit(w, w->tables->fib_root[f], visit_claim);
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
