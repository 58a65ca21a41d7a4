// What the files of the core share about transit workers.
#ifndef CORE_WORKER_H
#define CORE_WORKER_H

#include <pthread.h>

#include "core.h"
#include "forward/hand.h"

struct worker {
	uint32_t number;
	int32_t cpu;                   // to be pinned to; -1: none
	pthread_t thread;
	uint64_t thread_id;
	bool started;
	bool stop;
	// Held by the thread while it works, else free for worker 0; `wanted` makes the thread give it up.
	pthread_mutex_t lock;
	pthread_cond_t resume;
	uint32_t wanted;
	struct core *core;             // NULL: there is no work yet
	struct worker_state *state;
	struct forward forward;
	struct port *ports[MAX_PORTS];
	uint16_t port_ids[MAX_PORTS];
	int port_count;
	int epoll_fd;
	struct watch watch;
	int event_fd;                  // worker 0 calls
	bool observed;                 // all frames go to worker 0, where somebody watches
	struct spin spin;
};

struct crew {
	uint32_t count;                // with worker 0, whose place here is empty
	struct worker workers[MAX_WORKERS];
};

// Take hold of a worker that works: until worker_release its thread touches nothing.
void worker_call(struct worker *worker);
void worker_release(struct worker *worker);

// --- core_hands.c: what worker 0 has to do with the others ---
int core_hands_open(struct core *core);
// There is something in a ring.  Called by any worker.
void core_hands_wake(struct core *core);
// A port of worker 0 came (spec), went (NULL) or changed: the others send there too, or know that it is there.
void core_hands_port(struct core *core, uint16_t port, const struct port_spec *spec);
// A worker's own part of a port.
int core_hands_port_add(struct core *core, const struct port_spec *spec, const int *fds, int fd_count);
// The n-th of all parts of ports that other workers serve.
bool core_hands_port_at(struct core *core, int n, struct port_spec *spec, int *fds, int *fd_count);

#endif
