// The rings of an AF_XDP socket, and the frames that go round in them.
//
//   receive frames   fill ring --kernel--> rx ring --us--> fill ring
//   transmit frames  free list --us--> tx ring --kernel--> completion ring --us--> free list
//
// Each frame belongs to one pair of rings for good, so where it is follows from the rings, and for those
// that the kernel is sending from a word beside the frames that outlives us.
#ifndef PORT_XSK_RING_H
#define PORT_XSK_RING_H

#include <linux/if_xdp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { XSK_FRAME = 2048 }; // bytes of a frame

// One producer, one consumer; the indices run on and wrap.
struct xsk_ring {
	uint32_t *producer;
	uint32_t *consumer;
	uint32_t *flags;
	void *entries;       // struct xdp_desc (rx, tx) or uint64_t (fill, completion)
	uint32_t size;       // a power of two
	void *map;           // NULL: not mapped by us
	size_t map_size;
};

struct xsk_receiver {
	struct xsk_ring rx;
	struct xsk_ring fill; // of the same size; all frames have room in each
	uint32_t position;    // frames taken
	uint32_t released;    // of these given back: the ring's consumer
};

struct xsk_sender {
	struct xsk_ring tx;
	struct xsk_ring completion; // of the same size; all frames have room in each
	uint64_t *sent;       // of a frame that is out: its place in the tx ring, and bit 32; else 0
	uint64_t first;       // number, in the memory of all frames, of the first of ours
	uint32_t *free;       // numbers of our frames; the last one freed is the first one taken, and warm
	uint32_t free_count;
	uint32_t taken;       // places of the tx ring that the kernel is known to have taken
};

// Map one ring of a socket: entries of `entry` bytes each.
int xsk_ring_map(struct xsk_ring *ring, int fd, uint64_t page_offset, const struct xdp_ring_offset *offsets, uint32_t size,
	size_t entry);
void xsk_ring_unmap(struct xsk_ring *ring);

static inline uint32_t xsk_load(const uint32_t *index)
{
	return __atomic_load_n(index, __ATOMIC_ACQUIRE);
}

static inline void xsk_store(uint32_t *index, uint32_t value)
{
	__atomic_store_n(index, value, __ATOMIC_RELEASE);
}

static inline bool xsk_wants_wakeup(const struct xsk_ring *ring)
{
	return (xsk_load(ring->flags) & XDP_RING_NEED_WAKEUP) != 0;
}

static inline struct xdp_desc *xsk_descriptor(const struct xsk_ring *ring, uint32_t index)
{
	return (struct xdp_desc *)ring->entries + (index & (ring->size - 1));
}

static inline uint64_t *xsk_address(const struct xsk_ring *ring, uint32_t index)
{
	return (uint64_t *)ring->entries + (index & (ring->size - 1));
}

// --- receiving ---

// Go on with the first frame that nobody gave back.  -EPROTO where no predecessor can have left the rings so.
int xsk_receiver_resume(struct xsk_receiver *receiver);
// Frames that wait beyond the position; none where the indices are impossible.
static inline uint32_t xsk_receiver_waiting(const struct xsk_receiver *receiver)
{
	uint32_t waiting = xsk_load(receiver->rx.producer) - receiver->position;
	return waiting <= receiver->rx.size ? waiting : 0;
}
// The frames before the position have met their fate: give them back.
void xsk_receiver_release(struct xsk_receiver *receiver);

// --- transmitting ---

// Find out which frames are free; what lies in the tx ring goes with the next that is sent.
void xsk_sender_resume(struct xsk_sender *sender);
// Take back the frames that the kernel is done with.
void xsk_sender_reap(struct xsk_sender *sender);
// Put a free frame with `length` bytes behind `producer`, which nobody sees yet; give its number.
uint32_t xsk_sender_add(struct xsk_sender *sender, uint32_t producer, uint32_t length);
void xsk_sender_publish(struct xsk_sender *sender, uint32_t producer);
// Places in the tx ring that the kernel has still to take.
uint32_t xsk_sender_left(const struct xsk_sender *sender);
// The kernel has taken frames, and where `dropped` it threw the last of them away.  It takes them in calls of ours
// only (copy mode), and does not tell of a call that sent none.
void xsk_sender_advance(struct xsk_sender *sender, bool dropped);
// Send the frame that the kernel took last and has completed once more, before all that it has still to take.
bool xsk_sender_repeat(struct xsk_sender *sender);
// Take back what was published from `producer` on; the kernel must not have looked at the ring since.
void xsk_sender_retract(struct xsk_sender *sender, uint32_t producer);

#endif
