// The host stack of one VR: TCP, UDP, ICMP echo and raw sockets, multicast, reassembly.
// Sans-IO: no system calls, no clock, no globals; what it keeps between iterations lies in
// the state segment's socket tables, or is private and may be lost.
//
// Slots below MAX_SOCKETS are datagram and raw sockets (struct socket_entry), those from
// MAX_SOCKETS on are stream sockets (struct tcp_socket).
#ifndef HOST_HOST_H
#define HOST_HOST_H

#include <sys/uio.h>
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
	// The app of a stream socket is given bytes that arrived in order; returns how many it
	// took.  Fewer than all: its fd is full, and host_stream_resume tells when it is not.
	// NULL, or 0 for a socket without an fd: the bytes wait for host_stream_read.
	uint32_t (*deliver)(void *user, uint32_t slot, const struct iovec *parts, int count);
	// Something happened to a stream socket: enum host_stream_event bits.
	void (*stream)(void *user, uint32_t slot, uint32_t events);
	// Can anything be heard and said on this interface?  May be NULL: as far as configured.
	bool (*interface_up)(void *user, uint16_t interface);
	struct packet *(*packet_get)(void *user, uint32_t room);
	void (*packet_put)(void *user, struct packet *packet);
	// `output` takes packets with parts (base/packet.h), and host_sent tells when they have left or were gathered.
	// Packets then have room for PACKET_PARTS at the end of their buffers.
	bool takes_parts;
	void *user;
};

enum host_stream_event {
	HOST_STREAM_CONNECTED = 1,   // connect succeeded
	HOST_STREAM_WRITABLE = 2,    // a writer that found no room may go on
	HOST_STREAM_READABLE = 4,    // bytes wait for host_stream_read
	HOST_STREAM_ACCEPTABLE = 8,  // a listener has a connection to accept
	HOST_STREAM_PEER_CLOSED = 16, // the peer's FIN was reached; told once, after the last byte was delivered
	HOST_STREAM_FAILED = 32,     // refused, reset or timed out: the error stands in tcp_socket.error
	HOST_STREAM_CLOSED = 64      // TCP is done with it: host_close frees the slot at once
};

// How slow start ends without a loss.  HOST_HYSTART_ONCE leaves it at the first round trip that is longer, as the
// kernel's module does with hystart_detect=2; HyStart++ (RFC 9406) slows down first and looks again.
enum host_hystart { HOST_HYSTART_OFF = 0, HOST_HYSTART_PLUS = 1, HOST_HYSTART_ONCE = 2 };

// What Linux calls net.ipv4.tcp_*; the defaults are Linux's.
struct host_config {
	uint32_t rmem_default, rmem_max; // bytes
	uint32_t wmem_default, wmem_max;
	uint32_t memory_blocks;       // 4 KiB blocks of all queues together
	uint32_t syn_retries, synack_retries, retries1, retries2, orphan_retries;
	uint32_t keep_idle_s, keep_interval_s, keep_count;
	uint32_t fin_timeout_s, timewait_s;
	uint32_t min_rto_us, max_rto_us, initial_rto_us;
	uint32_t initial_cwnd;
	uint32_t max_backlog;         // half-open connections of one listener
	uint32_t somaxconn;
	uint32_t max_orphans;
	uint32_t challenge_limit;     // RFC 5961 section 7: challenge ACKs a second
	uint32_t stray_interval_ms;   // between two answers to stray segments of one connection
	uint32_t reordering, max_reordering;
	uint32_t min_tso_segments;
	uint32_t base_mss, min_send_mss; // RFC 4821 floors
	uint32_t probe_interval_s;
	uint32_t limit_output_bytes;
	uint32_t notsent_lowat;       // TCP_NOTSENT_LOWAT of sockets that did not set it
	uint8_t timestamps;           // 0: off, 1: with a random offset, 2: without
	uint8_t sack, dsack, window_scaling;
	uint8_t ecn;                  // 0: off, 1: ask and accept, 2: accept
	uint8_t ecn_fallback;
	uint8_t syn_cookies;          // 0: off, 1: when the queue is full, 2: always
	uint8_t timewait_reuse;       // RFC 6191: 0: off, 1: on
	uint8_t rfc1337;
	uint8_t slow_start_after_idle;
	uint8_t frto;
	uint8_t tail_loss_probe;
	uint8_t rack;
	uint8_t hystart;              // enum host_hystart
	uint8_t moderate_rcvbuf;
	uint8_t mtu_probing;          // RFC 4821: 0: off, 1: after a black hole was met, 2: always
	uint8_t limited_transmit;
	uint8_t congestion;           // enum tcp_congestion
	uint8_t linear_syn_timeouts;
	uint8_t abort_on_overflow;
	uint8_t tcp_pmtu_disabled;    // no path MTU discovery
	uint8_t tso_win_divisor;      // wait until 1/n of the window can be sent at once; 0: never wait
};

// What TCP_INFO leaves out: SIOCINQ, SIOCOUTQ, SIOCOUTQNSD.
struct host_stream_status {
	uint32_t unread, unacknowledged, unsent;
	bool readable, writable, hung_up, peer_closed; // as poll(2) sees it
};

struct host *host_new(struct state_segment *state, const struct tables_view *tables, const struct host_ops *ops);
void host_free(struct host *host);
// See struct forward_ops.deliver; takes the packet on DROP_NONE.
enum drop_reason host_input(struct host *host, struct packet *packet, uint64_t now);
// Give raw sockets a copy of a packet that is forwarding's; does not take it, and tells whether there was one.
bool host_overhear(struct host *host, struct packet *packet, uint64_t now);
// The largest packet that a path is known to take, where that is less than `mtu`.
uint32_t host_known_mtu(struct host *host, uint8_t family, const uint8_t *destination, uint32_t mtu, uint64_t now);
// Interfaces, links or usable addresses may be other ones: groups are reported anew where needed.
void host_interfaces_changed(struct host *host);
bool host_group_joined(const struct host *host, uint16_t interface, uint8_t family, const uint8_t *group);
void host_tick(struct host *host, uint64_t now);
uint64_t host_deadline(const struct host *host);

// Every iteration begins with host_clock, and ends with host_flush: it gives apps the bytes that
// came in, and sends the segments and ACKs that are due.
void host_clock(struct host *host, uint64_t now);
void host_flush(struct host *host, uint64_t now);

// Does any connection wait for host_flush?
bool host_owes(const struct host *host);
// No packet that `output` took is waiting any more: what their parts point to may be overwritten.
void host_sent(struct host *host);
void host_configure(struct host *host, const struct host_config *config);
void host_config_default(struct host_config *config);

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

// Stream sockets.  host_connect answers -EINPROGRESS; HOST_STREAM_CONNECTED or _FAILED follows.
int host_listen(struct host *host, uint32_t slot, int backlog);
// The oldest established connection of a listener, -EAGAIN where there is none.
int host_accept(struct host *host, uint32_t slot, uint32_t *child);
int host_shutdown(struct host *host, uint32_t slot, int how);
// Bytes read (0: end of file) or a negated errno; `flags`: MSG_PEEK.
int host_stream_read(struct host *host, uint32_t slot, uint8_t *buffer, uint32_t length, int flags);
// Bytes queued or a negated errno; `flags`: MSG_MORE, MSG_EOR, MSG_OOB.
int host_stream_write(struct host *host, uint32_t slot, const uint8_t *data, uint32_t length, int flags);
// Writing without a copy: room for the app's next bytes (at most `most`), as the parts that are
// returned; 0: none, HOST_STREAM_WRITABLE follows.  commit says how many of them were filled.
int host_stream_reserve(struct host *host, uint32_t slot, uint32_t most, struct iovec *parts, int count);
void host_stream_commit(struct host *host, uint32_t slot, uint32_t bytes, int flags);
// The fd that was full has room: deliver what waits.
void host_stream_resume(struct host *host, uint32_t slot);
// host_close is close(2): data still queued is sent (SO_LINGER decides), the slot is freed when
// TCP is done.  host_abort resets at once (RFC 9293 section 3.10.5) and frees the slot.
void host_abort(struct host *host, uint32_t slot);
int host_stream_status(const struct host *host, uint32_t slot, struct host_stream_status *status);
// The socket's record, or NULL where the slot is not in use.
struct tcp_socket *host_stream(const struct host *host, uint32_t slot);

// Take over the slots that a predecessor left.  Its connections are gone: each peer is sent a RST.
void host_attach(struct host *host);
// Ports and tables are there: those RSTs can be sent.
void host_attach_ready(struct host *host);

#endif
