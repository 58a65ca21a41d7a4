// Eight walks at a time with AVX-512 (fib.c), on processors that have it.
//
// The same steps and checks as in fib.c.  Numbers of nodes are limited to those of whole nodes in
// the segment before they are stored in `lanes`, from where alone they are used.
#include "table/fib_walk.h"

#ifdef __x86_64__

#include <immintrin.h>

#include "table/key.h"

#define VECTOR __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,popcnt,bmi,bmi2")))
#define VECTOR_INLINE VECTOR __attribute__((always_inline)) static inline

struct lane_keys {
	__m512i hi, lo;
};

VECTOR_INLINE __mmask8 first_lanes(uint32_t count)
{
	return (__mmask8)_cvtu32_mask8(count >= FIB_VECTOR ? 0xff : (1u << count) - 1);
}

// Shifts of 64 give 0, as they should.
VECTOR_INLINE struct lane_keys keys_drop(struct lane_keys keys, __m512i bits, bool wide)
{
	if (!wide)
		return (struct lane_keys){.hi = _mm512_sllv_epi64(keys.hi, bits), .lo = keys.lo};
	__m512i back = _mm512_sub_epi64(_mm512_set1_epi64(64), bits);
	return (struct lane_keys){
		.hi = _mm512_or_si512(_mm512_sllv_epi64(keys.hi, bits), _mm512_srlv_epi64(keys.lo, back)),
		.lo = _mm512_sllv_epi64(keys.lo, bits),
	};
}

// Store the lanes of `which` one after the other from `at` on.
VECTOR_INLINE void lanes_push(uint64_t *at, __mmask8 which, __m512i values)
{
	_mm512_storeu_si512(at, _mm512_maskz_compress_epi64(which, values));
}

VECTOR_INLINE uint32_t lanes_count(__mmask8 which)
{
	return (uint32_t)_mm_popcnt_u32(_cvtmask8_u32(which));
}

struct node_words {
	__m512i children, starts, bases;
};

// Two nodes, 32 bytes apart, of which the last 8 are not loaded.
VECTOR_INLINE __m512i nodes_pair(const uint8_t *first, const uint8_t *second)
{
	return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_maskz_loadu_epi64(7, first)),
	                          _mm256_maskz_loadu_epi64(7, second), 1);
}

// Eight nodes, their words side by side: loads of whole nodes and a transposition are faster than gathers.
VECTOR_INLINE struct node_words nodes_load(const uint8_t *base, const uint64_t *nodes)
{
	__m512i a = nodes_pair(fib_node_at(base, nodes[0]), fib_node_at(base, nodes[4]));
	__m512i b = nodes_pair(fib_node_at(base, nodes[1]), fib_node_at(base, nodes[5]));
	__m512i c = nodes_pair(fib_node_at(base, nodes[2]), fib_node_at(base, nodes[6]));
	__m512i d = nodes_pair(fib_node_at(base, nodes[3]), fib_node_at(base, nodes[7]));
	const __m512i even = _mm512_set_epi64(13, 12, 5, 4, 9, 8, 1, 0), odd = _mm512_set_epi64(15, 14, 7, 6, 11, 10, 3, 2);
	__m512i ab = _mm512_unpacklo_epi64(a, b), cd = _mm512_unpacklo_epi64(c, d);
	return (struct node_words){
		.children = _mm512_permutex2var_epi64(ab, even, cd),
		.starts = _mm512_permutex2var_epi64(_mm512_unpackhi_epi64(a, b), even, _mm512_unpackhi_epi64(c, d)),
		.bases = _mm512_permutex2var_epi64(ab, odd, cd),
	};
}

VECTOR_INLINE uint32_t batch_level(const struct fib_trie *trie, bool wide, struct fib_lanes *lanes, uint32_t count,
	uint32_t *ended)
{
	const __m512i last = _mm512_set1_epi64((long long)trie->last_node), one = _mm512_set1_epi64(1);
	const __m512i low31 = _mm512_set1_epi64(0x7fffffff), ones = _mm512_set1_epi64(-1);
	const __m512i stride = _mm512_set1_epi64(KEY_STRIDE), width = _mm512_set1_epi64(64);
	const __m512i offsets = _mm512_set1_epi64((1ll << FIB_INDEX) - 1);
	uint32_t on = 0, done = *ended;
	_mm512_storeu_si512(&lanes->node[count], _mm512_setzero_si512()); // lanes without a walk
	for (uint32_t i = 0; i < count; i += FIB_VECTOR) {
		__mmask8 used = first_lanes(count - i);
		struct lane_keys keys = {.hi = _mm512_loadu_si512(&lanes->hi[i]), .lo = _mm512_setzero_si512()};
		if (wide)
			keys.lo = _mm512_loadu_si512(&lanes->lo[i]);
		__m512i node = _mm512_loadu_si512(&lanes->node[i]), index = _mm512_andnot_si512(offsets, node);
		struct node_words words = nodes_load(trie->base, &lanes->node[i]);

		__mmask8 path = _mm512_movepi64_mask(words.bases);
		__m512i below_base = _mm512_and_si512(_mm512_srli_epi64(words.bases, 32), low31);
		// As a path.
		__m512i shift = _mm512_and_si512(_mm512_srli_epi64(words.starts, 32), _mm512_set1_epi64(63));
		__m512i differs = _mm512_srlv_epi64(_mm512_xor_si512(keys.hi, words.children), shift);
		__mmask8 missed = _mm512_test_epi64_mask(differs, differs);
		__mmask8 more = _mm512_test_epi64_mask(below_base, below_base);
		__m512i at = _mm512_add_epi64(_mm512_slli_epi64(_mm512_and_si512(node, offsets), 3), _mm512_set1_epi64(FIB_HIT));
		at = _mm512_mask_add_epi64(at, missed, at, _mm512_set1_epi64(sizeof(uint16_t)));
		// As a node.
		__m512i slot = _mm512_srli_epi64(keys.hi, 64 - KEY_STRIDE);
		__m512i here = _mm512_sllv_epi64(one, slot), before = _mm512_add_epi64(here, ones);
		__mmask8 inner = _mm512_test_epi64_mask(words.children, here);
		__m512i rank = _mm512_popcnt_epi64(_mm512_and_si512(words.starts, _mm512_or_si512(here, before)));
		__m512i below = _mm512_popcnt_epi64(_mm512_and_si512(words.children, before));
		__m512i leaf = _mm512_slli_epi64(_mm512_and_si512(words.bases, _mm512_set1_epi64(0xffffffff)), 3);
		leaf = _mm512_add_epi64(leaf, _mm512_slli_epi64(_mm512_add_epi64(rank, ones), 1));
		below = _mm512_add_epi64(below, _mm512_add_epi64(below, below));

		__mmask8 down = (__mmask8)(used & ((path & ~missed & more) | (~path & inner)));
		__mmask8 ends = (__mmask8)(used & ~down);
		leaf = _mm512_and_si512(_mm512_mask_mov_epi64(leaf, path, at), offsets);
		lanes_push(&lanes->leaf[done], ends, _mm512_or_si512(leaf, index));
		done += lanes_count(ends);
		if (down == 0)
			continue;
		keys = keys_drop(keys, _mm512_mask_sub_epi64(stride, path, width, shift), wide);
		node = _mm512_mask_add_epi64(below_base, (__mmask8)~path, below_base, below);
		lanes_push(&lanes->hi[on], down, keys.hi);
		if (wide)
			lanes_push(&lanes->lo[on], down, keys.lo);
		lanes_push(&lanes->node[on], down, _mm512_or_si512(_mm512_min_epu64(node, last), index));
		on += lanes_count(down);
	}
	*ended = done;
	return on;
}

VECTOR static void batch(const struct fib_trie *trie, uint8_t family, const uint8_t *addresses, uint32_t count,
	uint16_t *groups)
{
	fib_batch_of(trie, batch_level, family, addresses, count, groups);
}

static bool works(void)
{
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
	       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
	       __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

const struct fib_way fib_avx512 = {.name = "avx512", .works = works, .batch = batch};

#else

static bool works(void)
{
	return false;
}

const struct fib_way fib_avx512 = {.name = "avx512", .works = works};

#endif
