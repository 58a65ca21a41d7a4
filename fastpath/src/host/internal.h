// What the files of the host stack share among themselves; nobody else includes it.
#ifndef HOST_INTERNAL_H
#define HOST_INTERNAL_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include "base/bytes.h"
#include "host/host.h"
#include "rsock_wire.h"

enum host_limits {
	DEMUX_HEADS = 1024,
	JOIN_HEADS = 256,
	EPHEMERAL_FIRST = 32768, // as Linux: net.ipv4.ip_local_port_range
	EPHEMERAL_LAST = 60999,
	DEFAULT_TTL = 64,
	LARGEST_PACKET = 65535,
	LARGEST_PAYLOAD4 = LARGEST_PACKET - 20 - 8,
	PATH_MTUS = 256,
	OWN_PACKETS = 1024       // of ourselves to ourselves that wait
};

// socket_entry.options: what the app wants to see.  The low half are DatagramFlag bits.
enum host_option {
	OPTION_LOCAL = RSOCK_DATAGRAM_LOCAL,
	OPTION_ERRORS = RSOCK_DATAGRAM_ERROR,
	OPTION_PKTINFO4 = 1 << 16,
	OPTION_PKTINFO6 = 1 << 17,
	OPTION_TTL = 1 << 18,
	OPTION_HOP_LIMIT = 1 << 19,
	OPTION_TOS = 1 << 20,
	OPTION_TRAFFIC_CLASS = 1 << 21,
	OPTION_ERRORS4 = 1 << 22,
	OPTION_ERRORS6 = 1 << 23,
	OPTION_DONT_FRAGMENT = 1 << 24,
	OPTION_TIMESTAMP = 1 << 25,
	OPTION_TIMESTAMP_NS = 1 << 26,
	OPTION_ADDRESS_LOCKED = 1 << 28, // the app chose the local address
	OPTION_PORT_LOCKED = 1 << 29     // the app chose the local port
};

// Sockets are found by what their packets carry: port, identifier or IP protocol.
enum demux_kind { DEMUX_UDP = 0, DEMUX_PING4 = 1, DEMUX_PING6 = 2, DEMUX_RAW4 = 3, DEMUX_RAW6 = 4 };

// One direction of talk as this VR sees it.  The *6 forms are what an AF_INET6 socket
// calls the same addresses (RFC 4291 section 2.5.5.2 for IPv4).
struct flow {
	uint8_t family;     // 4 or 6: of the packet
	bool multicast;
	bool broadcast;
	uint16_t interface;
	uint16_t local_port;
	uint16_t remote_port;
	uint8_t local[16];
	uint8_t remote[16];
	uint8_t local6[16];
	uint8_t remote6[16];
};

// A received packet, checked: ip .. ip + length lies in the buffer.
struct inbound {
	struct packet *packet;
	uint8_t *ip;
	uint32_t length;     // of the IP packet
	uint32_t transport;  // offset of the upper layer from ip
	uint8_t protocol;    // of the upper layer
	uint8_t ttl;
	uint8_t tos;
	bool verified;       // transport checksum is partial or was checked by hardware
	bool taken;          // somebody keeps the packet: it is not put back to the pool
	bool fragment;
	bool more;           // fragment: not the last one
	uint32_t fragment_offset;
	uint32_t fragment_id;
	uint32_t fragment_header; // IPv6: offset of the fragment header from ip
	uint32_t next_header_at;  // IPv6: offset of the byte that names the fragment header
	struct flow flow;
};

// A packet to be sent.
struct outbound {
	uint8_t family;
	uint8_t protocol;
	uint8_t ttl;
	uint8_t tos;
	bool multicast;
	bool dont_fragment;
	uint16_t interface;   // it must leave by; 0: any
	uint16_t egress;      // it will leave by, as far as known
	uint16_t port;        // remote
	uint32_t mtu;         // of the path
	uint8_t source[16];
	uint8_t destination[16];
};

struct path_mtu {
	uint8_t address[16];
	uint8_t family;       // 0: free
	uint32_t mtu;
	uint64_t expires;
};

struct reassembly;
struct listener;
struct tcp;

struct host {
	struct state_segment *state;
	const struct tables_view *tables;
	struct host_ops ops;
	uint64_t now;
	uint64_t random;                       // calls of host_random so far
	uint16_t heads[DEMUX_HEADS];           // slot + 1; rebuilt by host_attach
	uint16_t next[MAX_SOCKETS];            // slot + 1
	bool listed[MAX_SOCKETS];
	uint32_t join_heads[JOIN_HEADS];       // membership number + 1
	uint32_t join_next[MAX_SOCKETS * SOCKET_MEMBERSHIPS];
	uint16_t source_heads[MAX_SOCKETS * SOCKET_MEMBERSHIPS]; // place in membership_sources + 1
	uint16_t source_next[MAX_MEMBERSHIP_SOURCES];
	uint32_t source_hint;                  // no place below is free
	uint16_t reassembled_on;               // interface of the message that forwarding is offered; 0: none
	uint32_t slot_hint;                    // no slot below is free
	struct path_mtu paths[PATH_MTUS];
	struct packet *own, *own_last;         // from ourselves to ourselves, linked by next: looked at by host_flush
	uint32_t own_count;
	struct reassembly *reassembly;
	struct listener *listener;
	struct tcp *tcp;
};

static inline bool address_any(const uint8_t *address)
{
	static const uint8_t zero[16];
	return memcmp(address, zero, 16) == 0;
}

static inline bool address_equal(const uint8_t *a, const uint8_t *b)
{
	return memcmp(a, b, 16) == 0;
}

static inline bool address_mapped(const uint8_t *address)
{
	static const uint8_t prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
	return memcmp(address, prefix, 12) == 0;
}

static inline bool address_multicast(uint8_t family, const uint8_t *address)
{
	return family == FAMILY_IPV4 ? (address[0] & 0xf0) == 0xe0 : address[0] == 0xff;
}

// Meaning something on one link only, as it stands: an address of the link, or a group of the
// link or the node (RFC 4007 section 5).
static inline bool address_needs_scope(uint8_t family, const uint8_t *address)
{
	if (family != FAMILY_IPV6)
		return false;
	return (address[0] == 0xfe && (address[1] & 0xc0) == 0x80) || (address[0] == 0xff && ((address[1] & 15) == 1 || (address[1] & 15) == 2));
}

static inline bool address_link_local(uint8_t family, const uint8_t *address)
{
	return family == FAMILY_IPV6 && address[0] == 0xfe && (address[1] & 0xc0) == 0x80;
}

// --- host.c ---
uint64_t host_random(struct host *host);
struct socket_entry *host_entry(const struct host *host, uint32_t slot);
// Count a loss that no interface can be charged with.
void host_drop(struct host *host, enum drop_reason reason);
// Run a whole packet (no fragment) to its sockets.  Does not take it.
enum drop_reason host_dispatch(struct host *host, struct inbound *in);
// Set the pending error of a socket and tell its app.
void host_fail(struct host *host, uint32_t slot, int error);

// --- address.c: endpoints, families, matching ---
void address_map(uint8_t family, const uint8_t *address, uint8_t *mapped);
// What a socket of `domain` (AF_*) calls `address`, as packet family and address.
bool address_unmap(uint16_t domain, const uint8_t *address, uint8_t *family, uint8_t *plain);
// How well a socket fits a flow; -1: not at all.
int endpoint_score(const struct socket_entry *entry, const struct flow *flow);

// --- demux.c ---
enum demux_kind demux_kind(const struct socket_entry *entry);
void demux_add(struct host *host, uint32_t slot);
void demux_remove(struct host *host, uint32_t slot);
// Iterate over the slots of a bucket: start with demux_first, end at 0 (values are slot + 1).
uint16_t demux_first(const struct host *host, enum demux_kind kind, uint16_t key);
bool demux_is(const struct socket_entry *entry, enum demux_kind kind, uint16_t key);
// The best socket for a flow, or -1.
int demux_find(const struct host *host, enum demux_kind kind, uint16_t key, const struct flow *flow);
int demux_bind_port(struct host *host, uint32_t slot, uint16_t port);

// --- membership.c ---
struct membership_name {
	uint8_t family;
	uint16_t interface;   // 0: where the route to the group leads; of a membership to leave: any
	uint8_t group[16];
};
struct source_filter {
	uint8_t mode;         // enum membership_mode
	uint8_t count;
	uint8_t sources[MEMBERSHIP_SOURCES][16];
};
int membership_join(struct host *host, uint32_t slot, const struct membership_name *name, enum membership_mode mode);
int membership_leave(struct host *host, uint32_t slot, const struct membership_name *name);
// Block (EXCLUDE) or join (INCLUDE) a source of a group, and the reverse.
int membership_add_source(struct host *host, uint32_t slot, const struct membership_name *name, enum membership_mode mode, const uint8_t *source);
int membership_remove_source(struct host *host, uint32_t slot, const struct membership_name *name, enum membership_mode mode, const uint8_t *source);
int membership_set_filter(struct host *host, uint32_t slot, const struct membership_name *name, const struct source_filter *filter);
int membership_get_filter(struct host *host, uint32_t slot, const struct membership_name *name, struct source_filter *filter);
// Is a socket that fits a multicast flow to be given it?
bool membership_accepts(const struct host *host, uint32_t slot, const struct flow *flow);
// What all sockets together want of a group; INCLUDE of nothing: nobody is a member.
void membership_merge(const struct host *host, uint8_t family, uint16_t interface, const uint8_t *group, struct source_filter *filter);
void membership_attach(struct host *host);
void membership_close(struct host *host, uint32_t slot);

// --- options.c ---

// An option that is one bit; a socket has two words for them.
struct option_switch {
	int level;
	int name;
	bool other;                  // in the other word: flags of a datagram socket, engine of a stream
	uint32_t bit;
};

// Its place among them, or -1.
int option_switch_at(const struct option_switch *switches, int count, int level, int name);
// The index of the interface that SO_BINDTODEVICE names, 0 for an empty name, or -ENODEV.
int option_interface(const struct host *host, const uint8_t *value, uint32_t length);

// --- options_multicast.c ---
bool multicast_option(int level, int name);
int multicast_setopt(struct host *host, uint32_t slot, int level, int name, const uint8_t *value, uint32_t length);
// `value` holds the question on entry, as getsockopt(2) has it for filters.
int multicast_getopt(struct host *host, uint32_t slot, int level, int name, uint8_t *value, uint32_t *length);

// --- inbound.c, outbound.c ---
enum drop_reason inbound_parse(const struct host *host, struct packet *packet, struct inbound *in);
// A packet of ours of `length` bytes, data begins where its IP header goes; NULL without a buffer.
struct packet *outbound_blank(struct host *host, uint8_t family, uint32_t length);
// Make a packet with an IP header and room for `length` bytes, which *payload points at.
struct packet *outbound_packet(struct host *host, const struct outbound *out, uint32_t length, uint8_t **payload);
// Give a finished packet to forwarding, and a copy to our own members of its group.
int outbound_send(struct host *host, const struct outbound *out, const struct socket_entry *entry, struct packet *packet);
// Does a packet with `length` bytes behind its IP header fit?  Decides about DF.
int outbound_fit(const struct socket_entry *entry, struct outbound *out, uint32_t length);
// Decide source, egress, TTL, TOS and path MTU; 0 or a negated errno.
int outbound_route(struct host *host, const struct socket_entry *entry, const struct rsock_datagram *header, struct outbound *out);
uint16_t transport_checksum(uint8_t family, const uint8_t *source, const uint8_t *destination, uint8_t protocol, const uint8_t *data, uint32_t length);
int drop_errno(enum drop_reason reason);

// --- deliver.c ---
// Hand a payload to a socket; false: its queue is full.
bool deliver_payload(struct host *host, uint32_t slot, const struct inbound *in, const uint8_t *payload, uint32_t length);
// Hand an ICMP error about something that a socket sent.
struct socket_failure {
	struct flow flow;        // of what was sent
	int error;
	bool fatal;
	uint8_t type;
	uint8_t code;
	uint8_t ttl;             // that the quoted packet still had
	uint32_t info;
	uint8_t reporter[16];
	const uint8_t *payload;
	uint32_t length;
};
void deliver_failure(struct host *host, uint32_t slot, const struct socket_failure *failure);

// --- udp.c, raw.c, icmp_socket.c ---
enum drop_reason udp_input(struct host *host, struct inbound *in);
int udp_send(struct host *host, uint32_t slot, struct outbound *out, const uint8_t *payload, uint32_t length);
// Copies for every raw socket that wants the packet; returns how many sockets matched.
int raw_input(struct host *host, struct inbound *in);
int raw_send(struct host *host, uint32_t slot, struct outbound *out, const uint8_t *payload, uint32_t length);
void raw_failure(struct host *host, struct socket_failure *failure, uint8_t protocol, const uint8_t *inner);
enum drop_reason icmp_input(struct host *host, struct inbound *in, int copies);
int ping_send(struct host *host, uint32_t slot, struct outbound *out, const uint8_t *payload, uint32_t length);
bool icmp_valid(const struct inbound *in);
// Say that a datagram was not completed in time (RFC 792, RFC 4443 section 3.3).
void icmp_reassembly_expired(struct host *host, uint8_t family, uint16_t interface, const uint8_t *packet, uint32_t length);

// --- tcp_icmp.c: errors about what TCP sent (RFC 1122 section 4.2.3.9, RFC 5927), path MTU ---
// `seq` is that of the quoted segment, `mtu` what a router says that its link takes.
enum drop_reason tcp_icmp_error(struct host *host, const struct socket_failure *failure, uint32_t seq, uint32_t mtu);

// --- path_mtu.c (RFC 1191, RFC 8201) ---
uint32_t path_mtu_clamp(const struct host *host, uint8_t family, const uint8_t *address, uint32_t mtu);
void path_mtu_learn(struct host *host, uint8_t family, const uint8_t *address, uint32_t mtu);

// --- reassembly.c ---
struct reassembly *reassembly_new(void);
void reassembly_free(struct reassembly *r);
// Take in a fragment (the packet stays the caller's).  *whole: a packet from the pool when
// this one completed its datagram, else NULL.
enum drop_reason reassembly_add(struct host *host, const struct inbound *in, struct packet **whole);
void reassembly_tick(struct host *host);
uint64_t reassembly_deadline(const struct reassembly *r);

#endif
