// The manager's sleep (abi/glance.h).
//
// Waking Python fifty times a second for a look at a few words costs ten times as much as the look.  A word that says
// "at work" for the first time is looked at again as soon as its patience is over; what is at work all the time, with
// another word at each look, is left in peace.  A hit ends the sleep once: who knows of it already may sleep on.
#define _GNU_SOURCE
#include "abi/glance.h"

#include <poll.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <time.h>

enum {
	QUEUES_EVERY = 10, // looks
	NEVER_MS = 1000000,
	MS = 1000000
};

static uint64_t clock_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

// One look; the number of hits that were none before.  `again` falls to the nanoseconds until the next look, where that
// has to be soon.
static int look_words(struct glance_word *words, int count, uint64_t now, uint64_t *again)
{
	int hits = 0;
	for (int i = 0; i < count; i++) {
		struct glance_word *w = &words[i];
		uint64_t value = __atomic_load_n(w->word, __ATOMIC_RELAXED) & w->same, before = w->seen;
		bool known = w->hit != 0 && value == before;
		w->seen = value;
		w->hit = 0;
		if ((value & w->mask) == 0)
			continue;
		if (value != before) {
			w->since_ns = now;
			if ((before & w->mask) == 0)
				*again = least(*again, w->patience_ns);
		} else if (now - w->since_ns >= w->patience_ns) {
			w->hit = 1;
			hits += !known;
		} else {
			*again = least(*again, w->since_ns + w->patience_ns - now);
		}
	}
	return hits;
}

static int look_some_queues(struct glance_queue *queues, int count)
{
	struct pollfd polled[GLANCE_QUEUES];
	int hits = 0;
	for (int i = 0; i < count; i++)
		polled[i] = (struct pollfd){ .fd = queues[i].fd, .events = POLLIN };
	bool some = poll(polled, (nfds_t)count, 0) > 0;
	for (int i = 0; i < count; i++) {
		queues[i].hit = some && polled[i].revents != 0;
		hits += queues[i].hit != 0;
	}
	return hits;
}

static int look_queues(struct glance_queue *queues, int count)
{
	int hits = 0;
	for (; count > GLANCE_QUEUES; queues += GLANCE_QUEUES, count -= GLANCE_QUEUES)
		hits += look_some_queues(queues, GLANCE_QUEUES);
	return hits + look_some_queues(queues, count);
}

void glance_look(struct glance_word *words, int word_count, struct glance_queue *queues, int queue_count)
{
	uint64_t again = UINT64_MAX;
	(void)look_words(words, word_count, clock_ns(), &again);
	(void)look_queues(queues, queue_count);
}

int glance_sleep(int epoll_fd, int64_t timeout_ns, int64_t interval_ns, struct glance_word *words, int word_count,
                 struct glance_queue *queues, int queue_count)
{
	uint64_t now = clock_ns(), end = now + (uint64_t)timeout_ns;
	for (int turn = 1;; turn++) {
		uint64_t wait = (uint64_t)interval_ns;
		int hits = look_words(words, word_count, now, &wait);
		if (turn % QUEUES_EVERY == 0)
			hits += look_queues(queues, queue_count);
		wait = least(hits > 0 ? 0 : wait, end - now);
		struct epoll_event event;
		uint64_t wait_ms = least((wait + MS - 1) / MS, NEVER_MS);
		if (epoll_wait(epoll_fd, &event, 1, (int)wait_ms) != 0)
			return GLANCE_EVENT; // or a signal: Python has to hear of it
		if (hits > 0)
			return GLANCE_HIT;
		now = clock_ns();
		if (now >= end)
			return GLANCE_TIME;
	}
}
