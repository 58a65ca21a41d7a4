// Longest prefix match in the copy of the tries that a BPF map holds: table/fib.c, for the verifier.
//
// Each offset is compared with the size of the map right before it is used.
#ifndef BPF_BYPASS_FIB_H
#define BPF_BYPASS_FIB_H

#include "abi/bypass.h"
#include "bpf.h"

MAP_VALUE(fib);
CONSTANT(fib_size);

_Static_assert(sizeof(struct fib_path) == sizeof(struct fib_node) && __builtin_offsetof(struct fib_path, hit) == 8
	&& __builtin_offsetof(struct fib_path, shift) == 12, "read as the words of a node");

enum { STRIDE = 6, STEPS_IP4 = 8, STEPS_IP6 = 24, NODE_BYTES = sizeof(struct fib_node) };

// Tells the compiler that the number is what it is: the check and the use are about the same register.
#define OPAQUE(number) __asm__ volatile("" : "+r"(number))
#define ONCE(place) (*(const volatile __typeof__(place) *)&(place))

// Is there no room for `bytes` at an offset of the map?
#define FIB_ENDS(offset, bytes) ((offset) > VALUE(fib_size) - (bytes))
#define FIB_AT(offset) ((const void *)(value_fib + (offset)))

INLINE uint32_t ones(uint64_t word)
{
	word -= word >> 1 & 0x5555555555555555;
	word = (word & 0x3333333333333333) + (word >> 2 & 0x3333333333333333);
	word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0f;
	return (uint32_t)(word * 0x0101010101010101 >> 56);
}

INLINE uint32_t fib_leaf(const struct fib_node *node, uint64_t slot)
{
	uint64_t rank = ones(node->leaf_starts & (UINT64_MAX >> (63 - slot)));
	uint64_t offset = (uint64_t)ONCE(node->leaf_base) * 8 + 2 * rank - 2;
	const uint16_t *leaf;

	OPAQUE(offset);
	if (rank == 0 || FIB_ENDS(offset, sizeof(*leaf)))
		return 0;
	leaf = FIB_AT(offset);
	return ONCE(*leaf);
}

// The group that the nodes from `offset` on lead to, for what is left of an address; 0: not to be told.
APART uint32_t fib_walk(uint64_t hi, uint64_t lo, uint64_t offset, uint32_t steps)
{
#pragma clang loop unroll(disable)
	for (uint32_t step = 0; step < STEPS_IP6; step++) {
		const struct fib_node *node;
		uint64_t slot = hi >> (64 - STRIDE), children;
		uint32_t base, drop = STRIDE;

		OPAQUE(offset);
		if (step >= steps || FIB_ENDS(offset, NODE_BYTES))
			return 0;
		node = FIB_AT(offset);
		children = ONCE(node->children);
		base = ONCE(node->child_base);
		if (base & FIB_PATH) {
			uint64_t both = ONCE(node->leaf_starts); // hit, miss and shift of struct fib_path
			uint32_t shift = both >> 32 & 63;

			if ((hi ^ children) >> shift != 0)
				return both >> 16 & UINT16_MAX;
			offset = (uint64_t)(base & ~FIB_PATH) * 8;
			if (offset == 0)
				return both & UINT16_MAX;
			drop = (64 - shift) & 63;
		} else if (children >> slot & 1) {
			offset = (uint64_t)base * 8 + NODE_BYTES * (uint64_t)ones(children & ((UINT64_C(1) << slot) - 1));
		} else {
			return fib_leaf(node, slot);
		}
		hi = hi << drop | lo >> 1 >> (63 - drop);
		lo <<= drop;
	}
	return 0;
}

// The group for an address of family index `f` (0: IPv4), left-aligned in two words; 0: none, or not to be told.
INLINE uint32_t fib_lookup(uint32_t f, uint64_t hi, uint64_t lo, uint32_t steps)
{
	const struct bypass_fib *fib = (const void *)value_fib;
	uint64_t offset = ONCE(fib->tables.fib_root[f]);
	const struct fib_root *root;
	const uint32_t *entry;
	uint32_t word, bits;

	OPAQUE(offset);
	if (offset == 0 || FIB_ENDS(offset, sizeof(*root)))
		return 0;
	root = FIB_AT(offset);
	bits = root->direct_bits;
	if (bits > 24)
		return 0;
	// Two shifts, as one by 64 would be none.
	offset = root->direct + 4 * (hi >> 1 >> (63 - bits));
	OPAQUE(offset);
	if (FIB_ENDS(offset, sizeof(*entry)))
		return 0;
	entry = FIB_AT(offset);
	word = ONCE(*entry);
	if (word & FIB_LEAF)
		return word & UINT16_MAX;
	return fib_walk(hi << bits | lo >> 1 >> (63 - bits), lo << bits, (uint64_t)word * 8, steps);
}

#endif
