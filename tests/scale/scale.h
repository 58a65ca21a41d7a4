// Two host stacks that hand each other their packets, and strangers who write to one of them, in virtual time: what
// many connections cost.
#pragma once

#include "host/tcp_internal.h"

enum { SCALE_PORT = 80, SCALE_MESSAGE = 64 };

#define MILLISECOND 1000000ull
#define SECOND (1000 * MILLISECOND)

struct scale;

struct side {
	struct scale *scale;
	struct host *host;
	struct state_segment *state;
	struct tables_view tables;
	struct address_entry addresses[2];
	void *segment;                // that the tables lie in
	struct packet *first, *last;  // on the way to the other side; `trace` is the time of arrival, us since the start
	uint32_t listener;
	uint64_t accepted;
	uint64_t events[8];           // of ops.stream, by bit of enum host_stream_event
};

struct scale {
	struct packet_pool *pool;
	uint64_t now, started;
	uint64_t delay;               // ns, one way
	struct side sides[2];         // client, server
};

void scale_open(struct scale *scale, uint64_t delay, const struct host_config *config);
void scale_close(struct scale *scale);
// Packets that are due, ticks, the ends of batches; then `ns` pass.
void scale_step(struct scale *scale, uint64_t ns);
// Until nothing is under way at this moment.
void scale_settle(struct scale *scale);
uint32_t scale_listen(struct side *side, uint16_t port, int backlog);
// The result of host_connect, and the slot.
int scale_connect(struct scale *scale, uint16_t port, uint32_t *slot);
// A segment of a stranger to the server: `number` makes his address and port.
struct stranger {
	uint32_t number;
	uint32_t seq, ack;
	uint8_t flags;
	bool options;                 // of a SYN
	uint32_t length;
};
void scale_inject(struct scale *scale, const struct stranger *stranger);
uint64_t scale_resident(void); // bytes of this process, but for pages of files
double scale_cpu(void);        // seconds of this process

void report(const char *name, double value);
