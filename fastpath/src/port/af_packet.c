// AF_PACKET driver: a TPACKET_V2 receive ring, sendmmsg to transmit, vnet headers both ways.
//
// The manager opens the one socket and sets it up; we only map, receive and send.  It must
// do, in this order (manager/rings.py does):
//   socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0)  protocol 0: nothing arrives before bind
//   SOL_PACKET PACKET_VERSION TPACKET_V2
//              PACKET_VNET_HDR 1          checksums and super-frames stay the kernel's affair
//              PACKET_IGNORE_OUTGOING 1   or our own frames come back
//              PACKET_COPY_THRESH 1       super-frames go whole to the receive queue
//   SOL_SOCKET SO_RCVBUFFORCE 8 MiB       room for those; SO_SNDBUFFORCE 8 MiB to send them
//   SOL_PACKET PACKET_RX_RING tpacket_req  as in port_spec
//              PACKET_ADD_MEMBERSHIP PACKET_MR_ALLMULTI (or _PROMISC)
//   bind to the ifindex with ETH_P_ALL
//
// Frames longer than a ring slot (TP_STATUS_COPY) wait whole in the socket's receive queue,
// in the order of their slots.  We peek at the queue, and drop its head only at release, so
// a batch ends behind such a frame: only the head can be peeked at.
//
// Crash rule.  The fate of a frame is recorded in three steps: its slot is marked
// (tp_padding, which the kernel clears when it refills a slot), progress moves behind it, the
// slot goes back to the kernel (TP_STATUS_KERNEL).  The queued copy goes between the mark
// and the progress.  Whoever attaches gives back the marked slots before progress, and steps
// over the marked ones after it, so no frame is lost and at most one batch is repeated.
//
// Not supported: TX rings (a veth makes the kernel copy what lies in them all the same).
#define _GNU_SOURCE
#include "port/packet_socket.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	VNET_SIZE = sizeof(struct virtio_net_hdr),
	STALE_WAKES = 4096       // fruitless wake-ups after which the queue's head is given up
};

struct af_packet_port {
	struct port port;
	uint8_t *ring;
	size_t ring_size;
	uint32_t frames_per_block;
	uint64_t position;   // frames taken, ever; runs ahead of state->progress until release
	bool super_taken;    // the last frame taken has its copy in the queue
	bool super_peeked;   // and that copy is the queue's head
	bool losing;         // the kernel dropped frames since we last asked
	uint32_t stale_wakes;
	struct packet_sender sender;
};

static struct af_packet_port *af_packet_of(struct port *port)
{
	return (struct af_packet_port *)port;
}

static struct tpacket2_hdr *slot_at(const struct af_packet_port *ap, uint64_t frame)
{
	uint32_t index = (uint32_t)(frame % ap->port.spec.frame_count);
	size_t block = index / ap->frames_per_block;
	size_t within = index % ap->frames_per_block;
	return (struct tpacket2_hdr *)(void *)(ap->ring + block * ap->port.spec.block_size + within * ap->port.spec.frame_size);
}

static uint32_t slot_status(const struct tpacket2_hdr *slot)
{
	return __atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE);
}

static bool slot_ready(const struct tpacket2_hdr *slot)
{
	return (slot_status(slot) & TP_STATUS_USER) != 0;
}

static bool slot_marked(const struct tpacket2_hdr *slot)
{
	return __atomic_load_n(&slot->tp_padding[0], __ATOMIC_RELAXED) != 0;
}

static void slot_mark(struct tpacket2_hdr *slot)
{
	__atomic_store_n(&slot->tp_padding[0], 1, __ATOMIC_RELEASE);
}

static void slot_give_back(struct tpacket2_hdr *slot)
{
	__atomic_store_n(&slot->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
}

// The part of the frame that is in the slot; false when the slot's numbers are impossible.
static bool slot_data(const struct af_packet_port *ap, const struct tpacket2_hdr *slot, const uint8_t **data, uint32_t *length)
{
	uint32_t start = slot->tp_mac;
	uint32_t bytes = slot->tp_snaplen;
	if (start < sizeof(*slot) + VNET_SIZE || start > ap->port.spec.frame_size || bytes > ap->port.spec.frame_size - start)
		return false;
	*data = (const uint8_t *)slot + start;
	*length = bytes;
	return true;
}

// --- the receive queue of super-frames ---

// Look at the head of the queue; room 0 asks only for its length.  Returns the length of the
// frame without vnet header, or a negated errno.
static ssize_t queue_peek(const struct af_packet_port *ap, struct virtio_net_hdr *vnet, uint8_t *data, size_t room)
{
	struct iovec vector[2] = { { .iov_base = vnet, .iov_len = VNET_SIZE }, { .iov_base = data, .iov_len = room } };
	struct msghdr message = { .msg_iov = vector, .msg_iovlen = 2 };
	ssize_t length = recvmsg(ap->port.fd, &message, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
	if (length < 0 && errno == ENETDOWN) // reported once after the device went down
		length = recvmsg(ap->port.fd, &message, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
	if (length < 0)
		return -errno;
	return length < VNET_SIZE ? -EPROTO : length - VNET_SIZE;
}

static void queue_drop(const struct af_packet_port *ap)
{
	struct virtio_net_hdr vnet;
	(void)!recv(ap->port.fd, &vnet, sizeof(vnet), MSG_TRUNC | MSG_DONTWAIT);
}

// Does a queued frame (its first bytes at `head`) belong to this slot?
static bool slot_owns(const struct af_packet_port *ap, const struct tpacket2_hdr *slot, const uint8_t *head, size_t room, ssize_t length)
{
	const uint8_t *data;
	uint32_t bytes;
	if (length < 0 || (uint64_t)length != slot->tp_len || !slot_data(ap, slot, &data, &bytes))
		return false;
	return memcmp(head, data, bytes < room ? bytes : room) == 0;
}

// Queue and ring are out of step: does the head belong to a slot further on?
static bool queue_belongs_later(const struct af_packet_port *ap, uint64_t frame, const uint8_t *head, size_t room, ssize_t length)
{
	for (uint64_t i = 1; i < ap->port.spec.frame_count; i++) {
		const struct tpacket2_hdr *slot = slot_at(ap, frame + i);
		uint32_t status = slot_status(slot);
		if ((status & TP_STATUS_USER) == 0)
			return false;
		if ((status & TP_STATUS_COPY) != 0 && slot_owns(ap, slot, head, room, length))
			return true;
	}
	return false;
}

// Peek the whole frame of a slot into the packet.  Heads that belong to no slot are dropped.
static bool super_receive(const struct af_packet_port *ap, uint64_t frame, struct packet *packet)
{
	const struct tpacket2_hdr *slot = slot_at(ap, frame);
	size_t room = packet_tailroom(packet);
	for (;;) {
		ssize_t length = queue_peek(ap, &packet->vnet, packet_data(packet), room);
		if (length < 0)
			return false;
		if (slot_owns(ap, slot, packet_data(packet), room, length)) {
			packet->length = (uint32_t)length;
			return true;
		}
		if (queue_belongs_later(ap, frame, packet_data(packet), room, length))
			return false;
		queue_drop(ap);
	}
}

// Drop the copy of a slot whose frame has met its fate, if it is (still) there.
static void queue_drop_copy(const struct af_packet_port *ap, const struct tpacket2_hdr *slot)
{
	uint8_t head[4096];
	struct virtio_net_hdr vnet;
	if ((slot_status(slot) & TP_STATUS_COPY) == 0)
		return;
	ssize_t length = queue_peek(ap, &vnet, head, sizeof(head));
	if (slot_owns(ap, slot, head, sizeof(head), length))
		queue_drop(ap);
}

// --- attaching ---

// Go on where a predecessor stopped.
static void attach_resume(struct af_packet_port *ap)
{
	struct port_state *state = ap->port.state;
	uint64_t progress = state->progress;
	uint64_t back = progress < BATCH_SIZE ? progress : BATCH_SIZE;

	for (uint64_t frame = progress - back; frame < progress; frame++) {
		struct tpacket2_hdr *slot = slot_at(ap, frame);
		if (slot_ready(slot) && slot_marked(slot))
			slot_give_back(slot);
	}
	for (uint32_t i = 0; i < ap->port.spec.frame_count; i++) {
		struct tpacket2_hdr *slot = slot_at(ap, progress);
		if (!slot_ready(slot) || !slot_marked(slot))
			break;
		queue_drop_copy(ap, slot);
		__atomic_store_n(&state->progress, ++progress, __ATOMIC_RELEASE);
		slot_give_back(slot);
	}
	ap->position = progress;
}

// A ring of a new coupling: the kernel begins at slot 0, unless the ring was read before.
static void attach_fresh(struct af_packet_port *ap)
{
	uint64_t start = 0;
	bool before = slot_ready(slot_at(ap, 0));
	if (!before) {
		for (uint32_t i = 1; i < ap->port.spec.frame_count && start == 0; i++) {
			if (slot_ready(slot_at(ap, i)))
				start = i;
		}
	}
	__atomic_store_n(&ap->port.state->progress, start, __ATOMIC_RELEASE);
	ap->port.state->rx_kernel_drops = 0;
	__atomic_store_n(&ap->port.state->generation, ap->port.spec.generation, __ATOMIC_RELEASE);
	ap->position = start;
}

// --- driver contract ---

static struct packet *frame_receive(struct af_packet_port *ap, struct packet_pool *pool, uint64_t frame, uint32_t status, enum drop_reason *reason)
{
	const struct tpacket2_hdr *slot = slot_at(ap, frame);
	const uint8_t *data;
	uint32_t bytes;
	bool super = (status & TP_STATUS_COPY) != 0;

	*reason = DROP_TRUNCATED;
	if (!slot_data(ap, slot, &data, &bytes))
		return NULL;
	if (!super && slot->tp_len > bytes)
		return NULL; // the receive queue was full: never forward a stub
	if (slot->tp_len > SUPER_ROOM)
		return NULL;
	struct packet *packet = packet_get(pool, slot->tp_len);
	if (packet == NULL) {
		*reason = DROP_NO_BUFFER;
		return NULL;
	}
	if (!super) {
		memcpy(&packet->vnet, data - VNET_SIZE, VNET_SIZE);
		memcpy(packet_data(packet), data, bytes);
		packet->length = bytes;
	} else if (!super_receive(ap, frame, packet)) {
		packet_put(pool, packet);
		return NULL;
	}
	packet->port = ap->port.spec.port;
	packet->vlan_present = (status & TP_STATUS_VLAN_VALID) != 0;
	packet->vlan_tci = packet->vlan_present ? slot->tp_vlan_tci : 0;
	port_vnet_check(packet);
	return packet;
}

static int af_packet_receive(struct port *port, struct packet_pool *pool, struct packet **packets, int max, uint64_t *lost)
{
	struct af_packet_port *ap = af_packet_of(port);
	int count = 0;

	ap->super_taken = false;
	for (int taken = 0; taken < max && taken < BATCH_SIZE && !ap->super_taken; taken++) {
		uint32_t status = slot_status(slot_at(ap, ap->position));
		if ((status & TP_STATUS_USER) == 0)
			break;
		enum drop_reason reason;
		struct packet *packet = frame_receive(ap, pool, ap->position, status, &reason);
		if (packet != NULL)
			packets[count++] = packet;
		else
			lost[reason]++;
		ap->position++;
		ap->super_taken = (status & TP_STATUS_COPY) != 0;
		ap->super_peeked = ap->super_taken && packet != NULL;
		ap->losing |= (status & TP_STATUS_LOSING) != 0;
		ap->stale_wakes = 0;
	}
	return count;
}

static void af_packet_release(struct port *port)
{
	struct af_packet_port *ap = af_packet_of(port);
	uint64_t first = port->state->progress;

	for (uint64_t frame = first; frame < ap->position; frame++)
		slot_mark(slot_at(ap, frame));
	if (ap->super_peeked) // nobody else reads this queue: the head is still what super_receive found
		queue_drop(ap);
	else if (ap->super_taken)
		queue_drop_copy(ap, slot_at(ap, ap->position - 1));
	ap->super_taken = false;
	ap->super_peeked = false;
	__atomic_store_n(&port->state->progress, ap->position, __ATOMIC_RELEASE);
	for (uint64_t frame = first; frame < ap->position; frame++)
		slot_give_back(slot_at(ap, frame));
	if (ap->losing) {
		packet_socket_losses(port->fd, port->state);
		ap->losing = false;
	}
}

static int af_packet_transmit(struct port *port, struct packet **packets, int count)
{
	return packet_sender_transmit(&af_packet_of(port)->sender, port->fd, packets, count);
}

static bool af_packet_pending(const struct port *port)
{
	const struct af_packet_port *ap = (const struct af_packet_port *)port;
	return slot_ready(slot_at(ap, ap->position));
}

static void af_packet_sleeping(struct port *port, bool sleeping)
{
	(void)port; // the kernel wakes whoever polls
	(void)sleeping;
}

static void af_packet_event(struct port *port)
{
	struct af_packet_port *ap = af_packet_of(port);
	packet_socket_clear(port->fd);
	// A copy without a slot would keep the fd readable for ever.  The kernel queues it a
	// moment before the slot, so only patience tells one from the other.
	if (af_packet_pending(port) || ++ap->stale_wakes < STALE_WAKES)
		return;
	queue_drop(ap);
	ap->stale_wakes = 0;
}

static void af_packet_close(struct port *port)
{
	struct af_packet_port *ap = af_packet_of(port);
	munmap(ap->ring, ap->ring_size);
	volley_close(&ap->sender.volley);
	port_close_fds(port);
	free(ap);
}

static const struct port_ops af_packet_ops = {
	.name = "af_packet",
	.receive = af_packet_receive,
	.release = af_packet_release,
	.transmit = af_packet_transmit,
	.pending = af_packet_pending,
	.sleeping = af_packet_sleeping,
	.event = af_packet_event,
	.close = af_packet_close,
};

int af_packet_open(const struct port_spec *spec, const int *fds, int fd_count, struct port_state *state, struct port **out)
{
	if (!packet_fds_valid(fd_count) || !packet_ring_valid(spec) || !packet_socket_valid(fds[0], TPACKET_V2))
		return -EINVAL;
	struct af_packet_port *ap = calloc(1, sizeof(*ap));
	if (ap == NULL)
		return -ENOMEM;
	ap->ring_size = (size_t)spec->block_size * spec->block_count;
	void *ring = mmap(NULL, ap->ring_size, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
	if (ring == MAP_FAILED) {
		int error = -errno;
		free(ap);
		return error;
	}
	ap->ring = ring;
	ap->frames_per_block = spec->block_size / spec->frame_size;
	port_init(&ap->port, &af_packet_ops, spec, fds, fd_count, state);
	ap->port.fd = fds[0];
	volley_open(&ap->sender.volley, fds + PACKET_FDS, fd_count - PACKET_FDS, spec->ifindex);
	if (state->generation == spec->generation)
		attach_resume(ap);
	else
		attach_fresh(ap);
	*out = &ap->port;
	return 0;
}
