// What the files of the core share: one VR's data plane, wired together.
#ifndef CORE_H
#define CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "abi/core.h"
#include "abi/ring.h"
#include "base/log.h"
#include "bfd/bfd.h"
#include "forward/forward.h"
#include "host/host.h"
#include "port/port.h"
#include "server/server.h"
#include "wire/ip6.h"
#include "wire/udp.h"

enum { CORE_EVENTS = 64 };

// epoll data of what is not the server's: a port id, or this.
static const uint64_t core_signal_event = MAX_PORTS;
static const uint64_t core_hands_event = MAX_PORTS + 1;

// How far a ring must be emptied until all that lay in it at a moment has been seen.
struct core_mark {
	bool set;
	uint64_t progress;             // port_state.progress of that moment
	uint64_t room;                 // frames that the ring holds at most
};

// Ports of one worker whose fds are out of its epoll set, since it looks at them all the time.
struct watch {
	uint64_t out[MAX_PORTS / 64];
	uint32_t passed[MAX_PORTS];    // frames in and out since it last slept
};

// Looking for more before sleeping: where nothing came it is left out the next times, twice as many after each failure.
struct spin {
	uint32_t skip;                 // how often to sleep at once before looking for more again
	uint32_t failures;             // times in a row that looking for more found nothing
};

enum {
	TURN_ROUNDS = 4,               // turns of each port in an iteration
	TURN_BATCHES = 4,              // of one turn, at most
	SPIN_NS = 20000
};

struct core {
	void *tables;
	size_t tables_size;
	struct state_segment *state;
	size_t state_size;
	struct worker_state *worker;
	struct forward forward;
	struct host *host;
	struct server *server;
	struct bfd *bfd;
	struct crew *crew;             // the other workers; NULL: there are none
	int hands_fd;                  // they write to it while we sleep
	// Read by other workers, atomically.
	bool hands_sleeping;           // we sleep, or are about to
	bool hands_all;                // all frames are to come to us: somebody observes
	bool complete;                 // all ports are here that a predecessor had
	struct port *ports[MAX_PORTS];
	uint16_t port_ids[MAX_PORTS];  // of those that are held, in the order they came
	int port_count;
	bool awaited[MAX_PORTS];       // held by the predecessor, not yet given to us
	uint64_t awaited_until_ns;     // when we receive even so; 0: nothing is awaited
	int epoll_fd;
	struct watch watch;
	int signal_fd;
	uint64_t polled_ns;            // when epoll was last asked while there was work
	struct spin spin;
	struct spin spin_owed;         // the same where an app was given something, and may wait for our processor
	uint32_t processors;
	uint32_t trace_id;             // last one given
	uint64_t bfd_random;           // numbers drawn
	struct core_mark marks[MAX_PORTS];
	uint64_t mark_ns;              // when the marks were set; 0: they are not
	uint64_t heard_ns;             // all frames that came before have been seen
	uint64_t lenient_until_ns;     // we came late ourselves: nobody else is blamed until then
	bool bfd_sending;              // a packet of BFD is on its way out
	bool running;                  // in core_run: the clock goes on during an iteration
	bool coarse;                   // this kernel sleeps by the millisecond
	bool begun;                    // an iteration has run
	bool observed;                 // the ports are wrapped for an observer
	bool observe;                  // they should be
	bool traced;                   // packets get trace ids
	bool stop;
	struct log log;
};

// --- core_attach.c: make the counters of a dead predecessor obey their laws ---
void core_reconcile(struct state_segment *state);

// --- core_watch.c ---
// A port's fds into the epoll set of its worker, and out of it.
int watch_begin(int epoll_fd, const struct port *port);
void watch_end(int epoll_fd, const struct port *port);
// Frames came in or were sent.
void watch_passed(struct watch *watch, int epoll_fd, const struct port *port, int frames);
// About to sleep: all are watched again, or false, where memory is short.  Then look whether frames wait.
bool watch_all(struct watch *watch, int epoll_fd, struct port *const *ports, const uint16_t *ids, int count);
void watch_forget(struct watch *watch, uint16_t id);

// --- core_turn.c: what all workers do with their ports ---
// Take a batch in; frames that cannot be taken are counted as dropped.  *handled: both together.
int turn_receive(struct forward *f, struct port *port, struct packet **packets, int *handled);
bool turn_pending(struct port *const *ports, const uint16_t *ids, int count);
void turn_sleeping(struct port *const *ports, const uint16_t *ids, int count, bool sleeping);
void turn_poke(struct port *const *ports, const uint16_t *ids, int count);
// epoll has told of a port.
void turn_event(struct port *port, uint32_t events);
bool spin_is_left_out(struct spin *spin);
void spin_failed(struct spin *spin);
static inline void spin_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#else
	__asm__ volatile("" ::: "memory");
#endif
}

// --- core_run.c ---
uint64_t core_clock(void);

// --- core_bfd.c ---
// The time of this moment; in core_poll that of the iteration.
uint64_t core_now(const struct core *core);
int core_bfd_open(struct core *core);
// An iteration begins: the published sessions may be other ones.
void core_bfd_begin(struct core *core);
// Is this packet for us one of BFD?  Then it is taken where *reason is DROP_NONE.
bool core_bfd_deliver(struct core *core, struct packet *packet, enum drop_reason *reason);
// Do what is due by now.
void core_bfd_serve(struct core *core);

// --- forwarder.c: the life of a forwarder, from its birth to its exit ---
__attribute__((noreturn)) void forwarder_main(const struct zygote_birth *birth);

// --- core_worker.c: the other workers' threads, made before the process is confined ---
// `count` with worker 0; `cpus` as in core_workers.  Worker 0 is the caller, who is pinned here.  Alone it has no
// crew: NULL.
int crew_new(uint32_t count, const int32_t *cpus, struct crew **out);
void crew_free(struct crew *crew);
// Give them their work.  The crew is the core's from now on, also where this fails after -EINVAL.
int core_man(struct core *core, struct crew *crew);

// --- core_hands.c: worker 0's side of them ---
bool core_hands_pending(const struct core *core);
// Go on with what they gave: flush, then core_hands_settle.
int core_hands_take(struct core *core);
void core_hands_settle(struct core *core);
void core_hands_sleeping(struct core *core, bool sleeping);
// Between these two no other worker forwards: what all of them read can be changed.
void core_hands_hold(struct core *core);
void core_hands_release(struct core *core);
void core_hands_woken(struct core *core);

// --- core_port.c ---
// Send what is queued on a port (NULL: it has gone) and count what becomes of it.  Gives the error that tells that
// its device has gone, or 0.
int port_flush(struct forward *f, struct port *port, uint16_t id);
// Note and publish the state of a port's link.
void port_change(struct port *port, uint32_t link_up, uint32_t mtu);
// Note the ports that a dead predecessor held: see core_ports_complete.
void core_ports_await(struct core *core);
// Are all ports here that the predecessor had?  Until then nothing is received, since a
// packet for a port that is still to come would be dropped.  Not for longer than a second.
bool core_ports_complete(struct core *core, uint64_t now);
void core_flush(void *user, uint16_t port);
// Put the observer round the ports, or take it off, as last asked for.
void core_observe_apply(struct core *core);
void core_observe(void *user, bool trace, bool capture);
// A frame came in while somebody looks: give it a number, and to captures.
void core_observe_received(void *user, struct packet *packet);
// The number of the next packet that somebody watches.
uint32_t core_trace_next(struct core *core);
bool core_port_at(void *user, int n, struct port_spec *spec, int *fds, int *fd_count);
void core_ports_close(struct core *core);

#endif
