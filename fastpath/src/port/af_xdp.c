// AF_XDP driver: frames come and go through four rings shared with the kernel, in memory shared with it.
//
// A device has a socket for each of its receive queues, and all of them one memory.  Queue q is read by worker
// q % spec.queues; each of these workers sends by the socket of its first queue, so on a transmit queue of its own.
//
//   memory     words of each sender | transmit frames of each sender | receive frames of each queue
//
// The manager opens everything; we only map, receive and send.  It must do, in this order (manager/xsk.py does):
//   memfd of block_size + (block_count * spec.queues + frame_count * queues) * frame_size bytes: the words of
//              xsk_sender.sent, block_size bytes for all senders, then the frames
//   socket(AF_XDP)  for each queue: XDP_UMEM_FILL_RING and XDP_RX_RING of frame_count entries; where it sends, XDP_TX_RING
//              and XDP_UMEM_COMPLETION_RING of block_count entries
//   SOL_XDP XDP_UMEM_REG on the first, from block_size on; frames of XSK_FRAME bytes, no headroom
//   the queue's receive frames into the fill ring
//   bind to the queue, the first with XDP_USE_NEED_WAKEUP, the others with XDP_SHARED_UMEM; an XDP program on the device
//              that redirects to the sockets
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
// metadata (checksum and time stamp offloads).
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
	FD_SOCKET, FD_MEMORY, FD_MORE, // of the port: the first socket, the memory, the other sockets, VOLLEY_FDS where there is a program
	QUEUES_MAX = 8,          // of one worker
	RING_MAX = 1 << 16,      // entries
	TX_RETRIES = 16,         // of a full peer, with a yield between them
	PREFETCH = 4,            // frames ahead
	STATISTICS_EVERY = 64    // times that we sleep, or that full rings were released
};

struct af_xdp_queue {
	struct xsk_receiver receiver;
	int fd;
	uint64_t begin;          // address of its first frame
	uint64_t end;
};

struct af_xdp_port {
	struct port port;
	struct af_xdp_queue queues[QUEUES_MAX];
	int queue_count;
	int turn;                // the queue that is looked at first
	struct xsk_sender sender;
	struct volley volley;
	uint8_t *memory;
	size_t memory_size;
	uint8_t *frames;         // what addresses of frames count from
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

static struct packet *frame_receive(const struct af_xdp_port *xp, const struct af_xdp_queue *queue, struct packet_pool *pool,
	enum drop_reason *reason)
{
	const struct xdp_desc *descriptor = xsk_descriptor(&queue->receiver.rx, queue->receiver.position);
	uint64_t address = descriptor->addr;
	uint32_t length = descriptor->len;

	*reason = DROP_TRUNCATED;
	if (address < queue->begin || address >= queue->end || length > XSK_FRAME - address % XSK_FRAME)
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

static void frame_prefetch(const struct af_xdp_port *xp, const struct af_xdp_queue *queue, uint32_t place)
{
	uint64_t address = xsk_descriptor(&queue->receiver.rx, place)->addr;
	if (address >= queue->begin && address < queue->end)
		__builtin_prefetch(xp->frames + address);
}

// At most `*room` frames, of which as many are left then as it had not; gives the packets made of them.
static int queue_receive(struct af_xdp_port *xp, struct af_xdp_queue *queue, struct packet_pool *pool,
	struct packet **packets, uint32_t *room, uint64_t *lost)
{
	struct xsk_receiver *receiver = &queue->receiver;
	uint32_t waiting = xsk_receiver_waiting(receiver);
	uint32_t taken = waiting < *room ? waiting : *room;
	uint32_t end = receiver->position + taken;
	int count = 0;

	xp->losing |= waiting + BATCH_SIZE >= xp->port.spec.frame_count;
	*room -= taken;
	for (; receiver->position != end; receiver->position++) {
		enum drop_reason reason;
		if (end - receiver->position > PREFETCH)
			frame_prefetch(xp, queue, receiver->position + PREFETCH);
		struct packet *packet = frame_receive(xp, queue, pool, &reason);
		if (packet != NULL)
			packets[count++] = packet;
		else
			lost[reason]++;
	}
	return count;
}

// A batch holds what several queues have, so that few frames of each leave together too.  They take turns in being the first.
static int af_xdp_receive(struct port *port, struct packet_pool *pool, struct packet **packets, int max, uint64_t *lost)
{
	struct af_xdp_port *xp = af_xdp_of(port);
	uint32_t room = (uint32_t)(max < BATCH_SIZE ? max : BATCH_SIZE);
	int count = 0, at = xp->turn;

	xp->turn = at + 1 < xp->queue_count ? at + 1 : 0;
	for (int i = 0; i < xp->queue_count && room > 0; i++) {
		count += queue_receive(xp, &xp->queues[at], pool, packets + count, &room, lost);
		at = at + 1 < xp->queue_count ? at + 1 : 0;
	}
	return count;
}

static void af_xdp_statistics(struct af_xdp_port *xp)
{
	struct port_state counted = { 0 };

	for (int i = 0; i < xp->queue_count; i++) {
		struct xdp_statistics of = { 0 };
		socklen_t size = sizeof(of);
		if (getsockopt(xp->queues[i].fd, SOL_XDP, XDP_STATISTICS, &of, &size) < 0)
			return;
		// Where the kernel copies, a frame that found the fill ring empty is among the dropped ones.
		counted.rx_kernel_drops += of.rx_dropped + of.rx_ring_full;
		counted.rx_ring_full += of.rx_ring_full;
		counted.rx_fill_empty += of.rx_fill_ring_empty_descs;
		counted.rx_invalid += of.rx_invalid_descs;
		counted.tx_invalid += of.tx_invalid_descs;
	}
	struct port_state *state = xp->port.state;
	state->rx_kernel_drops = counted.rx_kernel_drops;
	state->rx_ring_full = counted.rx_ring_full;
	state->rx_fill_empty = counted.rx_fill_empty;
	state->rx_invalid = counted.rx_invalid;
	state->tx_invalid = counted.tx_invalid;
	xp->losing = false;
}

static void queue_wake(const struct af_xdp_queue *queue)
{
	(void)!recvfrom(queue->fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
}

// Have the kernel run the device's receive function, or wake it where it waits for frames to fill.
static void af_xdp_poke(struct port *port)
{
	struct af_xdp_port *xp = af_xdp_of(port);
	for (int i = 0; xp->busy_poll && i < xp->queue_count; i++) {
		if (xsk_receiver_waiting(&xp->queues[i].receiver) == 0)
			queue_wake(&xp->queues[i]);
	}
}

static void af_xdp_release(struct port *port)
{
	struct af_xdp_port *xp = af_xdp_of(port);
	uint64_t count = 0;

	for (int i = 0; i < xp->queue_count; i++) {
		struct xsk_receiver *receiver = &xp->queues[i].receiver;
		if (receiver->position == receiver->released)
			continue;
		count += receiver->position - receiver->released;
		xsk_receiver_release(receiver);
		if (xp->zero_copy && !xp->busy_poll && xsk_wants_wakeup(&receiver->fill))
			queue_wake(&xp->queues[i]);
	}
	__atomic_store_n(&port->state->progress, port->state->progress + count, __ATOMIC_RELEASE);
	if (xp->losing && ++xp->losses % STATISTICS_EVERY == 0)
		af_xdp_statistics(xp);
	af_xdp_poke(port);
}

static bool af_xdp_pending(const struct port *port)
{
	const struct af_xdp_port *xp = (const struct af_xdp_port *)port;
	for (int i = 0; i < xp->queue_count; i++) {
		if (xsk_receiver_waiting(&xp->queues[i].receiver) != 0)
			return true;
	}
	return false;
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
		memcpy(xp->frames + (xp->sender.first + frame) * XSK_FRAME, packet_data(packet), packet->length);
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
	struct af_xdp_port *xp = af_xdp_of(port);
	for (int i = 0; i < xp->queue_count; i++) {
		int error = 0;
		socklen_t size = sizeof(error);
		// Reading the error clears it; the device's state comes from the manager.
		getsockopt(xp->queues[i].fd, SOL_SOCKET, SO_ERROR, &error, &size);
	}
	af_xdp_statistics(xp);
}

static void af_xdp_free(struct af_xdp_port *xp)
{
	volley_close(&xp->volley);
	for (int i = 0; i < xp->queue_count; i++) {
		xsk_ring_unmap(&xp->queues[i].receiver.rx);
		xsk_ring_unmap(&xp->queues[i].receiver.fill);
	}
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

static uint32_t senders(const struct port_spec *spec)
{
	return spec->queues > 1 ? spec->queues : 1;
}

static bool geometry_valid(const struct port_spec *spec)
{
	return spec->frame_size == XSK_FRAME && is_power_of_two(spec->frame_count) && spec->frame_count <= RING_MAX &&
		is_power_of_two(spec->block_count) && spec->block_count <= RING_MAX && spec->frame_count >= 2 * BATCH_SIZE &&
		spec->block_count >= BATCH_SIZE && senders(spec) <= MAX_WORKERS && spec->queue < senders(spec) &&
		spec->block_size % 4096 == 0 && spec->block_size <= senders(spec) * RING_MAX * sizeof(uint64_t) &&
		spec->block_size >= senders(spec) * spec->block_count * sizeof(uint64_t);
}

// Ours are every n-th of the queues for which the memory has frames.
static int find_queues(struct af_xdp_port *xp, const struct port_spec *spec, const int *fds, int fd_count)
{
	struct stat file;
	if (fstat(fds[FD_MEMORY], &file) < 0)
		return -errno;
	uint64_t sending = (uint64_t)spec->block_count * senders(spec), size = (uint64_t)file.st_size;
	uint64_t frames = size > spec->block_size ? (size - spec->block_size) / XSK_FRAME : 0;
	uint64_t queues = frames > sending ? (frames - sending) / spec->frame_count : 0;

	xp->memory_size = spec->block_size + (sending + queues * spec->frame_count) * XSK_FRAME;
	if (xp->memory_size != size || queues <= spec->queue || queues > (uint64_t)QUEUES_MAX * senders(spec))
		return -EINVAL;
	for (uint64_t queue = spec->queue; queue < queues; queue += senders(spec)) {
		int at = xp->queue_count == 0 ? FD_SOCKET : FD_MORE - 1 + xp->queue_count;
		if (at >= fd_count)
			return -EINVAL;
		uint64_t begin = (sending + queue * spec->frame_count) * XSK_FRAME;
		xp->queues[xp->queue_count++] = (struct af_xdp_queue){
			.fd = fds[at], .begin = begin, .end = begin + (uint64_t)spec->frame_count * XSK_FRAME
		};
	}
	int rest = fd_count - FD_MORE - (xp->queue_count - 1);
	return rest == 0 || rest == VOLLEY_FDS ? 0 : -EINVAL;
}

static int map_memory(struct af_xdp_port *xp, const struct port_spec *spec, int fd)
{
	void *memory = mmap(NULL, xp->memory_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		return -errno;
	xp->memory = memory;
	xp->frames = xp->memory + spec->block_size;
	xp->sender.sent = (uint64_t *)memory + (size_t)spec->queue * spec->block_count;
	xp->sender.first = (uint64_t)spec->queue * spec->block_count;
	xp->sender.free = calloc(spec->block_count, sizeof(*xp->sender.free));
	return xp->sender.free == NULL ? -ENOMEM : 0;
}

static int map_rings(struct af_xdp_port *xp, const struct port_spec *spec, struct af_xdp_queue *queue)
{
	struct xdp_mmap_offsets offsets;
	socklen_t size = sizeof(offsets);
	if (getsockopt(queue->fd, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &size) < 0)
		return -errno;
	if (size != sizeof(offsets))
		return -EINVAL;
	const size_t descriptor = sizeof(struct xdp_desc), address = sizeof(uint64_t);
	struct xsk_receiver *receiver = &queue->receiver;
	struct xsk_sender *sender = &xp->sender;
	int error = xsk_ring_map(&receiver->rx, queue->fd, XDP_PGOFF_RX_RING, &offsets.rx, spec->frame_count, descriptor);
	if (error == 0)
		error = xsk_ring_map(&receiver->fill, queue->fd, XDP_UMEM_PGOFF_FILL_RING, &offsets.fr, spec->frame_count, address);
	if (error == 0)
		error = xsk_receiver_resume(receiver);
	if (error < 0 || queue != xp->queues)
		return error;
	error = xsk_ring_map(&sender->tx, queue->fd, XDP_PGOFF_TX_RING, &offsets.tx, spec->block_count, descriptor);
	if (error == 0)
		error = xsk_ring_map(&sender->completion, queue->fd, XDP_UMEM_PGOFF_COMPLETION_RING, &offsets.cr, spec->block_count, address);
	if (error == 0)
		xsk_sender_resume(sender);
	return error;
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
	_Static_assert(FD_MORE + QUEUES_MAX - 1 + VOLLEY_FDS <= PORT_FDS, "a port holds the sockets of all its queues");
	if (fd_count < FD_MORE || !geometry_valid(spec))
		return -EINVAL;
	struct af_xdp_port *xp = calloc(1, sizeof(*xp));
	if (xp == NULL)
		return -ENOMEM;
	int error = find_queues(xp, spec, fds, fd_count);
	if (error == 0)
		error = map_memory(xp, spec, fds[FD_MEMORY]);
	for (int i = 0; error == 0 && i < xp->queue_count; i++)
		error = map_rings(xp, spec, &xp->queues[i]);
	if (error < 0) {
		af_xdp_free(xp);
		return error;
	}
	read_options(xp, fds[FD_SOCKET]);
	port_init(&xp->port, &af_xdp_ops, spec, fds, fd_count, state);
	xp->port.fd = fds[FD_SOCKET];
	xp->port.more_first = FD_MORE;
	xp->port.more_count = xp->queue_count - 1;
	if (state->generation != spec->generation)
		__atomic_store_n(&state->progress, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&state->generation, spec->generation, __ATOMIC_RELEASE);
	int volley_first = FD_MORE + xp->queue_count - 1;
	if (!xp->zero_copy)
		volley_open(&xp->volley, fds + volley_first, fd_count - volley_first, spec->ifindex);
	af_xdp_statistics(xp);
	*out = &xp->port;
	return 0;
}
