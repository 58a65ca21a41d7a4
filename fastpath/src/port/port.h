// The driver contract: everything the forwarder knows of an interface's hardware.
#ifndef PORT_PORT_H
#define PORT_PORT_H

#include <stdbool.h>
#include <stdint.h>
#include "abi/core.h"
#include "abi/state.h"
#include "base/packet.h"

struct port;

struct port_ops {
	const char *name;
	// Copy up to `max` frames into packets from `pool`; data starts at the Ethernet
	// header, vnet and VLAN metadata are set.  The frames stay in the ring until
	// release.  *lost[reason] counts frames that could not be taken.
	int (*receive)(struct port *port, struct packet_pool *pool, struct packet **packets, int max, uint64_t *lost);
	// All that the last receive handed out (or counted lost) has met its fate: record
	// the progress, then give the frames back.
	void (*release)(struct port *port);
	// Send; returns how many were taken, from the front, or a negated errno when the
	// first failed for good (the caller drops that one and calls again).
	int (*transmit)(struct port *port, struct packet **packets, int count);
	// Frames wait to be received.
	bool (*pending)(const struct port *port);
	// About to sleep (true) or awake (false): tell a peer that must wake us.
	void (*sleeping)(struct port *port, bool sleeping);
	// The fd became ready: take errors and wake-ups off it.
	void (*event)(struct port *port);
	void (*close)(struct port *port);
	// Busy polling: have the kernel look for frames at once.  NULL: nothing to be gained.
	void (*poke)(struct port *port);
	// Frames leave without a vnet header: a super-packet is split before it comes here, and
	// the driver itself finishes a partial checksum.
	bool plain;
};

enum { PORT_FDS = 12 };        // at most

struct port {
	const struct port_ops *ops;
	struct port_spec spec;
	struct port_state *state; // in the state segment
	int fd;                   // to poll; -1: none
	int more_first;           // of fds: where those begin that are to be polled as well
	int more_count;
	int fds[PORT_FDS];        // all fds of the spec, for handing back to a manager
	int fd_count;
};

// Ownership of the fds passes to the port on success only.  Wrapped for fault injection
// when the spec has any fault_permille.
int port_open(const struct port_spec *spec, const int *fds, int fd_count, struct port_state *state, struct port **out);

// Called with each frame that a port received, and with each that it sent.
struct port_observer {
	void (*frame)(void *user, const struct port *port, struct packet *packet, bool outgoing);
	void *user;
};

// --- the drivers and wrappers ---
int af_packet_open(const struct port_spec *spec, const int *fds, int fd_count, struct port_state *state, struct port **out);
int af_packet_v3_open(const struct port_spec *spec, const int *fds, int fd_count, struct port_state *state, struct port **out);
int link_open(const struct port_spec *spec, const int *fds, int fd_count, struct port_state *state, struct port **out);
int pcap_open(const struct port_spec *spec, const int *fds, int fd_count, struct port_state *state, struct port **out);
int af_xdp_open(const struct port_spec *spec, const int *fds, int fd_count, struct port_state *state, struct port **out);
int tap_open(const struct port_spec *spec, const int *fds, int fd_count, struct port_state *state, struct port **out);
// A wrapper takes the inner port; its close closes both.
int fault_wrap(struct port *inner, struct port **out);
int trace_wrap(struct port *inner, const struct port_observer *observer, struct port **out);
// Take the trace wrapper off again and give back the inner port.
struct port *trace_unwrap(struct port *port);

// Fill in what every driver has; on close, close the fds.
void port_init(struct port *port, const struct port_ops *ops, const struct port_spec *spec, const int *fds, int fd_count, struct port_state *state);
void port_close_fds(struct port *port);
// Forget a vnet header that does not fit its frame: what is hostile or broken goes on as a
// plain frame, and whatever checksum it has will be found wrong.
void port_vnet_check(struct packet *packet);
// Find out by itself whether a frame that came without a vnet header has a partial checksum.
void port_vnet_guess(struct packet *packet);

#endif
