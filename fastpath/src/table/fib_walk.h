// What the ways to walk the trie of fib.c share.
#ifndef TABLE_FIB_WALK_H
#define TABLE_FIB_WALK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "abi/tables.h"
#include "table/key.h"
#include "table/view.h"

enum {
	FIB_UNIT = 8,           // of references
	FIB_NODE_UNITS = sizeof(struct fib_node) / FIB_UNIT,
	FIB_DIRECT_BITS = 24,   // most
	FIB_STEPS_IPV4 = 8,     // more than a path through a sane trie has nodes
	FIB_STEPS_IPV6 = 24,
	FIB_BATCH = 64,         // walks at a time
	FIB_VECTOR_LEAST = 4,   // fewer are faster one by one
	FIB_VECTOR = 8,         // lanes of a vector
	FIB_HIT = offsetof(struct fib_path, hit)
};

// The second word of a node that is a path.
union fib_word {
	uint64_t word;
	struct {
		uint16_t hit;
		uint16_t miss;
		uint32_t shift;
	};
};

// A trie whose root was checked: the direct table lies in the segment.
struct fib_trie {
	const uint8_t *base;
	const uint32_t *direct;
	uint32_t bits;
	uint32_t steps;
	uint64_t last_node;  // highest offset8 of a whole node
	uint64_t last_leaf;  // highest offset of a leaf
};

// The walks of a batch.  A vector may be stored where only its first lanes count.
struct fib_lanes {
	uint64_t hi[FIB_BATCH + FIB_VECTOR], lo[FIB_BATCH + FIB_VECTOR]; // what of the addresses is left
	uint64_t node[FIB_BATCH + FIB_VECTOR];        // offset8
	uint64_t index[FIB_BATCH + FIB_VECTOR];       // in the batch
	uint64_t leaf[FIB_BATCH + FIB_VECTOR];        // of those that have ended: offset of the answer
	uint64_t leaf_index[FIB_BATCH + FIB_VECTOR];
};

// Look up the direct table.  What it answers is in `groups`; the others, whose number is returned, begin a walk.
__attribute__((always_inline))
static inline uint32_t fib_batch_begin(const struct fib_trie *trie, bool wide, const uint8_t *addresses, uint32_t count,
	struct fib_lanes *lanes, uint16_t *groups)
{
	uint32_t on = 0, bits = trie->bits;
	for (uint32_t i = 0; i < count; i++) {
		struct key key = wide ? key_of(FAMILY_IPV6, addresses + i * 16) : key_of(FAMILY_IPV4, addresses + i * 4);
		uint32_t entry = __atomic_load_n(&trie->direct[key.hi >> 1 >> (63 - bits)], __ATOMIC_ACQUIRE);
		groups[i] = (uint16_t)entry;
		lanes->hi[on] = key.hi << bits | key.lo >> 1 >> (63 - bits);
		if (wide)
			lanes->lo[on] = key.lo << bits;
		lanes->node[on] = entry < trie->last_node ? entry : trie->last_node;
		lanes->index[on] = i;
		on += !(entry & FIB_LEAF);
	}
	return on;
}

// False where there is nothing to look up in.
bool fib_trie_open(const struct tables_view *view, uint8_t family, struct fib_trie *trie);
// Load the answers of `count` walks that have ended.
void fib_leaves(const struct fib_trie *trie, const struct fib_lanes *lanes, uint32_t count, uint16_t *groups);
// Up to FIB_BATCH addresses.
void fib_batch_plain(const struct fib_trie *trie, uint8_t family, const uint8_t *addresses, uint32_t count,
	uint16_t *groups);
void fib_batch_vector(const struct fib_trie *trie, uint8_t family, const uint8_t *addresses, uint32_t count,
	uint16_t *groups);
// This processor has what fib_batch_vector needs.
bool fib_batch_vector_works(void);

#endif
