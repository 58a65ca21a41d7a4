// Longest prefix match in a population-count trie with path compression (abi/tables.h).
//
// Each word is loaded once, checked against the size of the segment, and then used: the writer
// may be another process that has gone mad.  The number of steps is bounded by the width of the
// address, so that a loop in the references ends as well.  What a walk begins with is checked
// once for a batch of them.
//
// A batch goes down level by level: hardly a branch depends on what is found, so that the misses
// of its walks overlap, where walks one after the other wait for a mispredicted branch at each.
// A reference that leads outside is led to the last node instead: its answer is as good as any.
#include "table/fib.h"

#include "table/fib_walk.h"
#include "table/key.h"

bool fib_trie_open(const struct tables_view *view, uint8_t family, struct fib_trie *trie)
{
	if (family != FAMILY_IPV4 && family != FAMILY_IPV6)
		return false;
	uint64_t where = __atomic_load_n(&view_tables(view)->fib_root[family == FAMILY_IPV6], __ATOMIC_ACQUIRE);
	if (where == 0 || !view_range(view, where, sizeof(struct fib_root)))
		return false;
	const struct fib_root *root = (const void *)(view->base + where);
	uint64_t direct = __atomic_load_n(&root->direct, __ATOMIC_RELAXED);
	uint32_t bits = __atomic_load_n(&root->direct_bits, __ATOMIC_RELAXED);
	if (bits > FIB_DIRECT_BITS || !view_range(view, direct, sizeof(uint32_t) << bits))
		return false;
	*trie = (struct fib_trie){
		.base = view->base,
		.direct = (const void *)(view->base + direct),
		.bits = bits,
		.steps = family == FAMILY_IPV4 ? FIB_STEPS_IPV4 : FIB_STEPS_IPV6,
		.last_node = (view->size - sizeof(struct fib_node)) / FIB_UNIT,
		.last_leaf = view->size - sizeof(uint16_t),
	};
	return true;
}

static inline uint32_t popcount(uint64_t word)
{
	return (uint32_t)__builtin_popcountll(word);
}

// Drop the first `bits`, 0 <= bits < 64, without a branch.
static inline struct key key_drop(struct key key, uint32_t bits)
{
	return (struct key){.hi = key.hi << bits | key.lo >> 1 >> (63 - bits), .lo = key.lo << bits};
}

// Force-inlined into callers that differ in the instructions they may use.
__attribute__((always_inline))
static inline uint16_t walk(const struct fib_trie *trie, struct key key)
{
	uint32_t entry = __atomic_load_n(&trie->direct[key_head(key, trie->bits)], __ATOMIC_ACQUIRE);
	if (entry & FIB_LEAF)
		return (uint16_t)entry;
	key = key_drop(key, trie->bits);
	uint64_t offset8 = entry;
	for (uint32_t step = 0; step < trie->steps && offset8 <= trie->last_node; step++) {
		const struct fib_node *node = (const void *)(trie->base + offset8 * FIB_UNIT);
		uint64_t children = __atomic_load_n(&node->children, __ATOMIC_RELAXED);
		uint64_t starts = __atomic_load_n(&node->leaf_starts, __ATOMIC_RELAXED);
		uint32_t base = __atomic_load_n(&node->child_base, __ATOMIC_ACQUIRE);
		if (base & FIB_PATH) {
			union fib_word word = {.word = starts};
			uint32_t shift = word.shift & 63;
			if ((key.hi ^ children) >> shift != 0)
				return word.miss;
			if (base == FIB_PATH)
				return word.hit;
			offset8 = base & ~FIB_PATH;
			key = key_drop(key, -shift & 63);
			continue;
		}
		uint32_t slot = key_head(key, KEY_STRIDE);
		if (!(children >> slot & 1)) {
			uint32_t leaves = __atomic_load_n(&node->leaf_base, __ATOMIC_RELAXED);
			uint64_t rank = popcount(starts & (UINT64_MAX >> (KEY_SLOTS - 1 - slot)));
			return fib_leaf(trie, (uint64_t)leaves * FIB_UNIT + (rank - 1) * sizeof(uint16_t));
		}
		uint64_t below = children & ((UINT64_C(1) << slot) - 1);
		offset8 = base + FIB_NODE_UNITS * (uint64_t)popcount(below);
		key = key_drop(key, KEY_STRIDE);
	}
	return 0;
}

__attribute__((always_inline))
static inline uint32_t batch_level(const struct fib_trie *trie, bool wide, struct fib_lanes *lanes, uint32_t count,
	uint32_t *ended)
{
	const uint64_t place = UINT64_MAX << FIB_INDEX;
	uint32_t on = 0, done = *ended;
	for (uint32_t i = 0; i < count; i++) {
		struct key key = {.hi = lanes->hi[i], .lo = wide ? lanes->lo[i] : 0};
		uint64_t index = lanes->node[i] & place, at = (lanes->node[i] & ~place) * FIB_UNIT, leaf, down;
		const struct fib_node *node = (const void *)(trie->base + at);
		uint64_t children = __atomic_load_n(&node->children, __ATOMIC_RELAXED);
		union fib_word word = {.word = __atomic_load_n(&node->leaf_starts, __ATOMIC_RELAXED)};
		uint32_t base = __atomic_load_n(&node->child_base, __ATOMIC_ACQUIRE);
		uint64_t below = base & ~FIB_PATH;
		uint32_t bits = KEY_STRIDE;
		if (base & FIB_PATH) {
			uint32_t shift = word.shift & 63;
			uint64_t missed = (key.hi ^ children) >> shift != 0;
			leaf = at + FIB_HIT + missed * sizeof(uint16_t);
			down = !missed & (below != 0);
			bits = -shift & 63;
		} else {
			uint32_t slot = key_head(key, KEY_STRIDE);
			uint64_t leaves = __atomic_load_n(&node->leaf_base, __ATOMIC_RELAXED);
			uint64_t rank = popcount(word.word & (UINT64_MAX >> (KEY_SLOTS - 1 - slot)));
			leaf = leaves * FIB_UNIT + (rank - 1) * sizeof(uint16_t);
			below += FIB_NODE_UNITS * (uint64_t)popcount(children & ((UINT64_C(1) << slot) - 1));
			down = children >> slot & 1;
		}
		lanes->leaf[done] = (leaf & ~place) | index;
		done += !down;
		lanes->hi[on] = key.hi << bits | (wide ? key.lo >> 1 >> (63 - bits) : 0);
		if (wide)
			lanes->lo[on] = key.lo << bits;
		lanes->node[on] = (below < trie->last_node ? below : trie->last_node) | index;
		on += (uint32_t)down;
	}
	*ended = done;
	return on;
}

#ifdef __x86_64__
// The instruction is older than any machine this runs on, but not part of the base set that
// compilers assume, and their substitute costs as much as the rest of the walk.
__attribute__((target("popcnt")))
static uint16_t walk_popcnt(const struct fib_trie *trie, struct key key)
{
	return walk(trie, key);
}

__attribute__((target("popcnt,bmi2")))
static void batch_bmi2(const struct fib_trie *trie, uint8_t family, const uint8_t *addresses, uint32_t count,
	uint16_t *groups)
{
	fib_batch_of(trie, batch_level, family, addresses, count, groups);
}
#endif

static void batch_plain(const struct fib_trie *trie, uint8_t family, const uint8_t *addresses, uint32_t count,
	uint16_t *groups)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi2")) {
		batch_bmi2(trie, family, addresses, count, groups);
		return;
	}
#endif
	fib_batch_of(trie, batch_level, family, addresses, count, groups);
}

static bool plain_works(void)
{
	return true;
}

const struct fib_way fib_plain = {.name = "plain", .works = plain_works, .batch = batch_plain};
const struct fib_way *const fib_ways[FIB_WAYS] = {&fib_avx512, &fib_avx2, &fib_plain};

uint16_t fib_lookup(const struct tables_view *view, uint8_t family, const uint8_t *address)
{
	struct fib_trie trie;
	if (!fib_trie_open(view, family, &trie))
		return 0;
	struct key key = key_of(family, address);
#ifdef __x86_64__
	if (__builtin_cpu_supports("popcnt"))
		return walk_popcnt(&trie, key);
#endif
	return walk(&trie, key);
}

void fib_lookup_batch(const struct tables_view *view, uint8_t family, const uint8_t *addresses, uint32_t count,
	uint16_t *groups)
{
	struct fib_trie trie;
	if (!fib_trie_open(view, family, &trie)) {
		for (uint32_t i = 0; i < count; i++)
			groups[i] = 0;
		return;
	}
	size_t size = family == FAMILY_IPV4 ? 4 : 16;
	const struct fib_way *const *way = fib_ways;
	while (!(*way)->works())
		way++;
	while (count != 0) {
		uint32_t part = count < FIB_BATCH ? count : FIB_BATCH;
		if (part >= FIB_VECTOR_LEAST)
			(*way)->batch(&trie, family, addresses, part, groups);
		else
			batch_plain(&trie, family, addresses, part, groups);
		addresses += part * size;
		groups += part;
		count -= part;
	}
}
