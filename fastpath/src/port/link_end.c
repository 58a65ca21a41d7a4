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

_Static_assert(sizeof(struct virtio_net_hdr) <= sizeof(((struct link_slot *)0)->vnet), "vnet header fits a slot");

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
	__atomic_store_n(&end->own->sleeping, 0, __ATOMIC_RELAXED);
	return 0;
}

void link_end_unmap(struct link_end *end)
{
	munmap(end->own, sizeof(struct link_segment));
	munmap((void *)(uintptr_t)end->peer, sizeof(struct link_segment));
}

// Where copying has come to: of the first part so many bytes are done.
struct source {
	const struct iovec *parts;
	size_t done;
};

static void take_bytes(struct source *from, uint8_t *to, size_t length)
{
	while (length > 0) {
		size_t left = from->parts->iov_len - from->done;
		size_t bytes = left < length ? left : length;
		memcpy(to, (const uint8_t *)from->parts->iov_base + from->done, bytes);
		from->done += bytes;
		to += bytes;
		length -= bytes;
		if (bytes == left)
			*from = (struct source){ .parts = from->parts + 1 };
	}
}

uint64_t link_end_room(const struct link_end *end)
{
	uint64_t used = end->producer - __atomic_load_n(&end->peer->consumer, __ATOMIC_ACQUIRE);
	// A consumer that is ahead of us gives a huge number: no room for a peer that lies.
	return used > LINK_SLOTS ? 0 : LINK_SLOTS - used;
}

bool link_end_fill(struct link_end *end, const struct iovec *parts, uint32_t length, const void *vnet)
{
	struct source source = { .parts = parts };
	if (length == 0 || length > SUPER_ROOM)
		return false;
	uint32_t slots = (length + LINK_SLOT_ROOM - 1) / LINK_SLOT_ROOM;
	if (link_end_room(end) < slots)
		return false;

	for (uint32_t done = 0; done < length;) {
		struct link_slot *slot = &end->own->slots[end->producer++ & (LINK_SLOTS - 1)];
		uint32_t part = length - done < LINK_SLOT_ROOM ? length - done : LINK_SLOT_ROOM;
		slot->length = (uint16_t)part;
		slot->flags = done + part < length ? LINK_MORE : 0;
		memcpy(slot->vnet, vnet, sizeof(struct virtio_net_hdr));
		take_bytes(&source, slot->data, part);
		done += part;
	}
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

bool link_end_next(struct link_end *end, struct link_frame *frame)
{
	uint64_t producer = __atomic_load_n(&end->peer->producer, __ATOMIC_ACQUIRE);
	uint64_t available = producer - end->consumer;
	if (available > LINK_SLOTS) {
		// The peer began anew or lies; there is nothing to believe before its index.
		end->consumer = producer;
		end->resyncs++;
		return false;
	}
	if (available == 0)
		return false;

	*frame = (struct link_frame){ .length = 0 };
	bool more = true;
	while (more && !frame->malformed) {
		if (frame->slots == available || frame->slots == LINK_FRAME_SLOTS) {
			frame->malformed = true;
			break;
		}
		const struct link_slot *slot = &end->peer->slots[(end->consumer + frame->slots) & (LINK_SLOTS - 1)];
		uint16_t length = __atomic_load_n(&slot->length, __ATOMIC_RELAXED);
		more = (__atomic_load_n(&slot->flags, __ATOMIC_RELAXED) & LINK_MORE) != 0;
		if (length == 0 || length > LINK_SLOT_ROOM || frame->length + length > SUPER_ROOM)
			frame->malformed = true;
		else
			frame->length += length;
		frame->lengths[frame->slots++] = length;
	}
	return true;
}

void link_end_take(struct link_end *end, const struct link_frame *frame, uint8_t *data, void *vnet)
{
	if (data != NULL) {
		const struct link_slot *first = &end->peer->slots[end->consumer & (LINK_SLOTS - 1)];
		memcpy(vnet, first->vnet, sizeof(struct virtio_net_hdr));
		for (uint32_t i = 0; i < frame->slots; i++) {
			const struct link_slot *slot = &end->peer->slots[(end->consumer + i) & (LINK_SLOTS - 1)];
			memcpy(data, slot->data, frame->lengths[i]);
			data += frame->lengths[i];
		}
	}
	end->consumer += frame->slots;
}

void link_end_record(struct link_end *end)
{
	__atomic_store_n(&end->own->consumer, end->consumer, __ATOMIC_RELEASE);
}

bool link_end_pending(const struct link_end *end)
{
	return __atomic_load_n(&end->peer->producer, __ATOMIC_RELAXED) != end->consumer;
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
