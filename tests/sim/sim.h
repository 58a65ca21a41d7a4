// Two real host stacks joined by two impaired links, in virtual time.
//
//   app (app.c) <--> struct host <--> end.c <--> impair <--> end.c <--> struct host <--> app
//                       ^ check.c looks at both after every event
//
// A seed says everything: addresses, options, sizes of buffers, what the links do, what the apps do,
// and when the clocks start.  The same seed gives the same run, bit for bit.
#pragma once

#include "host/tcp_internal.h"
#include "impair.h"

enum {
	SIM_CONNECTIONS = 4,
	SIM_PORT = 8000,
	SIM_ETHERNET = 14,
};

enum sim_ending {
	SIM_SHUTDOWN,    // says that it has sent all, reads until the end, closes
	SIM_CLOSE,       // closes when it has sent all, whether the peer has or not
	SIM_ABORT,       // resets the connection at some byte
};

// What one side of a connection does.
struct sim_script {
	uint32_t send;             // bytes in all
	uint32_t write_most;       // bytes of one write
	uint64_t write_pause;      // ns between writes
	uint32_t read_most;
	uint64_t read_pause;
	uint32_t ask;              // request and response: after each `ask` bytes sent, wait for ...
	uint32_t answer;           // ... so many bytes of the peer; 0: do not
	bool answering;            // the other side of it: sends `answer` bytes for each `ask` bytes
	bool after_peer;           // half-close: sends when the peer has sent all
	bool nodelay;
	enum sim_ending ending;
	uint32_t abort_at;         // bytes sent and received
};

struct sim_connection {
	struct sim_end *end;
	struct sim_script script;
	uint32_t slot;
	uint8_t number;
	uint16_t port;             // of the side that connected
	bool used, open, connected, failed, closed;
	bool readable, writable, ended, shut;
	bool told;                 // of something since it last ran
	bool may_fail;             // an error is no surprise: somebody closes early or aborts
	int error;
	uint32_t sent, received;
	uint64_t write_at, read_at; // not before
};

// The last segment to an address that nobody has.
struct sim_stray {
	uint32_t count, seq, ack;
	uint8_t flags;
};

struct sim_end {
	struct sim_stray stray;
	struct sim_world *world;
	struct host *host;
	struct state_segment *state;
	struct tables_view tables;
	void *segment;             // that the tables lie in
	struct address_entry addresses[2];
	struct impair out;
	uint32_t mtu;
	bool direct;               // bytes are given to the app by ops.deliver
	bool biased;
	uint32_t bias;             // added to initial sequence numbers
	long packets;              // that the stack holds
	bool holds;                // what is sent waits for end_sent, as in a forwarder
	struct packet *held, **held_last;
	uint32_t listener;         // slot
	bool listening, acceptable;
	int backlog;
	uint64_t accept_pause, accept_at; // ns
	struct sim_connection connections[SIM_CONNECTIONS];
};

struct sim_world {
	uint64_t seed;
	uint64_t random;
	uint64_t now, started;
	bool six;
	bool super;                // links carry super-segments whole
	bool crossed;              // simultaneous open
	uint32_t count;            // of connections
	uint32_t mtu;
	bool router;               // tells who sends what is too long for a link (RFC 1191, RFC 8201)
	bool keyed;                // RFC 2385
	uint64_t events, frames;
	uint64_t hash;             // of all frames and times
	bool trace;
	char failure[300];
	struct sim_end ends[2];
};

// --- sim.c ---
uint64_t sim_random(struct sim_world *world);
static inline uint32_t sim_below(struct sim_world *world, uint32_t limit)
{
	return (uint32_t)(sim_random(world) >> 32) % limit;
}
static inline bool sim_chance(struct sim_world *world, uint32_t percent)
{
	return sim_below(world, 100) < percent;
}
// The first failure is kept; it ends the run.
__attribute__((format(printf, 2, 3))) void sim_fail(struct sim_world *world, const char *format, ...);

// --- end.c: a stack and its side of the links ---
void end_open(struct sim_end *end, struct sim_world *world, const struct host_config *config, const struct impair_config *link);
void end_close(struct sim_end *end);
struct sim_end *end_other(struct sim_end *end);
void end_address(const struct sim_end *end, uint8_t *address);
// What the link brings until now.
void end_receive(struct sim_end *end);
// Have what is sent wait, and let it leave.
void end_hold(struct sim_end *end);
void end_sent(struct sim_end *end);
// What must hold between any two events (check.h).
void check_end(struct sim_end *end);
// All that connections held has been given back.
void check_baseline(struct sim_end *end);

// --- flood.c: 50,000 SYNs a second; the world has no harm but that ---
bool flood_run(struct sim_world *world);

// --- handshake.c: segments of a stranger to a listener, one by one; `config` is that of the world ---
bool handshake_run(struct sim_world *world, const struct host_config *config);

// --- app.c ---
void app_listen(struct sim_end *end);
void app_connect(struct sim_connection *connection, uint16_t port, uint16_t remote_port);
uint32_t app_deliver(struct sim_end *end, uint32_t slot, const struct iovec *parts, int count);
void app_event(struct sim_end *end, uint32_t slot, uint32_t events);
// Do what can be done now; true: something was.
bool app_run(struct sim_end *end);
uint64_t app_deadline(const struct sim_end *end);
bool app_done(const struct sim_end *end);
// Nothing will happen any more: sides whose peer went without their hearing of it give up.  True: there were such.
bool app_give_up(struct sim_end *end);
// The run is over: did everybody get everything?
void app_verify(struct sim_end *end);

