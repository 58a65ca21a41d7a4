// One direction of a link that does harm to what passes: a seeded model without I/O, clock or globals.
//
//   submit --> MTU black hole --> drop-tail queue --> transmission at a rate --> loss --> corruption
//          --> delay, jitter, reordering --> duplication --> due
//
// The same seed and the same calls with the same times give the same results, bit for bit.  Each kind
// of harm draws from a stream of its own, one number for each frame submitted, so that which frames are
// lost depends on the seed and on their order alone, and not on what else the link does to them.
//
// All times are nanoseconds of the caller's clock.  Memory is bounded by the configuration and is
// allocated once.  Not modelled: bursts of loss, queues other than drop-tail, framing overhead (a rate
// counts the bytes that are submitted).  A frame is one thing: whoever submits a super-segment as a
// whole has it delayed, lost and queued as a whole.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	IMPAIR_META = 16,            // bytes that accompany a frame and are never touched
	IMPAIR_LONGEST = 1 << 20,    // bytes of the longest frame
	IMPAIR_MILLION = 1000000,    // the share of all frames, in ppm
	IMPAIR_REORDER = 3000000,    // ns by which a reordered frame is late, if nothing else is said
	IMPAIR_MEMORY = 32 << 20,    // bytes for frames under way, if nothing else is said
	IMPAIR_FRAMES = 1 << 17,     // frames under way, if nothing else is said
};

#define IMPAIR_NEVER UINT64_MAX

struct impair_config {
	uint64_t seed;
	uint64_t delay;        // ns from the end of the transmission to the arrival
	uint64_t jitter;       // ns: evenly spread between 0 and this on top of the delay; never reorders
	uint64_t rate;         // bit/s; 0: no limit, and no queue
	uint32_t queue;        // bytes that wait, the rest of the frame in transmission included; 0: no limit; at most 2^31
	uint32_t mtu;          // longest frame that passes, link-layer header included; 0: all do
	uint32_t loss;         // ppm
	uint32_t corrupt;      // ppm; one bit is flipped
	uint32_t corrupt_from; // first byte that can be hit
	uint32_t reorder;      // ppm
	uint64_t reorder_by;   // ns by which a reordered frame is late; 0: IMPAIR_REORDER
	uint32_t duplicate;    // ppm; the copy comes right after the frame
	uint32_t frames;       // bound of the frames under way; 0: IMPAIR_FRAMES
	uint64_t memory;       // bytes for frames under way; 0: IMPAIR_MEMORY; less than 2^32
};

// What became of a frame.  submitted + duplicated = delivered + under way + all that never arrive.
struct impair_counters {
	uint64_t submitted, submitted_bytes;
	uint64_t delivered, delivered_bytes;
	uint64_t hole;     // never arrive: longer than the MTU
	uint64_t queue;    // never arrive: the queue was full
	uint64_t lost;     // never arrive: lost on the link
	uint64_t room;     // never arrive: the bound of memory or frames
	uint64_t corrupted, reordered, duplicated;
};

enum impair_fate {
	IMPAIR_PASSED,
	IMPAIR_HOLE,
	IMPAIR_QUEUE,
	IMPAIR_LOST,
	IMPAIR_ROOM,
};

enum impair_draw {
	IMPAIR_DRAW_LOSS,
	IMPAIR_DRAW_CORRUPT,
	IMPAIR_DRAW_PLACE,
	IMPAIR_DRAW_REORDER,
	IMPAIR_DRAW_JITTER,
	IMPAIR_DRAW_DUPLICATE,
	IMPAIR_DRAWS,
};

struct impair_event {
	uint64_t due;
	uint64_t order; // among frames due at the same time
	uint32_t block; // in the arena
	uint32_t reserved;
};

struct impair {
	struct impair_config config;
	struct impair_counters counters;
	uint64_t streams[IMPAIR_DRAWS];
	uint64_t busy_until;   // when the transmission of all that was accepted ends
	uint64_t latest;       // when the last frame in order is due
	uint64_t order;
	struct impair_event *heap;
	uint32_t held;         // events in the heap
	uint32_t most;         // events that fit
	uint8_t *arena;        // a ring of blocks, each a header and a frame
	uint32_t size, head, tail, used;
};

struct impair_frame {
	const uint8_t *bytes;
	const uint8_t *meta; // IMPAIR_META bytes
	uint64_t due;
	uint32_t length;
};

// Returns 0, -EINVAL or -ENOMEM.
int impair_init(struct impair *link, const struct impair_config *config);
void impair_free(struct impair *link);

// Changes what happens to frames submitted from now on; a shorter delay does not reorder.  The bounds and the
// streams of random numbers stay as they are, whatever `seed`, `frames` and `memory` say.  Returns 0 or -EINVAL.
int impair_configure(struct impair *link, const struct impair_config *config);

// Takes a copy of a frame and of IMPAIR_META bytes of `meta` (NULL: zeros).  `now` never goes back.
enum impair_fate impair_submit(struct impair *link, const void *bytes, uint32_t length, const void *meta, uint64_t now);

// Gives the next frame that is due at or before `now`, in the order of due times, equal ones as they were
// submitted.  It is valid until the next impair_submit or impair_free.
bool impair_due(struct impair *link, uint64_t now, struct impair_frame *frame);

// When the next frame is due; IMPAIR_NEVER if none is under way.
uint64_t impair_deadline(const struct impair *link);
