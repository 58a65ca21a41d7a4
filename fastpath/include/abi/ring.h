// A patch link between two VRs: one segment for each direction of writing.
//
// Each end writes only its own segment: the slots it sends, its producer index, and
// its consumer index for the other end's slots.  Both indices count slots for ever;
// what the peer wrote is hostile input.
//
//   A's segment: slots A->B, producer A, consumer of B->A     (A read-write, B read-only)
//   B's segment: slots B->A, producer B, consumer of A->B     (B read-write, A read-only)
//
// A frame longer than one slot goes on in the next ones (LINK_MORE).
#ifndef ABI_RING_H
#define ABI_RING_H

#include <stdint.h>
#include "abi/segment.h"

enum {
	LINK_SLOTS = 4096,       // a power of two: as deep as a packet ring, for a peer that restarts
	LINK_SLOT_ROOM = 2016,
	LINK_MORE = 1,           // slot flag: the frame goes on in the next slot
	LINK_LINE = 128
};

struct link_slot {
	uint16_t length;         // bytes in this slot
	uint16_t flags;
	uint8_t vnet[12];        // struct virtio_net_hdr, offsets relative to the frame
	uint8_t reserved[16];
	uint8_t data[LINK_SLOT_ROOM];
};

struct link_segment {
	struct segment_header header;   // 128 bytes
	uint64_t producer;              // slots ever published by this end
	uint8_t pad1[120];
	uint64_t consumer;              // slots of the peer ever consumed by this end
	uint64_t sleeping;              // 1: this end wants an eventfd write when slots come
	uint8_t pad2[112];
	struct link_slot slots[LINK_SLOTS];
};

#endif
