// TCP state of one VR, as it lies in the state segment: connections and listeners
// (struct tcp_socket), half-open connections (struct tcp_request) and TIME-WAIT
// (struct tcp_timewait).  Written by the forwarder, read by everybody else.
//
// Links between records are index + 1, 0 is none.  Addresses are in network order, IPv4 as
// ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2); ports, sequence numbers and all else in host order.
#ifndef ABI_TCP_H
#define ABI_TCP_H

#include <stdint.h>
#include "abi/limits.h"

// RFC 9293 section 3.3.2.
enum tcp_state {
	TCP_STATE_CLOSED = 0, TCP_STATE_LISTEN = 1, TCP_STATE_SYN_SENT = 2, TCP_STATE_SYN_RECEIVED = 3,
	TCP_STATE_ESTABLISHED = 4, TCP_STATE_FIN_WAIT_1 = 5, TCP_STATE_FIN_WAIT_2 = 6, TCP_STATE_CLOSE_WAIT = 7,
	TCP_STATE_CLOSING = 8, TCP_STATE_LAST_ACK = 9, TCP_STATE_TIME_WAIT = 10
};

enum tcp_socket_flags {
	TCP_BOUND = 1 << 0,             // local port is held
	TCP_PORT_LOCKED = 1 << 1,       // the app chose the port
	TCP_ADDRESS_LOCKED = 1 << 2,    // the app chose the address
	TCP_REUSE_ADDRESS = 1 << 3,
	TCP_REUSE_PORT = 1 << 4,
	TCP_V6ONLY = 1 << 5,
	TCP_ORPHAN = 1 << 6,            // the app has closed it; the slot is freed when TCP is done
	TCP_NODELAY_SET = 1 << 7,
	TCP_CORK_SET = 1 << 8,
	TCP_QUICKACK_SET = 1 << 9,
	TCP_KEEPALIVE_SET = 1 << 10,
	TCP_LINGER_SET = 1 << 11,       // linger_s is valid
	TCP_SNDBUF_LOCKED = 1 << 12,
	TCP_RCVBUF_LOCKED = 1 << 13,
	TCP_SEND_SHUT = 1 << 14,        // no more data from the app: a FIN is queued or sent
	TCP_RECEIVE_SHUT = 1 << 15,     // the app wants no more
	TCP_FIN_RECEIVED = 1 << 16,     // all bytes up to the peer's FIN have arrived
	TCP_RESET_RECEIVED = 1 << 17,
	TCP_FIN_SENT = 1 << 18,
	TCP_SACK_OK = 1 << 19,          // both sides said so
	TCP_TIMESTAMPS = 1 << 20,       // both sides said so
	TCP_WINDOW_SCALING = 1 << 21,   // both sides said so
	TCP_ECN_OK = 1 << 22,           // both sides said so
	TCP_ECN_ECHO = 1 << 23,         // send ECE until CWR comes
	TCP_ECN_CWR = 1 << 24,          // send CWR with the next new data
	TCP_ECN_SEEN = 1 << 25,
	TCP_ACK_PENDING = 1 << 26,      // something was received that is not acknowledged yet
	TCP_ACK_NOW = 1 << 27,          // send an ACK at the end of this batch
	TCP_DIRTY = 1 << 28,            // on the list of the running batch
	TCP_RECV_ERRORS = 1 << 29,      // IP_RECVERR, IPV6_RECVERR
	TCP_DEFER_ACCEPT_SET = 1 << 30
};

// A second word of flags, of the engine alone.
enum tcp_engine_flags {
	TCP_RACK_ADVANCED = 1 << 0,
	TCP_RACK_REO_EXTENDED = 1 << 1,
	TCP_TLP_RETRANSMIT = 1 << 2,    // the outstanding probe was a retransmission
	TCP_CWND_LIMITED = 1 << 3,
	TCP_FRTO = 1 << 4,              // RFC 5682: an RTO that may turn out spurious
	TCP_PMTU_PROBED = 1 << 5,
	TCP_SYN_DATA = 1 << 6,
	TCP_IN_ACCEPT_QUEUE = 1 << 7,   // on its listener's queue of established connections
	TCP_SYN_STAMP = 1 << 8,
	TCP_DSACK_SEEN = 1 << 9,
	TCP_ROUND_START = 1 << 10,
	TCP_PINGPONG = 1 << 11,         // an interactive session: ACKs may wait for answers
	TCP_WRITE_BLOCKED = 1 << 12,    // the app found no room: tell when there is
	TCP_READ_BLOCKED = 1 << 13,     // the app's fd was full: data waits here
	TCP_NO_ECN_RETRY = 1 << 14,
	TCP_HAS_REUSE = 1 << 15,
	TCP_URGENT_MODE = 1 << 16,
	TCP_PEER_CLOSE_TOLD = 1 << 17,  // the app knows that the peer's bytes have ended
	TCP_SMALL_RECEIVED = 1 << 18,   // less than a full segment, or pushed: not acknowledged yet
	TCP_SMALLS_RECEIVED = 1 << 19,  // more than one of these
	TCP_AUTOBOUND = 1 << 20,        // connect chose the port: others to elsewhere may share it
	TCP_LATE_PORT = 1 << 21,        // IP_BIND_ADDRESS_NO_PORT: a bind to port 0 leaves the choice to connect
	TCP_OOB_INLINE = 1 << 22,       // SO_OOBINLINE; urgent data is always in line here
	TCP_PINNED = 1 << 23,           // the app chose the interface
	TCP_FREE_BIND = 1 << 24         // the local address need not be ours
};

enum tcp_recovery {               // as tcpi_ca_state counts them
	TCP_RECOVERY_OPEN = 0, TCP_RECOVERY_DISORDER = 1, TCP_RECOVERY_CWR = 2,
	TCP_RECOVERY_FAST = 3, TCP_RECOVERY_LOSS = 4
};

enum tcp_congestion { TCP_CUBIC = 0, TCP_RENO = 1 };

// What the retransmission timer of a connection is armed for; one at a time.
enum tcp_pending_timer {
	TCP_TIMER_NONE = 0, TCP_TIMER_RTO = 1, TCP_TIMER_PROBE0 = 2, TCP_TIMER_TLP = 3, TCP_TIMER_REORDER = 4
};

struct tcp_cubic_state {            // RFC 9438, RFC 9406; windows are in segments
	uint32_t last_max_cwnd;
	uint32_t last_cwnd;
	uint32_t origin_point;
	uint32_t k_ms;                  // time to the origin point
	uint32_t tcp_cwnd;              // the estimate of Reno's window
	uint32_t ack_count;
	uint32_t count;                 // ACKed segments for one more segment of window
	uint32_t delay_min_us;
	uint32_t epoch_start_ms;        // 0: no epoch
	uint32_t last_time_ms;
	uint32_t round_end;             // sequence number that ends the round
	uint32_t round_min_rtt_us;
	uint32_t previous_min_rtt_us;
	uint32_t css_baseline_us;       // RFC 9406: 0: not in conservative slow start
	uint8_t samples;
	uint8_t css_rounds;
	uint8_t found;
	uint8_t reserved;
};

// What only a listener has.
struct tcp_listener_state {
	uint32_t accept_head;           // established, not yet accepted; linked by accept_next
	uint32_t accept_tail;
	uint32_t accept_count;
	uint32_t backlog;
	uint32_t requests;              // half-open connections
	uint32_t young;                 // of these, how many were not answered twice yet
	uint32_t overflows;             // connections that found the accept queue full
	uint32_t cookies_sent;
	uint32_t cookies_ms;            // when the last one was sent, low bits
};

union tcp_role {
	struct tcp_cubic_state cubic;
	struct tcp_listener_state listener;
};

enum { TCP_MAX_KEYS = 4096, TCP_KEY_LENGTH = 80 };

// RFC 2385; laid out so that keys of RFC 5925 (send and receive ids, a MAC algorithm, traffic keys) can join: whoever
// signs or checks asks tcp_auth_* only.  A listener's keys outlive a forwarder with it.
struct tcp_key {
	uint32_t next;                  // in the list of its socket, or of free ones; index + 1
	uint32_t references;
	uint8_t address[16];            // peers, mapped form
	uint8_t prefix;                 // bits of it, of 128
	uint8_t length;
	uint16_t interface;             // 0: any
	uint8_t key[TCP_KEY_LENGTH];
};

// A connection, a listener, or a socket that is neither yet.
struct tcp_socket {
	// --- who it belongs to ---
	uint64_t cookie;                // random, never 0 while the slot is in use
	uint32_t uid;
	uint32_t gid;
	uint32_t pid;
	uint32_t rights;                // enum rule_operation bits granted at OPEN
	char app[16];
	uint32_t created_s;             // clock of the forwarder
	uint32_t busy_ms;               // data was queued, and neither of the next two held it back

	// --- the path; all-zero addresses: any ---
	uint8_t local[16];
	uint8_t remote[16];
	uint16_t local_port;
	uint16_t remote_port;
	uint16_t interface;             // pinned to it; 0: any
	uint16_t family;                // AF_INET or AF_INET6: of the socket
	uint8_t wire_family;            // 4 or 6: of its packets, once known
	uint8_t state;                  // enum tcp_state
	uint8_t ttl;                    // 0: default
	uint8_t tos;
	uint8_t min_ttl;                // RFC 5082; 0: off
	uint8_t pmtu_discover;          // IP_PMTUDISC_*
	uint8_t congestion;             // enum tcp_congestion
	uint8_t recovery;               // enum tcp_recovery
	uint32_t flags;                 // enum tcp_socket_flags
	uint32_t engine;                // enum tcp_engine_flags
	int16_t error;                  // pending error, an errno
	int16_t soft_error;             // what a timeout will turn into
	uint32_t hash_next;             // chain of connections, or of listeners
	uint32_t bind_next;             // chain of one local port
	uint32_t dirty_next;            // sockets with something to do at the end of the batch
	uint32_t parent;                // listener it came from, while in its accept queue
	uint32_t accept_next;
	uint32_t keys;                  // first key of RFC 2385 + 1

	// --- sequence space (RFC 9293 section 3.3.1) ---
	uint32_t iss;
	uint32_t irs;
	uint32_t snd_una;
	uint32_t snd_nxt;
	uint32_t snd_wnd;               // bytes
	uint32_t snd_wl1;
	uint32_t max_window;            // largest that the peer ever offered
	uint32_t write_seq;             // behind the last byte that the app gave
	uint32_t rcv_nxt;
	uint32_t rcv_wup;               // rcv_nxt of the last window sent
	uint32_t rcv_wnd;               // last window sent, bytes
	uint32_t copied_seq;            // up to here the app has it
	uint8_t snd_wscale;
	uint8_t rcv_wscale;
	uint16_t mss;                   // bytes of payload now in one segment, options taken off
	uint16_t mss_clamp;             // what the peer said it takes
	uint16_t advertised_mss;
	uint16_t user_mss;              // TCP_MAXSEG; 0: none
	uint16_t received_mss;          // guess at the peer's segment size

	// --- queues; what they hold beyond these numbers lies in a private record while there is anything ---
	uint32_t flight;                // index of that record; 0: nothing is queued or in flight
	uint32_t sndbuf;                // bytes the app may have queued
	uint32_t rcvbuf;
	uint32_t window_clamp;
	uint32_t rcv_ssthresh;
	uint32_t rcv_space;             // bytes the app took in the last round trip
	uint32_t rcv_space_seq;
	uint32_t rcv_space_us;          // when that was measured, low bits
	uint32_t rcv_rtt_us;
	uint32_t rcv_rtt_seq;
	uint32_t rcv_rtt_start_us;
	uint8_t quick_acks;             // ACKs still to be sent at once
	uint8_t reserved;
	uint16_t account;               // index of its owner's
	uint32_t ack_timeout_us;        // ATO: how long an ACK waits
	uint32_t last_received_ms;
	uint32_t last_ack_received_ms;

	// --- round trip and congestion ---
	uint32_t srtt_us;               // times 8; 0: no sample yet
	uint32_t mdev_us;               // times 4
	uint32_t mdev_max_us;
	uint32_t rttvar_us;
	uint32_t rtt_seq;
	uint32_t rto_us;
	uint32_t min_rtt_us;
	uint32_t min_rtt_ms;            // when that was measured, low bits
	uint32_t cwnd;                  // segments
	uint32_t cwnd_count;
	uint32_t ssthresh;
	uint32_t reordering;
	uint32_t delivered;
	uint8_t rack_reo_steps;
	uint8_t rack_reo_persist;
	uint8_t reordering_seen;
	uint8_t backoff;
	union tcp_role role;            // listener: .listener, else .cubic

	// --- timestamps (RFC 7323) ---
	uint32_t ts_recent;
	uint32_t ts_recent_s;           // when it was taken, seconds
	uint32_t ts_offset;             // added to the clock, in ms
	uint32_t ts_echo;               // TSecr of the last sample of rcv_rtt_us
	uint32_t last_oow_ack_ms;       // RFC 5961 section 7: when the last answer to a stray segment went out

	// --- timers, ns; 0: off ---
	uint64_t retransmit_at;
	uint64_t ack_at;
	uint64_t keep_at;               // keepalive, FIN-WAIT-2, or linger of an orphan
	uint32_t heap_position;         // + 1; 0: not in the heap
	uint8_t pending_timer;          // enum tcp_pending_timer
	uint8_t retransmits;            // of the head, in a row
	uint8_t probes_out;
	uint8_t syn_retries;            // 0: default
	uint32_t last_sent_ms;          // data
	uint32_t keep_idle_s;           // 0: default
	uint16_t keep_interval_s;
	uint8_t keep_count;
	uint8_t defer_accept_s;
	uint32_t user_timeout_ms;
	uint16_t linger_s;
	int16_t linger2_s;              // TCP_LINGER2; 0: default
	uint32_t low_water;             // TCP_NOTSENT_LOWAT
	uint16_t pmtu;                  // of the path, as last used
	uint16_t probe_mss;             // RFC 4821: size being probed, or floor
	uint32_t dsack_dups;

	// --- counters ---
	uint64_t bytes_sent;
	uint64_t bytes_received;
	uint32_t window_limited_ms;     // the peer's window held data back
	uint32_t buffer_limited_ms;     // the send buffer did: the app could not write
	uint64_t bytes_retrans;
	uint32_t segments_out;
	uint32_t segments_in;
	uint32_t total_retrans;
	uint32_t ooo_packets;
	uint16_t probe_high;            // RFC 4821: no larger size is tried; 0: no limit
	uint16_t last_segment_size;     // of a segment that was not full: two alike make received_mss
	uint32_t bind_previous;         // in the chain of bind_next
};

enum tcp_request_options {
	TCP_REQUEST_TIMESTAMPS = 1, TCP_REQUEST_SACK = 2, TCP_REQUEST_WSCALE = 4, TCP_REQUEST_ECN = 8,
	TCP_REQUEST_ACKED = 16, // the handshake is complete, but the accept queue was full or the listener waits for data
	TCP_REQUEST_COOKIE = 32, // rebuilt from a cookie
	TCP_REQUEST_ANSWERED = 64
};

// A connection in SYN-RECEIVED that came from a listener (RFC 4987 section 3.5).
struct tcp_request {
	uint8_t local[16];
	uint8_t remote[16];
	uint16_t local_port;
	uint16_t remote_port;
	uint16_t interface;
	uint8_t state;                  // 0: free
	uint8_t wire_family;
	uint32_t hash_next;
	uint32_t listener;              // + 1
	uint32_t irs;
	uint32_t iss;
	uint32_t window;                // that we offered
	uint32_t ts_recent;
	uint32_t ts_offset;
	uint32_t ts_sent;               // clock of the first SYN-ACK, us, for the first RTT sample
	uint64_t deadline_ns;
	uint32_t heap_position;
	uint16_t mss;                   // the peer's
	uint8_t wscale_received;
	uint8_t wscale_sent;
	uint8_t options;                // enum tcp_request_options
	uint8_t retransmits;            // of the SYN-ACK, for whatever reason
	uint8_t timeouts;
	uint8_t reserved;
	uint32_t key;                   // + 1, RFC 2385
	uint32_t previous;              // in the list by age
	uint32_t next;
	uint32_t window_clamp;
	uint32_t answered_ms;           // RFC 5961 section 7: when a stray segment was answered last; TCP_REQUEST_ANSWERED
};

enum tcp_timewait_flags {
	TCP_TIMEWAIT_TIMESTAMPS = 1, TCP_TIMEWAIT_IPV6 = 2,
	TCP_TIMEWAIT_MORE = 4           // the forwarder has more of it in its own memory
};

struct tcp_timewait {
	uint8_t local[16];
	uint8_t remote[16];
	uint16_t local_port;
	uint16_t remote_port;
	uint32_t rcv_nxt;
	uint32_t snd_nxt;
	uint32_t ts_recent;
	uint16_t hash_next;             // also of free ones
	uint16_t next, previous;        // of those that end in the same quarter of a second
	uint16_t ends_ms;               // low bits of the time it ends
	uint16_t window;                // as advertised last, scaled
	uint8_t state;                  // 0: free; enum tcp_state: FIN-WAIT-2 or TIME-WAIT
	uint8_t flags;                  // enum tcp_timewait_flags; the upper half is the scale of our window
};

#endif
