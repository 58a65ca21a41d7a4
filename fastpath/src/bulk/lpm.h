// The prefixes of one family as their writer remembers them, in private memory.
//
// A trie with strides of 6 bits.  A node at depth d holds the prefixes of length d+1 .. d+6
// under its path as bits, and their groups side by side; the default route stands beside the
// root.  Its shape is that of the published trie (abi/tables.h), which is the same thing with
// each prefix spread over the slots that it is the best match of.
//
// From LPM_TAILS bits on, what was made for one prefix is a tail instead of a node: it holds what
// is left of the prefix, however long, until another one comes under it.  Most of a full table of
// IPv6 are tails.
#ifndef BULK_LPM_H
#define BULK_LPM_H

#include <stdbool.h>
#include <stdint.h>
#include "table/key.h"

enum {
	LPM_FEW = 4,     // groups that a node holds itself: as many as most have
	LPM_TAILS = 18,  // as deep as a direct table may be: above it, nodes are needed one by one
	LPM_TAIL_BITS = 10 * KEY_STRIDE // most
};

struct lpm_node {
	uint64_t shorts;       // bit (1 << l | v): the prefix of l = 1..5 bits with value v
	uint64_t fulls;        // bit v: the prefix of 6 bits with value v
	uint64_t children;     // slots under which there is a node
	uint64_t tails;        // other slots, under which there is a tail
	union {                // of the set bits of shorts, then of fulls
		uint16_t few[LPM_FEW];
		uint16_t *groups;  // of more than LPM_FEW
	};
	struct lpm_node *kids; // of the set bits of children; behind them the tails
};

struct lpm_tail {
	uint32_t high, low;    // what is left of the prefix, from the highest bit; zeros behind it
	uint16_t group;
	uint16_t length;       // 1..LPM_TAIL_BITS
};

// A node or a tail that others look at, until lpm changes: its address, with the lowest bit set for a tail.
struct lpm_ref {
	uintptr_t word;        // 0: there is none
};

struct lpm {
	struct lpm_node root;
	uint16_t fallback;     // group of the default route, 0: none
	uint32_t count;        // prefixes
};

// One of many.
struct lpm_prefix {
	struct key key;
	uint32_t length;
	uint16_t group;
};

void lpm_free(struct lpm *lpm);
// Add or replace; the bits of the key after `length` are zero, the group is not 0.  -ENOMEM.
int lpm_set(struct lpm *lpm, struct key key, uint32_t length, uint16_t group);
// The same for many, the last one of a prefix counts; the list and `spare`, room for as many, are used up.  Gives how
// many are new; -ENOMEM: some are missing.  *changed: a group is another, too.
int lpm_fill(struct lpm *lpm, struct lpm_prefix *list, uint32_t count, struct lpm_prefix *spare, bool *changed);
// 0 for what is not there.
uint16_t lpm_get(const struct lpm *lpm, struct key key, uint32_t length);
void lpm_clear(struct lpm *lpm, struct key key, uint32_t length);
// The prefix is asked for soon.
void lpm_prefetch(const struct lpm *lpm, struct key key, uint32_t length);

static inline struct lpm_ref lpm_top(const struct lpm *lpm)
{
	return (struct lpm_ref){(uintptr_t)&lpm->root};
}
static inline bool lpm_none(struct lpm_ref ref)
{
	return ref.word == 0;
}
static inline bool lpm_same(struct lpm_ref a, struct lpm_ref b)
{
	return a.word == b.word;
}
static inline bool lpm_is_tail(struct lpm_ref ref)
{
	return ref.word & 1;
}

// Slots under which there is something.
uint64_t lpm_children(struct lpm_ref ref);
struct lpm_ref lpm_child(struct lpm_ref ref, uint32_t slot);
// The best group for each slot, where the path above yields `inherited`.  Not of a tail.
void lpm_expand(struct lpm_ref ref, uint16_t inherited, uint16_t values[KEY_SLOTS]);
// The same for one slot.
uint16_t lpm_slot(struct lpm_ref ref, uint32_t slot, uint16_t inherited);
// Slots in which no prefix of the node matches, so that what is inherited counts; none of a tail.
uint64_t lpm_bare(struct lpm_ref ref);
// Slots in which a prefix of `bits` (1..6) with that value is, or would be, the best match; none of a tail.
uint64_t lpm_best(struct lpm_ref ref, uint32_t bits, uint32_t value);
// The slot of its only child, if a node has nothing else; otherwise KEY_SLOTS.
uint32_t lpm_passage(struct lpm_ref ref);
// The length, bits from the highest, and group of the only prefix under a node without children: of 1..6 bits of a
// node, 1..LPM_TAIL_BITS of a tail.  0: there are others, or none.
uint32_t lpm_single(struct lpm_ref ref, uint64_t *bits, uint16_t *group);

#endif
