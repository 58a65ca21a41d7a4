// Blocks and group numbers that are no longer reachable but may still be in a reader's hands.
//
// Each is noted with the epoch in which its last reference was removed.  The epoch is then
// advanced; a reader that entered after that cannot have met it.  It is given back once no
// worker reads in that epoch or an earlier one (the reader side is view_enter).
#ifndef BULK_LIMBO_H
#define BULK_LIMBO_H

#include <stdint.h>

// Instead of a group number: all that arena_hold held back.
enum { LIMBO_ARENA = 0 };

struct limbo_entry {
	uint64_t epoch;
	uint64_t what;      // offset of a block or of a trie's root, or number of a group
	uint64_t bytes;     // of the block; 0: it is a group, LIMBO_ARENA or, from MAX_GROUPS on, a whole trie
};

struct limbo {
	struct limbo_entry *entries; // a ring, oldest first
	uint32_t room;               // a power of two
	uint32_t first, count;
};

void limbo_close(struct limbo *limbo);
// Without private memory the note is lost and the block stays taken until the next open.
void limbo_add(struct limbo *limbo, uint64_t epoch, uint64_t what, uint64_t bytes);
// The oldest entry, or NULL.
const struct limbo_entry *limbo_first(const struct limbo *limbo);
void limbo_pop(struct limbo *limbo);

#endif
