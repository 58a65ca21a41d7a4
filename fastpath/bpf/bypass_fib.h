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

// `bytes` at an offset of the map, or NULL.
#define FIB_AT(offset, bytes) ((offset) > VALUE(fib_size) - (bytes) ? (const void *)0 : (const void *)(value_fib + (offset)))

struct fib_key {
	uint64_t hi;
	uint64_t lo;
};

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
	leaf = FIB_AT(offset, sizeof(*leaf));
	return rank == 0 || leaf == NULL ? 0 : ONCE(*leaf);
}

// The group for an address of family index `f` (0: IPv4), left-aligned in `key`; 0: none, or not to be told.
INLINE uint32_t fib_lookup(uint32_t f, struct fib_key key, uint32_t steps)
{
	const struct bypass_fib *fib = (const void *)value_fib;
	uint64_t offset = ONCE(fib->tables.fib_root[f]);
	const struct fib_root *root;
	const uint32_t *entry;
	uint32_t word, bits;

	OPAQUE(offset);
	root = FIB_AT(offset, sizeof(*root));
	if (offset == 0 || root == NULL)
		return 0;
	bits = root->direct_bits;
	if (bits > 24)
		return 0;
	// Two shifts, as one by 64 would be none.
	offset = root->direct + 4 * (key.hi >> 1 >> (63 - bits));
	OPAQUE(offset);
	entry = FIB_AT(offset, sizeof(*entry));
	if (entry == NULL)
		return 0;
	word = ONCE(*entry);
	if (word & FIB_LEAF)
		return word & UINT16_MAX;
	key.hi = key.hi << bits | key.lo >> 1 >> (63 - bits);
	key.lo <<= bits;
	offset = (uint64_t)word * 8;
#pragma clang loop unroll(disable)
	for (uint32_t step = 0; step < steps; step++) {
		const struct fib_node *node;
		uint64_t slot = key.hi >> (64 - STRIDE), children;
		uint32_t base, drop = STRIDE;

		OPAQUE(offset);
		node = FIB_AT(offset, NODE_BYTES);
		if (node == NULL)
			return 0;
		children = ONCE(node->children);
		base = ONCE(node->child_base);
		if (base & FIB_PATH) {
			uint64_t both = ONCE(node->leaf_starts); // hit, miss and shift of struct fib_path
			uint32_t shift = both >> 32 & 63;

			if ((key.hi ^ children) >> shift != 0)
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
		key.hi = key.hi << drop | key.lo >> 1 >> (63 - drop);
		key.lo <<= drop;
	}
	return 0;
}

#endif
