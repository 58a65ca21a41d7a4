// The published trie, between its builder (trie_build.c) and what keeps it in line (trie.c).
#ifndef BULK_TRIE_H
#define BULK_TRIE_H

#include <stddef.h>
#include <string.h>
#include "base/bytes.h"
#include "bulk/writer.h"

enum { DIRECT_MOST = 18 };

// What one picture of a node needs, before it is published.
struct picture {
	struct fib_node node;
	uint16_t leaves[KEY_SLOTS];
	uint32_t leaf_count;
};

// A published node that a new trie above it takes over with all that is below.
struct trie_kept {
	struct lpm_ref lpm; // whose picture it is
	struct fib_node node;
	bool used;
};

typedef bool (*trie_visitor)(struct table_writer *w, uint64_t offset, uint64_t bytes);

static inline uint32_t slots_total(uint64_t mask)
{
	return count_ones(mask);
}

static inline uint64_t slot_bit(uint32_t slot)
{
	return UINT64_C(1) << slot;
}

static inline uint64_t node_bytes(uint32_t count)
{
	return count * sizeof(struct fib_node);
}

static inline uint64_t leaf_bytes(uint64_t leaf_starts)
{
	return slots_total(leaf_starts) * sizeof(uint16_t);
}

static inline bool node_is_path(const struct fib_node *node)
{
	return (node->child_base & FIB_PATH) != 0;
}

static inline struct fib_path node_path(const struct fib_node *node)
{
	struct fib_path path;
	_Static_assert(sizeof(path) == sizeof(*node), "one stands in the other's place");
	memcpy(&path, node, sizeof(path));
	return path;
}

// Offset of the block of children, or of the node behind a path.
static inline uint64_t node_below(const struct fib_node *node)
{
	return (uint64_t)(node->child_base & ~FIB_PATH) * 8;
}

static inline uint32_t path_bits(const struct fib_path *path)
{
	return 64 - path->shift;
}

// Visit the blocks under a node, but not its own, from the top; where the visitor refuses, no further.
void trie_visit_node(struct table_writer *w, struct fib_node node, trie_visitor visit);
// Visit an entry of a direct table and all below it.
void trie_visit_entry(struct table_writer *w, uint32_t entry, trie_visitor visit);
bool trie_visit_give(struct table_writer *w, uint64_t offset, uint64_t bytes);
bool trie_visit_retire(struct table_writer *w, uint64_t offset, uint64_t bytes);

// Runs of equal groups over the slots that are leaves.
void trie_picture(struct picture *picture, uint64_t children, const uint16_t values[KEY_SLOTS]);
// Each of these takes memory, or nothing on an error.  -ENOSPC.
int trie_write_leaves(struct table_writer *w, struct picture *picture);
// Make a block of children: those in `keep` are copied from `old`, the others built.
int trie_write_children(struct table_writer *w, struct lpm_ref lpm, const uint16_t values[KEY_SLOTS],
	const struct fib_node *old, uint64_t keep, uint32_t *child_base);
int trie_build_node(struct table_writer *w, struct lpm_ref lpm, uint16_t inherited, struct fib_node *out);
// A new block of one node, for an entry of the direct table or behind a path.
int trie_build_entry(struct table_writer *w, struct lpm_ref lpm, uint16_t inherited, uint32_t *entry);

struct fib_root *trie_root(const struct table_writer *w, uint32_t f);
// The number of direct bits has become unfit for the number of routes.
bool trie_unfit(const struct table_writer *w, uint32_t f);

#endif
