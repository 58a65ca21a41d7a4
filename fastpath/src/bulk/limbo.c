#include "bulk/limbo.h"

#include <stdlib.h>

void limbo_close(struct limbo *limbo)
{
	free(limbo->entries);
	*limbo = (struct limbo){0};
}

static void limbo_grow(struct limbo *limbo)
{
	uint32_t room = limbo->room == 0 ? 64 : limbo->room * 2;
	struct limbo_entry *entries = malloc(room * sizeof(*entries));
	if (entries == NULL)
		return;
	for (uint32_t i = 0; i < limbo->count; i++)
		entries[i] = limbo->entries[(limbo->first + i) & (limbo->room - 1)];
	free(limbo->entries);
	limbo->entries = entries;
	limbo->room = room;
	limbo->first = 0;
}

void limbo_add(struct limbo *limbo, uint64_t epoch, uint64_t what, uint64_t bytes)
{
	if (limbo->count == limbo->room)
		limbo_grow(limbo);
	if (limbo->count == limbo->room)
		return;
	limbo->entries[(limbo->first + limbo->count++) & (limbo->room - 1)] =
		(struct limbo_entry){.epoch = epoch, .what = what, .bytes = bytes};
}

const struct limbo_entry *limbo_first(const struct limbo *limbo)
{
	return limbo->count == 0 ? NULL : &limbo->entries[limbo->first];
}

void limbo_pop(struct limbo *limbo)
{
	limbo->first = (limbo->first + 1) & (limbo->room - 1);
	if (--limbo->count == 0 && limbo->room > 4096)
		limbo_close(limbo);
}
