// Longest prefix match in a population-count trie (abi/tables.h).
//
// Each word is loaded once, checked against the size of the segment, and then used: the
// writer may be another process that has gone mad.  The depth of the walk is bounded by
// the width of the address, so that a loop in the references ends as well.
#include "table/fib.h"

#include "table/key.h"

// A node or NULL: three aligned words inside the segment.
static inline const struct fib_node *fib_node_at(const struct tables_view *view, uint64_t offset8)
{
	uint64_t offset = offset8 * 8;
	if (offset > view->size - sizeof(struct fib_node))
		return NULL;
	return (const void *)(view->base + offset);
}

static inline uint16_t fib_leaf(const struct tables_view *view, const struct fib_node *node, uint32_t slot)
{
	uint64_t starts = __atomic_load_n(&node->leaf_starts, __ATOMIC_RELAXED);
	uint32_t base = __atomic_load_n(&node->leaf_base, __ATOMIC_ACQUIRE);
	uint32_t rank = (uint32_t)__builtin_popcountll(starts & (UINT64_MAX >> (KEY_SLOTS - 1 - slot)));
	uint64_t offset = (uint64_t)base * 8 + 2 * (uint64_t)rank;
	// rank 0: no run begins at or before the slot; offset is the end of the leaf.
	if (rank == 0 || offset > view->size)
		return 0;
	return __atomic_load_n((const uint16_t *)(const void *)(view->base + offset) - 1, __ATOMIC_RELAXED);
}

// Force-inlined into callers that differ in the instructions they may use.
__attribute__((always_inline))
static inline uint16_t fib_walk(const struct tables_view *view, uint8_t family, const uint8_t *address)
{
	const struct tables_segment *tables = view_tables(view);
	uint64_t where = __atomic_load_n(&tables->fib_root[family == FAMILY_IPV6], __ATOMIC_ACQUIRE);
	if (where == 0 || !view_range(view, where, sizeof(struct fib_root)))
		return 0;
	const struct fib_root *root = (const void *)(view->base + where);
	uint64_t direct = __atomic_load_n(&root->direct, __ATOMIC_RELAXED);
	uint32_t bits = __atomic_load_n(&root->direct_bits, __ATOMIC_RELAXED);
	if (bits > 24 || !view_range(view, direct, sizeof(uint32_t) << bits))
		return 0;

	struct key key = key_of(family, address);
	const uint32_t *table = (const void *)(view->base + direct);
	uint32_t entry = __atomic_load_n(&table[key_head(key, bits)], __ATOMIC_ACQUIRE);
	if (entry & FIB_LEAF)
		return (uint16_t)entry;
	key = key_tail(key, bits);
	uint64_t offset8 = entry;
	uint32_t width = key_width(family);
	for (uint32_t depth = bits; depth < width; depth += KEY_STRIDE, key = key_tail(key, KEY_STRIDE)) {
		const struct fib_node *node = fib_node_at(view, offset8);
		if (node == NULL)
			return 0;
		uint32_t slot = key_head(key, KEY_STRIDE);
		uint64_t children = __atomic_load_n(&node->children, __ATOMIC_RELAXED);
		if (!(children >> slot & 1))
			return fib_leaf(view, node, slot);
		uint32_t base = __atomic_load_n(&node->child_base, __ATOMIC_ACQUIRE);
		uint64_t below = children & ((UINT64_C(1) << slot) - 1);
		offset8 = base + sizeof(struct fib_node) / 8 * (uint64_t)__builtin_popcountll(below);
	}
	return 0;
}

#ifdef __x86_64__
// The instruction is older than any machine this runs on, but not part of the base set that
// compilers assume, and their substitute costs as much as the rest of the walk.
__attribute__((target("popcnt")))
static uint16_t fib_walk_popcnt(const struct tables_view *view, uint8_t family, const uint8_t *address)
{
	return fib_walk(view, family, address);
}
#endif

uint16_t fib_lookup(const struct tables_view *view, uint8_t family, const uint8_t *address)
{
	if (family != FAMILY_IPV4 && family != FAMILY_IPV6)
		return 0;
#ifdef __x86_64__
	if (__builtin_cpu_supports("popcnt"))
		return fib_walk_popcnt(view, family, address);
#endif
	return fib_walk(view, family, address);
}
