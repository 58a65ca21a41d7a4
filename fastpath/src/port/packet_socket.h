// What the drivers of packet sockets share: sending, and what a socket tells about itself.
#ifndef PORT_PACKET_SOCKET_H
#define PORT_PACKET_SOCKET_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include "port/port.h"
#include "port/volley.h"

enum {
	SENDER_VECTORS = 512,        // of one sendmmsg: each frame has one, and one for each part
	PACKET_RING_MAX = 1 << 30,   // bytes
	PACKET_FDS = 1               // and VOLLEY_FDS, where there is a program
};

struct packet_sender {
	struct volley volley;
	struct mmsghdr messages[BATCH_SIZE];
	struct iovec vectors[SENDER_VECTORS];
};

// As port_ops.transmit, on a socket with PACKET_VNET_HDR.
int packet_sender_transmit(struct packet_sender *sender, int fd, struct packet **packets, int count);
// The driver's fds may be those of a packet port.
bool packet_fds_valid(int fd_count);
// Is this a packet socket of this version (enum tpacket_versions) with vnet headers?
bool packet_socket_valid(int fd, int version);
// Do the ring's numbers fit together?
bool packet_ring_valid(const struct port_spec *spec);
// Add what the kernel dropped since the last time; that clears it there.
void packet_socket_losses(int fd, struct port_state *state);
// Take an error off the socket: the device's state comes from the manager.
void packet_socket_clear(int fd);

#endif
