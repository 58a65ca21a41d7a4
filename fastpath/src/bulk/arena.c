#define _GNU_SOURCE
#include "bulk/arena.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "bulk/publish.h"

enum {
	PAGE_FREE = 0,
	PAGE_RUN = ARENA_CLASSES, // part of a run of whole pages; below it: size class in units
	PAGE_HELD,                // not claimed, and not yet to be used
	TRIM_PAGES = 16,          // shorter free runs keep their memory
	BACK_LEAST = 4,
	BACK_MOST = 256
};

struct arena_page {
	uint16_t kind;       // PAGE_FREE, a size class, or PAGE_RUN
	uint16_t live;       // blocks in use
	uint8_t backed;
	uint8_t listed;      // in the list of its class
	uint32_t next, prev; // in that list; 0 ends it
};

static uint32_t class_of(uint64_t bytes)
{
	return (uint32_t)((bytes + ARENA_UNIT - 1) / ARENA_UNIT);
}

static uint32_t class_room(uint32_t class)
{
	return ARENA_PAGE / (class * ARENA_UNIT);
}

static uint32_t pages_of(uint64_t bytes)
{
	return (uint32_t)((bytes + ARENA_PAGE - 1) / ARENA_PAGE);
}

int arena_open(struct arena *arena, int fd, uint8_t *base, uint64_t size, uint64_t start, uint64_t *published_end)
{
	*arena = (struct arena){
		.base = base,
		.size = size,
		.fd = fd,
		.page_count = (uint32_t)(size / ARENA_PAGE),
		.first = pages_of(start),
		.published_end = published_end,
	};
	arena->end = arena->lowest = arena->first;
	// Large and zeroed: pages of these arrays exist once they are touched.
	arena->pages = calloc(arena->page_count + 1, sizeof(*arena->pages));
	arena->used = calloc(arena->page_count + 1, sizeof(*arena->used));
	if (arena->pages == NULL || arena->used == NULL) {
		arena_close(arena);
		return -ENOMEM;
	}
	return 0;
}

void arena_close(struct arena *arena)
{
	free(arena->pages);
	free(arena->used);
	arena->pages = NULL;
	arena->used = NULL;
}

int arena_back(struct arena *arena, uint64_t offset, uint64_t bytes)
{
	if (arena->fd < 0) // memory that is there
		return 0;
	while (fallocate(arena->fd, FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes) < 0)
		if (errno != EINTR)
			return errno == ENOMEM ? -ENOSPC : -errno;
	return 0;
}

static void list_add(struct arena *arena, uint32_t page)
{
	struct arena_page *p = &arena->pages[page];
	p->listed = 1;
	p->prev = 0;
	p->next = arena->partial[p->kind];
	if (p->next != 0)
		arena->pages[p->next].prev = page;
	arena->partial[p->kind] = page;
}

static void list_remove(struct arena *arena, uint32_t page)
{
	struct arena_page *p = &arena->pages[page];
	if (p->prev != 0)
		arena->pages[p->prev].next = p->next;
	else
		arena->partial[p->kind] = p->next;
	if (p->next != 0)
		arena->pages[p->next].prev = p->prev;
	p->listed = 0;
}

// Give pages memory.  A single page takes some of its successors along, more in a larger
// arena: a system call for each page of a full table would cost more than the table.
static int pages_back(struct arena *arena, uint32_t page, uint32_t count)
{
	uint32_t last = page + count;
	uint32_t ahead = arena->backed / 8;
	ahead = ahead < BACK_LEAST ? BACK_LEAST : ahead > BACK_MOST ? BACK_MOST : ahead;
	while (page < last) {
		if (arena->pages[page].backed) {
			page++;
			continue;
		}
		uint32_t stop = page + 1;
		while (stop < arena->page_count && !arena->pages[stop].backed &&
		       (stop < last || (stop - page < ahead && arena->pages[stop].kind == PAGE_FREE)))
			stop++;
		int error = arena_back(arena, (uint64_t)page * ARENA_PAGE, (uint64_t)(stop - page) * ARENA_PAGE);
		if (error < 0)
			return error;
		arena->backed += stop - page;
		for (; page < stop; page++)
			arena->pages[page].backed = 1;
	}
	return 0;
}

// First fit.  The pages stay PAGE_FREE: the caller says what they become.
static int pages_find(struct arena *arena, uint32_t count, uint32_t *found)
{
	uint32_t page = arena->lowest;
	while (page < arena->end && arena->pages[page].kind != PAGE_FREE)
		page++;
	arena->lowest = page;
	for (uint32_t run = 0; run < count; page++) {
		if (page >= arena->page_count)
			return -ENOSPC;
		run = arena->pages[page].kind == PAGE_FREE ? run + 1 : 0;
		*found = page + 1 - run;
	}
	int error = pages_back(arena, *found, count);
	if (error < 0)
		return error;
	if (*found + count > arena->end) {
		arena->end = *found + count;
		PUBLISH(arena->published_end, (uint64_t)arena->end * ARENA_PAGE, "arena end");
	}
	return 0;
}

static void pages_give(struct arena *arena, uint32_t page, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		arena->pages[page + i].kind = PAGE_FREE;
	if (page < arena->lowest)
		arena->lowest = page;
}

// Return the memory of free pages.  Should that fail, they merely keep it.
static void pages_punch(struct arena *arena, uint32_t page, uint32_t stop)
{
	if (arena->fd < 0)
		return;
	if (fallocate(arena->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)page * ARENA_PAGE,
	              (off_t)(stop - page) * ARENA_PAGE) < 0)
		return;
	for (; page < stop; page++) {
		if (arena->pages[page].backed) { // no store into entries that were never touched
			arena->backed--;
			arena->pages[page].backed = 0;
		}
	}
}

static uint32_t page_first_free(const struct arena *arena, uint32_t page)
{
	uint32_t word = 0;
	while (arena->used[page][word] == UINT64_MAX)
		word++;
	return word * 64 + (uint32_t)__builtin_ctzll(~arena->used[page][word]);
}

static int small_take(struct arena *arena, uint32_t class, uint64_t *offset)
{
	uint32_t page = arena->partial[class];
	if (page == 0) {
		int error = pages_find(arena, 1, &page);
		if (error < 0)
			return error;
		arena->pages[page].kind = (uint16_t)class;
		list_add(arena, page);
	}
	uint32_t block = page_first_free(arena, page);
	arena->used[page][block / 64] |= UINT64_C(1) << block % 64;
	if (++arena->pages[page].live == class_room(class))
		list_remove(arena, page);
	*offset = (uint64_t)page * ARENA_PAGE + (uint64_t)block * class * ARENA_UNIT;
	return 0;
}

static void small_give(struct arena *arena, uint32_t page, uint32_t block)
{
	struct arena_page *p = &arena->pages[page];
	arena->used[page][block / 64] &= ~(UINT64_C(1) << block % 64);
	p->live--;
	if (page < arena->held)
		return;
	if (!p->listed)
		list_add(arena, page);
	if (p->live == 0) {
		list_remove(arena, page);
		pages_give(arena, page, 1);
	}
}

int arena_take(struct arena *arena, uint64_t bytes, uint64_t *offset)
{
	if (bytes <= ARENA_SMALL)
		return small_take(arena, class_of(bytes), offset);
	if (bytes > arena->size)
		return -ENOSPC;
	uint32_t page, count = pages_of(bytes);
	int error = pages_find(arena, count, &page);
	if (error < 0)
		return error;
	for (uint32_t i = 0; i < count; i++)
		arena->pages[page + i].kind = PAGE_RUN;
	*offset = (uint64_t)page * ARENA_PAGE;
	return 0;
}

void arena_give(struct arena *arena, uint64_t offset, uint64_t bytes)
{
	uint32_t page = (uint32_t)(offset / ARENA_PAGE);
	if (bytes <= ARENA_SMALL)
		small_give(arena, page, (uint32_t)(offset % ARENA_PAGE) / (class_of(bytes) * ARENA_UNIT));
	else
		pages_give(arena, page, pages_of(bytes));
}

static bool small_claim(struct arena *arena, uint32_t page, uint32_t within, uint32_t class)
{
	struct arena_page *p = &arena->pages[page];
	uint32_t block = within / (class * ARENA_UNIT);
	if (within % (class * ARENA_UNIT) != 0 || block >= class_room(class) || (p->kind != PAGE_FREE && p->kind != class))
		return false;
	uint64_t bit = UINT64_C(1) << block % 64;
	if (arena->used[page][block / 64] & bit)
		return false;
	arena->used[page][block / 64] |= bit;
	p->kind = (uint16_t)class;
	p->live++;
	return true;
}

bool arena_claim(struct arena *arena, uint64_t offset, uint64_t bytes)
{
	uint64_t limit = (uint64_t)arena->page_count * ARENA_PAGE;
	if (bytes == 0 || offset < (uint64_t)arena->first * ARENA_PAGE || offset > limit || bytes > limit - offset)
		return false;
	uint32_t page = (uint32_t)(offset / ARENA_PAGE);
	uint32_t count = pages_of(bytes);
	if (bytes <= ARENA_SMALL) {
		if (!small_claim(arena, page, (uint32_t)(offset % ARENA_PAGE), class_of(bytes)))
			return false;
	} else {
		if (offset % ARENA_PAGE != 0)
			return false;
		for (uint32_t i = 0; i < count; i++)
			if (arena->pages[page + i].kind != PAGE_FREE)
				return false;
		for (uint32_t i = 0; i < count; i++)
			arena->pages[page + i].kind = PAGE_RUN;
	}
	if (page + count > arena->end)
		arena->end = page + count;
	return true;
}

void arena_hold(struct arena *arena)
{
	// The word may be any number: it is a hint how far the dead writer had come.
	uint64_t end = __atomic_load_n(arena->published_end, __ATOMIC_RELAXED) / ARENA_PAGE;
	if (end > arena->page_count)
		end = arena->page_count;
	if (end > arena->end)
		arena->end = (uint32_t)end;
	arena->held = arena->end;
	for (uint32_t page = arena->first; page < arena->held; page++) {
		arena->pages[page].backed = arena->pages[page].kind != PAGE_FREE;
		arena->backed += arena->pages[page].backed;
		if (arena->pages[page].kind == PAGE_FREE)
			arena->pages[page].kind = PAGE_HELD;
	}
	arena->lowest = arena->held;
}

void arena_release(struct arena *arena)
{
	for (uint32_t page = arena->first; page < arena->held; page++) {
		struct arena_page *p = &arena->pages[page];
		bool small = p->kind != PAGE_FREE && p->kind < PAGE_RUN;
		if (p->kind == PAGE_HELD || (small && p->live == 0))
			p->kind = PAGE_FREE;
		else if (small && p->live < class_room(p->kind))
			list_add(arena, page);
	}
	arena->held = 0;
	arena->lowest = arena->first;
	// Memory of unknown pages: whatever the dead writer had left there.
	for (uint32_t page = arena->first; page < arena->page_count; page++) {
		uint32_t stop = page;
		while (stop < arena->page_count && arena->pages[stop].kind == PAGE_FREE)
			stop++;
		if (stop > page)
			pages_punch(arena, page, stop);
		page = stop;
	}
}

void arena_trim(struct arena *arena)
{
	// Beyond the last page that was used lie those that were given memory ahead.
	uint32_t limit = arena->page_count - arena->end < BACK_MOST ? arena->page_count : arena->end + BACK_MOST;
	for (uint32_t page = arena->first; page < limit; page++) {
		uint32_t stop = page, backed = 0;
		for (; stop < limit && arena->pages[stop].kind == PAGE_FREE; stop++)
			backed += arena->pages[stop].backed;
		if (backed >= TRIM_PAGES)
			pages_punch(arena, page, stop);
		page = stop;
	}
}
