// What the files of TCP share among themselves; nobody else includes it.
//
//   host_dispatch -> tcp_input -> tcp_find -> tcp_listen_input | tcp_timewait_input | tcp_arrive
//                                                               tcp_arrive -> tcp_ack, tcp_receive
//   host_flush -> for each dirty socket: tcp_deliver, tcp_output
//   host_tick  -> tcp_timer: the heap of deadlines
//
// A socket's record (abi/tcp.h) is all that an idle connection costs.  What is queued, in flight
// or beyond a gap hangs on its `struct tcp_flight`, which it holds only while there is any.
// Links are index + 1, 0 is none, as in the ABI.
#ifndef HOST_TCP_INTERNAL_H
#define HOST_TCP_INTERNAL_H

#include "abi/tcp.h"
#include "host/internal.h"
#include "wire/tcp.h"

enum tcp_limits {
	TCP_BLOCK = 4096,             // bytes of one block of a queue
	TCP_HASH = 1 << 16,           // heads of connections; listeners and bound ports have fewer
	TCP_PORT_HASH = 1 << 16,      // one head for each port: a busy one slows down no other
	TCP_TIMEWAIT_HASH = 1 << 14,  // heads of TIME-WAIT, four records each in a full table: 3 bytes a record of 10,000
	TCP_PORT_OFFSETS = 256,
	TCP_MAX_SEGMENTS = 1 << 17,   // in flight, of all connections
	TCP_MAX_RANGES = 1 << 15,     // beyond gaps, of all connections
	TCP_SACK_BLOCKS = 4,
	TCP_MIN_MSS = 88,             // CVE-2019-11479: what a peer may force us down to (with options: 48)
	TCP_MAX_PAYLOAD = 65535 - 20 - 60, // of one super-segment
	TCP_MAX_WSCALE = 14,
	TCP_PAWS_WINDOW_MS = 1,
	TCP_INFINITE_SSTHRESH = 0x7fffffff,
	TCP_MAX_QUICKACKS = 16
};

#define TCP_MS 1000000ull
#define TCP_DELACK_MIN (40 * TCP_MS)
#define TCP_DELACK_MAX (200 * TCP_MS)

// --- sequence numbers: modulo 2^32 (RFC 9293 section 3.4) ---
static inline bool seq_before(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) < 0;
}

static inline bool seq_after(uint32_t a, uint32_t b)
{
	return (int32_t)(b - a) < 0;
}

// first <= seq <= last
static inline bool seq_between(uint32_t seq, uint32_t first, uint32_t last)
{
	return last - first >= seq - first;
}

// --- what a segment carries ---

struct tcp_sack_block { uint32_t start, end; };

struct tcp_options {
	bool has_timestamp;
	bool has_mss;
	bool has_wscale;
	bool sack_permitted;
	uint8_t wscale;
	uint8_t sack_count;
	uint16_t mss;
	uint32_t tsval;
	uint32_t tsecr;
	struct tcp_sack_block sacks[TCP_SACK_BLOCKS];
	const uint8_t *md5;           // 16 bytes in the packet (RFC 2385); NULL: none
	const uint8_t *ao;            // option of RFC 5925 in the packet, kind at [0]; NULL: none
};

// A received segment, checked: the header, its options and its payload lie in the packet.
// seq..end covers SYN and FIN too.  Trimming moves seq, payload and length.
struct tcp_arrival {
	struct inbound *in;
	const uint8_t *header;        // TCP header
	uint32_t header_length;
	uint32_t seq;
	uint32_t end;
	uint32_t ack;
	uint32_t window;              // as it stands in the header, not scaled
	uint8_t flags;                // enum tcp_flag
	bool congestion_experienced;  // CE on the IP header
	const uint8_t *payload;
	uint32_t length;
	uint32_t segments;            // on the wire: more than one where the driver merged them
	struct tcp_options options;
	uint8_t local[16];            // mapped form
	uint8_t remote[16];
	uint32_t iss;                 // where a connection that reopens one in TIME-WAIT must begin; 0: anywhere
};

static inline uint16_t arrival_local_port(const struct tcp_arrival *arrival)
{
	return load16(arrival->header + 2);
}

static inline uint16_t arrival_remote_port(const struct tcp_arrival *arrival)
{
	return load16(arrival->header);
}

// --- what was sent and is not acknowledged ---

enum tcp_segment_flags {
	SEGMENT_SACKED = 1, SEGMENT_LOST = 2, SEGMENT_RETRANSMITTED = 4, // the retransmission is in flight
	SEGMENT_EVER_RETRANSMITTED = 8, SEGMENT_SYN = 16, SEGMENT_FIN = 32, SEGMENT_PUSH = 64,
	SEGMENT_CWR = 128
};

struct tcp_segment {
	uint32_t next, previous;      // by sequence
	uint32_t seq, end;            // SYN and FIN count
	uint64_t sent_ns;             // last transmission
	uint32_t first_sent_ms;       // first one
	uint32_t delivered;           // tcp_socket.delivered when it was sent
	uint16_t mss;                 // that it is cut into on the wire
	uint16_t count;               // segments on the wire
	uint8_t flags;
	uint8_t transmissions;
	bool end_of_record;           // MSG_EOR: the next one is never joined to it
	uint8_t reserved;
};

// Bytes beyond a gap in what has arrived (RFC 9293 section 3.10.7.4), or a FIN there.
struct tcp_range {
	uint32_t next;
	uint32_t seq, end;            // bytes; fin counts one more
	uint32_t block_head, block_tail;
	uint16_t tail_used;
	bool fin;
	uint8_t reserved;
	uint32_t stamp;               // of its last change: SACK tells the newest first (RFC 2018 section 4)
};

// Which of them a connection's time counts for (tcp_limit.c); the higher one wins.
enum tcp_limit { TCP_LIMIT_NONE, TCP_LIMIT_BUSY, TCP_LIMIT_WINDOW, TCP_LIMIT_BUFFER };

struct tcp_flight {
	// Send queue: blocks hold the bytes from snd_una (or the SYN's or FIN's neighbor) to write_seq.
	uint32_t snd_block_head, snd_block_tail;
	uint16_t snd_head_offset;     // of the first unacknowledged byte in the first block
	uint16_t snd_tail_used;       // bytes used in the last block
	uint32_t snd_data_seq;        // sequence number of that first byte
	uint32_t snd_cursor_block;    // a block that was used lately; 0: none
	uint32_t snd_cursor_seq;      // of its first byte
	uint32_t snd_reserved_block;  // first block handed out by host_stream_reserve; 0: none
	uint32_t segment_head, segment_tail;
	uint32_t packets_out, sacked_out, lost_out, retrans_out; // in wire segments
	uint32_t max_packets_out, cwnd_used_seq;
	uint32_t unsent_head, unsent_tail; // pieces of what was not sent yet (tcp_unsent.c)
	uint32_t records;             // in both lists
	uint64_t limit_since;
	enum tcp_limit limit;
	uint32_t pushed_seq;          // behind the last byte that a piece was marked with PSH for
	uint32_t snd_sml;             // end of the last small segment sent (Minshall's form of Nagle)
	bool more;                    // MSG_MORE on the last write
	uint8_t reserved[2];
	// Receive queue: in order and not yet taken by the app.
	struct packet *packets;       // not copied yet: linked by next, data trimmed to the payload
	struct packet *packets_last;
	uint32_t packets_bytes;
	uint32_t rcv_block_head, rcv_block_tail;
	uint16_t rcv_head_offset, rcv_tail_used;
	uint32_t rcv_queued;          // bytes in blocks
	uint32_t range_head;
	uint32_t range_bytes;
	uint32_t range_count;
	uint32_t range_stamp;
	uint32_t range_recent;        // the one that grew last; 0: unknown
	uint32_t duplicate_start, duplicate_end; // D-SACK to send (RFC 2883); equal: none
	// Recovery.
	uint32_t high_seq;            // end of the episode
	uint32_t prior_cwnd, prior_ssthresh;
	uint32_t undo_marker;         // 0: nothing to undo
	int32_t undo_retrans;
	uint32_t retrans_stamp_ms;    // of the first retransmission of this episode; 0: none
	uint32_t prr_delivered, prr_out;
	uint32_t high_sacked;         // end of the highest SACKed segment; valid when sacked_out
	uint32_t tlp_high_seq;        // 0: no probe is out
	uint64_t rack_sent_ns;        // of the segment delivered last, in order of sending
	uint64_t rack_rtt_ns;
	uint64_t last_sent_ns;        // of the record sent last
	uint32_t rack_end_seq;
	uint32_t rack_delivered;
	uint32_t probe_seq, probe_end; // RFC 4821 probe in flight; equal: none
	bool syn_queued;              // our SYN is not acknowledged yet
	bool fin_queued;              // a FIN follows write_seq
	bool busy;
	bool fresh;                   // bytes arrived in order that the app was not told of
	uint8_t reserved2[4];
	uint32_t lost;                // segments found to be lost so far, retransmissions too
	bool push;                    // TCP_NODELAY was just set: what is queued goes at once, corked or not
	uint32_t probing_since_ms;    // window probes go unanswered since then; 0: none is out
	uint32_t free_next;
};

struct tcp_heap_item {
	uint64_t at;
	uint32_t id;                  // socket index, or request index | TCP_HEAP_REQUEST
};

#define TCP_HEAP_REQUEST 0x80000000u

// Records of TIME-WAIT end by a wheel: one list for each quarter of a second, 65 seconds in all.
enum { TCP_WHEEL = 256, TCP_WHEEL_MS = 256 };

// What few TIME-WAIT records need.  All 0, and mostly never written, unless the record says TCP_TIMEWAIT_MORE.
struct tcp_timewait_more {
	uint32_t key;                 // + 1, RFC 2385
	uint32_t turns;               // of the wheel before the one that ends it
	uint32_t answered_ms;         // RFC 5961 section 7: when a stray segment was answered last
	bool answered;
	uint8_t tos;
	uint8_t reserved[2];
};

struct tcp {
	struct host *host;
	struct host_config config;
	struct tcp_socket *sockets;   // of the state segment
	struct tcp_request *requests;
	struct tcp_timewait *timewaits;
	uint32_t *connections;        // TCP_HASH heads: hash of the four-tuple
	uint32_t *bound;              // TCP_PORT_HASH heads: local port
	uint32_t *listeners;          // TCP_PORT_HASH heads: local port
	uint32_t *request_heads;      // TCP_HASH heads
	uint16_t *timewait_heads;     // TCP_TIMEWAIT_HASH heads
	uint32_t socket_free;         // first free slot that was used before, by hash_next; 0: none
	uint32_t request_free, request_oldest, request_newest, request_count;
	uint32_t timewait_count;
	uint16_t timewait_free;       // by hash_next
	uint16_t timewait_wheel[TCP_WHEEL];
	uint64_t timewait_occupied[TCP_WHEEL / 64]; // lists of the wheel that are not empty
	uint64_t timewait_tick;       // the wheel was emptied up to here; of TCP_WHEEL_MS
	struct tcp_timewait_more *timewait_more; // MAX_TCP_TIMEWAITS of them
	struct tcp_flight *flights;   // [0] belongs to nobody and stays zero: the flight of an idle socket
	uint32_t flight_free, flight_used;
	struct tcp_segment *segments;
	uint32_t segment_free, segment_used;
	struct tcp_range *ranges;
	uint32_t range_free, range_used;
	uint8_t *block_data;          // memory_blocks of TCP_BLOCK bytes
	uint32_t *block_next;
	uint32_t block_free, block_used, block_count; // count: in use
	// Blocks that became free while packets that wait to be sent may still point to them.
	uint32_t block_lent, block_lent_last;
	bool lending;                 // such packets there are, until tcp_sent
	uint32_t packets_room;        // buffers of the packets that flights hold
	struct tcp_key *keys;         // those of the state segment
	uint32_t key_free, key_used;
	struct tcp_heap_item *heap;
	uint32_t heap_count;
	uint32_t dirty_head, dirty_tail;
	bool flushing;
	bool attach_ready;            // packets can be sent: the predecessor's peers are told
	uint32_t attach_left;         // slots below this are a predecessor's
	uint64_t secret[4];           // ISN, timestamps, cookies, ports (RFC 6528, RFC 6056, RFC 4987)
	uint64_t challenge_second;
	uint32_t challenge_left;
	uint32_t orphans;
	uint16_t port_offsets[TCP_PORT_OFFSETS]; // RFC 6056 algorithm 4
	uint64_t statistics[64];      // enum tcp_statistic
};

// Names as `vr show sockets` and metrics have them.
enum tcp_statistic {
	TCP_STAT_ACTIVE_OPENS, TCP_STAT_PASSIVE_OPENS, TCP_STAT_FAILED, TCP_STAT_RESETS_RECEIVED,
	TCP_STAT_SEGMENTS_IN, TCP_STAT_SEGMENTS_OUT, TCP_STAT_RETRANSMITTED, TCP_STAT_BAD, TCP_STAT_RESETS_SENT,
	TCP_STAT_COOKIES_SENT, TCP_STAT_COOKIES_RECEIVED, TCP_STAT_COOKIES_FAILED, TCP_STAT_LISTEN_OVERFLOWS,
	TCP_STAT_CHALLENGES, TCP_STAT_PAWS, TCP_STAT_TIMEOUTS, TCP_STAT_FAST_RECOVERIES, TCP_STAT_UNDONE,
	TCP_STAT_PROBES, TCP_STAT_TAIL_PROBES, TCP_STAT_OUT_OF_ORDER, TCP_STAT_DSACK_SENT, TCP_STAT_DSACK_RECEIVED,
	TCP_STAT_AUTH_FAILED, TCP_STAT_MEMORY_PRESSURE, TCP_STAT_COUNT
};

static inline struct tcp_flight *tcp_flight(const struct tcp *tcp, const struct tcp_socket *s)
{
	return &tcp->flights[s->flight];
}

static inline uint32_t tcp_index(const struct tcp *tcp, const struct tcp_socket *s)
{
	return (uint32_t)(s - tcp->sockets);
}

static inline uint32_t tcp_slot(const struct tcp *tcp, const struct tcp_socket *s)
{
	return MAX_SOCKETS + tcp_index(tcp, s);
}

static inline uint64_t tcp_now(const struct tcp *tcp)
{
	return tcp->host->now;
}

static inline uint32_t tcp_now_us(const struct tcp *tcp)
{
	return (uint32_t)(tcp->host->now / 1000);
}

static inline uint32_t tcp_now_ms(const struct tcp *tcp)
{
	return (uint32_t)(tcp->host->now / TCP_MS);
}

// A moment to remember in a field where 0 stands for none.  Where the clock reads 0 it is the tick before, not the
// one after: what was stored must not lie ahead, or its age would be 2^32.
static inline uint32_t tcp_stamp(uint32_t now)
{
	return now - (now == 0);
}

static inline uint32_t tcp_in_flight(const struct tcp_flight *f)
{
	return f->packets_out - (f->sacked_out + f->lost_out) + f->retrans_out;
}

// When a record leaves.  No two do so in one moment, although a batch has one clock: RACK goes by their order.
static inline uint64_t tcp_departure(const struct tcp *tcp, struct tcp_flight *f)
{
	f->last_sent_ns = f->last_sent_ns < tcp_now(tcp) ? tcp_now(tcp) : f->last_sent_ns + 1;
	return f->last_sent_ns;
}

static inline bool tcp_synchronized(const struct tcp_socket *s)
{
	return s->state >= TCP_STATE_ESTABLISHED;
}

// --- tcp.c: the instance, slots and states ---
struct tcp *tcp_new(struct host *host);
void tcp_free(struct tcp *tcp);
// Slots that a predecessor left: RST to each peer, then freed, by tcp_flush from attach_ready on.
void tcp_attach(struct tcp *tcp);
// A new socket in CLOSED with the defaults of the configuration; NULL: no slot is left.
struct tcp_socket *tcp_socket_new(struct tcp *tcp, uint16_t family);
// Everything it holds goes back: queues, timers, hashes, keys, the slot.
void tcp_socket_free(struct tcp *tcp, struct tcp_socket *s);
// The only place that changes s->state; takes care of hashes and of TCP_STATE_CLOSED (timers off,
// queues freed, HOST_STREAM_CLOSED told, slot freed where the app has closed it).
void tcp_set_state(struct tcp *tcp, struct tcp_socket *s, enum tcp_state state);
// Put it on the list of host_flush.
void tcp_dirty(struct tcp *tcp, struct tcp_socket *s);
// The connection ends with an error: pending error, HOST_STREAM_FAILED, CLOSED.  Sends nothing.
void tcp_fail(struct tcp *tcp, struct tcp_socket *s, int error);
// Tell the app: enum host_stream_event bits.
void tcp_notify(struct tcp *tcp, struct tcp_socket *s, uint32_t events);
void tcp_count(struct tcp *tcp, enum tcp_statistic statistic);
// End of the batch: for each dirty socket tcp_deliver, then tcp_output.
void tcp_flush(struct tcp *tcp);

// --- tcp_memory.c: pools.  All give 0 or NULL when exhausted ---
// The flight of a socket, made if it has none; NULL: none left.
struct tcp_flight *tcp_flight_hold(struct tcp *tcp, struct tcp_socket *s);
// Give the flight back if nothing is queued, in flight or under recovery.
void tcp_flight_release(struct tcp *tcp, struct tcp_socket *s);
// The pools, made when the first socket is; false: no memory.
bool memory_open(struct tcp *tcp);
void memory_close(struct tcp *tcp);
uint32_t block_new(struct tcp *tcp);
void block_free(struct tcp *tcp, uint32_t block);
// All packets have left: the blocks that they pointed to may be used again.
void tcp_sent(struct tcp *tcp);
static inline uint8_t *block_bytes(const struct tcp *tcp, uint32_t block)
{
	return tcp->block_data + (size_t)(block - 1) * TCP_BLOCK;
}
static inline bool segments_left(const struct tcp *tcp)
{
	return tcp->segment_free != 0 || tcp->segment_used < TCP_MAX_SEGMENTS;
}
uint32_t segment_new(struct tcp *tcp);
void segment_free(struct tcp *tcp, uint32_t segment);
static inline struct tcp_segment *segment_at(const struct tcp *tcp, uint32_t segment)
{
	return segment == 0 ? NULL : &tcp->segments[segment - 1];
}
uint32_t range_new(struct tcp *tcp);
void range_free(struct tcp *tcp, uint32_t range);
static inline struct tcp_range *range_at(const struct tcp *tcp, uint32_t range)
{
	return range == 0 ? NULL : &tcp->ranges[range - 1];
}
// All blocks are nearly used up: windows and send buffers stay small.
bool tcp_memory_pressure(const struct tcp *tcp);

// --- tcp_queue.c: bytes to be sent and the record of what was sent ---
// Append the app's bytes; returns how many found room (sndbuf, memory).
uint32_t queue_write(struct tcp *tcp, struct tcp_socket *s, const uint8_t *data, uint32_t length);
// Bytes that may be reserved now; 0: the send buffer is full.
uint32_t queue_room(const struct tcp *tcp, const struct tcp_socket *s);
// What the send queue costs: bytes, and a charge for each record.
uint32_t queue_memory(const struct tcp *tcp, const struct tcp_socket *s);
// As poll(2) has it: a third of the send buffer is free, and TCP_NOTSENT_LOWAT is not reached.
bool queue_writable(const struct tcp *tcp, const struct tcp_socket *s);
int queue_reserve(struct tcp *tcp, struct tcp_socket *s, uint32_t most, struct iovec *parts, int count);
uint32_t queue_commit(struct tcp *tcp, struct tcp_socket *s, uint32_t bytes);
// Copy `length` queued bytes from sequence number `seq` on; they are there.
void queue_copy(struct tcp *tcp, struct tcp_socket *s, uint32_t seq, uint8_t *to, uint32_t length);
// Have the packet point to them instead.
void queue_lend(struct tcp *tcp, struct tcp_socket *s, uint32_t seq, uint32_t length, struct packet *packet);
// Bytes below `seq` are acknowledged: their blocks go back.
void queue_release(struct tcp *tcp, struct tcp_socket *s, uint32_t seq);
// A record for seq..end, appended behind the others; counts packets_out.  NULL: none left.
struct tcp_segment *segment_append(struct tcp *tcp, struct tcp_socket *s, uint32_t seq, uint32_t end, uint8_t flags);
// Cut a record in two at `seq` (inside it): both parts keep its flags and times, FIN and PUSH go
// to the second; all counters of the flight stay right.  False: no record left.
bool segment_split(struct tcp *tcp, struct tcp_socket *s, struct tcp_segment *segment, uint32_t seq);
// Take the record off the list and free it; its counts leave the flight's counters.
void segment_drop(struct tcp *tcp, struct tcp_socket *s, struct tcp_segment *segment);
// The size its segments have on the wire changed: count anew.
void segment_recount(struct tcp *tcp, struct tcp_socket *s, struct tcp_segment *segment, uint16_t mss);
// Free all of both queues of a connection.
void queue_purge(struct tcp *tcp, struct tcp_socket *s);
// Only what was to be sent, and what lies beyond gaps: the app may still read the rest.
void queue_purge_output(struct tcp *tcp, struct tcp_socket *s);
// The send buffer follows the congestion window, unless the app has fixed it.
void queue_grow(struct tcp *tcp, struct tcp_socket *s);
// Tell a writer that found no room when a third of the send buffer is free.
void queue_wake_writer(struct tcp *tcp, struct tcp_socket *s);

// --- tcp_unsent.c: what was not sent yet, in pieces that no packet crosses ---
// Bytes that the last piece, or a new one, still takes; 0: the send buffer is full.
uint32_t unsent_room(struct tcp *tcp, struct tcp_socket *s);
// `bytes` were appended to the queue.  False: no record is left.
bool unsent_extend(struct tcp *tcp, struct tcp_socket *s, uint32_t bytes);
// The last piece has the largest size that a packet can have.
bool unsent_full(struct tcp *tcp, struct tcp_socket *s);
// The last piece ends what the app wrote at once; with `end_of_record` nothing may join it.
void unsent_mark(struct tcp *tcp, struct tcp_socket *s, bool push, bool end_of_record);
// So much was queued since the last mark that another one is due.
bool unsent_overdue(const struct tcp *tcp, const struct tcp_socket *s);
// Does a segment up to `end` push, and end a record?
void unsent_look(const struct tcp *tcp, const struct tcp_flight *f, uint32_t end, bool *push, bool *end_of_record);
// All up to `end` was sent.
void unsent_pass(struct tcp *tcp, struct tcp_flight *f, uint32_t end);
void unsent_purge(struct tcp *tcp, struct tcp_flight *f);

// --- tcp_limit.c: what holds the sender back ---
void limit_start(struct tcp *tcp, struct tcp_socket *s, enum tcp_limit limit);
void limit_stop(struct tcp *tcp, struct tcp_socket *s, enum tcp_limit limit); // and all, where nothing is queued any more
void limit_times(const struct tcp *tcp, const struct tcp_socket *s, uint64_t *busy_us, uint64_t *window_us, uint64_t *buffer_us);

// --- tcp_demux.c: hashes, ports, initial sequence numbers ---
struct tcp_socket *tcp_find(const struct tcp *tcp, const uint8_t *local, uint16_t local_port, const uint8_t *remote,
	uint16_t remote_port, uint16_t interface);
// Best listener; `hash` chooses among those that share a port (SO_REUSEPORT).
struct tcp_socket *tcp_find_listener(const struct tcp *tcp, const uint8_t *local, uint16_t port, uint16_t interface, uint32_t hash);
uint32_t tcp_hash(const struct tcp *tcp, const uint8_t *local, uint16_t local_port, const uint8_t *remote, uint16_t remote_port);
void tcp_hash_add(struct tcp *tcp, struct tcp_socket *s);       // connection or listener, by state
void tcp_hash_remove(struct tcp *tcp, struct tcp_socket *s);
// Bind to a local port; 0: choose one.  -EADDRINUSE, -EADDRNOTAVAIL.
int tcp_bind_port(struct tcp *tcp, struct tcp_socket *s, uint16_t port);
// Would its port conflict with another socket that holds it?  `exclusive`: sharing that both allow counts too.
bool tcp_port_taken(const struct tcp *tcp, const struct tcp_socket *s, uint16_t port, bool exclusive);
void tcp_bound_add(struct tcp *tcp, struct tcp_socket *s);
void tcp_unbind(struct tcp *tcp, struct tcp_socket *s);
// Choose a free local port for the four-tuple (RFC 6056); TIME-WAIT may be taken over (RFC 6191).
int tcp_connect_port(struct tcp *tcp, struct tcp_socket *s);
uint32_t tcp_initial_sequence(const struct tcp *tcp, const uint8_t *local, uint16_t local_port, const uint8_t *remote, uint16_t remote_port);
uint32_t tcp_timestamp_offset(const struct tcp *tcp, const uint8_t *local, const uint8_t *remote);
// The same hash of local and remote address, ports and a word that tells uses apart, under the stack's secret.
uint64_t tcp_secret_hash(const struct tcp *tcp, const uint8_t *local, uint16_t local_port, const uint8_t *remote, uint16_t remote_port,
	uint32_t use);
// Source address, wire family, egress MTU, MSS for s->remote: 0 or a negated errno.
int tcp_route(struct tcp *tcp, struct tcp_socket *s);

// --- tcp_api.c: the socket calls; tcp_option.c, tcp_info.c: get and set ---
int tcp_bind(struct tcp *tcp, struct tcp_socket *s, const uint8_t *address, uint16_t port, uint16_t interface);
int tcp_connect(struct tcp *tcp, struct tcp_socket *s, const uint8_t *address, uint16_t port, uint16_t interface);
int tcp_disconnect(struct tcp *tcp, struct tcp_socket *s);
int tcp_listen(struct tcp *tcp, struct tcp_socket *s, int backlog);
int tcp_accept(struct tcp *tcp, struct tcp_socket *s, uint32_t *child_slot);
int tcp_shutdown(struct tcp *tcp, struct tcp_socket *s, int how);
void tcp_close(struct tcp *tcp, struct tcp_socket *s);
void tcp_abort(struct tcp *tcp, struct tcp_socket *s);
// An orphan in FIN-WAIT-2 waits for the peer's FIN, but not for ever.
void tcp_orphan_wait(struct tcp *tcp, struct tcp_socket *s);
int tcp_read(struct tcp *tcp, struct tcp_socket *s, uint8_t *buffer, uint32_t length, int flags);
int tcp_write(struct tcp *tcp, struct tcp_socket *s, const uint8_t *data, uint32_t length, int flags);
int tcp_reserve(struct tcp *tcp, struct tcp_socket *s, uint32_t most, struct iovec *parts, int count);
void tcp_commit(struct tcp *tcp, struct tcp_socket *s, uint32_t bytes, int flags);
int tcp_setopt(struct tcp *tcp, struct tcp_socket *s, int level, int name, const uint8_t *value, uint32_t length);
int tcp_getopt(struct tcp *tcp, struct tcp_socket *s, int level, int name, uint8_t *value, uint32_t *length);
void tcp_status(const struct tcp *tcp, const struct tcp_socket *s, struct host_stream_status *status);

// --- tcp_header.c: options in Linux's order, headers, checksums ---
// False: the header is malformed (arrival->header is NULL then) or the checksum is wrong.  A bad option
// length ends the options, as in Linux.
bool tcp_parse(struct inbound *in, struct tcp_arrival *arrival);
enum tcp_reply_kind { TCP_REPLY_ACK, TCP_REPLY_RST, TCP_REPLY_SYN_ACK };
// Bytes of options that a data segment of this connection carries now (for the MSS).
uint32_t tcp_option_bytes(const struct tcp *tcp, const struct tcp_socket *s, uint8_t flags);
// Build and send one segment of a connection: header, options (SACK, timestamps, MSS on SYN, MD5), `length`
// payload bytes from sequence number `seq` of the send queue, cut at `mss` by the driver where
// length > mss.  False: it could not be sent now (no packet, no route).
bool tcp_transmit(struct tcp *tcp, struct tcp_socket *s, uint32_t seq, uint32_t length, uint8_t flags, uint16_t mss);
// A segment about to be sent, for tcp_header.c and tcp_reply.c.
struct tcp_emission {
	const uint8_t *local, *remote; // mapped form
	uint16_t local_port, remote_port;
	uint16_t interface;           // it must leave by; 0: any
	uint16_t id;                  // IPv4
	uint8_t family;
	uint8_t ttl, tos;
	uint8_t flags;
	bool dont_fragment;
	uint32_t seq, ack;
	uint16_t window;
	uint16_t mss;
	uint32_t length;              // of the payload
	uint32_t key;                 // + 1; 0: not signed
	uint32_t signature_at;        // where its option lies in `options`
	uint32_t option_length;
	uint8_t options[40];
};
struct tcp_syn_options {
	uint16_t mss;
	bool sack, timestamp, scaling;
	uint8_t wscale;
	uint32_t tsval, tsecr;
};
void tcp_put_timestamp(struct tcp_emission *emission, bool sack_permitted, uint32_t tsval, uint32_t tsecr);
void tcp_put_signature(const struct tcp *tcp, struct tcp_emission *emission, uint32_t key);
void tcp_put_syn_options(struct tcp_emission *emission, const struct tcp_syn_options *syn);
// The packet with all but its payload, which goes to *payload; NULL: no buffer.  tcp_emit signs and sends it.
struct packet *tcp_build(struct tcp *tcp, const struct tcp_emission *emission, uint8_t **payload);
bool tcp_emit(struct tcp *tcp, const struct tcp_emission *emission, struct packet *packet);
// --- tcp_reply.c ---
// An answer that belongs to no connection (RST, ACK in TIME-WAIT, SYN-ACK of a request): addresses from
// `arrival` swapped.
struct tcp_reply {
	uint32_t seq, ack;
	uint32_t window;              // as in the header
	uint8_t flags;
	uint8_t tos;
	bool timestamp;
	uint32_t tsval, tsecr;
	uint32_t key;                 // + 1
	// SYN-ACK:
	uint16_t mss;                 // 0: no options of a SYN
	bool sack;
	bool wscale_present;
	uint8_t wscale;
	uint8_t ttl;
};
void tcp_reply(struct tcp *tcp, const struct tcp_arrival *arrival, const struct tcp_reply *reply);
// The same to a four-tuple without an arrival (a request's SYN-ACK that is repeated, a RST of tcp_attach).
void tcp_reply_to(struct tcp *tcp, const uint8_t *local, uint16_t local_port, const uint8_t *remote, uint16_t remote_port,
	uint16_t interface, const struct tcp_reply *reply);
// RFC 9293 section 3.10.7.1: the RST that a segment without a connection deserves.
void tcp_reset_arrival(struct tcp *tcp, const struct tcp_arrival *arrival);

// --- tcp_output.c ---
// Send what cwnd, the peer's window, Nagle and cork allow, then an ACK if one is due and none
// was carried.
void tcp_output(struct tcp *tcp, struct tcp_socket *s);
void tcp_send_ack(struct tcp *tcp, struct tcp_socket *s);
void tcp_send_syn(struct tcp *tcp, struct tcp_socket *s);        // connect, and its repetition
void tcp_send_reset(struct tcp *tcp, struct tcp_socket *s);      // ours: <SEQ=SND.NXT><CTL=RST,ACK>
void tcp_queue_fin(struct tcp *tcp, struct tcp_socket *s);
// Send one record again (split where cwnd, window or mss ask); 0 or a negated errno.
int tcp_retransmit(struct tcp *tcp, struct tcp_socket *s, struct tcp_segment *segment, uint32_t segments);
// What is marked lost, as the recovery allows (RFC 6675, RFC 6937).
void tcp_retransmit_lost(struct tcp *tcp, struct tcp_socket *s);
// Probe a closed window, keep alive: a segment with an old sequence number.  False: it could not be sent now.
bool tcp_send_probe(struct tcp *tcp, struct tcp_socket *s);
// Window probe (RFC 9293 section 3.8.6.1): new data where the window takes any, else tcp_send_probe.
bool tcp_send_window_probe(struct tcp *tcp, struct tcp_socket *s);
void tcp_send_tail_probe(struct tcp *tcp, struct tcp_socket *s); // RFC 8985 section 7
bool tcp_schedule_tail_probe(struct tcp *tcp, struct tcp_socket *s);
// The window to advertise now (RFC 9293 section 3.8.6.2.2, RFC 7323 section 2.4), in bytes; sets rcv_wnd, rcv_wup.
uint32_t tcp_select_window(struct tcp *tcp, struct tcp_socket *s);
void tcp_initial_window(struct tcp *tcp, uint32_t space, uint32_t mss, bool scaling, uint32_t *window, uint32_t *clamp, uint8_t *wscale);
// Payload bytes of one segment now: path MTU, the peer's MSS, options.
uint16_t tcp_current_mss(struct tcp *tcp, struct tcp_socket *s);
void tcp_sync_mss(struct tcp *tcp, struct tcp_socket *s, uint32_t pmtu);

// --- tcp_advertise.c, tcp_mss.c, tcp_retransmit.c, tcp_probe.c: parts of tcp_output.c ---
uint32_t tcp_half_window(const struct tcp_socket *s, uint32_t bytes); // at most that of the peer's largest window
// What the route to the peer takes now; see tcp_sync_mss.
void tcp_refresh_mtu(struct tcp *tcp, struct tcp_socket *s);
// Payload of the next RFC 4821 probe; 0: none is due.
uint32_t tcp_mtu_probe_size(struct tcp *tcp, struct tcp_socket *s);
// The probe probe_seq..probe_end of the flight was acknowledged, or lost while its successors arrived.  The one segment
// that cwnd was charged for it is given back by the caller.
void tcp_mtu_probe_done(struct tcp *tcp, struct tcp_socket *s, bool arrived);
// Segments of one packet now.
uint32_t tcp_burst_segments(const struct tcp *tcp, const struct tcp_socket *s, uint16_t mss);
// Bytes that were never sent.
static inline uint32_t tcp_unsent(const struct tcp_socket *s)
{
	return s->flags & TCP_FIN_SENT ? 0 : s->write_seq - s->snd_nxt;
}
// MSG_EOR: what was written so far ends a record.
// One more record behind snd_nxt, sent at once: `length` bytes, and the FIN where `fin`.
bool tcp_send_new(struct tcp *tcp, struct tcp_socket *s, uint32_t length, bool fin, bool push, uint16_t mss);
// Send one segment of new data whatever cwnd and Nagle say; false: window or queue have none.
// A piece became full while the app still writes: send what one may now.
void tcp_output_full(struct tcp *tcp, struct tcp_socket *s);
bool tcp_send_one(struct tcp *tcp, struct tcp_socket *s);
// As tcp_retransmit, but no part of a recovery: only the record's times change.
int tcp_resend(struct tcp *tcp, struct tcp_socket *s, struct tcp_segment *segment, uint32_t segments);
bool tcp_arm_tail_probe(struct tcp *tcp, struct tcp_socket *s, bool advancing);

// --- tcp_timer.c ---
void timer_arm(struct tcp *tcp, struct tcp_socket *s, enum tcp_pending_timer what, uint64_t at);
void timer_stop(struct tcp *tcp, struct tcp_socket *s);          // the retransmission timer
// RTO (or tail probe) from now, as RFC 6298 section 5 asks after an ACK that moved snd_una.
void timer_rearm(struct tcp *tcp, struct tcp_socket *s);
// RTO and nothing else; where a tail probe or the reordering timer is running, counted from when the
// first segment was sent, since these took its place.
void timer_rearm_rto(struct tcp *tcp, struct tcp_socket *s);
// How far away the RTO of the first segment in flight is, in ns; negative: it has passed.
int64_t tcp_rto_left(const struct tcp *tcp, const struct tcp_socket *s);
// --- tcp_timeout.c: what happens then ---
void tcp_retransmit_timeout(struct tcp *tcp, struct tcp_socket *s);
void tcp_probe_timeout(struct tcp *tcp, struct tcp_socket *s);
void tcp_ack_timeout(struct tcp *tcp, struct tcp_socket *s);
void tcp_keep_timeout(struct tcp *tcp, struct tcp_socket *s);
// How long the next window probe waits, each longer than the one before (RFC 9293 section 3.8.6.1), in ns.
uint64_t tcp_probe_delay(const struct tcp *tcp, const struct tcp_socket *s);
void timer_changed(struct tcp *tcp, struct tcp_socket *s);       // ack_at or keep_at was set by hand
void timer_off(struct tcp *tcp, struct tcp_socket *s);           // all of them
void timer_request(struct tcp *tcp, struct tcp_request *request, uint64_t at); // 0: off
void tcp_tick(struct tcp *tcp);
uint64_t tcp_deadline(const struct tcp *tcp);
// RTO as it stands, with back-off; RFC 6298.
uint64_t tcp_rto_ns(const struct tcp *tcp, const struct tcp_socket *s);
void tcp_keepalive_set(struct tcp *tcp, struct tcp_socket *s, bool on);

// --- tcp_input.c: RFC 9293 section 3.10.7 ---
enum drop_reason tcp_input(struct host *host, struct inbound *in);
// A segment for a connection in any state but LISTEN; frees nothing that the caller holds but may
// close s.  `arrival` may be trimmed.
enum drop_reason tcp_arrive(struct tcp *tcp, struct tcp_socket *s, struct tcp_arrival *arrival);
// The answer to an unacceptable segment, limited (RFC 5961 section 7).
void tcp_challenge(struct tcp *tcp, struct tcp_socket *s);
// A RST that is believed: the app's bytes are delivered, the connection fails.
void tcp_reset_received(struct tcp *tcp, struct tcp_socket *s);
// Both FINs are acknowledged: what is not delivered yet is, and a compact record takes over.
void tcp_time_wait(struct tcp *tcp, struct tcp_socket *s);

// --- tcp_connect.c: SYN-SENT, and SYN-RECEIVED after crossed SYNs ---
enum drop_reason tcp_arrive_syn_sent(struct tcp *tcp, struct tcp_socket *s, struct tcp_arrival *arrival);
enum drop_reason tcp_arrive_syn_received(struct tcp *tcp, struct tcp_socket *s, struct tcp_arrival *arrival);

// --- tcp_receive.c: bytes in order and beyond gaps, ACK policy ---
// Take the payload and FIN of an acceptable segment; sets in->packet's owner (arrival->in->taken) where the packet is kept.
enum drop_reason tcp_receive(struct tcp *tcp, struct tcp_socket *s, struct tcp_arrival *arrival);
// Bytes that had arrived before arrived again: D-SACK (RFC 2883), and ACKs do not wait for a while.
void tcp_receive_duplicate(struct tcp *tcp, struct tcp_socket *s, uint32_t start, uint32_t end);
// The packets of this batch are copied behind the queued blocks; false: no memory for all of them.
bool tcp_receive_settle(struct tcp *tcp, struct tcp_socket *s);
// Append to the queued blocks; returns how many bytes found memory.
uint32_t tcp_receive_append(struct tcp *tcp, struct tcp_socket *s, const uint8_t *data, uint32_t length);
// Give the app what arrived in order; called at the end of the batch and when its fd has room.
void tcp_deliver(struct tcp *tcp, struct tcp_socket *s);
uint32_t tcp_receive_read(struct tcp *tcp, struct tcp_socket *s, uint8_t *buffer, uint32_t length, bool peek);
// Bytes in order that the app has not taken.
uint32_t tcp_unread(const struct tcp *tcp, const struct tcp_socket *s);
// The app took bytes (tcp_deliver and tcp_receive_read call it themselves): the window may open (RFC 9293
// section 3.8.6.2.2), the buffer may grow.
void tcp_receive_taken(struct tcp *tcp, struct tcp_socket *s, uint32_t bytes);

// --- tcp_delack.c: when to acknowledge ---
void tcp_quickack(struct tcp *tcp, struct tcp_socket *s, uint32_t segments);
void tcp_ack_sent(struct tcp *tcp, struct tcp_socket *s, uint32_t segments); // an ACK went out, with data or alone
// An ACK is due, `delay` ns from now at the latest.
void tcp_ack_later(struct tcp *tcp, struct tcp_socket *s, uint64_t delay);
// What the size and the time of a data segment say of the peer.
void tcp_ack_measure(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *arrival);
void tcp_ack_estimate(struct tcp *tcp, struct tcp_socket *s);
// Decide when what is pending goes out: at the end of this batch, or later.
void tcp_ack_decide(struct tcp *tcp, struct tcp_socket *s);

// --- tcp_range.c: what arrived beyond gaps ---
// Keep the payload and FIN of a segment that begins behind rcv_nxt; false: no memory is left.
bool tcp_range_add(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *arrival);
// rcv_nxt moved: what is now in order joins the receive queue and moves it further; true: with a FIN behind it.
bool tcp_range_join(struct tcp *tcp, struct tcp_socket *s);
// SACK blocks to send, D-SACK first, then newest first; returns how many (at most `most`).
int tcp_sack_blocks(const struct tcp *tcp, const struct tcp_socket *s, int most, struct tcp_sack_block *blocks);
// start..end arrived twice: remember it for the next ACK.
void tcp_range_duplicate(struct tcp *tcp, struct tcp_socket *s, uint32_t start, uint32_t end);
// The end of the last range; false: there is none.
bool tcp_range_right(const struct tcp *tcp, const struct tcp_socket *s, uint32_t *right);
void tcp_range_purge(struct tcp *tcp, struct tcp_socket *s);

// --- tcp_window.c: how much the peer may send ---
// Bytes of receive buffer that are free, and all of them, as far as a window may cover them.
uint32_t tcp_window_space(const struct tcp *tcp, const struct tcp_socket *s);
uint32_t tcp_window_full(const struct tcp_socket *s);
// What is left of the window offered last (RFC 9293 section 3.8.6: RCV.WND).
uint32_t tcp_window_left(const struct tcp_socket *s);
// The window that could be offered now, silly windows avoided (RFC 9293 section 3.8.6.2.2); changes nothing, and may
// be less than what is left: tcp_select_window never takes back an offer.
uint32_t tcp_window_offer(const struct tcp *tcp, const struct tcp_socket *s);
// A connection begins: rcvbuf, rcv_space and rcv_ssthresh from the window that was offered with the SYN.
void tcp_window_start(struct tcp *tcp, struct tcp_socket *s);
// `length` bytes arrived in order: the round trip may be measured and the window may grow.
void tcp_window_received(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *arrival);
// The app has taken bytes up to copied_seq: the buffer follows what it takes in a round trip.
void tcp_window_taken(struct tcp *tcp, struct tcp_socket *s);

// --- tcp_ack.c and its parts: what an ACK tells the sender ---
enum tcp_ack_result { TCP_ACK_OK, TCP_ACK_OLD, TCP_ACK_INVALID };
// An acceptable segment with ACK: window update, SACK, RTT, recovery, congestion control.
// INVALID: it acknowledges what was never sent; nothing was changed.
enum tcp_ack_result tcp_ack(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *arrival);
void tcp_rtt_sample(struct tcp *tcp, struct tcp_socket *s, uint32_t rtt_us);
// The SYN was acknowledged: congestion control starts; `rtt_us` 0: unknown (Karn).
void tcp_congestion_start(struct tcp *tcp, struct tcp_socket *s, uint32_t rtt_us);
// RTO: everything is lost (RFC 5681 section 3.1, RFC 5682).
void tcp_enter_loss(struct tcp *tcp, struct tcp_socket *s);
// Local or ECN congestion: CWR without loss.
void tcp_enter_cwr(struct tcp *tcp, struct tcp_socket *s);
// The reordering timer of RACK ran out (RFC 8985 section 6.2, step 5).
void tcp_rack_timeout(struct tcp *tcp, struct tcp_socket *s);
// A loss was found by other means (RFC 4821 probe, simple retransmit after a smaller path MTU).
void tcp_simple_retransmit(struct tcp *tcp, struct tcp_socket *s);
void tcp_restart_window(struct tcp *tcp, struct tcp_socket *s);  // idle for an RTO (RFC 5681 section 4.1)
// tcp_congestion.c, tcp_cubic.c: the algorithms
struct tcp_congestion_ops {
	const char *name;
	void (*init)(struct tcp *tcp, struct tcp_socket *s);
	uint32_t (*ssthresh)(struct tcp *tcp, struct tcp_socket *s);
	void (*avoid)(struct tcp *tcp, struct tcp_socket *s, uint32_t acked);
	uint32_t (*undo)(struct tcp *tcp, struct tcp_socket *s);
	void (*acked)(struct tcp *tcp, struct tcp_socket *s, uint32_t acked, int64_t rtt_us); // rtt < 0: none
	void (*state)(struct tcp *tcp, struct tcp_socket *s, enum tcp_recovery state);
	void (*idle)(struct tcp *tcp, struct tcp_socket *s, uint64_t idle_ns); // sending again after a pause
};
const struct tcp_congestion_ops *tcp_congestion_of(const struct tcp_socket *s);
int tcp_congestion_named(const char *name, uint32_t length);      // enum tcp_congestion, or -ENOENT

// --- tcp_listen.c, tcp_cookie.c, tcp_timewait.c ---
enum drop_reason tcp_listen_input(struct tcp *tcp, struct tcp_socket *listener, struct tcp_arrival *arrival);
struct tcp_request *tcp_find_request(const struct tcp *tcp, const struct flow *flow);
enum drop_reason tcp_request_input(struct tcp *tcp, struct tcp_request *request, struct tcp_arrival *arrival);
void tcp_request_timeout(struct tcp *tcp, struct tcp_request *request);
void tcp_request_drop(struct tcp *tcp, struct tcp_request *request);
// tcp_child.c: is there no room on the accept queue?  That is counted.
bool tcp_accept_full(struct tcp *tcp, struct tcp_socket *listener);
// The handshake of `request` is complete by `arrival`: a connection in ESTABLISHED on the accept queue, or NULL.
struct tcp_socket *tcp_child_new(struct tcp *tcp, struct tcp_socket *listener, const struct tcp_request *request,
	const struct tcp_arrival *arrival);
// Give it what else that segment carries; then the app hears of it.
void tcp_child_begin(struct tcp *tcp, struct tcp_socket *listener, struct tcp_socket *child, struct tcp_arrival *arrival);
void tcp_listen_close(struct tcp *tcp, struct tcp_socket *listener); // requests dropped, queued connections reset
uint32_t tcp_cookie_make(struct tcp *tcp, const struct tcp_arrival *arrival, uint16_t *mss);
// The MSS that a valid cookie stands for, 0 for an invalid one.
uint16_t tcp_cookie_check(struct tcp *tcp, const struct tcp_arrival *arrival);
// Timestamps carry what a cookie has no room for: SACK, ECN, window scale.
uint32_t tcp_cookie_timestamp(const struct tcp *tcp, const struct tcp_arrival *arrival, uint32_t tsval);
bool tcp_cookie_options(const struct tcp *tcp, const struct tcp_arrival *arrival, struct tcp_options *options, bool *ecn);
// The connection goes into TIME-WAIT (or an orphan's FIN-WAIT-2): a compact record takes its place, s is freed.
void tcp_timewait_enter(struct tcp *tcp, struct tcp_socket *s, enum tcp_state state, uint64_t life_ns);
struct tcp_timewait *tcp_find_timewait(const struct tcp *tcp, const uint8_t *local, uint16_t local_port, const uint8_t *remote,
	uint16_t remote_port);
// Handled (DROP_NONE or a reason), or DROP_REASON_COUNT: a new SYN may reopen it (RFC 9293 section 3.10.7.4,
// RFC 6191); it is gone and *iss is where the new connection must begin.
enum drop_reason tcp_timewait_input(struct tcp *tcp, struct tcp_timewait *timewait, struct tcp_arrival *arrival, uint32_t *iss);
void tcp_timewait_remove(struct tcp *tcp, struct tcp_timewait *timewait);
// Could a connect take this four-tuple over?  Then it is removed.
bool tcp_timewait_reuse(struct tcp *tcp, const struct tcp_socket *s);
void tcp_timewait_tick(struct tcp *tcp);
uint64_t tcp_timewait_deadline(const struct tcp *tcp);

// --- tcp_auth.c (RFC 2385), md5.c ---
// tcp_input checks signatures before it gives a segment to a connection, listener or request; tcp_timewait_input does
// so by itself.
// A connection with keys sends single segments of its mss: hardware cannot sign the parts of a super-segment.
static inline bool tcp_signs(const struct tcp_socket *s)
{
	return s->keys != 0;
}
int tcp_auth_set(struct tcp *tcp, struct tcp_socket *s, const struct tcp_key *key); // length 0: remove
uint32_t tcp_auth_key(const struct tcp *tcp, const struct tcp_socket *s, const uint8_t *remote, uint16_t interface); // + 1, 0: none
void tcp_auth_inherit(struct tcp *tcp, const struct tcp_socket *listener, struct tcp_socket *child);
void tcp_auth_release(struct tcp *tcp, struct tcp_socket *s);
uint32_t tcp_auth_bytes(const struct tcp *tcp, uint32_t key);     // of the option, padded: 20 (0 without a key)
// A request or a TIME-WAIT record uses a key; it stays when its socket lets it go.
// Taking over: first `attach`, then `adopt` for each socket that lives on (false: its keys are not whole), at last
// `attached`.
void tcp_auth_attach(struct tcp *tcp);
bool tcp_auth_adopt(struct tcp *tcp, const struct tcp_socket *s);
void tcp_auth_attached(struct tcp *tcp);
void tcp_auth_hold(struct tcp *tcp, uint32_t key);
void tcp_auth_put(struct tcp *tcp, uint32_t key);
// Write all tcp_auth_bytes of the option at header + at, padding included, over header without options
// and checksum, and payload.  `header` is complete but for the checksum; addresses are in mapped form.
void tcp_auth_sign(const struct tcp *tcp, uint32_t key, uint8_t family, const uint8_t *source, const uint8_t *destination, uint8_t *header,
	uint32_t header_length, uint32_t at, const uint8_t *payload, uint32_t length);
// DROP_NONE, or why the segment may not be looked at (the caller counts TCP_STAT_AUTH_FAILED).
enum drop_reason tcp_auth_check(struct tcp *tcp, uint32_t key, const struct tcp_arrival *arrival);

// --- tcp_icmp.c: errors about what we sent (RFC 1122 section 4.2.3.9, RFC 5927), path MTU ---
// RFC 4821: probing
void tcp_mtu_black_hole(struct tcp *tcp, struct tcp_socket *s);

#endif
