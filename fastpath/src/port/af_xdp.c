// AF_XDP driver: frames come and go through four rings shared with the kernel, in memory shared with it.
//
// The manager opens everything; we only map, receive and send.  It must do, in this order (manager/xsk.py does):
//   memfd of block_size + (block_count + frame_count) * frame_size bytes: the words of xsk_sender.sent, then the
//              transmit frames, then the receive frames
//   socket(AF_XDP)  SOL_XDP XDP_UMEM_REG, from block_size on; frames of XSK_FRAME bytes, no headroom
//              XDP_UMEM_FILL_RING and XDP_RX_RING of frame_count, XDP_TX_RING and XDP_UMEM_COMPLETION_RING of
//              block_count entries
//   all receive frames into the fill ring
//   bind to queue 0 with XDP_USE_NEED_WAKEUP, and an XDP program on the device that redirects to the socket
//   SO_SNDBUFFORCE; where it busy-polls SO_PREFER_BUSY_POLL, SO_BUSY_POLL, SO_BUSY_POLL_BUDGET
//
// A frame is copied once on its way in and once on its way out: a successor of a dead forwarder must find what
// was not yet sent as it arrived.  For the crash rule see xsk_ring.c: no frame is lost, and at most one batch is
// repeated.
//
// Where the kernel copies too (no zero-copy driver) batches leave as volleys (volley.h), which costs it less.  What is
// too little for one goes through the tx ring: the kernel takes it in calls of ours only, and tells whether the
// device's queue refused a frame: that is sent again, in its place.
//
// Not supported: frames in several buffers (jumbo frames), VLAN tags that the kernel keeps beside the frame,
// metadata (checksum and time stamp offloads), several queues.
#define _GNU_SOURCE
#include "port/port.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "port/volley.h"
#include "port/xsk_ring.h"

enum {
	FD_SOCKET, FD_MEMORY, FD_COUNT, // of the port, and VOLLEY_FDS where there is a program
	RING_MAX = 1 << 16,      // entries
	TX_RETRIES = 16,         // of a full peer, with a yield between them
	PREFETCH = 4,            // frames ahead
	STATISTICS_EVERY = 64    // times that we sleep, or that full rings were released
};

struct af_xdp_port {
	struct port port;
	struct xsk_receiver receiver;
	struct xsk_sender sender;
	struct volley volley;
	uint8_t *memory;
	size_t memory_size;
	uint8_t *frames;         // what addresses of frames count from
	uint64_t receive_begin;  // address of the first receive frame
	uint64_t receive_end;
	bool zero_copy;
	bool busy_poll;
	bool losing;             // the rings were full: the kernel may have dropped
	uint32_t sleeps;
	uint32_t losses;         // releases while losing
};

static struct af_xdp_port *af_xdp_of(struct port *port)
{
	return (struct af_xdp_port *)port;
}

// --- receiving ---

static struct packet *frame_receive(const struct af_xdp_port *xp, struct packet_pool *pool, uint32_t place, enum drop_reason *reason)
{
	const struct xdp_desc *descriptor = xsk_descriptor(&xp->receiver.rx, place);
	uint64_t address = descriptor->addr;
	uint32_t length = descriptor->len;

	*reason = DROP_TRUNCATED;
	if (address < xp->receive_begin || address >= xp->receive_end || length > XSK_FRAME - address % XSK_FRAME)
		return NULL;
	struct packet *packet = packet_get(pool, length);
	if (packet == NULL) {
		*reason = DROP_NO_BUFFER;
		return NULL;
	}
	memcpy(packet_data(packet), xp->frames + address, length);
	packet->length = length;
	packet->port = xp->port.spec.port;
	port_vnet_guess(packet);
	return packet;
}

static void frame_prefetch(const struct af_xdp_port *xp, uint32_t place)
{
	uint64_t address = xsk_descriptor(&xp->receiver.rx, place)->addr;
	if (address >= xp->receive_begin && address < xp->receive_end)
		__builtin_prefetch(xp->frames + address);
}

static int af_xdp_receive(struct port *port, struct packet_pool *pool, struct packet **packets, int max, uint64_t *lost)
{
	struct af_xdp_port *xp = af_xdp_of(port);
	struct xsk_receiver *receiver = &xp->receiver;
	uint32_t waiting = xsk_receiver_waiting(receiver);
	uint32_t end = receiver->position + waiting;
	int count = 0;

	xp->losing |= waiting + BATCH_SIZE >= port->spec.frame_count;
	if (waiting > (uint32_t)max || waiting > BATCH_SIZE)
		end = receiver->position + (uint32_t)(max < BATCH_SIZE ? max : BATCH_SIZE);
	for (; receiver->position != end; receiver->position++) {
		enum drop_reason reason;
		if (end - receiver->position > PREFETCH)
			frame_prefetch(xp, receiver->position + PREFETCH);
		struct packet *packet = frame_receive(xp, pool, receiver->position, &reason);
		if (packet != NULL)
			packets[count++] = packet;
		else
			lost[reason]++;
	}
	return count;
}

static void af_xdp_statistics(struct af_xdp_port *xp)
{
	struct xdp_statistics counted = { 0 };
	socklen_t size = sizeof(counted);
	struct port_state *state = xp->port.state;
	if (getsockopt(xp->port.fd, SOL_XDP, XDP_STATISTICS, &counted, &size) < 0)
		return;
	// Where the kernel copies, a frame that found the fill ring empty is among the dropped ones.
	state->rx_kernel_drops = counted.rx_dropped + counted.rx_ring_full;
	state->rx_ring_full = counted.rx_ring_full;
	state->rx_fill_empty = counted.rx_fill_ring_empty_descs;
	state->rx_invalid = counted.rx_invalid_descs;
	state->tx_invalid = counted.tx_invalid_descs;
	xp->losing = false;
}

// Have the kernel run the device's receive function, or wake it where it waits for frames to fill.
static void af_xdp_poke(struct port *port)
{
	struct af_xdp_port *xp = af_xdp_of(port);
	if (xp->busy_poll && xsk_receiver_waiting(&xp->receiver) == 0)
		(void)!recvfrom(port->fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
}

static void af_xdp_release(struct port *port)
{
	struct af_xdp_port *xp = af_xdp_of(port);
	uint32_t count = xp->receiver.position - (uint32_t)port->state->progress;

	__atomic_store_n(&port->state->progress, port->state->progress + count, __ATOMIC_RELEASE);
	xsk_receiver_release(&xp->receiver);
	if (xp->losing && ++xp->losses % STATISTICS_EVERY == 0)
		af_xdp_statistics(xp);
	if (xp->zero_copy && !xp->busy_poll && xsk_wants_wakeup(&xp->receiver.fill))
		(void)!recvfrom(port->fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
	af_xdp_poke(port);
}

static bool af_xdp_pending(const struct port *port)
{
	return xsk_receiver_waiting(&((const struct af_xdp_port *)port)->receiver) != 0;
}

// --- transmitting ---

// Put packets behind the tx ring's producer; a negated errno where the first cannot be sent.
static int transmit_prepare(struct af_xdp_port *xp, uint32_t producer, struct packet **packets, int count)
{
	for (int i = 0; i < count; i++) {
		struct packet *packet = packets[i];
		if (packet_bytes(packet) > XSK_FRAME || packet->vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE)
			return i > 0 ? i : -EMSGSIZE;
		if (!packet_finish_checksum(packet))
			return i > 0 ? i : -EINVAL;
		uint32_t frame = xsk_sender_add(&xp->sender, producer + (uint32_t)i, packet->length);
		memcpy(xp->frames + (size_t)frame * XSK_FRAME, packet_data(packet), packet->length);
	}
	return count;
}

// Let the kernel take frames in this call.  A full peer's queue refuses with EBUSY until its CPU has run: let it, and
// send that frame again.  What is still in the ring at the end goes with the next.
static int transmit_copy(struct af_xdp_port *xp)
{
	int retries = 0;
	while (xsk_sender_left(&xp->sender) != 0 && retries <= TX_RETRIES) {
		uint32_t before = xp->sender.taken;
		int error = sendto(xp->port.fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 ? errno : 0;
		xsk_sender_advance(&xp->sender, error == EBUSY);
		if (error == EBUSY)
			xsk_sender_repeat(&xp->sender);
		else if (error != 0 && error != EAGAIN && error != ENOBUFS && error != EINTR)
			return -error;
		if (error == EBUSY || xp->sender.taken == before) {
			sched_yield();
			retries++;
		}
	}
	return 0;
}

// Frames that lie in the ring go first, so there must be none.
static int transmit_volley(struct af_xdp_port *xp, struct packet **packets, int count)
{
	if (xp->volley.batch == NULL || xsk_sender_left(&xp->sender) != 0)
		return 0;
	for (int i = 0; i < count; i++) {
		if (packets[i]->vnet.flags != 0 && !packet_finish_checksum(packets[i]))
			count = i;
	}
	return volley_transmit(&xp->volley, xp->port.fd, packets, count);
}

static int af_xdp_transmit(struct port *port, struct packet **packets, int count)
{
	struct af_xdp_port *xp = af_xdp_of(port);
	struct xsk_sender *sender = &xp->sender;
	int left = transmit_volley(xp, packets, count);

	if (left > 0)
		return left;
	xsk_sender_reap(sender);
	if (sender->free_count == 0) {
		(void)transmit_copy(xp);
		xsk_sender_reap(sender);
	}
	if ((uint32_t)count > sender->free_count)
		count = (int)sender->free_count;
	uint32_t producer = xsk_load(sender->tx.producer);
	bool empty = xp->zero_copy || xsk_sender_left(sender) == 0;
	count = transmit_prepare(xp, producer, packets, count);
	if (count <= 0)
		return count;
	xsk_sender_publish(sender, producer + (uint32_t)count);
	if (xp->zero_copy) {
		if (xsk_wants_wakeup(&sender->tx))
			(void)!sendto(port->fd, NULL, 0, MSG_DONTWAIT, NULL, 0);
		return count;
	}
	int error = transmit_copy(xp);
	// The device is down or gone: the kernel has not looked at the ring.
	if (error < 0 && empty && sender->taken == producer) {
		xsk_sender_retract(sender, producer);
		return error;
	}
	return count;
}

// --- life ---

static void af_xdp_sleeping(struct port *port, bool sleeping)
{
	struct af_xdp_port *xp = af_xdp_of(port);
	if (!sleeping)
		return;
	if (!xp->zero_copy && xsk_sender_left(&xp->sender) != 0)
		(void)transmit_copy(xp);
	if (xp->sleeps++ % STATISTICS_EVERY == 0 || xp->losing)
		af_xdp_statistics(xp);
}

static void af_xdp_event(struct port *port)
{
	int error = 0;
	socklen_t size = sizeof(error);
	// Reading the error clears it; the device's state comes from the manager.
	getsockopt(port->fd, SOL_SOCKET, SO_ERROR, &error, &size);
	af_xdp_statistics(af_xdp_of(port));
}

static void af_xdp_free(struct af_xdp_port *xp)
{
	volley_close(&xp->volley);
	xsk_ring_unmap(&xp->receiver.rx);
	xsk_ring_unmap(&xp->receiver.fill);
	xsk_ring_unmap(&xp->sender.tx);
	xsk_ring_unmap(&xp->sender.completion);
	if (xp->memory != NULL)
		munmap(xp->memory, xp->memory_size);
	free(xp->sender.free);
	free(xp);
}

static void af_xdp_close(struct port *port)
{
	port_close_fds(port);
	af_xdp_free(af_xdp_of(port));
}

static const struct port_ops af_xdp_ops = {
	.name = "af_xdp",
	.receive = af_xdp_receive,
	.release = af_xdp_release,
	.transmit = af_xdp_transmit,
	.pending = af_xdp_pending,
	.sleeping = af_xdp_sleeping,
	.event = af_xdp_event,
	.close = af_xdp_close,
	.poke = af_xdp_poke,
	.plain = true,
};

static bool is_power_of_two(uint32_t number)
{
	return number != 0 && (number & (number - 1)) == 0;
}

static bool geometry_valid(const struct port_spec *spec)
{
	return spec->frame_size == XSK_FRAME && is_power_of_two(spec->frame_count) && spec->frame_count <= RING_MAX &&
		is_power_of_two(spec->block_count) && spec->block_count <= RING_MAX && spec->frame_count >= 2 * BATCH_SIZE &&
		spec->block_count >= BATCH_SIZE && spec->block_size % 4096 == 0 && spec->block_size <= RING_MAX * sizeof(uint64_t) &&
		spec->block_size >= spec->block_count * sizeof(uint64_t);
}

static int map_memory(struct af_xdp_port *xp, const struct port_spec *spec, int fd)
{
	uint64_t frames = (uint64_t)spec->block_count + spec->frame_count;
	struct stat file;

	xp->memory_size = spec->block_size + frames * XSK_FRAME;
	if (fstat(fd, &file) < 0 || (uint64_t)file.st_size != xp->memory_size)
		return -EINVAL;
	void *memory = mmap(NULL, xp->memory_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		return -errno;
	xp->memory = memory;
	xp->frames = xp->memory + spec->block_size;
	xp->receive_begin = (uint64_t)spec->block_count * XSK_FRAME;
	xp->receive_end = frames * XSK_FRAME;
	xp->sender.sent = memory;
	xp->sender.free = calloc(spec->block_count, sizeof(*xp->sender.free));
	return xp->sender.free == NULL ? -ENOMEM : 0;
}

static int map_rings(struct af_xdp_port *xp, const struct port_spec *spec, int fd)
{
	struct xdp_mmap_offsets offsets;
	socklen_t size = sizeof(offsets);
	if (getsockopt(fd, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &size) < 0)
		return -errno;
	if (size != sizeof(offsets))
		return -EINVAL;
	const size_t descriptor = sizeof(struct xdp_desc), address = sizeof(uint64_t);
	int error = xsk_ring_map(&xp->receiver.rx, fd, XDP_PGOFF_RX_RING, &offsets.rx, spec->frame_count, descriptor);
	if (error == 0)
		error = xsk_ring_map(&xp->receiver.fill, fd, XDP_UMEM_PGOFF_FILL_RING, &offsets.fr, spec->frame_count, address);
	if (error == 0)
		error = xsk_ring_map(&xp->sender.tx, fd, XDP_PGOFF_TX_RING, &offsets.tx, spec->block_count, descriptor);
	if (error == 0)
		error = xsk_ring_map(&xp->sender.completion, fd, XDP_UMEM_PGOFF_COMPLETION_RING, &offsets.cr, spec->block_count, address);
	return error;
}

// Go on where a predecessor stopped; on a new coupling, where the rings are.
static int resume(struct af_xdp_port *xp, const struct port_spec *spec, struct port_state *state)
{
	uint32_t consumer = xsk_load(xp->receiver.rx.consumer);
	bool known = state->generation == spec->generation;
	int error = xsk_receiver_resume(&xp->receiver, known ? (uint32_t)state->progress : consumer);

	if (error < 0)
		return error;
	if (!known)
		__atomic_store_n(&state->progress, consumer, __ATOMIC_RELEASE);
	__atomic_store_n(&state->generation, spec->generation, __ATOMIC_RELEASE);
	xsk_sender_resume(&xp->sender);
	return 0;
}

static void read_options(struct af_xdp_port *xp, int fd)
{
	struct xdp_options options = { 0 };
	int busy = 0;
	socklen_t options_size = sizeof(options), busy_size = sizeof(busy);

	if (getsockopt(fd, SOL_XDP, XDP_OPTIONS, &options, &options_size) == 0)
		xp->zero_copy = (options.flags & XDP_OPTIONS_ZEROCOPY) != 0;
	if (getsockopt(fd, SOL_SOCKET, SO_BUSY_POLL, &busy, &busy_size) == 0)
		xp->busy_poll = busy > 0;
}

int af_xdp_open(const struct port_spec *spec, const int *fds, int fd_count, struct port_state *state, struct port **out)
{
	if ((fd_count != FD_COUNT && fd_count != FD_COUNT + VOLLEY_FDS) || !geometry_valid(spec))
		return -EINVAL;
	struct af_xdp_port *xp = calloc(1, sizeof(*xp));
	if (xp == NULL)
		return -ENOMEM;
	int error = map_memory(xp, spec, fds[FD_MEMORY]);
	if (error == 0)
		error = map_rings(xp, spec, fds[FD_SOCKET]);
	if (error == 0)
		error = resume(xp, spec, state);
	if (error < 0) {
		af_xdp_free(xp);
		return error;
	}
	read_options(xp, fds[FD_SOCKET]);
	port_init(&xp->port, &af_xdp_ops, spec, fds, fd_count, state);
	xp->port.fd = fds[FD_SOCKET];
	if (!xp->zero_copy)
		volley_open(&xp->volley, fds + FD_COUNT, fd_count - FD_COUNT, spec->ifindex);
	af_xdp_statistics(xp);
	*out = &xp->port;
	return 0;
}
