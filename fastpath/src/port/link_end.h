// One end of a patch link: the rings of abi/ring.h, without the driver contract.
#ifndef PORT_LINK_END_H
#define PORT_LINK_END_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>
#include "abi/core.h"
#include "abi/ring.h"

struct link_end {
	struct link_segment *own;
	const struct link_segment *peer;
	uint64_t producer;    // units filled; published by link_end_publish
	uint64_t consumer;    // units taken; recorded by link_end_record
	uint64_t peer_producer; // the peer's indices as they were when last looked at
	uint64_t peer_consumer;
	int own_event;
	int peer_event;
	uint64_t resyncs;     // times the peer's producer made no sense
};

// The next frame of the peer, measured once: what it stored may change while we look.
struct link_frame {
	uint32_t length;
	uint64_t units;       // consumed by it; where it is malformed, all there are: nobody knows where the next one begins
	bool malformed;
};

int link_end_map(struct link_end *end, int own_fd, int peer_fd);
void link_end_unmap(struct link_end *end);
// So many units are free to be filled.
bool link_end_has_room(struct link_end *end, uint64_t units);
// Fill units without publishing them; false without room or for an impossible length.  The parts have `length` bytes.
bool link_end_fill(struct link_end *end, const struct iovec *parts, uint32_t length, const void *vnet);
// Let the peer see what was filled, and wake it if it sleeps.
void link_end_publish(struct link_end *end);
// Measure the next frame; false: there is none.
bool link_end_next(struct link_end *end, struct link_frame *frame);
// Copy a measured frame out and step over it (data NULL: only step over).
void link_end_take(struct link_end *end, const struct link_frame *frame, uint8_t *data, void *vnet);
// What was taken has met its fate: the peer may reuse the units.
void link_end_record(struct link_end *end);
bool link_end_pending(const struct link_end *end);
void link_end_sleeping(struct link_end *end, bool sleeping);

#endif
