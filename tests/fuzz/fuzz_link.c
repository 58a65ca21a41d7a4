// libFuzzer target: the consumer of a patch link, with a peer that writes what it likes.
//
// The input is a list of steps of 12 bytes: what, where (u16), value (u64), spare.  They patch the
// peer's indices and heads, also between measuring a frame and copying it, which is when a hostile
// peer would, and then receive.  Frames are copied to the end of a page before one that may not be
// touched, so that a byte too much is a crash with or without a sanitizer.
//
//   clang -fsanitize=fuzzer,address,undefined tests/fuzz/fuzz_link.c <base and port>
#define _GNU_SOURCE
#include <linux/virtio_net.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "port/link_end.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { STEP = 12, PAGE = 4096, ROOM = (SUPER_ROOM + PAGE - 1) / PAGE * PAGE };
enum step { PRODUCER, AHEAD, LENGTH, NEAR, LAST, CONSUMER, RECEIVE, TAKE, CHANGED, SEND, RECORD, STEPS };

struct rig {
	struct link_end end;
	struct link_segment *own;
	struct link_segment *peer;
	uint8_t *room;               // its last byte lies before the guard page
};

static void *pages(size_t bytes)
{
	void *found = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (found == MAP_FAILED) {
		perror("mmap");
		abort();
	}
	return found;
}

static void rig_make(struct rig *rig)
{
	rig->own = pages(sizeof(*rig->own));
	rig->peer = pages(sizeof(*rig->peer));
	uint8_t *frame = pages(ROOM + PAGE);
	if (mprotect(frame + ROOM, PAGE, PROT_NONE) < 0)
		abort();
	rig->room = frame;
}

static void rig_reset(struct rig *rig)
{
	rig->own->producer = rig->own->consumer = rig->own->sleeping = 0;
	rig->peer->producer = rig->peer->consumer = rig->peer->sleeping = 0;
	rig->end = (struct link_end){.own = rig->own, .peer = rig->peer, .own_event = -1, .peer_event = -1};
}

// Take a measured frame as port/link.c does: into a buffer of exactly the measured length.
static void take(struct rig *rig, const struct link_frame *frame)
{
	struct virtio_net_hdr vnet;
	uint64_t before = rig->end.consumer;
	if (frame->units == 0 || frame->units > LINK_UNITS || (!frame->malformed && frame->length > SUPER_ROOM))
		abort();
	link_end_take(&rig->end, frame, frame->malformed ? NULL : rig->room + ROOM - frame->length, &vnet);
	if (rig->end.consumer - before != frame->units)
		abort();
}

static struct link_head *head_at(const struct rig *rig, uint64_t unit)
{
	return (void *)&rig->peer->units[(unit & (LINK_UNITS - 1)) * LINK_UNIT];
}

static void receive(struct rig *rig, struct link_head *changed, uint64_t value)
{
	struct link_frame frame;
	if (!link_end_next(&rig->end, &frame))
		return;
	if (changed != NULL) {
		changed->length = (uint32_t)value;
		rig->peer->producer += value >> 32;
	}
	take(rig, &frame);
}

static void step(struct rig *rig, const uint8_t *bytes)
{
	uint16_t where;
	uint64_t value;
	memcpy(&where, bytes + 1, sizeof(where));
	memcpy(&value, bytes + 3, sizeof(value));
	switch ((enum step)(bytes[0] % STEPS)) {
	case PRODUCER:
		rig->peer->producer = value;
		break;
	case AHEAD:
		rig->peer->producer = rig->end.consumer + value % (LINK_UNITS + 2u);
		break;
	case LENGTH:
		head_at(rig, where)->length = (uint32_t)value;
		break;
	case NEAR: // the frame that comes next, at its greatest or a little more
		head_at(rig, rig->end.consumer)->length = SUPER_ROOM - 8 + (where & 15);
		break;
	case LAST: // on to the last units of the ring, so that the next frames begin anew within
		rig->end.consumer = rig->peer->producer = rig->end.peer_producer = LINK_UNITS - 1 - (where & 3);
		break;
	case CONSUMER:
		rig->peer->consumer = value;
		break;
	case RECEIVE:
		receive(rig, NULL, 0);
		break;
	case TAKE:
		for (uint32_t i = 0; i < where % 256u && link_end_pending(&rig->end); i++)
			receive(rig, NULL, 0);
		break;
	case CHANGED:
		receive(rig, head_at(rig, rig->end.consumer + where % 40u), value);
		break;
	case SEND: {
		static const struct virtio_net_hdr none;
		uint64_t before = rig->end.producer;
		uint32_t length = (uint32_t)(value % (SUPER_ROOM + 2u));
		const struct iovec whole = {.iov_base = rig->room + ROOM - (length < ROOM ? length : ROOM), .iov_len = length};
		bool sent = link_end_fill(&rig->end, &whole, length, &none);
		if (!sent && rig->end.producer != before)
			abort();
		link_end_publish(&rig->end);
		break;
	}
	case RECORD:
		link_end_record(&rig->end);
		break;
	case STEPS:
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct rig rig;
	if (rig.room == NULL)
		rig_make(&rig);
	rig_reset(&rig);
	for (; size >= STEP; data += STEP, size -= STEP)
		step(&rig, data);
	return 0;
}
