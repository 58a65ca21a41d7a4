// Packet sockets, as far as no ring is concerned: sendmmsg with a vnet header before each frame, or a volley of them.
#define _GNU_SOURCE
#include "port/packet_socket.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <sched.h>
#include <string.h>

_Static_assert(sizeof(struct virtio_net_hdr) <= PACKET_FRONT, "a packet has room for its vnet header");

enum {
	VNET_SIZE = sizeof(struct virtio_net_hdr),
	TX_RETRIES = 4,          // of a full peer, with a yield between them
	FRAME_BYTES_MIN = 128    // headers of a slot and of an ordinary frame
};

// As many as there are messages and vectors for.
static int sender_prepare(struct packet_sender *sender, struct packet **packets, int count)
{
	uint32_t used = 0;
	if (count > BATCH_SIZE)
		count = BATCH_SIZE;
	for (int i = 0; i < count; i++) {
		struct packet *packet = packets[i];
		struct iovec *vectors = &sender->vectors[used];
		if (used + 1 + packet->part_count > SENDER_VECTORS)
			return i;
		struct virtio_net_hdr vnet = packet->vnet;
		vnet.flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM; // "data is valid" is for receivers only
		if (vnet.hdr_len > packet->length)
			vnet.hdr_len = (uint16_t)packet->length;
		// One piece of memory is cheaper for the kernel to take in than two.
		uint8_t *start = packet_data(packet) - VNET_SIZE;
		memcpy(start, &vnet, VNET_SIZE);
		vectors[0] = (struct iovec){ .iov_base = start, .iov_len = VNET_SIZE + packet->length };
		memcpy(vectors + 1, packet_parts(packet), packet->part_count * sizeof(*vectors));
		sender->messages[i].msg_hdr = (struct msghdr){ .msg_iov = vectors, .msg_iovlen = 1u + packet->part_count };
		used += 1u + packet->part_count;
	}
	return count;
}

// A veth peer's queue (256 deep) refuses with ENOBUFS until its CPU has run: let it.
// ENETDOWN is reported once for a time that may be over, and again if it is not.
int packet_sender_transmit(struct packet_sender *sender, int fd, struct packet **packets, int count)
{
	int left = volley_transmit(&sender->volley, fd, packets, count);
	if (left > 0)
		return left;
	count = sender_prepare(sender, packets, count);
	for (int attempt = 0; ; attempt++) {
		int sent = sendmmsg(fd, sender->messages, (unsigned int)count, MSG_DONTWAIT);
		if (sent > 0)
			return sent;
		if (errno == ENETDOWN && attempt == 0)
			continue;
		if (errno != ENOBUFS && errno != EAGAIN && errno != EINTR)
			return -errno;
		if (attempt == TX_RETRIES)
			return 0;
		sched_yield();
	}
}

bool packet_fds_valid(int fd_count)
{
	return fd_count == PACKET_FDS || fd_count == PACKET_FDS + VOLLEY_FDS;
}

bool packet_socket_valid(int fd, int version)
{
	int found = -1;
	int vnet = 0;
	socklen_t found_size = sizeof(found);
	socklen_t vnet_size = sizeof(vnet);
	return getsockopt(fd, SOL_PACKET, PACKET_VERSION, &found, &found_size) == 0 && found == version &&
		getsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &vnet, &vnet_size) == 0 && vnet != 0;
}

bool packet_ring_valid(const struct port_spec *spec)
{
	if (spec->frame_size < FRAME_BYTES_MIN || spec->frame_size % TPACKET_ALIGNMENT != 0 ||
	    spec->block_size < spec->frame_size || spec->block_count == 0 || spec->frame_count <= 2 * BATCH_SIZE)
		return false;
	uint64_t frames = (uint64_t)(spec->block_size / spec->frame_size) * spec->block_count;
	return frames == spec->frame_count && (uint64_t)spec->block_size * spec->block_count <= PACKET_RING_MAX;
}

void packet_socket_losses(int fd, struct port_state *state)
{
	struct tpacket_stats_v3 stats; // version 2 has its first two fields
	socklen_t size = sizeof(stats);
	if (getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size) == 0)
		state->rx_kernel_drops += stats.tp_drops;
}

void packet_socket_clear(int fd)
{
	int error = 0;
	socklen_t size = sizeof(error);
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
}
