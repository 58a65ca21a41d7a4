// BFD (RFC 5880) over a single hop (RFC 5881) and several (RFC 5883), for the addresses of one VR.
// Sans-IO: no system calls, no clock, no globals.  Everything that has to outlive a forwarder lies in the
// state segment: its successor goes on with the same discriminators and sequence numbers.
//
//   tables segment --bfd_follow--> sessions <--bfd_input-- packets from forwarding
//                                     |  +---- bfd_tick --- time
//                                     +--> ops.output, ops.changed
//
// Detection never fires for a packet that waits in a ring: see struct bfd_ops.heard_until.
// Not supported: demand mode of our own (a peer may use it), point-to-multipoint (RFC 8562),
// seamless BFD (RFC 7880), unaffiliated echo (RFC 9747).
#ifndef BFD_BFD_H
#define BFD_BFD_H

#include <stdbool.h>
#include <stdint.h>
#include "abi/bfd.h"
#include "abi/drop_reason.h"
#include "abi/state.h"
#include "base/packet.h"
#include "table/view.h"

enum { BFD_PORT = 3784, BFD_ECHO_PORT = 3785, BFD_MULTIHOP_PORT = 4784, BFD_TTL = 255 };

// A datagram of ours, or one for us.
struct bfd_datagram {
	const uint8_t *payload;
	uint32_t length;
	uint8_t family;
	uint8_t ttl;
	uint16_t interface;         // it came on, or must leave by; 0: as routing says
	uint16_t source_port, destination_port;
	uint8_t source[16], destination[16];
	// Not NULL: send to this neighbor, whatever the destination (an echo packet is addressed to us).
	const uint8_t *neighbor;
};

struct bfd_ops {
	// Send a datagram at once; its payload is valid during the call only.
	void (*output)(void *user, const struct bfd_datagram *datagram);
	// Our address towards a destination; false: there is none.
	bool (*source)(void *user, uint8_t family, const uint8_t *destination, uint16_t interface, uint8_t *source);
	// All packets for us that arrived before this moment have been seen.  May be NULL: all, always.
	uint64_t (*heard_until)(void *user, uint64_t now);
	// The state of a session has changed.
	void (*changed)(void *user, uint32_t slot);
	// Unpredictable to strangers.
	uint64_t (*random)(void *user);
	void *user;
};

struct bfd;

struct bfd *bfd_new(struct state_segment *state, const struct tables_view *tables, const struct bfd_ops *ops);
void bfd_free(struct bfd *bfd);
// Follow the published entries, if they are other ones.
void bfd_follow(struct bfd *bfd, uint64_t now);
// Packets come in from now on: until then a successor neither sends nor takes anybody for dead.
void bfd_begin(struct bfd *bfd, uint64_t now);
// There is any session, or has been one until now.
bool bfd_active(const struct bfd *bfd);
// Has the session found its neighbor, on a link and with routes that lead there, dead?  Not one that was put down.
bool bfd_lost(const struct bfd *bfd, uint32_t slot);
// Is there no reason any more to take the neighbor for dead: it is up again, was put down since, or no route depends on
// the session, or nobody asks for it?
bool bfd_cleared(const struct bfd *bfd, uint32_t slot);
// Some session expects echo packets to come back.
bool bfd_echoes(const struct bfd *bfd);
// A datagram to one of the three ports.
enum drop_reason bfd_receive(struct bfd *bfd, const struct bfd_datagram *datagram, uint64_t now);
void bfd_tick(struct bfd *bfd, uint64_t now);
uint64_t bfd_deadline(const struct bfd *bfd);

// --- encapsulate.c ---
// Is this a whole UDP datagram to a port of BFD?  *reason tells what is wrong with one that is.
bool bfd_parse(struct packet *packet, struct bfd_datagram *datagram, enum drop_reason *reason);
// Fill a blank packet (packet_get) with the datagram and its headers; the IPv4 header checksum too.
void bfd_encapsulate(const struct bfd_datagram *datagram, struct packet *packet);

#endif
