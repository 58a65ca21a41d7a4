// How a manager sleeps: it waits for file descriptors, and meanwhile glances at what its VRs write.
//
// This stands alone (fastpath/_glance): the manager loads no other C of ours.
#ifndef ABI_GLANCE_H
#define ABI_GLANCE_H

#include <stdint.h>

// A word that says whether somebody is at work.
struct glance_word {
	const uint64_t *word;
	uint64_t mask;        // at work while one of these bits is set
	uint64_t same;        // the bits that tell one state of it from another
	uint64_t patience_ns; // how long it may stay the same so
	uint64_t seen;        // what it was at the last look, and since when
	uint64_t since_ns;
	uint64_t hit;         // 1: it stayed for longer than that
};

// A file descriptor from which somebody who sleeps should have read.
struct glance_queue {
	int32_t fd;
	uint32_t hit;         // 1: it is readable, or not to be polled
};

enum glance_end {
	GLANCE_TIME = 0,  // nothing happened
	GLANCE_HIT = 1,   // something was hit
	GLANCE_EVENT = 2  // the epoll set has events
};

enum glance_limits { GLANCE_QUEUES = 256 }; // that are polled at once

// One look at all; each word and queue says whether it is hit.
void glance_look(struct glance_word *words, int word_count, struct glance_queue *queues, int queue_count);

// Wait for events of `epoll_fd`, at most `timeout_ns`, looking at the words each `interval_ns` and at the queues
// each tenth time; give an enum glance_end.  A word that was hit at the look before, and is the same, does not end it.
int glance_sleep(int epoll_fd, int64_t timeout_ns, int64_t interval_ns, struct glance_word *words, int word_count,
                 struct glance_queue *queues, int queue_count);

#endif
