// A reader on one core, a writer on another.  Two changes of three give a route another next hop; the third takes it
// away and puts it back.
#define _GNU_SOURCE
#include "updates.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "table/fib.h"

enum { READ_BATCH = 64, WRITE_BATCH = 64 };
#define WINDOW 0.2

struct writing {
	struct updates *u;
	int stop;
	uint64_t done;
};

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void pin(size_t cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

static void write_some(struct writing *writing, uint32_t *at)
{
	struct updates *u = writing->u;
	struct route_change batch[WRITE_BATCH];
	uint32_t filled = 0;
	while (filled < WRITE_BATCH) {
		struct route_change *change = &u->changes[*at = (*at + 1) % u->change_count];
		if (*at % 3 == 0 && filled + 2 <= WRITE_BATCH) {
			batch[filled] = *change;
			batch[filled++].group = 0;
		} else {
			change->group = u->groups[(*at * 2654435761u >> 16) % u->group_count];
		}
		batch[filled++] = *change;
	}
	if (table_writer_apply(u->writer, batch, filled) != 0)
		abort();
	__atomic_fetch_add(&writing->done, filled, __ATOMIC_RELAXED);
}

static void *writing_run(void *user)
{
	struct writing *writing = user;
	uint32_t at = 0;
	pin(0);
	double start = now();
	while (!__atomic_load_n(&writing->stop, __ATOMIC_RELAXED)) {
		if ((double)writing->done < (now() - start) * UPDATES_A_SECOND)
			write_some(writing, &at);
		else
			nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
	}
	return NULL;
}

// Millions of look-ups a second of this thread's processor time.
static double read_window(const struct updates *u, uint32_t *at)
{
	struct timespec from, to;
	uint16_t groups[READ_BATCH];
	uint64_t count = 0;
	double end = now() + WINDOW;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
	while (now() < end) {
		for (uint32_t i = 0; i < 64; i++) {
			view_enter(u->view, u->worker);
			fib_lookup_batch(u->view, FAMILY_IPV4, u->keys + *at * 4, READ_BATCH, groups);
			view_leave(u->worker);
			*at = (*at + READ_BATCH) % (u->key_count - READ_BATCH);
		}
		count += 64 * READ_BATCH;
	}
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
	double took = (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9;
	return (double)count / took / 1e6;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

void updates_run(struct updates *u)
{
	double ratios[WINDOWS], quiet_sum = 0, seconds = 0;
	uint32_t at = 0;
	uint64_t done = 0;
	pin(1);
	read_window(u, &at);
	for (int i = 0; i < WINDOWS; i++) {
		struct writing writing = {.u = u};
		pthread_t thread;
		double quiet = read_window(u, &at), start = now();
		if (pthread_create(&thread, NULL, writing_run, &writing) != 0)
			abort();
		double busy = read_window(u, &at);
		writing.stop = 1;
		pthread_join(thread, NULL);
		seconds += now() - start;
		done += writing.done;
		quiet_sum += quiet;
		ratios[i] = busy / quiet;
	}
	qsort(ratios, WINDOWS, sizeof(*ratios), ascending);
	printf("updates rate=%.0f ratio=%.3f million=%.1f\n", (double)done / seconds, ratios[WINDOWS / 2],
		quiet_sum / WINDOWS);
}
