// What a transit worker gives to worker 0: a ring with one producer and one consumer.
//
//   worker n: hand_* --> slots --(hand_publish, after its own packets were sent)--> worker 0: hand_take
//             buffers are taken back <--copied--            --(flush)--> settled: the packets have left
//
// The buffers stay the producer's; worker 0 copies a packet before it goes on with it.  What is
// handed over is counted by its producer as received and nothing else: its fate is worker 0's to
// count.
//
// Order within a flow: a worker sends itself what it can.  Where packets of a neighbor were handed
// over, those that follow must not overtake them: they are handed over too, and the worker takes
// nothing more in until worker 0 has sent them (hand_behind).
#ifndef FORWARD_HAND_H
#define FORWARD_HAND_H

#include "forward/forward.h"

enum {
	HAND_SLOTS = 1024,       // a power of two
	HAND_SUPERS = BATCH_SIZE, // buffers of super-packets among them, at most
	HAND_MARKS = 4096        // a power of two
};

enum hand_kind {
	HAND_FRAME = 1,    // a frame as it came; `ingress` is set where its arrival was counted
	HAND_NEIGHBOR = 2, // an IP packet in transit, for its next hop
	HAND_ERROR = 3     // a copy of an offending packet: send the ICMP error that is due
};

struct hand {
	struct packet *packet;
	uint8_t kind;           // enum hand_kind
	uint8_t family;
	uint8_t type, code;     // of the error
	uint16_t interface;     // of the next hop
	uint32_t info;
	uint8_t nexthop[16];
};

struct hand_ring {
	uint64_t produced;      // published
	uint8_t pad1[120];
	uint64_t copied;        // by worker 0: the producer may have these buffers back
	uint64_t settled;       // and what became of them has been sent
	uint8_t pad2[112];
	// The producer's own.
	uint64_t filled;        // slots filled, published or not
	uint64_t reclaimed;
	uint32_t supers;        // buffers of super-packets in slots
	bool barrier;           // nothing is taken in until all has settled
	uint8_t marks[HAND_MARKS]; // enum hand_mark, by the neighbor's hash
	struct hand slots[HAND_SLOTS];
};

// --- of the producer ---
// Give a frame (data at the link header) to worker 0.  Takes the packet on DROP_NONE, as the next one does.
enum drop_reason hand_frame(struct forward *f, struct packet *packet);
enum drop_reason hand_neighbor(struct forward *f, const struct interface_entry *out, uint8_t family,
	const uint8_t *nexthop, uint64_t hash, struct packet *packet);
// Frames of a port, just received and not yet looked at, all of them.
void hand_batch(struct forward *f, uint16_t port, struct packet **packets, int count);
// Does not take the packet.
void hand_error(struct forward *f, const struct packet *packet, uint8_t family, uint8_t type, uint8_t code,
	uint32_t info);
// Were packets for this neighbor handed over, that may not have been sent yet?
bool hand_marked(const struct forward *f, uint64_t hash);
// Hold back until worker 0 has sent what it was given for this neighbor.
void hand_await(struct forward *f, uint64_t hash);
// After a flush: worker 0 may see what was handed over.  True where there is something new.
bool hand_publish(struct forward *f);
// Take buffers back; true while nothing may be taken in.
bool hand_behind(struct forward *f);

// --- of worker 0 ---
// Go on with up to `max` packets that a worker gave; returns how many.  They have settled after the next flush.
int hand_take(struct forward *f, struct hand_ring *ring, int max);
bool hand_waiting(const struct hand_ring *ring);
void hand_settle(struct hand_ring *ring);

#endif
