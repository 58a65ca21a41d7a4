// What the tests of the FIB need in C: a writer that dies at its N-th store, readers that look
// for wrong answers while it writes, and lookups in bulk.
#include "fib_harness.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/crc32.h"
#include "base/siphash.h"
#include "bulk/publish.h"
#include "bulk/writer.h"
#include "table/fib_walk.h"

static __thread jmp_buf crash_exit;
static __thread uint64_t crash_after; // 0: live
static __thread const char *crash_name;

void crashpoint(const char *name)
{
	if (crash_after != 0 && --crash_after == 0) {
		crash_name = name;
		longjmp(crash_exit, 1);
	}
}

const char *harness_crash_name(void)
{
	return crash_name;
}

int harness_apply(struct table_writer *w, const struct route_change *changes, uint32_t count, uint64_t store)
{
	crash_after = store;
	int result = setjmp(crash_exit) ? -EINTR : table_writer_apply(w, changes, count);
	crash_after = 0;
	return result;
}

int harness_group(struct table_writer *w, const struct nexthop *hops, uint32_t count, uint64_t store)
{
	crash_after = store;
	int result = setjmp(crash_exit) ? -EINTR : table_writer_group(w, hops, count);
	crash_after = 0;
	return result;
}

int harness_open(int tables_fd, int state_fd, struct table_writer **out, uint64_t store)
{
	crash_after = store;
	int result = setjmp(crash_exit) ? -EINTR : table_writer_open(tables_fd, state_fd, out);
	crash_after = 0;
	return result;
}

struct tables_view *harness_view(int fd)
{
	struct stat status;
	if (fstat(fd, &status) < 0)
		return NULL;
	void *base = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, fd, 0);
	struct tables_view *view = malloc(sizeof(*view));
	if (base == MAP_FAILED || view == NULL)
		return NULL;
	view_open(view, base, (size_t)status.st_size);
	return view;
}

void harness_view_close(struct tables_view *view)
{
	munmap((void *)(uintptr_t)view->base, view->size);
	view_close(view);
	free(view);
}

int harness_agree(const struct tables_view *view, uint8_t family, const uint8_t *addresses, uint32_t count,
	uint16_t *groups)
{
	struct fib_trie trie;
	bool open = fib_trie_open(view, family, &trie);
	uint32_t size = family == FAMILY_IPV4 ? 4 : 16;
	for (uint32_t i = 0; i < count; i++)
		groups[i] = fib_lookup(view, family, addresses + i * size);
	// Parts of all sizes; each begins elsewhere in the batch before.
	for (uint32_t first = 0, part = 1; first < count; first += part / 2 + 1, part = part % FIB_BATCH + 1) {
		uint16_t found[1 + FIB_WAYS][FIB_BATCH];
		uint32_t left = count - first < part ? count - first : part;
		fib_lookup_batch(view, family, addresses + first * size, left, found[0]);
		for (uint32_t way = 0; way < FIB_WAYS; way++) {
			memcpy(found[1 + way], found[0], sizeof(found[0]));
			if (open && fib_ways[way]->works())
				fib_ways[way]->batch(&trie, family, addresses + first * size, left, found[1 + way]);
		}
		for (uint32_t i = 0; i < left; i++)
			for (uint32_t way = 0; way < 1 + FIB_WAYS; way++)
				if (found[way][i] != groups[first + i])
					return (int)(first + i);
	}
	return -1;
}

// The groups of a round, one by one and as batches by turns.
static void reader_lookup(const struct harness_reader *r, const uint8_t *addresses, uint32_t size, uint16_t *groups)
{
	struct fib_trie trie;
	const struct fib_way *way = fib_ways[r->rounds / 3 % FIB_WAYS];
	if (r->rounds % 3 == 1 && r->count <= FIB_BATCH && way->works() && fib_trie_open(r->view, r->family, &trie))
		way->batch(&trie, r->family, addresses, r->count, groups);
	else if (r->rounds % 3 == 2)
		fib_lookup_batch(r->view, r->family, addresses, r->count, groups);
	else
		for (uint32_t i = 0; i < r->count; i++)
			groups[i] = fib_lookup(r->view, r->family, addresses + size * (size_t)i);
}

static void *reader_run(void *user)
{
	struct harness_reader *r = user;
	uint32_t size = r->family == FAMILY_IPV4 ? 4 : 16;
	uint8_t *addresses = calloc(r->count, size);
	uint16_t *groups = calloc(r->count, sizeof(*groups));
	if (addresses == NULL || groups == NULL)
		abort();
	for (uint32_t i = 0; i < r->count; i++)
		memcpy(addresses + size * (size_t)i, r->addresses + 16 * (size_t)i, size);
	while (!__atomic_load_n(&r->stop, __ATOMIC_RELAXED)) {
		view_enter(r->view, r->worker);
		reader_lookup(r, addresses, size, groups);
		for (uint32_t i = 0; i < r->count; i++) {
			const struct nexthop *hop = nexthop_select(r->view, groups[i], i);
			r->wrong += hop == NULL || hop->interface != r->interfaces[i];
		}
		view_leave(r->worker);
		r->rounds++;
	}
	free(addresses);
	free(groups);
	return NULL;
}

int harness_reader_start(struct harness_reader *r)
{
	return -pthread_create(&r->thread, NULL, reader_run, r);
}

void harness_reader_stop(struct harness_reader *r)
{
	__atomic_store_n(&r->stop, 1, __ATOMIC_RELAXED);
	pthread_join(r->thread, NULL);
}

struct worker_state *harness_worker(int state_fd)
{
	struct state_segment *state = mmap(NULL, sizeof(*state), PROT_READ | PROT_WRITE, MAP_SHARED, state_fd, 0);
	return state == MAP_FAILED ? NULL : &state->workers[0];
}

uint64_t harness_siphash(const uint64_t *key, const uint8_t *data, size_t bytes)
{
	return siphash24(key, data, bytes);
}

uint32_t harness_crc32(const uint8_t *data, size_t bytes)
{
	return crc32_update(0, data, bytes);
}
