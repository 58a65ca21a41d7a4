// AF_PACKET driver for bulk: a TPACKET_V3 receive ring, which the kernel hands over in blocks.
//
// A block holds frames of any length one after another, super-frames whole.  The kernel gives it up when it is full or
// a millisecond has passed: much is copied at once, and every packet is late.  The manager does as for version 2
// (port/af_packet.c), without PACKET_COPY_THRESH, with TPACKET_V3 and a tpacket_req3 whose tp_retire_blk_tov is 1.
//
// Crash rule.  `progress` is the number of blocks that were given back, times 2^FRAME_BITS, plus the frames of
// the next block whose fate is recorded: one word.  A block goes back after the word has moved to the next one.  Blocks
// are numbered by the kernel from 1 on, so whoever attaches sees whether the one before was given back.  No frame is
// lost, and at most one batch is repeated.
//
// Not supported: what V3 could tell beside (hashes, padding fields), TX rings.
#define _GNU_SOURCE
#include "port/packet_socket.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
	VNET_SIZE = sizeof(struct virtio_net_hdr),
	FRAME_BITS = 24
};

static const uint64_t frame_mask = (1u << FRAME_BITS) - 1;

struct v3_port {
	struct port port;
	uint8_t *ring;
	size_t ring_size;
	uint64_t blocks;      // given back, ever: the number of the one that is read
	uint32_t frames;      // taken of it; runs ahead of the state's progress until release
	uint32_t offset;      // of the next one in the block; 0: the first one, wherever it lies
	bool finished;        // all of its frames are taken
	struct packet_sender sender;
};

static struct v3_port *v3_of(struct port *port)
{
	return (struct v3_port *)port;
}

static struct tpacket_block_desc *block_at(const struct v3_port *v3, uint64_t number)
{
	return (struct tpacket_block_desc *)(void *)(v3->ring + number % v3->port.spec.block_count * v3->port.spec.block_size);
}

static uint32_t block_status(const struct tpacket_block_desc *block)
{
	return __atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE);
}

static bool block_ready(const struct tpacket_block_desc *block)
{
	return (block_status(block) & TP_STATUS_USER) != 0;
}

static void block_give_back(struct tpacket_block_desc *block)
{
	__atomic_store_n(&block->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
}

// --- walking in a block ---

// The next frame's header; NULL: there is none, or the numbers are impossible.
static const struct tpacket3_hdr *frame_header(const struct v3_port *v3, const struct tpacket_block_desc *block)
{
	uint32_t at = v3->offset != 0 ? v3->offset : block->hdr.bh1.offset_to_first_pkt;
	if (v3->frames >= block->hdr.bh1.num_pkts || at < sizeof(*block) || at % 8 != 0 ||
	    at > v3->port.spec.block_size - sizeof(struct tpacket3_hdr))
		return NULL;
	return (const struct tpacket3_hdr *)(const void *)((const uint8_t *)block + at);
}

// Step over a frame.
static void frame_step(struct v3_port *v3, const struct tpacket_block_desc *block, const struct tpacket3_hdr *header)
{
	uint32_t at = (uint32_t)((const uint8_t *)header - (const uint8_t *)block);
	v3->frames++;
	// The last one leads nowhere; one in the middle that does so ends the block.
	if (header->tp_next_offset == 0 || header->tp_next_offset > v3->port.spec.block_size - at)
		v3->frames = v3->frames < block->hdr.bh1.num_pkts ? block->hdr.bh1.num_pkts : v3->frames;
	else
		v3->offset = at + header->tp_next_offset;
}

static struct packet *frame_copy(const struct v3_port *v3, const struct tpacket_block_desc *block,
	const struct tpacket3_hdr *header, struct packet_pool *pool, enum drop_reason *reason)
{
	uint32_t at = (uint32_t)((const uint8_t *)header - (const uint8_t *)block);
	uint32_t room = v3->port.spec.block_size - at;
	uint32_t start = header->tp_mac;
	uint32_t bytes = header->tp_snaplen;

	*reason = DROP_TRUNCATED;
	if (start < sizeof(*header) + VNET_SIZE || start > room || bytes > room - start || header->tp_len > bytes || bytes > SUPER_ROOM)
		return NULL;
	struct packet *packet = packet_get(pool, bytes);
	*reason = DROP_NO_BUFFER;
	if (packet == NULL)
		return NULL;
	const uint8_t *data = (const uint8_t *)header + start;
	memcpy(&packet->vnet, data - VNET_SIZE, VNET_SIZE);
	memcpy(packet_data(packet), data, bytes);
	packet->length = bytes;
	packet->port = v3->port.spec.port;
	packet->vlan_present = (header->tp_status & TP_STATUS_VLAN_VALID) != 0;
	packet->vlan_tci = packet->vlan_present ? (uint16_t)header->hv1.tp_vlan_tci : 0;
	port_vnet_check(packet);
	return packet;
}

// --- driver contract ---

static int v3_receive(struct port *port, struct packet_pool *pool, struct packet **packets, int max, uint64_t *lost)
{
	struct v3_port *v3 = v3_of(port);
	const struct tpacket_block_desc *block = block_at(v3, v3->blocks);
	int count = 0;

	if (v3->finished || !block_ready(block))
		return 0;
	for (int taken = 0; taken < max && taken < BATCH_SIZE; taken++) {
		const struct tpacket3_hdr *header = frame_header(v3, block);
		if (header == NULL)
			break;
		enum drop_reason reason;
		struct packet *packet = frame_copy(v3, block, header, pool, &reason);
		if (packet != NULL)
			packets[count++] = packet;
		else
			lost[reason]++;
		frame_step(v3, block, header);
	}
	v3->finished = frame_header(v3, block) == NULL;
	return count;
}

static void v3_release(struct port *port)
{
	struct v3_port *v3 = v3_of(port);
	if (!v3->finished) {
		__atomic_store_n(&port->state->progress, v3->blocks << FRAME_BITS | v3->frames, __ATOMIC_RELEASE);
		return;
	}
	struct tpacket_block_desc *block = block_at(v3, v3->blocks);
	bool losing = (block_status(block) & TP_STATUS_LOSING) != 0;
	v3->blocks++;
	v3->frames = v3->offset = 0;
	v3->finished = false;
	__atomic_store_n(&port->state->progress, v3->blocks << FRAME_BITS, __ATOMIC_RELEASE);
	block_give_back(block);
	if (losing)
		packet_socket_losses(port->fd, port->state);
}

static int v3_transmit(struct port *port, struct packet **packets, int count)
{
	return packet_sender_transmit(&v3_of(port)->sender, port->fd, packets, count);
}

static bool v3_pending(const struct port *port)
{
	const struct v3_port *v3 = (const struct v3_port *)port;
	return block_ready(block_at(v3, v3->blocks));
}

static void v3_sleeping(struct port *port, bool sleeping)
{
	(void)port; // the kernel wakes whoever polls
	(void)sleeping;
}

static void v3_event(struct port *port)
{
	packet_socket_clear(port->fd);
}

static void v3_close(struct port *port)
{
	struct v3_port *v3 = v3_of(port);
	munmap(v3->ring, v3->ring_size);
	volley_close(&v3->sender.volley);
	port_close_fds(port);
	free(v3);
}

static const struct port_ops v3_ops = {
	.name = "af_packet_v3",
	.receive = v3_receive,
	.release = v3_release,
	.transmit = v3_transmit,
	.pending = v3_pending,
	.sleeping = v3_sleeping,
	.event = v3_event,
	.close = v3_close,
};

// Go on where a predecessor stopped.
static void attach_resume(struct v3_port *v3)
{
	uint64_t progress = v3->port.state->progress;
	v3->blocks = progress >> FRAME_BITS;
	struct tpacket_block_desc *before = block_at(v3, v3->blocks - 1);
	// Block n has the kernel's number n + 1.
	if (v3->blocks > 0 && block_ready(before) && before->hdr.bh1.seq_num == v3->blocks)
		block_give_back(before);
	const struct tpacket_block_desc *block = block_at(v3, v3->blocks);
	for (uint64_t frame = 0; frame < (progress & frame_mask); frame++) {
		const struct tpacket3_hdr *header = frame_header(v3, block);
		if (header == NULL)
			break;
		frame_step(v3, block, header);
	}
}

static void attach_fresh(struct v3_port *v3)
{
	struct port_state *state = v3->port.state;
	uint64_t oldest = UINT64_MAX;
	// A ring that was read before, by a VR whose state is gone: go on with its oldest block.
	for (uint32_t i = 0; i < v3->port.spec.block_count; i++) {
		const struct tpacket_block_desc *block = block_at(v3, i);
		uint64_t number = block->hdr.bh1.seq_num;
		if (block_ready(block) && number > 0 && number - 1 < oldest)
			oldest = number - 1;
	}
	v3->blocks = oldest != UINT64_MAX ? oldest : 0;
	__atomic_store_n(&state->progress, v3->blocks << FRAME_BITS, __ATOMIC_RELEASE);
	state->rx_kernel_drops = 0;
	__atomic_store_n(&state->generation, v3->port.spec.generation, __ATOMIC_RELEASE);
}

int af_packet_v3_open(const struct port_spec *spec, const int *fds, int fd_count, struct port_state *state, struct port **out)
{
	if (!packet_fds_valid(fd_count) || !packet_ring_valid(spec) || !packet_socket_valid(fds[0], TPACKET_V3))
		return -EINVAL;
	struct v3_port *v3 = calloc(1, sizeof(*v3));
	if (v3 == NULL)
		return -ENOMEM;
	v3->ring_size = (size_t)spec->block_size * spec->block_count;
	void *ring = mmap(NULL, v3->ring_size, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
	if (ring == MAP_FAILED) {
		int error = -errno;
		free(v3);
		return error;
	}
	v3->ring = ring;
	port_init(&v3->port, &v3_ops, spec, fds, fd_count, state);
	v3->port.fd = fds[0];
	volley_open(&v3->sender.volley, fds + PACKET_FDS, fd_count - PACKET_FDS, spec->ifindex);
	if (state->generation == spec->generation)
		attach_resume(v3);
	else
		attach_fresh(v3);
	*out = &v3->port;
	return 0;
}
