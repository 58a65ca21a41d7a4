// The rings of a patch link between two VRs; abi/ring.h has the layout.
//
// Single producer, single consumer, copy in and copy out.  The peer is hostile: its indices
// are compared with ours before use, lengths are read once, and the data is parsed only in
// our own copy.  The consumer index in our segment is the progress word that a successor
// starts from, so it moves only when the frames behind it have met their fate.
//
// Waking: the sender stores producer, fence, loads sleeping; the receiver stores sleeping,
// fence, loads producer.  Whatever the order, one of them sees the other's store (Dekker).
//
// Not supported: descriptors (zero copy), more than one producer.
#include "port/link_end.h"

#include <errno.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/segment.h"

_Static_assert(sizeof(struct virtio_net_hdr) <= sizeof(((struct link_head *)0)->vnet), "vnet header fits a frame's head");

enum {
	UNIT_MASK = LINK_UNITS - 1,
	RING_BYTES = LINK_UNITS * LINK_UNIT,
	AHEAD = 32 * LINK_UNIT    // how far before the frame at hand memory is asked for
};

int link_end_map(struct link_end *end, int own_fd, int peer_fd)
{
	void *own;
	void *peer;
	size_t own_size;
	size_t peer_size;
	int error = segment_map(own_fd, SEGMENT_LINK, sizeof(struct link_segment), true, &own, &own_size);
	if (error < 0)
		return error;
	error = segment_map(peer_fd, SEGMENT_LINK, sizeof(struct link_segment), false, &peer, &peer_size);
	if (error < 0) {
		munmap(own, own_size);
		return error;
	}
	// Hostile peers make segments too: exactly this size, or none.
	if (own_size != sizeof(struct link_segment) || peer_size != sizeof(struct link_segment)) {
		munmap(own, own_size);
		munmap(peer, peer_size);
		return -EPROTO;
	}
	end->own = own;
	end->peer = peer;
	end->producer = __atomic_load_n(&end->own->producer, __ATOMIC_RELAXED);
	end->consumer = __atomic_load_n(&end->own->consumer, __ATOMIC_RELAXED);
	end->peer_producer = end->consumer;
	end->peer_consumer = __atomic_load_n(&end->peer->consumer, __ATOMIC_ACQUIRE);
	__atomic_store_n(&end->own->sleeping, 0, __ATOMIC_RELAXED);
	return 0;
}

void link_end_unmap(struct link_end *end)
{
	munmap(end->own, sizeof(struct link_segment));
	munmap((void *)(uintptr_t)end->peer, sizeof(struct link_segment));
}

// Where the byte lies that is so far behind the beginning of a unit.
static uint32_t place_of(uint64_t unit, uint32_t bytes)
{
	return ((uint32_t)(unit & UNIT_MASK) * LINK_UNIT + bytes) & (RING_BYTES - 1);
}

static uint64_t units_of(uint32_t length)
{
	return (sizeof(struct link_head) + length + LINK_UNIT - 1) / LINK_UNIT;
}

static void put_bytes(struct link_end *end, uint32_t place, const uint8_t *bytes, size_t length)
{
	size_t first = RING_BYTES - place < length ? RING_BYTES - place : length;
	memcpy(&end->own->units[place], bytes, first);
	if (first < length)
		memcpy(end->own->units, bytes + first, length - first);
}

bool link_end_has_room(struct link_end *end, uint64_t units)
{
	// A consumer that is ahead of us gives a huge number: no room for a peer that lies.
	uint64_t used = end->producer - end->peer_consumer;
	if (used <= LINK_UNITS && LINK_UNITS - used >= units)
		return true;
	end->peer_consumer = __atomic_load_n(&end->peer->consumer, __ATOMIC_ACQUIRE);
	used = end->producer - end->peer_consumer;
	return used <= LINK_UNITS && LINK_UNITS - used >= units;
}

bool link_end_fill(struct link_end *end, const struct iovec *parts, uint32_t length, const void *vnet)
{
	if (length == 0 || length > SUPER_ROOM || !link_end_has_room(end, units_of(length)))
		return false;
	__builtin_prefetch(&end->own->units[place_of(end->producer, AHEAD)], 1);
	__builtin_prefetch(&end->own->units[place_of(end->producer, AHEAD + LINK_UNIT)], 1);

	struct link_head *head = (void *)&end->own->units[place_of(end->producer, 0)];
	head->length = length;
	memcpy(head->vnet, vnet, sizeof(struct virtio_net_hdr));
	for (uint32_t done = 0; done < length; parts++) {
		put_bytes(end, place_of(end->producer, (uint32_t)sizeof(*head) + done), parts->iov_base, parts->iov_len);
		done += (uint32_t)parts->iov_len;
	}
	end->producer += units_of(length);
	return true;
}

void link_end_publish(struct link_end *end)
{
	__atomic_store_n(&end->own->producer, end->producer, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(&end->peer->sleeping, __ATOMIC_RELAXED) != 0) {
		uint64_t one = 1;
		// EAGAIN: the counter is full, so the peer is being woken already.
		(void)!write(end->peer_event, &one, sizeof(one));
	}
}

// Units that are known to be filled, looking for more where there are none.
static uint64_t link_end_filled(struct link_end *end)
{
	if (end->peer_producer == end->consumer)
		end->peer_producer = __atomic_load_n(&end->peer->producer, __ATOMIC_ACQUIRE);
	uint64_t filled = end->peer_producer - end->consumer;
	if (filled <= LINK_UNITS)
		return filled;
	// The peer began anew or lies; there is nothing to believe before its index.
	end->consumer = end->peer_producer;
	end->resyncs++;
	return 0;
}

bool link_end_next(struct link_end *end, struct link_frame *frame)
{
	uint64_t filled = link_end_filled(end);
	if (filled == 0)
		return false;
	const struct link_head *head = (const void *)&end->peer->units[place_of(end->consumer, 0)];
	__builtin_prefetch(&end->peer->units[place_of(end->consumer, AHEAD)]);
	__builtin_prefetch(&end->peer->units[place_of(end->consumer, AHEAD + LINK_UNIT)]);
	frame->length = __atomic_load_n(&head->length, __ATOMIC_RELAXED);
	frame->malformed = frame->length == 0 || frame->length > SUPER_ROOM || units_of(frame->length) > filled;
	frame->units = frame->malformed ? filled : units_of(frame->length);
	return true;
}

void link_end_take(struct link_end *end, const struct link_frame *frame, uint8_t *data, void *vnet)
{
	if (data != NULL) {
		const struct link_head *head = (const void *)&end->peer->units[place_of(end->consumer, 0)];
		uint32_t place = place_of(end->consumer, sizeof(*head));
		uint32_t first = RING_BYTES - place < frame->length ? RING_BYTES - place : frame->length;
		memcpy(vnet, head->vnet, sizeof(struct virtio_net_hdr));
		memcpy(data, &end->peer->units[place], first);
		if (first < frame->length)
			memcpy(data + first, end->peer->units, frame->length - first);
	}
	end->consumer += frame->units;
}

void link_end_record(struct link_end *end)
{
	__atomic_store_n(&end->own->consumer, end->consumer, __ATOMIC_RELEASE);
}

bool link_end_pending(const struct link_end *end)
{
	return end->peer_producer != end->consumer || __atomic_load_n(&end->peer->producer, __ATOMIC_RELAXED) != end->consumer;
}

void link_end_sleeping(struct link_end *end, bool sleeping)
{
	__atomic_store_n(&end->own->sleeping, sleeping ? 1 : 0, __ATOMIC_RELAXED);
	if (sleeping)
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

int link_end_open(int own_fd, int peer_fd, int own_event, int peer_event, struct link_end **out)
{
	struct link_end *end = calloc(1, sizeof(*end));
	if (end == NULL)
		return -ENOMEM;
	int error = link_end_map(end, own_fd, peer_fd);
	if (error < 0) {
		free(end);
		return error;
	}
	end->own_event = own_event;
	end->peer_event = peer_event;
	*out = end;
	return 0;
}

void link_end_close(struct link_end *end)
{
	link_end_unmap(end);
	free(end);
}

int link_end_send(struct link_end *end, const uint8_t *frame, uint32_t length, const uint8_t *vnet)
{
	static const struct virtio_net_hdr none;
	if (length == 0 || length > SUPER_ROOM)
		return -EMSGSIZE;
	const struct iovec whole = { .iov_base = (void *)(uintptr_t)frame, .iov_len = length };
	if (!link_end_fill(end, &whole, length, vnet != NULL ? (const void *)vnet : &none))
		return -EAGAIN;
	link_end_publish(end);
	return 0;
}

int link_end_receive(struct link_end *end, uint8_t *frame, uint32_t room, uint8_t *vnet)
{
	struct link_frame found;
	struct virtio_net_hdr header;
	if (!link_end_next(end, &found)) {
		link_end_record(end);
		return -EAGAIN;
	}
	bool fits = !found.malformed && found.length <= room;
	link_end_take(end, &found, fits ? frame : NULL, &header);
	link_end_record(end);
	if (!fits)
		return found.malformed ? -EBADMSG : -EMSGSIZE;
	if (vnet != NULL)
		memcpy(vnet, &header, sizeof(header));
	return (int)found.length;
}
