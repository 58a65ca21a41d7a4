// Deadlines of the sessions: a binary heap with the place of each slot in it.
#include "bfd/internal.h"

static void put(struct bfd *bfd, uint32_t at, uint16_t slot)
{
	bfd->heap[at] = slot;
	bfd->place[slot] = (uint16_t)(at + 1);
}

static uint64_t key(const struct bfd *bfd, uint32_t at)
{
	return bfd->deadline[bfd->heap[at]];
}

static void rise(struct bfd *bfd, uint32_t at)
{
	uint16_t slot = bfd->heap[at];
	for (; at > 0 && key(bfd, (at - 1) / 2) > bfd->deadline[slot]; at = (at - 1) / 2)
		put(bfd, at, bfd->heap[(at - 1) / 2]);
	put(bfd, at, slot);
}

static void sink(struct bfd *bfd, uint32_t at)
{
	uint16_t slot = bfd->heap[at];
	for (;;) {
		uint32_t child = 2 * at + 1;
		if (child >= bfd->heap_count)
			break;
		if (child + 1 < bfd->heap_count && key(bfd, child + 1) < key(bfd, child))
			child++;
		if (key(bfd, child) >= bfd->deadline[slot])
			break;
		put(bfd, at, bfd->heap[child]);
		at = child;
	}
	put(bfd, at, slot);
}

void schedule_set(struct bfd *bfd, uint32_t slot, uint64_t deadline)
{
	bfd->deadline[slot] = deadline;
	if (bfd->place[slot] == 0)
		put(bfd, bfd->heap_count++, (uint16_t)slot);
	rise(bfd, bfd->place[slot] - 1u);
	sink(bfd, bfd->place[slot] - 1u);
}

void schedule_remove(struct bfd *bfd, uint32_t slot)
{
	if (bfd->place[slot] == 0)
		return;
	uint32_t at = bfd->place[slot] - 1u;
	bfd->place[slot] = 0;
	uint16_t last = bfd->heap[--bfd->heap_count];
	if (at == bfd->heap_count)
		return;
	put(bfd, at, last);
	rise(bfd, at);
	sink(bfd, bfd->place[last] - 1u);
}

bool schedule_first(const struct bfd *bfd, uint32_t *slot, uint64_t *deadline)
{
	if (bfd->heap_count == 0)
		return false;
	*slot = bfd->heap[0];
	*deadline = bfd->deadline[*slot];
	return true;
}
