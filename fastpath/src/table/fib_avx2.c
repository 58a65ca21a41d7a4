// Four walks at a time with AVX2 (fib.c), on processors that have no AVX-512.
//
// The same steps and checks as in fib.c.  Numbers of nodes are limited to those of whole nodes in the segment before
// they are stored in `lanes`, from where alone they are used.  What AVX2 lacks is put together: bits are counted by
// their halves of bytes, lanes that go on are moved together by a table of permutations, and of the two numbers of bits
// that a node may ask for only the one that is needed is counted.
#include "table/fib_walk.h"

#ifdef __x86_64__

#include <immintrin.h>

#define VECTOR __attribute__((target("avx2,popcnt,bmi,bmi2")))
#define VECTOR_INLINE VECTOR __attribute__((always_inline)) static inline

enum { LANES = 4, ALL = (1 << LANES) - 1 };

// For each choice of lanes: their halves, one lane after the other.
#define HALVES(lane) 2 * (lane), 2 * (lane) + 1
static const uint32_t together[1 << LANES][2 * LANES] __attribute__((aligned(32))) = {
	[1] = {HALVES(0)}, [2] = {HALVES(1)}, [3] = {HALVES(0), HALVES(1)}, [4] = {HALVES(2)},
	[5] = {HALVES(0), HALVES(2)}, [6] = {HALVES(1), HALVES(2)}, [7] = {HALVES(0), HALVES(1), HALVES(2)},
	[8] = {HALVES(3)}, [9] = {HALVES(0), HALVES(3)}, [10] = {HALVES(1), HALVES(3)},
	[11] = {HALVES(0), HALVES(1), HALVES(3)}, [12] = {HALVES(2), HALVES(3)},
	[13] = {HALVES(0), HALVES(2), HALVES(3)}, [14] = {HALVES(1), HALVES(2), HALVES(3)},
	[15] = {HALVES(0), HALVES(1), HALVES(2), HALVES(3)},
};

VECTOR_INLINE __m256i lanes_load(const uint64_t *at)
{
	return _mm256_loadu_si256((const __m256i *)(const void *)at);
}

// Store the lanes that a permutation has put together from `at` on; what is behind them does not count.
VECTOR_INLINE void lanes_push(uint64_t *at, __m256i order, __m256i values)
{
	_mm256_storeu_si256((__m256i *)(void *)at, _mm256_permutevar8x32_epi32(values, order));
}

VECTOR_INLINE __m256i order_of(uint32_t which)
{
	return _mm256_load_si256((const __m256i *)(const void *)together[which]);
}

VECTOR_INLINE uint32_t mask_of(__m256i lanes)
{
	return (uint32_t)_mm256_movemask_pd(_mm256_castsi256_pd(lanes));
}

VECTOR_INLINE __m256i is_zero(__m256i lanes)
{
	return _mm256_cmpeq_epi64(lanes, _mm256_setzero_si256());
}

VECTOR_INLINE __m256i bits_total(__m256i words)
{
	const __m256i totals = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
		0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
	const __m256i low = _mm256_set1_epi8(0x0f);
	__m256i each = _mm256_add_epi8(_mm256_shuffle_epi8(totals, _mm256_and_si256(words, low)),
		_mm256_shuffle_epi8(totals, _mm256_and_si256(_mm256_srli_epi16(words, 4), low)));
	return _mm256_sad_epu8(each, _mm256_setzero_si256());
}

struct node_words {
	__m256i children, starts, bases;
};

// Four nodes, their words side by side; the last 8 bytes of 32 are not loaded.
VECTOR_INLINE struct node_words nodes_load(const uint8_t *base, const uint64_t *nodes)
{
	const __m256i whole = _mm256_setr_epi64x(-1, -1, -1, 0);
	__m256i a = _mm256_maskload_epi64((const void *)fib_node_at(base, nodes[0]), whole);
	__m256i b = _mm256_maskload_epi64((const void *)fib_node_at(base, nodes[1]), whole);
	__m256i c = _mm256_maskload_epi64((const void *)fib_node_at(base, nodes[2]), whole);
	__m256i d = _mm256_maskload_epi64((const void *)fib_node_at(base, nodes[3]), whole);
	__m256i ab = _mm256_unpacklo_epi64(a, b), cd = _mm256_unpacklo_epi64(c, d);
	return (struct node_words){
		.children = _mm256_permute2x128_si256(ab, cd, 0x20),
		.starts = _mm256_permute2x128_si256(_mm256_unpackhi_epi64(a, b), _mm256_unpackhi_epi64(c, d), 0x20),
		.bases = _mm256_permute2x128_si256(ab, cd, 0x31),
	};
}

VECTOR_INLINE uint32_t batch_level(const struct fib_trie *trie, bool wide, struct fib_lanes *lanes, uint32_t count,
	uint32_t *ended)
{
	const __m256i last = _mm256_set1_epi64x((long long)trie->last_node), one = _mm256_set1_epi64x(1);
	const __m256i low31 = _mm256_set1_epi64x(0x7fffffff), low32 = _mm256_set1_epi64x(0xffffffff);
	const __m256i offsets = _mm256_set1_epi64x((1ll << FIB_INDEX) - 1), width = _mm256_set1_epi64x(64);
	uint32_t on = 0, done = *ended;
	_mm256_storeu_si256((__m256i *)(void *)&lanes->node[count], _mm256_setzero_si256()); // lanes without a walk
	for (uint32_t i = 0; i < count; i += LANES) {
		uint32_t used = count - i >= LANES ? ALL : (1u << (count - i)) - 1;
		__m256i hi = lanes_load(&lanes->hi[i]), lo = wide ? lanes_load(&lanes->lo[i]) : _mm256_setzero_si256();
		__m256i node = lanes_load(&lanes->node[i]), index = _mm256_andnot_si256(offsets, node);
		struct node_words words = nodes_load(trie->base, &lanes->node[i]);
		__m256i below_base = _mm256_and_si256(_mm256_srli_epi64(words.bases, 32), low31);
		__m256i path = _mm256_cmpgt_epi64(_mm256_setzero_si256(), words.bases);
		// As a path.
		__m256i shift = _mm256_and_si256(_mm256_srli_epi64(words.starts, 32), _mm256_set1_epi64x(63));
		__m256i hit = is_zero(_mm256_srlv_epi64(_mm256_xor_si256(hi, words.children), shift));
		__m256i at = _mm256_add_epi64(_mm256_slli_epi64(_mm256_and_si256(node, offsets), 3),
			_mm256_set1_epi64x(FIB_HIT + sizeof(uint16_t)));
		at = _mm256_add_epi64(at, _mm256_add_epi64(hit, hit)); // -1 of each
		__m256i path_down = _mm256_andnot_si256(is_zero(below_base), hit);
		// As a node.
		__m256i here = _mm256_sllv_epi64(one, _mm256_srli_epi64(hi, 64 - KEY_STRIDE));
		__m256i before = _mm256_sub_epi64(here, one);
		__m256i leafy = is_zero(_mm256_and_si256(words.children, here));
		__m256i total = bits_total(_mm256_blendv_epi8(_mm256_and_si256(words.children, before),
			_mm256_and_si256(words.starts, _mm256_or_si256(here, before)), leafy));
		__m256i leaf = _mm256_add_epi64(_mm256_slli_epi64(_mm256_and_si256(words.bases, low32), 3),
			_mm256_slli_epi64(_mm256_sub_epi64(total, one), 1));
		__m256i below = _mm256_add_epi64(total, _mm256_add_epi64(total, total));

		uint32_t down = mask_of(_mm256_blendv_epi8(_mm256_xor_si256(leafy, _mm256_set1_epi64x(-1)), path_down, path)) & used;
		uint32_t ends = used & ~down;
		leaf = _mm256_and_si256(_mm256_blendv_epi8(leaf, at, path), offsets);
		lanes_push(&lanes->leaf[done], order_of(ends), _mm256_or_si256(leaf, index));
		done += (uint32_t)__builtin_popcount(ends);
		if (down == 0)
			continue;
		__m256i order = order_of(down);
		__m256i bits = _mm256_blendv_epi8(_mm256_set1_epi64x(KEY_STRIDE), _mm256_sub_epi64(width, shift), path);
		__m256i left = _mm256_sllv_epi64(hi, bits); // shifts of 64 give 0, as they should
		if (wide) {
			left = _mm256_or_si256(left, _mm256_srlv_epi64(lo, _mm256_sub_epi64(width, bits)));
			lanes_push(&lanes->lo[on], order, _mm256_sllv_epi64(lo, bits));
		}
		lanes_push(&lanes->hi[on], order, left);
		node = _mm256_add_epi64(below_base, _mm256_andnot_si256(path, below));
		node = _mm256_blendv_epi8(node, last, _mm256_cmpgt_epi64(node, last));
		lanes_push(&lanes->node[on], order, _mm256_or_si256(node, index));
		on += (uint32_t)__builtin_popcount(down);
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
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi")
		&& __builtin_cpu_supports("bmi2");
}

const struct fib_way fib_avx2 = {.name = "avx2", .works = works, .batch = batch};

#else

static bool works(void)
{
	return false;
}

const struct fib_way fib_avx2 = {.name = "avx2", .works = works};

#endif
