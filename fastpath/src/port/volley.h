// Sends many plain frames out of a kernel device by one call.
//
// A frame that a packet or XDP socket sends over a veth is received by its other end before the next one is looked
// at: the kernel runs what is due after each.  bpf(BPF_PROG_TEST_RUN) of the program bpf/volley.bpf.c sends a batch and
// lets the receiver run once, over all of it.  Frames leave as those of the socket do, through the device's queueing
// discipline, and have left when the call returns.
//
// The manager loads the program, whose map is memory shared with us, and keeps both; without them, or where the kernel
// does not let us run it, the sockets send.  It reaches no other devices than a packet socket: those of our namespace.
//
// Not for it: super-frames, checksums that the device is to finish, frames in parts, jumbo frames.
#ifndef PORT_VOLLEY_H
#define PORT_VOLLEY_H

#include <stdbool.h>
#include <stdint.h>
#include "base/packet.h"
#include "port/volley_batch.h"

enum { VOLLEY_FDS = 2 }; // program, batch

struct volley {
	struct volley_batch *batch; // NULL: there is none
	int program;
};

// Where the fds are not those of such a program there is none; they stay the caller's.
void volley_open(struct volley *volley, const int *fds, int fd_count, uint32_t ifindex);
void volley_close(struct volley *volley);
// Send from the front; how many have left.  0: too few of them suit, or the device takes none.  `fd`: the socket that
// sends what does not leave so.
int volley_transmit(struct volley *volley, int fd, struct packet **packets, int count);

#endif
