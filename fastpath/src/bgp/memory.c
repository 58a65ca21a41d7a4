// Private memory of a table, counted, and what is built on it alone: lists and hashing.
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "bgp/internal.h"

void *memory_take(struct bgp_table *t, size_t bytes)
{
	void *block = calloc(1, bytes);
	if (block != NULL)
		t->bytes += malloc_usable_size(block);
	return block;
}

void *memory_resize(struct bgp_table *t, void *block, size_t bytes)
{
	size_t before = block == NULL ? 0 : malloc_usable_size(block);
	void *resized = realloc(block, bytes);
	if (resized != NULL)
		t->bytes += malloc_usable_size(resized) - before;
	return resized;
}

void memory_give(struct bgp_table *t, void *block)
{
	if (block != NULL)
		t->bytes -= malloc_usable_size(block);
	free(block);
}

int list_push(struct bgp_table *t, struct list *list, uint32_t item)
{
	if (list->count == list->room && list->first > list->room / 2) {
		memmove(list->items, list->items + list->first, (list->count - list->first) * sizeof(*list->items));
		list->count -= list->first;
		list->first = 0;
	}
	if (list->count == list->room) {
		uint32_t room = list->room == 0 ? 64 : 2 * list->room;
		uint32_t *items = memory_resize(t, list->items, room * sizeof(*items));
		if (items == NULL)
			return -ENOMEM;
		list->items = items;
		list->room = room;
	}
	list->items[list->count++] = item;
	return 0;
}

void list_free(struct bgp_table *t, struct list *list)
{
	memory_give(t, list->items);
	*list = (struct list){0};
}

void list_skip(struct bgp_table *t, struct list *list, uint32_t count)
{
	list->first += count;
	if (!list_empty(list))
		return;
	list->first = list->count = 0;
	if (list->room > 65536) // that of a full table is not kept
		list_free(t, list);
}

uint32_t list_pop(struct bgp_table *t, struct list *list)
{
	uint32_t item = list->items[list->first];
	list_skip(t, list, 1);
	return item;
}

// A keyed mix: who chooses prefixes or attributes cannot choose collisions.
uint64_t hash_bytes(uint64_t seed, const void *data, size_t size)
{
	const uint8_t *bytes = data;
	uint64_t hash = seed ^ size * 0x9e3779b97f4a7c15ull;
	for (; size != 0;) {
		uint64_t word = 0;
		size_t part = size < sizeof(word) ? size : sizeof(word);
		memcpy(&word, bytes, part);
		unsigned __int128 wide = (unsigned __int128)(hash ^ word) * (0xa0761d6478bd642full ^ seed);
		hash = (uint64_t)wide ^ (uint64_t)(wide >> 64) ^ word;
		bytes += part;
		size -= part;
	}
	return hash ^ hash >> 32;
}
