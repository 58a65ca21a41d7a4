// libFuzzer target: the rings of an AF_XDP socket (port/xsk_ring.c) with whatever the kernel, or a dead predecessor,
// may have left in them, and the search for partial checksums (port/partial.c) in frames from anywhere.
//
// The rings lie in memory of their exact size, so that a step outside is seen; no frame may be free twice.
//
//   clang -fsanitize=fuzzer,address,undefined tests/fuzz/fuzz_xsk.c <port> <base>
#include <stdlib.h>
#include <string.h>

#include "port/port.h"
#include "port/xsk_ring.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SIZE = 8, STEPS = 64 };

struct input {
	const uint8_t *at;
	size_t left;
};

static void take(struct input *input, void *into, size_t bytes)
{
	size_t given = bytes < input->left ? bytes : input->left;
	memset(into, 0, bytes);
	memcpy(into, input->at, given);
	input->at += given;
	input->left -= given;
}

static void ring_new(struct xsk_ring *ring, struct input *input, size_t entry)
{
	uint32_t *indices = calloc(3, sizeof(*indices));
	ring->entries = calloc(SIZE, entry);
	if (indices == NULL || ring->entries == NULL)
		abort();
	take(input, indices, 3 * sizeof(*indices));
	take(input, ring->entries, SIZE * entry);
	ring->producer = indices;
	ring->consumer = indices + 1;
	ring->flags = indices + 2;
	ring->size = SIZE;
}

static void ring_free(struct xsk_ring *ring)
{
	free(ring->producer);
	free(ring->entries);
}

static void receive(struct input *input)
{
	struct xsk_receiver receiver = { 0 };
	ring_new(&receiver.rx, input, sizeof(struct xdp_desc));
	ring_new(&receiver.fill, input, sizeof(uint64_t));
	if (xsk_receiver_resume(&receiver) == 0) {
		for (int step = 0; step < STEPS && input->left > 0; step++) {
			uint32_t waiting = xsk_receiver_waiting(&receiver);
			if (waiting > SIZE)
				abort();
			receiver.position += waiting;
			xsk_receiver_release(&receiver);
			take(input, receiver.rx.producer, sizeof(uint32_t));
		}
	}
	ring_free(&receiver.rx);
	ring_free(&receiver.fill);
}

static void check_free(const struct xsk_sender *sender)
{
	uint32_t seen = 0;
	if (sender->free_count > SIZE)
		abort();
	for (uint32_t i = 0; i < sender->free_count; i++) {
		if (sender->free[i] >= SIZE || (seen >> sender->free[i] & 1) != 0 || sender->sent[sender->free[i]] != 0)
			abort();
		seen |= 1u << sender->free[i];
	}
}

static void sender_step(struct xsk_sender *sender, struct input *input)
{
	uint8_t what;
	uint32_t producer = *sender->tx.producer;
	take(input, &what, 1);
	switch (what % 6) {
	case 0:
		take(input, sender->completion.producer, sizeof(uint32_t));
		take(input, sender->completion.entries, sizeof(uint64_t));
		xsk_sender_reap(sender);
		break;
	case 1:
		if (sender->free_count > 0) {
			xsk_sender_add(sender, producer, 60);
			xsk_sender_publish(sender, producer + 1);
		}
		break;
	case 2:
		take(input, sender->tx.consumer, sizeof(uint32_t));
		xsk_sender_advance(sender, (what & 128) != 0);
		break;
	case 3:
		xsk_sender_repeat(sender);
		break;
	case 4:
		xsk_sender_retract(sender, producer - (uint32_t)(what >> 5));
		break;
	default:
		xsk_sender_resume(sender);
		break;
	}
	check_free(sender);
}

static void transmit(struct input *input)
{
	uint64_t *sent = calloc(SIZE, sizeof(*sent));
	uint32_t *frames = calloc(SIZE, sizeof(*frames));
	struct xsk_sender sender = { .sent = sent, .free = frames, .first = 2 };
	if (sent == NULL || frames == NULL)
		abort();
	ring_new(&sender.tx, input, sizeof(struct xdp_desc));
	ring_new(&sender.completion, input, sizeof(uint64_t));
	take(input, sent, SIZE * sizeof(*sent));
	xsk_sender_resume(&sender);
	check_free(&sender);
	for (int step = 0; step < STEPS && input->left > 0; step++)
		sender_step(&sender, input);
	ring_free(&sender.tx);
	ring_free(&sender.completion);
	free(sent);
	free(frames);
}

// What is taken for partial must be one that can be finished.
static void guess(struct input *input)
{
	uint32_t length = input->left < 128 ? (uint32_t)input->left : 128;
	uint8_t *bytes = malloc(length + 1);
	if (bytes == NULL)
		abort();
	memcpy(bytes, input->at, length);
	struct packet packet = { .buffer = bytes, .room = length, .length = length };
	port_vnet_guess(&packet);
	if ((packet.vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0 && !packet_finish_checksum(&packet))
		abort();
	free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data, size };
	uint8_t what;
	take(&input, &what, 1);
	if (what % 3 == 0)
		receive(&input);
	else if (what % 3 == 1)
		transmit(&input);
	else
		guess(&input);
	return 0;
}
