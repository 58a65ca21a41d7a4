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
#include <time.h>

#include "base/crc32.h"
#include "base/siphash.h"
#include "bulk/publish.h"
#include "bulk/writer.h"

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

// The groups of `count` addresses of 16 bytes each.
void harness_lookup(const struct tables_view *view, uint8_t family, const uint8_t *addresses, uint32_t count,
	uint16_t *groups)
{
	for (uint32_t i = 0; i < count; i++)
		groups[i] = fib_lookup(view, family, addresses + 16 * (size_t)i);
}

uint64_t harness_lookup_ns(const struct tables_view *view, uint8_t family, const uint8_t *addresses, uint32_t count,
	uint32_t rounds)
{
	struct timespec from, to;
	volatile uint32_t sum = 0;
	clock_gettime(CLOCK_MONOTONIC, &from);
	for (uint32_t round = 0; round < rounds; round++)
		for (uint32_t i = 0; i < count; i++)
			sum += fib_lookup(view, family, addresses + 16 * (size_t)i);
	clock_gettime(CLOCK_MONOTONIC, &to);
	(void)sum; // found for the time that it took alone
	return (uint64_t)((to.tv_sec - from.tv_sec) * 1000000000 + (to.tv_nsec - from.tv_nsec));
}

static void *reader_run(void *user)
{
	struct harness_reader *r = user;
	while (!__atomic_load_n(&r->stop, __ATOMIC_RELAXED)) {
		view_enter(r->view, r->worker);
		for (uint32_t i = 0; i < r->count; i++) {
			uint16_t group = fib_lookup(r->view, r->family, r->addresses + 16 * (size_t)i);
			const struct nexthop *hop = nexthop_select(r->view, group, i);
			r->wrong += hop == NULL || hop->interface != r->interfaces[i];
		}
		view_leave(r->worker);
		r->rounds++;
	}
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
