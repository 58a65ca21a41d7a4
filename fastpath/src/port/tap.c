// TAP driver: a device of the kernel whose other side is ours, one frame for each read and write.
//
// The manager makes the device and keeps its fd beside ours; it must do (manager/taps.py does):
//   open /dev/net/tun, non-blocking, in the namespace that the device shall be in
//   TUNSETIFF       IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
//   TUNSETVNETHDRSZ sizeof(struct virtio_net_hdr)
//   TUNSETOFFLOAD   TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN, and USO where the kernel knows it
//   a queue (txqueuelen) as long as a ring: there frames wait while no forwarder lives
//
// Nothing tells whether frames wait but to read, so `pending` means that the fd was ready and no read has
// found it empty since.  A frame that has been read is gone from the device: a forwarder that is killed
// loses the frames of one batch at most, and repeats none.
//
// Not supported: several queues (IFF_MULTI_QUEUE), TUN devices without link header.
#define _GNU_SOURCE
#include "port/port.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
	VNET_SIZE = sizeof(struct virtio_net_hdr),
	ETHERNET_SIZE = 14
};

struct tap_port {
	struct port port;
	bool ready;                // frames may wait
	uint64_t taken;            // since the last release
	uint8_t rest[SUPER_ROOM];  // of a frame that no buffer was to be had for
};

static struct tap_port *tap_of(struct port *port)
{
	return (struct tap_port *)port;
}

// --- receiving ---

// Where the next frame goes: an ordinary buffer, and behind it the one that it moves to if it is long.
struct landing {
	struct packet *ordinary;
	struct packet *super;
};

static void landing_prepare(struct landing *landing, struct packet_pool *pool)
{
	if (landing->ordinary == NULL)
		landing->ordinary = packet_get(pool, PACKET_ROOM);
	if (landing->super == NULL)
		landing->super = packet_get(pool, SUPER_ROOM);
}

static void landing_clear(struct landing *landing, struct packet_pool *pool)
{
	if (landing->ordinary != NULL)
		packet_put(pool, landing->ordinary);
	if (landing->super != NULL)
		packet_put(pool, landing->super);
}

// Bytes of the frame without vnet header, or a negated errno.
static ssize_t frame_read(struct tap_port *tap, struct landing *landing, struct virtio_net_hdr *vnet)
{
	uint8_t *front = landing->ordinary != NULL ? packet_data(landing->ordinary) : tap->rest;
	uint8_t *back = landing->super != NULL ? packet_data(landing->super) + PACKET_ROOM : tap->rest + PACKET_ROOM;
	struct iovec vectors[] = {
		{ .iov_base = vnet, .iov_len = VNET_SIZE },
		{ .iov_base = front, .iov_len = PACKET_ROOM },
		{ .iov_base = back, .iov_len = SUPER_ROOM - PACKET_ROOM },
	};
	ssize_t length = readv(tap->port.fd, vectors, 3);
	if (length < 0)
		return -errno;
	return length < VNET_SIZE ? -EPROTO : length - VNET_SIZE;
}

// The packet that a frame of this length has landed in; NULL: there was no buffer for it.
static struct packet *landing_take(struct landing *landing, uint32_t length)
{
	struct packet *packet = landing->ordinary;
	if (length <= PACKET_ROOM) {
		landing->ordinary = NULL;
		return packet;
	}
	if (packet == NULL || landing->super == NULL)
		return NULL;
	memcpy(packet_data(landing->super), packet_data(packet), PACKET_ROOM);
	packet = landing->super;
	landing->super = NULL;
	return packet;
}

static int tap_receive(struct port *port, struct packet_pool *pool, struct packet **packets, int max, uint64_t *lost)
{
	struct tap_port *tap = tap_of(port);
	struct landing landing = { NULL, NULL };
	int count = 0;

	for (int taken = 0; taken < max && taken < BATCH_SIZE; taken++) {
		struct virtio_net_hdr vnet;
		landing_prepare(&landing, pool);
		ssize_t length = frame_read(tap, &landing, &vnet);
		if (length < 0) {
			tap->ready = length == -EINTR;
			break;
		}
		tap->taken++;
		struct packet *packet = length < ETHERNET_SIZE ? NULL : landing_take(&landing, (uint32_t)length);
		if (packet == NULL) {
			lost[length < ETHERNET_SIZE ? DROP_TRUNCATED : DROP_NO_BUFFER]++;
			continue;
		}
		packet->vnet = vnet;
		packet->length = (uint32_t)length;
		packet->port = port->spec.port;
		port_vnet_check(packet);
		packets[count++] = packet;
	}
	landing_clear(&landing, pool);
	return count;
}

static void tap_release(struct port *port)
{
	struct tap_port *tap = tap_of(port);
	if (tap->taken == 0)
		return;
	__atomic_store_n(&port->state->progress, port->state->progress + tap->taken, __ATOMIC_RELEASE);
	tap->taken = 0;
}

// --- sending ---

static ssize_t frame_write(const struct tap_port *tap, struct packet *packet)
{
	struct iovec vectors[2 + PACKET_PARTS];
	struct virtio_net_hdr vnet = packet->vnet;

	vnet.flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM; // "data is valid" is for receivers only
	if (vnet.hdr_len > packet->length)
		vnet.hdr_len = (uint16_t)packet->length;
	vectors[0] = (struct iovec){ .iov_base = &vnet, .iov_len = VNET_SIZE };
	vectors[1] = (struct iovec){ .iov_base = packet_data(packet), .iov_len = packet->length };
	memcpy(vectors + 2, packet_parts(packet), packet->part_count * sizeof(*vectors));
	return writev(tap->port.fd, vectors, 2 + packet->part_count);
}

// What the kernel says of a device that is down (EIO) or gone (EBADFD), in the words of the other drivers.
static int transmit_error(int error)
{
	return error == EIO ? -ENETDOWN : error == EBADFD ? -ENODEV : -error;
}

static int tap_transmit(struct port *port, struct packet **packets, int count)
{
	int sent = 0;
	while (sent < count) {
		if (frame_write(tap_of(port), packets[sent]) >= 0) {
			sent++;
		} else if (errno != EINTR) {
			if (sent > 0 || errno == EAGAIN || errno == ENOBUFS)
				return sent;
			return transmit_error(errno);
		}
	}
	return sent;
}

// --- the rest of the contract ---

static bool tap_pending(const struct port *port)
{
	return ((const struct tap_port *)port)->ready;
}

static void tap_sleeping(struct port *port, bool sleeping)
{
	(void)port; // the kernel wakes whoever polls
	(void)sleeping;
}

static void tap_event(struct port *port)
{
	tap_of(port)->ready = true;
}

static void tap_close(struct port *port)
{
	port_close_fds(port);
	free(port);
}

static const struct port_ops tap_ops = {
	.name = "tap",
	.receive = tap_receive,
	.release = tap_release,
	.transmit = tap_transmit,
	.pending = tap_pending,
	.sleeping = tap_sleeping,
	.event = tap_event,
	.close = tap_close,
};

int tap_open(const struct port_spec *spec, const int *fds, int fd_count, struct port_state *state, struct port **out)
{
	if (fd_count != 1)
		return -EINVAL;
	struct tap_port *tap = calloc(1, sizeof(*tap));
	if (tap == NULL)
		return -ENOMEM;
	port_init(&tap->port, &tap_ops, spec, fds, fd_count, state);
	tap->port.fd = fds[0];
	tap->ready = true;
	if (state->generation != spec->generation) {
		__atomic_store_n(&state->progress, 0, __ATOMIC_RELEASE);
		state->rx_kernel_drops = 0;
		__atomic_store_n(&state->generation, spec->generation, __ATOMIC_RELEASE);
	}
	*out = &tap->port;
	return 0;
}
