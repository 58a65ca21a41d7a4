// The host stack of one VR: UDP, ICMP echo and raw sockets, reassembly.  Sans-IO: no
// system calls, no clock, no globals; what it keeps between iterations lies in the state
// segment's socket table, or is private and may be lost.
#ifndef HOST_HOST_H
#define HOST_HOST_H

#include "abi/drop_reason.h"
#include "abi/state.h"
#include "base/packet.h"
#include "table/view.h"

struct host;

// Slots that may be in use: looking at the others would allocate their pages for nothing.
static inline uint32_t host_slots(const struct state_segment *state)
{
	return state->sockets_used < MAX_SOCKETS ? (uint32_t)state->sockets_used : MAX_SOCKETS;
}

enum host_unreachable { HOST_PROTOCOL_UNREACHABLE = 2, HOST_PORT_UNREACHABLE = 3 };

struct host_ops {
	// Send an IP packet of ours (data begins at the IP header).  Takes it on DROP_NONE.
	enum drop_reason (*output)(void *user, uint16_t interface, uint8_t family, struct packet *packet);
	bool (*source)(void *user, uint8_t family, const uint8_t *destination, uint16_t interface, uint8_t *source, uint16_t *egress);
	// Largest packet the route to this destination takes; 0: no route.
	uint32_t (*path_mtu)(void *user, uint8_t family, const uint8_t *destination, uint16_t interface);
	// Answer a delivered packet with an ICMP error; `code` is an enum host_unreachable, for
	// both families (IPv6: port unreachable is type 1 code 4, protocol unreachable is
	// type 4 code 1).
	void (*unreachable)(void *user, struct packet *packet, uint8_t code);
	// A datagram for socket slot `slot`: header is struct rsock_datagram of wire.py.
	// False: the app's queue is full.
	bool (*upcall)(void *user, uint32_t slot, const void *header, const uint8_t *payload, uint32_t length);
	// A pending error was set on the socket.
	void (*error)(void *user, uint32_t slot, int error);
	// An ICMP message that was put together from fragments (data begins at the IP header,
	// ingress must be 0): echo requests are answered.  DROP_NONE: taken;
	// DROP_REASON_COUNT: it is for the stack's own sockets; else the reason to drop it.
	enum drop_reason (*icmp)(void *user, uint16_t interface, struct packet *packet, uint32_t icmp_offset);
	struct packet *(*packet_get)(void *user, uint32_t room);
	void (*packet_put)(void *user, struct packet *packet);
	void *user;
};

struct host *host_new(struct state_segment *state, const struct tables_view *tables, const struct host_ops *ops);
void host_free(struct host *host);
// See struct forward_ops.deliver; takes the packet on DROP_NONE.
enum drop_reason host_input(struct host *host, struct packet *packet, uint64_t now);
// Give raw sockets a copy of a packet that forwarding answers itself; does not take it.
void host_overhear(struct host *host, struct packet *packet, uint64_t now);
// The largest packet that a path is known to take, where that is less than `mtu`.
uint32_t host_known_mtu(struct host *host, uint8_t family, const uint8_t *destination, uint32_t mtu, uint64_t now);
bool host_group_joined(const struct host *host, uint16_t interface, uint8_t family, const uint8_t *group);
void host_tick(struct host *host, uint64_t now);
uint64_t host_deadline(const struct host *host);

// Socket calls by slot; each returns 0 or a negated errno.
int host_socket(struct host *host, uint16_t family, uint16_t type, uint16_t protocol, uint32_t *slot);
int host_bind(struct host *host, uint32_t slot, const uint8_t *address, uint16_t port, uint16_t interface);
int host_connect(struct host *host, uint32_t slot, const uint8_t *address, uint16_t port, uint16_t interface);
int host_disconnect(struct host *host, uint32_t slot);
int host_setopt(struct host *host, uint32_t slot, int level, int name, const uint8_t *value, uint32_t length);
int host_getopt(struct host *host, uint32_t slot, int level, int name, uint8_t *value, uint32_t *length);
// A datagram from the app.  header NULL: to the connected peer.
int host_send(struct host *host, uint32_t slot, const void *header, const uint8_t *payload, uint32_t length, uint64_t now);
void host_close(struct host *host, uint32_t slot);
// Take over the slots that a predecessor left.
void host_attach(struct host *host);

#endif
