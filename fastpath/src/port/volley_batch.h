// Frames on their way to a device together: what a forwarder writes and the program bpf/volley.bpf.c reads.
//
// One entry follows the other: struct volley_entry, then the frame, then up to VOLLEY_ALIGN - 1 bytes of nothing.
#ifndef PORT_VOLLEY_BATCH_H
#define PORT_VOLLEY_BATCH_H

#include <stdint.h>

enum {
	VOLLEY_FRAMES = 64,
	VOLLEY_FRAME_MIN = 14,   // an Ethernet header
	VOLLEY_FRAME_MAX = 1600, // the kernel refuses to begin with one near a page
	VOLLEY_BYTES = 1 << 14,  // of entries
	VOLLEY_ALIGN = 8,
	// Where the last entry may begin.
	VOLLEY_LAST = VOLLEY_BYTES - VOLLEY_FRAME_MAX - VOLLEY_ALIGN
};

struct volley_entry {
	uint32_t length;
	uint32_t reserved;
};

struct volley_batch {
	uint32_t ifindex;
	uint32_t count;  // entries
	uint32_t sent;   // by the program: of these, from the front
	uint32_t refusal; // of the next one, as the kernel gave it; 0: none
	uint8_t entries[VOLLEY_BYTES];
};

#endif
