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
	FIB_VECTOR = 8,         // lanes of the widest vector
	FIB_HIT = offsetof(struct fib_path, hit),
	FIB_INDEX = 48          // bit from which on a number has the place of its walk: no segment is so large
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
	uint64_t node[FIB_BATCH + FIB_VECTOR];        // offset8, and the place in the batch << FIB_INDEX
	uint64_t leaf[FIB_BATCH + FIB_VECTOR];        // of those that have ended: offset of the answer, and the place
};

// Take all walks of a batch one level down.  Those that end leave the offset of their leaf; the others move up in
// `lanes`.  Returns their number.
typedef uint32_t fib_level(const struct fib_trie *trie, bool wide, struct fib_lanes *lanes, uint32_t count,
	uint32_t *ended);

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
		lanes->node[on] = (entry < trie->last_node ? entry : trie->last_node) | (uint64_t)i << FIB_INDEX;
		on += !(entry & FIB_LEAF);
	}
	return on;
}

// The node of a walk.
static inline const uint8_t *fib_node_at(const uint8_t *base, uint64_t node)
{
	return base + (node & ((UINT64_C(1) << FIB_INDEX) - 1)) * FIB_UNIT;
}

// A leaf at its offset in the segment; 0 where that lies outside.
static inline uint16_t fib_leaf(const struct fib_trie *trie, uint64_t offset)
{
	if (offset > trie->last_leaf)
		return 0;
	return __atomic_load_n((const uint16_t *)(const void *)(trie->base + offset), __ATOMIC_RELAXED);
}

// Up to FIB_BATCH addresses, by a way to go down that is force-inlined here.
__attribute__((always_inline))
static inline void fib_batch(const struct fib_trie *trie, fib_level *level, bool wide, const uint8_t *addresses,
	uint32_t count, uint16_t *groups)
{
	struct fib_lanes lanes;
	uint32_t ended = 0, on = fib_batch_begin(trie, wide, addresses, count, &lanes, groups);
	for (uint32_t step = 0; step < trie->steps && on != 0; step++)
		on = level(trie, wide, &lanes, on, &ended);
	for (uint32_t i = 0; i < on; i++) // references in a loop
		groups[lanes.node[i] >> FIB_INDEX] = 0;
	for (uint32_t i = 0; i < ended; i++)
		groups[lanes.leaf[i] >> FIB_INDEX] = fib_leaf(trie, lanes.leaf[i] & ((UINT64_C(1) << FIB_INDEX) - 1));
}

__attribute__((always_inline))
static inline void fib_batch_of(const struct fib_trie *trie, fib_level *level, uint8_t family, const uint8_t *addresses,
	uint32_t count, uint16_t *groups)
{
	if (family == FAMILY_IPV4)
		fib_batch(trie, level, false, addresses, count, groups);
	else
		fib_batch(trie, level, true, addresses, count, groups);
}

// The ways to look up a batch of at most FIB_BATCH addresses, the fastest first; the last one works everywhere.
struct fib_way {
	const char *name;
	bool (*works)(void);    // this processor has what it needs
	void (*batch)(const struct fib_trie *trie, uint8_t family, const uint8_t *addresses, uint32_t count,
		uint16_t *groups);
};

extern const struct fib_way fib_avx512, fib_avx2, fib_plain;

enum { FIB_WAYS = 3 };
extern const struct fib_way *const fib_ways[FIB_WAYS];

// False where there is nothing to look up in.
bool fib_trie_open(const struct tables_view *view, uint8_t family, struct fib_trie *trie);

#endif
