// The rings of an AF_XDP socket: see xsk_ring.h.
//
// Crash rule of receiving.  As many frames as the fill ring has places were put there by whoever made the
// socket; each frame that is released adds one.  So the fill ring itself records how many have met their fate:
//   fill.producer = size + frames released
// A release is that one store; the rx ring's consumer, which makes room in the ring, follows.  Whoever comes after a
// crash goes on where the fill ring says, and lets the consumer catch up.
#include "port/xsk_ring.h"

#include <errno.h>
#include <sys/mman.h>

static const uint64_t sent_mark = 1ull << 32;

int xsk_ring_map(struct xsk_ring *ring, int fd, uint64_t page_offset, const struct xdp_ring_offset *offsets, uint32_t size,
	size_t entry)
{
	size_t bytes = offsets->desc + size * entry;
	uint8_t *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, (off_t)page_offset);
	if (map == MAP_FAILED)
		return -errno;
	ring->map = map;
	ring->map_size = bytes;
	ring->size = size;
	ring->producer = (uint32_t *)(void *)(map + offsets->producer);
	ring->consumer = (uint32_t *)(void *)(map + offsets->consumer);
	ring->flags = (uint32_t *)(void *)(map + offsets->flags);
	ring->entries = map + offsets->desc;
	return 0;
}

void xsk_ring_unmap(struct xsk_ring *ring)
{
	if (ring->map != NULL)
		munmap(ring->map, ring->map_size);
	ring->map = NULL;
}

// --- receiving ---

int xsk_receiver_resume(struct xsk_receiver *receiver)
{
	uint32_t consumer = xsk_load(receiver->rx.consumer);
	uint32_t filled = xsk_load(receiver->rx.producer) - consumer;
	uint32_t released = xsk_load(receiver->fill.producer) - receiver->fill.size;
	if (filled > receiver->rx.size || released - consumer > filled)
		return -EPROTO;
	xsk_store(receiver->rx.consumer, released);
	receiver->position = released;
	receiver->released = released;
	return 0;
}

void xsk_receiver_release(struct xsk_receiver *receiver)
{
	uint32_t place = xsk_load(receiver->fill.producer);
	for (uint32_t index = receiver->released; index != receiver->position; index++)
		*xsk_address(&receiver->fill, place++) = xsk_descriptor(&receiver->rx, index)->addr;
	xsk_store(receiver->fill.producer, place);
	receiver->released = receiver->position;
	xsk_store(receiver->rx.consumer, receiver->position);
}

// --- transmitting ---

static uint64_t sender_frame(const struct xsk_sender *sender, uint64_t address)
{
	return address / XSK_FRAME - sender->first; // of somebody else: a number beyond ours
}

static void sender_free(struct xsk_sender *sender, uint64_t frame)
{
	if (frame >= sender->tx.size || sender->sent[frame] == 0)
		return;
	sender->sent[frame] = 0;
	sender->free[sender->free_count++] = (uint32_t)frame;
}

void xsk_sender_reap(struct xsk_sender *sender)
{
	struct xsk_ring *ring = &sender->completion;
	uint32_t producer = xsk_load(ring->producer);
	uint32_t consumer = xsk_load(ring->consumer);
	if (producer == consumer || producer - consumer > ring->size)
		return;
	while (consumer != producer)
		sender_free(sender, sender_frame(sender, *xsk_address(ring, consumer++)));
	// Before a frame is sent again: else its old completion would pass for the new one after a crash.
	xsk_store(ring->consumer, consumer);
}

void xsk_sender_resume(struct xsk_sender *sender)
{
	uint32_t producer = xsk_load(sender->tx.producer);
	uint32_t waiting = producer - xsk_load(sender->tx.consumer);

	sender->taken = producer - (waiting <= sender->tx.size ? waiting : 0);
	sender->free_count = 0;
	xsk_sender_reap(sender);
	sender->free_count = 0;
	for (uint32_t frame = 0; frame < sender->tx.size; frame++) {
		// One at the producer or behind it was never seen by the kernel.
		if ((int32_t)((uint32_t)sender->sent[frame] - producer) >= 0)
			sender->sent[frame] = 0;
		if (sender->sent[frame] == 0)
			sender->free[sender->free_count++] = frame;
	}
}

static void sender_describe(struct xsk_sender *sender, uint32_t place, uint32_t frame, uint32_t length)
{
	sender->sent[frame] = sent_mark | place;
	*xsk_descriptor(&sender->tx, place) = (struct xdp_desc){ .addr = (sender->first + frame) * XSK_FRAME, .len = length };
}

uint32_t xsk_sender_add(struct xsk_sender *sender, uint32_t producer, uint32_t length)
{
	uint32_t frame = sender->free[--sender->free_count];
	sender_describe(sender, producer, frame, length);
	return frame;
}

void xsk_sender_publish(struct xsk_sender *sender, uint32_t producer)
{
	xsk_store(sender->tx.producer, producer);
}

uint32_t xsk_sender_left(const struct xsk_sender *sender)
{
	return xsk_load(sender->tx.producer) - sender->taken;
}

void xsk_sender_advance(struct xsk_sender *sender, bool dropped)
{
	uint32_t told = xsk_load(sender->tx.consumer) - sender->taken;
	if (told != 0 && told <= xsk_sender_left(sender))
		sender->taken += told;
	else if (dropped && xsk_sender_left(sender) != 0)
		sender->taken++;
}

// Take a certain frame off the free list, where it was put a moment ago.
static bool sender_claim(struct xsk_sender *sender, uint64_t frame)
{
	for (uint32_t i = sender->free_count; i-- > 0;) {
		if (sender->free[i] != frame)
			continue;
		sender->free[i] = sender->free[--sender->free_count];
		return true;
	}
	return false;
}

bool xsk_sender_repeat(struct xsk_sender *sender)
{
	uint32_t producer = xsk_load(sender->tx.producer);
	uint32_t first = sender->taken - 1; // still describes the frame, whose bytes nobody has changed

	xsk_sender_reap(sender);
	if (producer - first >= sender->tx.size || !sender_claim(sender, sender_frame(sender, xsk_descriptor(&sender->tx, first)->addr)))
		return false;
	for (uint32_t place = producer; place != first; place--) {
		const struct xdp_desc *before = xsk_descriptor(&sender->tx, place - 1);
		uint64_t frame = sender_frame(sender, before->addr);
		if (place == first + 1 || (frame < sender->tx.size && sender->sent[frame] != 0))
			sender_describe(sender, place, (uint32_t)frame, before->len);
	}
	xsk_sender_publish(sender, producer + 1);
	return true;
}

void xsk_sender_retract(struct xsk_sender *sender, uint32_t producer)
{
	uint32_t end = xsk_load(sender->tx.producer);
	xsk_sender_publish(sender, producer);
	for (uint32_t place = producer; place != end; place++)
		sender_free(sender, sender_frame(sender, xsk_descriptor(&sender->tx, place)->addr));
}
