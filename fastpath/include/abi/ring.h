// A patch link between two VRs: one segment for each direction of writing.
//
// Each end writes only its own segment: the frames it sends, its producer index, and
// its consumer index for the other end's frames.  Both indices count units for ever;
// what the peer wrote is hostile input.
//
//   A's segment: frames A->B, producer A, consumer of B->A     (A read-write, B read-only)
//   B's segment: frames B->A, producer B, consumer of A->B     (B read-write, A read-only)
//
// A frame begins with a unit and takes as many as it needs, from the last one on into the
// first: struct link_head, then the bytes.  So short frames lie close together, where both
// processors find the next one before it is asked for.
#ifndef ABI_RING_H
#define ABI_RING_H

#include <stdint.h>
#include "abi/segment.h"

enum {
	LINK_UNITS = 131072,     // a power of two: as deep as a packet ring, for a peer that restarts
	LINK_UNIT = 64,          // bytes
	LINK_LINE = 128
};

struct link_head {
	uint32_t length;         // bytes of the frame
	uint8_t vnet[12];        // struct virtio_net_hdr, offsets relative to the frame
};

struct link_segment {
	struct segment_header header;   // 128 bytes
	uint64_t producer;              // units ever published by this end
	uint8_t pad1[120];
	uint64_t consumer;              // units of the peer ever consumed by this end
	uint64_t sleeping;              // 1: this end wants an eventfd write when frames come
	uint8_t pad2[112];
	uint8_t units[LINK_UNITS * LINK_UNIT];
};

#endif
