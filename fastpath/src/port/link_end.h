// One end of a patch link: the rings of abi/ring.h, without the driver contract.
#ifndef PORT_LINK_END_H
#define PORT_LINK_END_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>
#include "abi/core.h"
#include "abi/ring.h"

enum { LINK_FRAME_SLOTS = (SUPER_ROOM + LINK_SLOT_ROOM - 1) / LINK_SLOT_ROOM };

struct link_end {
	struct link_segment *own;
	const struct link_segment *peer;
	uint64_t producer;    // slots filled; published by link_end_publish
	uint64_t consumer;    // slots taken; recorded by link_end_record
	int own_event;
	int peer_event;
	uint64_t resyncs;     // times the peer's producer made no sense
};

// The next frame of the peer, measured once: what it stored may change while we look.
struct link_frame {
	uint32_t length;
	uint32_t slots;       // consumed by it, also when it is malformed
	uint16_t lengths[LINK_FRAME_SLOTS];
	bool malformed;
};

int link_end_map(struct link_end *end, int own_fd, int peer_fd);
void link_end_unmap(struct link_end *end);
// Slots that are free to be filled.
uint64_t link_end_room(const struct link_end *end);
// Fill slots without publishing them; false without room or for an impossible length.  The parts have `length` bytes.
bool link_end_fill(struct link_end *end, const struct iovec *parts, uint32_t length, const void *vnet);
// Let the peer see what was filled, and wake it if it sleeps.
void link_end_publish(struct link_end *end);
// Measure the next frame; false: there is none.
bool link_end_next(struct link_end *end, struct link_frame *frame);
// Copy a measured frame out and step over it (data NULL: only step over).
void link_end_take(struct link_end *end, const struct link_frame *frame, uint8_t *data, void *vnet);
// What was taken has met its fate: the peer may reuse the slots.
void link_end_record(struct link_end *end);
bool link_end_pending(const struct link_end *end);
void link_end_sleeping(struct link_end *end, bool sleeping);

#endif
