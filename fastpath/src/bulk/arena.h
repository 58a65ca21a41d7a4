// Allocator over the tables segment.  All bookkeeping is private: a successor rebuilds it by
// claiming what is reachable from the published words; the rest is free.
//
// Blocks up to ARENA_SMALL bytes lie in pages of blocks of one size, in steps of 8 bytes;
// larger ones take whole pages.  A page is backed by memory before it is handed out, so that
// a full machine is -ENOSPC here and not SIGBUS later; long runs of free pages are given back.
#ifndef BULK_ARENA_H
#define BULK_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	ARENA_PAGE = 4096,
	ARENA_UNIT = 8,
	ARENA_SMALL = 2048,
	ARENA_CLASSES = ARENA_SMALL / ARENA_UNIT + 1,
	ARENA_WORDS = ARENA_PAGE / ARENA_UNIT / 64
};

struct arena_page;

struct arena {
	uint8_t *base;
	uint64_t size;            // of the whole segment
	int fd;
	uint32_t page_count;      // pages of the segment, whole ones
	uint32_t first;           // first page of the arena
	uint32_t end;             // first page that was never used
	uint32_t lowest;          // no page below it is free
	uint32_t backed;          // pages that have memory
	uint32_t held;            // pages below it are held back (arena_hold)
	uint64_t *published_end;  // told there before a page is used for the first time
	struct arena_page *pages;
	uint64_t (*used)[ARENA_WORDS]; // of each page of small blocks: one bit for each block
	uint32_t partial[ARENA_CLASSES]; // page with room, 0: none
};

int arena_open(struct arena *arena, int fd, uint8_t *base, uint64_t size, uint64_t start, uint64_t *published_end);
void arena_close(struct arena *arena);
// Give a range of the fixed part memory before something is stored there.
int arena_back(struct arena *arena, uint64_t offset, uint64_t bytes);
// A block of `bytes`, its content undefined.  -ENOSPC.
int arena_take(struct arena *arena, uint64_t bytes, uint64_t *offset);
// Its counterpart; `bytes` as given to arena_take or arena_claim.
void arena_give(struct arena *arena, uint64_t offset, uint64_t bytes);
// Mark a block that a dead writer left as taken; false if it cannot be one.  Only between
// arena_open and arena_hold.
bool arena_claim(struct arena *arena, uint64_t offset, uint64_t bytes);
// What was not claimed below the published end may still be in the hands of readers: nothing of
// it is handed out before arena_release.
void arena_hold(struct arena *arena);
void arena_release(struct arena *arena);
// Return the memory of long runs of free pages to the system.
void arena_trim(struct arena *arena);

static inline void *arena_at(const struct arena *arena, uint64_t offset)
{
	return arena->base + offset;
}

#endif
