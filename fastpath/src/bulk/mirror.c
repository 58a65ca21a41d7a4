// The copy of groups and tries that the XDP offload reads, in a BPF array (abi/bypass.h).
//
// It is written by the same code as the published ones: a table_writer of its own, whose arena lies in the map, and
// whose lpm are those of its owner.  Both have the same epochs, and what either retires waits for the readers of both,
// since a group's number stands in the leaves of both.  A map does not grow: when it is full, control says so in the
// map and its owner, the manager, brings a larger one.
//
// The program announces that it reads without a barrier (bpf/transit.h), so a processor may still hold the announcement
// back while it reads.  It cannot for long: its store buffer runs empty within microseconds, and at each interrupt and
// exit of a virtual machine.  So nothing is given back before DRAIN_NS have passed since it was retired.
#define _GNU_SOURCE
#include "bulk/mirror.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "abi/bypass.h"
#include "bulk/publish.h"

enum { GROW = 4, PATIENCE = 100, DRAIN_NS = 1000000 };

struct mirror {
	struct table_writer writer;
	struct bypass_fib *fib;
	uint64_t settled;   // what was retired before this epoch has waited long enough
	uint64_t settling;  // the next such epoch, which has come
	uint64_t since_ns;  // at that time
	bool full;
};

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void drain(void)
{
	struct timespec left = { .tv_nsec = DRAIN_NS };
	while (nanosleep(&left, &left) < 0 && errno == EINTR)
		;
}

static void mirror_full(struct table_writer *w, struct mirror *m)
{
	m->full = true;
	PUBLISH(&m->fib->ready, 0, "mirror full");
	PUBLISH(&w->tables->mirrored, 0, "mirrored");
	PUBLISH(&m->fib->wanted, m->writer.size * GROW, "mirror wanted");
}

static bool following(const struct table_writer *w)
{
	return w->mirror != NULL && !w->mirror->full;
}

// The private tries belong to the owner, which may have replaced them.
static struct table_writer *refreshed(const struct table_writer *w)
{
	struct table_writer *writer = &w->mirror->writer;
	writer->lpm[0] = w->lpm[0];
	writer->lpm[1] = w->lpm[1];
	return writer;
}

void mirror_sync(struct table_writer *w, uint32_t f, struct key key, uint32_t length)
{
	if (following(w) && trie_sync(refreshed(w), f, key, length) < 0)
		mirror_full(w, w->mirror);
}

void mirror_repair(struct table_writer *w, uint32_t f)
{
	if (following(w) && trie_repair(refreshed(w), f) < 0)
		mirror_full(w, w->mirror);
}

static uint64_t block_bytes(const struct nexthop_group *group)
{
	return sizeof(*group) + (group->count + group->backups) * sizeof(struct nexthop);
}

void mirror_group(struct table_writer *w, uint16_t group)
{
	if (!following(w))
		return;
	struct table_writer *writer = &w->mirror->writer;
	uint64_t *word = &writer->tables->groups[group], old = *word, fresh = 0, from = w->tables->groups[group];
	if (from != 0) {
		const struct nexthop_group *block = arena_at(&w->arena, from);
		if (writer_take(writer, block_bytes(block), &fresh) < 0) {
			mirror_full(w, w->mirror);
			return;
		}
		memcpy(arena_at(&writer->arena, fresh), block, block_bytes(block));
	}
	PUBLISH(word, fresh, "mirror group");
	PUBLISH(&w->mirror->fib->changes, w->mirror->fib->changes + 1, "mirror changes");
	if (old != 0)
		writer_retire(writer, old, block_bytes(arena_at(&writer->arena, old)));
}

void mirror_epoch(struct table_writer *w)
{
	struct mirror *m = w->mirror;
	if (m == NULL)
		return;
	PUBLISH(&m->fib->tables.epoch, w->tables->epoch, "mirror epoch");
	uint64_t now = now_ns();
	if (m->settling != 0 && now - m->since_ns > DRAIN_NS) {
		m->settled = m->settling;
		m->settling = 0;
	}
	if (m->settling == 0) {
		m->settling = w->tables->epoch;
		m->since_ns = now;
	}
}

uint64_t mirror_oldest(const struct table_writer *w, uint64_t oldest)
{
	if (w->mirror == NULL)
		return oldest;
	if (w->mirror->settled < oldest)
		oldest = w->mirror->settled;
	for (int i = 0; i < BYPASS_CPUS; i++) {
		uint64_t epoch = __atomic_load_n(&w->mirror->fib->readers[i].epoch, __ATOMIC_ACQUIRE);
		if (epoch != 0 && epoch < oldest)
			oldest = epoch;
	}
	return oldest;
}

bool mirror_wait(const struct table_writer *w)
{
	w = w->owner != NULL ? w->owner : w;
	if (w->mirror == NULL)
		return false;
	drain();
	return true;
}

struct table_writer *mirror_writer(const struct table_writer *w)
{
	return w->mirror == NULL ? NULL : &w->mirror->writer;
}

void mirror_close(struct table_writer *w)
{
	struct mirror *m = w->mirror;
	if (m == NULL)
		return;
	w->mirror = NULL;
	arena_close(&m->writer.arena);
	limbo_close(&m->writer.limbo);
	munmap(m->fib, m->writer.size);
	free(m);
}

// The map may have had another writer: nobody may be reading when it is begun anew.
static int mirror_silence(struct bypass_fib *fib)
{
	PUBLISH(&fib->ready, 0, "mirror begins");
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	for (int turn = 0; turn < PATIENCE; turn++) {
		uint64_t reading = 0;
		drain();
		for (int i = 0; i < BYPASS_CPUS; i++)
			reading |= __atomic_load_n(&fib->readers[i].epoch, __ATOMIC_ACQUIRE);
		if (reading == 0)
			return 0;
	}
	return -EBUSY;
}

static void clear(uint64_t *begin, uint64_t *end)
{
	memset(begin, 0, (size_t)((uint8_t *)end - (uint8_t *)begin));
}

// But for the epoch, which is never 0 in between: a program that has just read it announces that; and for the number
// of changes, by which programs know whether what they remember is still so.
static void mirror_clear(struct bypass_fib *fib, uint64_t epoch)
{
	uint64_t *kept = &fib->tables.epoch, *counted = &fib->changes;
	PUBLISH(&fib->tables.epoch, epoch, "mirror epoch");
	clear((uint64_t *)fib, kept);
	clear(kept + 1, counted);
	clear(counted + 1, (uint64_t *)(fib + 1));
	PUBLISH(&fib->changes, fib->changes + 1, "mirror changes");
}

static int mirror_start(struct table_writer *w, struct mirror *m, void *base, uint64_t size)
{
	m->fib = base;
	m->writer.tables = base;
	m->writer.size = size;
	m->writer.fd = -1;
	m->writer.owner = w;
	int error = mirror_silence(m->fib);
	if (error < 0)
		return error;
	mirror_clear(m->fib, w->tables->epoch);
	return arena_open(&m->writer.arena, -1, base, size, sizeof(*m->fib), &m->fib->tables.arena_end);
}

static void mirror_fill(struct table_writer *w, struct mirror *m)
{
	for (uint32_t group = 1; group < MAX_GROUPS && !m->full; group++)
		if (group_exists(w, (uint16_t)group))
			mirror_group(w, (uint16_t)group);
	for (uint32_t f = 0; f < 2 && !m->full; f++)
		if (w->lpm[f].count != 0 && trie_build(refreshed(w), f) < 0)
			mirror_full(w, m);
	if (m->full)
		return;
	PUBLISH(&m->fib->ready, 1, "mirror ready");
	PUBLISH(&w->tables->mirrored, 1, "mirrored");
}

int table_writer_mirror(struct table_writer *w, int map_fd, uint64_t size)
{
	if (w->mirror != NULL && !w->mirror->full)
		PUBLISH(&w->mirror->fib->ready, 0, "mirror left");
	PUBLISH(&w->tables->mirrored, 0, "mirrored");
	mirror_close(w);
	if (map_fd < 0)
		return 0;
	if (size < sizeof(struct bypass_fib) + ARENA_PAGE || size % ARENA_PAGE != 0)
		return -EINVAL;
	struct mirror *m = calloc(1, sizeof(*m));
	if (m == NULL)
		return -ENOMEM;
	void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, map_fd, 0);
	int error = base == MAP_FAILED ? -errno : mirror_start(w, m, base, size);
	if (error < 0) {
		if (base != MAP_FAILED)
			munmap(base, size);
		free(m);
		return error;
	}
	w->mirror = m;
	mirror_fill(w, m);
	return 0;
}
