// Token buckets, each a single word: when the bucket will be full again.
//
// So a bucket needs no upkeep, loses nothing to rounding of its fillings, and several threads share
// one by compare and swap.  A taker passes as long as there is any token, and may leave a debt: what
// is larger than the bucket is not refused for ever, and the rate holds exactly over time.
#ifndef BASE_BUCKET_H
#define BASE_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

enum { BUCKET_FRACTION = 64, BUCKET_COST_BITS = 16 };

#define BUCKET_DEPTH_MAX ((uint64_t)1 << 48) // 73 minutes

struct bucket_rate {
	uint64_t cost;  // of one token, in 2^-16 of the unit of depth; 0: no limit
	uint64_t depth; // time to fill an empty bucket, in 1/64 ns
};

// `rate` tokens a second, 1 up to 10^12; 0: no limit.
static inline struct bucket_rate bucket_rate(uint64_t rate, uint64_t burst)
{
	struct bucket_rate made = {0};
	if (rate == 0)
		return made;
	unsigned __int128 cost = ((unsigned __int128)1000000000 * BUCKET_FRACTION << BUCKET_COST_BITS) / rate;
	unsigned __int128 depth = cost * burst >> BUCKET_COST_BITS;
	made.cost = cost == 0 ? 1 : (uint64_t)cost;
	made.depth = depth > BUCKET_DEPTH_MAX ? BUCKET_DEPTH_MAX : depth == 0 ? 1 : (uint64_t)depth;
	return made;
}

// Take tokens at `now`, in ns; false where none is left.
static inline bool bucket_take(uint64_t *full, const struct bucket_rate *rate, uint64_t now, uint64_t tokens)
{
	uint64_t at = now * BUCKET_FRACTION;
	uint64_t was = __atomic_load_n(full, __ATOMIC_RELAXED);
	uint64_t price = (uint64_t)((unsigned __int128)rate->cost * tokens >> BUCKET_COST_BITS);
	for (;;) {
		uint64_t from = was > at ? was : at;
		if (from - at >= rate->depth)
			return false;
		if (__atomic_compare_exchange_n(full, &was, from + price, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
			return true;
	}
}

// The rate is another one from now on: the bucket stays as full as it was, in proportion.  What is owed beyond an empty
// bucket is forgiven: what a large packet owed a small bucket would be an age of a large one.
static inline void bucket_change(uint64_t *full, const struct bucket_rate *old, const struct bucket_rate *new, uint64_t now)
{
	uint64_t at = now * BUCKET_FRACTION, was = __atomic_load_n(full, __ATOMIC_RELAXED), missing = 0;
	if (was > at && old->depth != 0)
		missing = was - at >= old->depth ? new->depth
			: (uint64_t)((unsigned __int128)(was - at) * new->depth / old->depth);
	__atomic_store_n(full, at + missing, __ATOMIC_RELAXED);
}

#endif
