// One direction of an impaired link; see impair.h.
//
// Frames lie in a ring of memory in the order of their arrival and leave in the order of a binary heap.
// A block is given back when all blocks before it are, which with delays of one kind costs next to nothing.
#include "impair.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct block {
	uint32_t size;   // of the block, with this header
	uint32_t length; // of the frame
	uint32_t live;   // still in the heap
	uint32_t reserved;
	uint8_t meta[IMPAIR_META];
};

enum { GRAIN = sizeof(struct block) }; // blocks are whole multiples, so that a header fits wherever one ends

static const uint64_t QUEUE_LIMIT = 1ull << 31; // below it no product of bytes and ns overflows
static const uint64_t TIME_LIMIT = 1ull << 60;  // and no sum of times
static const uint64_t NS_OF_A_BYTE = 8000000000u; // at one bit per second

// SplitMix64: spreads seeds that are close to each other over all states of the generator below.
static uint64_t mix(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

// xorshift64*: the state is never zero.
static uint64_t draw(struct impair *link, enum impair_draw stream)
{
	uint64_t x = link->streams[stream];
	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	link->streams[stream] = x;
	return x * 0x2545f4914f6cdd1du;
}

// Maps the upper half of a random number to 0 .. limit - 1.
static uint32_t below(uint64_t random, uint32_t limit)
{
	return (uint32_t)((random >> 32) * limit >> 32);
}

static bool hits(struct impair *link, enum impair_draw stream, uint32_t ppm)
{
	return below(draw(link, stream), IMPAIR_MILLION) < ppm;
}

static bool config_valid(const struct impair_config *config)
{
	return config->loss <= IMPAIR_MILLION && config->corrupt <= IMPAIR_MILLION && config->reorder <= IMPAIR_MILLION &&
	       config->duplicate <= IMPAIR_MILLION && config->queue <= QUEUE_LIMIT && config->memory <= UINT32_MAX &&
	       config->delay <= TIME_LIMIT && config->jitter <= TIME_LIMIT && config->reorder_by <= TIME_LIMIT;
}

int impair_init(struct impair *link, const struct impair_config *config)
{
	memset(link, 0, sizeof *link);
	if (!config_valid(config))
		return -EINVAL;
	link->config = *config;
	link->most = config->frames != 0 ? config->frames : IMPAIR_FRAMES;
	link->size = (uint32_t)(config->memory != 0 ? config->memory : IMPAIR_MEMORY) / GRAIN * GRAIN;
	uint64_t seed = config->seed;
	for (int i = 0; i < IMPAIR_DRAWS; i++) {
		uint64_t state = mix(&seed);
		link->streams[i] = state != 0 ? state : 1;
	}
	link->heap = malloc((size_t)link->most * sizeof *link->heap);
	link->arena = malloc(link->size);
	if (link->heap != NULL && link->arena != NULL)
		return 0;
	impair_free(link);
	return -ENOMEM;
}

void impair_free(struct impair *link)
{
	free(link->heap);
	free(link->arena);
	link->heap = NULL;
	link->arena = NULL;
	link->held = 0;
}

int impair_configure(struct impair *link, const struct impair_config *config)
{
	if (!config_valid(config))
		return -EINVAL;
	link->config = *config;
	return 0;
}

static struct block *block_at(const struct impair *link, uint32_t offset)
{
	return (struct block *)(void *)(link->arena + offset);
}

static void arena_give_back(struct impair *link)
{
	while (link->used != 0 && !block_at(link, link->tail)->live) {
		uint32_t size = block_at(link, link->tail)->size;
		link->used -= size;
		link->tail = link->tail + size == link->size ? 0 : link->tail + size;
	}
	if (link->used == 0) // memory that was touched lately is in the cache
		link->head = link->tail = 0;
}

// Finds room for a frame in one piece; NULL: there is none.
static struct block *arena_take(struct impair *link, uint32_t length)
{
	uint32_t size = (length + 2 * GRAIN - 1) / GRAIN * GRAIN;
	bool wrapped = link->head < link->tail || (link->head == link->tail && link->used != 0);
	uint32_t ahead = (wrapped ? link->tail : link->size) - link->head;
	if (size > ahead) {
		if (wrapped || size > link->tail)
			return NULL;
		if (ahead != 0)
			*block_at(link, link->head) = (struct block){.size = ahead};
		link->used += ahead;
		link->head = 0;
	}
	struct block *block = block_at(link, link->head);
	*block = (struct block){.size = size, .length = length, .live = 1};
	link->used += size;
	link->head = link->head + size == link->size ? 0 : link->head + size;
	return block;
}

static bool event_before(const struct impair_event *a, const struct impair_event *b)
{
	return a->due != b->due ? a->due < b->due : a->order < b->order;
}

static void heap_push(struct impair *link, struct impair_event event)
{
	uint32_t at = link->held++;
	while (at != 0 && event_before(&event, &link->heap[(at - 1) / 2])) {
		link->heap[at] = link->heap[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	link->heap[at] = event;
}

static void heap_pop(struct impair *link)
{
	struct impair_event moved = link->heap[--link->held];
	uint32_t at = 0;
	for (uint32_t child; (child = 2 * at + 1) < link->held; at = child) {
		if (child + 1 < link->held && event_before(&link->heap[child + 1], &link->heap[child]))
			child++;
		if (!event_before(&link->heap[child], &moved))
			break;
		link->heap[at] = link->heap[child];
	}
	link->heap[at] = moved;
}

static struct block *hold(struct impair *link, const void *bytes, uint32_t length, const void *meta, uint64_t due)
{
	struct block *block = link->held < link->most ? arena_take(link, length) : NULL;
	if (block == NULL)
		return NULL;
	if (meta != NULL)
		memcpy(block->meta, meta, IMPAIR_META);
	if (length != 0)
		memcpy(block + 1, bytes, length);
	uint32_t offset = (uint32_t)((uint8_t *)block - link->arena);
	heap_push(link, (struct impair_event){.due = due, .order = link->order++, .block = offset});
	return block;
}

static uint64_t transmission(const struct impair *link, uint32_t length)
{
	return length * NS_OF_A_BYTE / link->config.rate;
}

// Queues for transmission and tells when it ends; false: the queue is full.
static bool transmit(struct impair *link, uint32_t length, uint64_t now, uint64_t *end)
{
	*end = now;
	if (link->config.rate == 0)
		return true;
	bool idle = link->busy_until <= now;
	uint64_t begin = idle ? now : link->busy_until;
	*end = begin + transmission(link, length);
	if (!idle && link->config.queue != 0 && *end - now > transmission(link, link->config.queue))
		return false;
	link->busy_until = *end;
	return true;
}

static void corrupt(struct impair *link, struct block *block, uint64_t random)
{
	if (block->length <= link->config.corrupt_from)
		return;
	uint32_t place = link->config.corrupt_from + below(random, block->length - link->config.corrupt_from);
	((uint8_t *)(block + 1))[place] ^= (uint8_t)(1u << (random & 7));
	link->counters.corrupted++;
}

static uint64_t arrival(struct impair *link, uint64_t sent, uint64_t random, bool late)
{
	const struct impair_config *config = &link->config;
	uint64_t due = sent + config->delay;
	if (config->jitter != 0)
		due += random % (config->jitter + 1);
	if (late)
		return due + (config->reorder_by != 0 ? config->reorder_by : IMPAIR_REORDER);
	if (due < link->latest)
		due = link->latest;
	link->latest = due;
	return due;
}

enum impair_fate impair_submit(struct impair *link, const void *bytes, uint32_t length, const void *meta, uint64_t now)
{
	const struct impair_config *config = &link->config;
	struct impair_counters *counters = &link->counters;
	// All are drawn whatever happens: the fate of one frame must not shift the numbers of the next.
	bool lost = hits(link, IMPAIR_DRAW_LOSS, config->loss);
	bool hit = hits(link, IMPAIR_DRAW_CORRUPT, config->corrupt);
	uint64_t place = draw(link, IMPAIR_DRAW_PLACE);
	bool late = hits(link, IMPAIR_DRAW_REORDER, config->reorder);
	uint64_t jitter = draw(link, IMPAIR_DRAW_JITTER);
	bool twice = hits(link, IMPAIR_DRAW_DUPLICATE, config->duplicate);

	counters->submitted++;
	counters->submitted_bytes += length;
	if (config->mtu != 0 && length > config->mtu)
		return counters->hole++, IMPAIR_HOLE;
	if (length > IMPAIR_LONGEST)
		return counters->room++, IMPAIR_ROOM;
	uint64_t sent;
	if (!transmit(link, length, now, &sent))
		return counters->queue++, IMPAIR_QUEUE;
	if (lost)
		return counters->lost++, IMPAIR_LOST;

	arena_give_back(link);
	uint64_t due = arrival(link, sent, jitter, late);
	struct block *block = hold(link, bytes, length, meta, due);
	if (block == NULL)
		return counters->room++, IMPAIR_ROOM;
	counters->reordered += late;
	if (hit)
		corrupt(link, block, place);
	if (twice && hold(link, bytes, length, meta, due) != NULL)
		counters->duplicated++;
	return IMPAIR_PASSED;
}

bool impair_due(struct impair *link, uint64_t now, struct impair_frame *frame)
{
	if (link->held == 0 || link->heap[0].due > now)
		return false;
	struct block *block = block_at(link, link->heap[0].block);
	*frame = (struct impair_frame){
		.bytes = (const uint8_t *)(block + 1),
		.meta = block->meta,
		.due = link->heap[0].due,
		.length = block->length,
	};
	block->live = 0;
	heap_pop(link);
	link->counters.delivered++;
	link->counters.delivered_bytes += block->length;
	return true;
}

uint64_t impair_deadline(const struct impair *link)
{
	return link->held != 0 ? link->heap[0].due : IMPAIR_NEVER;
}
