// The state segment: written by the forwarder of a VR, read by everybody else.
//
// A forwarder that takes over from a dead one finds here the progress of each ring,
// the counters, the neighbors with their waiting packets, and the sockets.
#ifndef ABI_STATE_H
#define ABI_STATE_H

#include <stdint.h>
#include "abi/account.h"
#include "abi/address.h"
#include "abi/bfd.h"
#include "abi/drop_reason.h"
#include "abi/filter.h"
#include "abi/limits.h"
#include "abi/police.h"
#include "abi/segment.h"
#include "abi/tcp.h"

struct interface_counters {
	uint64_t rx_packets;
	uint64_t tx_packets;
	uint64_t rx_bytes;           // frames without FCS
	uint64_t tx_bytes;
	uint64_t forwarded_packets;  // came in here and were sent on, somewhere
	uint64_t forwarded_out_packets; // were forwarded and went out here
	uint64_t punt_packets;       // came in here and were taken by this VR itself
	uint64_t originated_packets; // made by this VR and sent here
	uint64_t fragments_created;  // frames sent here beyond one for each packet
	uint64_t held_packets;       // came in here and wait for a neighbor now
	uint64_t drops[DROP_REASON_COUNT]; // came in here and were dropped
};

struct worker_state {
	uint64_t reader_epoch;  // tables epoch of the running batch; 0: not reading
	uint64_t batches;       // finished batches and idle wake-ups: the progress word
	uint64_t busy_since_ns; // start of the running iteration; 0: asleep
	uint64_t thread;        // as the kernel numbers it
	uint64_t packets;       // received from ports
	uint64_t handed;        // packets given to worker 0
	uint64_t reserved[2];
};

enum port_flags {
	PORT_PRESENT = 1,   // the forwarder serves it
	PORT_LINK_UP = 2,   // carrier, as the manager last told
	PORT_FAILED = 4     // the driver met an error that it cannot get over by itself
};

// How a driver works on its device, where it has several ways.
enum port_mode {
	PORT_XDP_NATIVE = 1, PORT_XDP_GENERIC = 2, PORT_ZERO_COPY = 4, PORT_BUSY_POLL = 8,
	PORT_INPUT = 16, PORT_OUTPUT = 32, PORT_REAL_TIME = 64 // capture files
};

struct port_state {
	uint64_t progress;      // frames whose fate is recorded, ever; AF_PACKET_V3: blocks (af_packet_v3.c)
	uint64_t rx_kernel_drops; // PACKET_STATISTICS, summed up
	uint32_t flags;         // enum port_flags
	uint32_t driver;        // enum port_driver (core.h)
	uint32_t ifindex;
	uint32_t mode;          // enum port_mode
	uint64_t generation;    // changes with each coupling of another device
	uint64_t rx_ring_full;  // AF_XDP, from XDP_STATISTICS: frames that found no place in the receive ring,
	uint64_t rx_fill_empty; // no frame in the fill ring,
	uint64_t rx_invalid;    // descriptors of ours that the kernel refused
	uint64_t tx_invalid;
	uint64_t written;       // capture files: bytes of the output that are whole records
	uint64_t ended;         // 1: nothing more will be received; 2: as the input made no sense
};

// RFC 4861 section 7.3.2, for ARP as well; STATIC is ours.
enum neighbor_state {
	NEIGHBOR_FREE = 0, NEIGHBOR_INCOMPLETE = 1, NEIGHBOR_REACHABLE = 2,
	NEIGHBOR_STALE = 3, NEIGHBOR_DELAY = 4, NEIGHBOR_PROBE = 5,
	NEIGHBOR_FAILED = 6, NEIGHBOR_STATIC = 7, NEIGHBOR_DELETED = 8
};

struct neighbor_entry {
	uint8_t address[16];
	uint8_t mac[6];
	uint8_t family;
	uint8_t state;          // enum neighbor_state
	uint16_t interface;
	uint8_t flags;          // 1: a router (ND)
	uint8_t probes;         // sent in the present state
	uint32_t pending;       // first waiting packet + 1; 0: none
	uint64_t changed_ns;    // last change of state
	uint64_t confirmed_ns;  // last proof of reachability
	uint64_t used_ns;       // last packet sent to it
	uint64_t deadline_ns;   // next timer; 0: none
};

// A packet that waits for its neighbor: an IP packet without its link header.
struct pending_packet {
	uint32_t next;          // index + 1; 0: last
	uint16_t length;        // 0: slot is free
	uint16_t ingress;       // interface it is counted as held on; 0: our own
	uint8_t account;        // how it is counted when it leaves
	uint8_t reserved[7];
	uint8_t vnet[16];       // its struct virtio_net_hdr, offsets relative to the IP header
	uint8_t data[PENDING_ROOM];
};

enum dad_state { DAD_NONE = 0, DAD_TENTATIVE = 1, DAD_VALID = 2, DAD_DUPLICATE = 3 };

// Duplicate address detection, one entry for each address that was ever seen.
struct dad_entry {
	uint8_t address[16];
	uint8_t family;
	uint8_t state;          // enum dad_state
	uint16_t interface;
	uint32_t probes;
	uint64_t deadline_ns;
};

enum socket_flags {
	SOCKET_BOUND = 1, SOCKET_CONNECTED = 2, SOCKET_REUSE_ADDRESS = 4, SOCKET_REUSE_PORT = 8,
	SOCKET_V6ONLY = 16, SOCKET_HEADER_INCLUDED = 32, SOCKET_PACKET_INFO = 64,
	SOCKET_ORPHANED = 128,  // its fd is to be brought back by control
	SOCKET_BROADCAST = 256, SOCKET_PINNED = 512 // bound to one interface
};

enum {
	SOCKET_MEMBERSHIPS = 16, SOCKET_FILTER_BYTES = 32,
	MEMBERSHIP_SOURCES = 64,       // addresses in the source filter of one membership
	MAX_MEMBERSHIP_SOURCES = 8192  // the same of one VR
};

// RFC 3678's MCAST_EXCLUDE and MCAST_INCLUDE.
enum membership_mode { MEMBERSHIP_EXCLUDE = 0, MEMBERSHIP_INCLUDE = 1 };

struct socket_membership {
	uint8_t group[16];
	uint16_t interface;
	uint8_t family;         // 0: free
	uint8_t mode;           // enum membership_mode
	uint8_t reserved[4];
};

// An address in the source filter of a membership.
struct membership_source {
	uint8_t address[16];
	uint32_t membership;    // slot * SOCKET_MEMBERSHIPS + place in it + 1; 0: free
	uint32_t reserved;
};

// Of which families a socket takes only what it has joined itself: IP_MULTICAST_ALL,
// IPV6_MULTICAST_ALL turned round.
enum multicast_only { MULTICAST_ONLY4 = 1, MULTICAST_ONLY6 = 2 };

struct socket_entry {
	uint64_t cookie;        // random, never 0 while the slot is in use
	uint8_t token[16];      // of the OPEN, so that a repeated one finds it
	uint32_t uid;
	uint32_t gid;
	uint32_t pid;
	uint32_t flags;         // enum socket_flags
	uint32_t rights;        // enum rule_operation bits granted at OPEN
	uint16_t family;        // AF_INET or AF_INET6
	uint16_t type;          // SOCK_DGRAM or SOCK_RAW
	uint16_t protocol;
	uint16_t interface;     // pinned to it; 0: any
	uint16_t local_port;    // host order; for ICMP echo the identifier
	uint16_t remote_port;
	uint8_t local[16];      // all zero: any
	uint8_t remote[16];
	uint8_t ttl;            // 0: default
	uint8_t tos;
	uint8_t multicast_ttl;
	uint8_t multicast_loop;
	uint16_t multicast_interface;
	uint8_t pmtu_discover;  // IP_PMTUDISC_*
	uint8_t checksum_offset_set;
	int32_t checksum_offset; // IPV6_CHECKSUM
	int32_t error;          // pending error, an errno
	uint32_t options;       // enum dgram_flags bits (wire.py) the app wants to see
	uint8_t icmp_filter[SOCKET_FILTER_BYTES]; // ICMP types that are blocked
	uint8_t multicast_only; // enum multicast_only bits
	uint8_t reserved;
	uint16_t account;       // index of its owner's
	struct socket_membership memberships[SOCKET_MEMBERSHIPS];
	uint64_t rx_packets;
	uint64_t tx_packets;
	uint64_t rx_drops;
	uint64_t created_ns;
	char app[16];           // comm of the process that opened it
};

// How requests of apps ended that must not be executed twice: an app that has lost a forwarder before it got an
// answer asks the next one again.
struct answered_request {
	uint64_t request;       // number, chosen by the app
	uint32_t session;       // chosen by the app; 0: the place is free
	uint32_t uid;
	uint32_t socket;
	int32_t error;          // an errno, or 0
};

enum { MAX_ANSWERED = 1024 };

struct state_segment {
	struct segment_header header;
	uint64_t started_ns;      // CLOCK_BOOTTIME, of the present forwarder
	uint64_t forwarder_pid;
	uint64_t ready;           // 1 when the present forwarder serves
	uint64_t attaches;        // forwarders that ever attached
	uint64_t tables_epoch;    // epoch of the tables_root in use
	uint64_t random_key[2];   // SipHash key of this VR's hash tables
	uint64_t neighbors_used;  // 0: `neighbors` was never written; else 1 + slots of `pending` ever used
	uint64_t sockets_used;     // slots of `sockets` below this were in use once; the rest was never touched
	uint64_t tcp_used;         // slots of `tcp` below this were in use once
	uint64_t tcp_requests_used;
	uint64_t tcp_timewaits_used;
	uint64_t membership_sources_used; // the same of `membership_sources`
	uint64_t accounts_used;    // the same of `accounts`
	uint64_t workers_used;     // most workers that a forwarder ever had; 0: one.  Of the others nothing was touched
	uint64_t reserved;
	struct worker_state workers[MAX_WORKERS];
	// Our own packets, and those already punted: DROP_REASON_COUNT words of each worker.
	uint64_t host_drops[MAX_WORKERS * DROP_REASON_COUNT];
	struct port_state ports[MAX_WORKERS * MAX_PORTS]; // MAX_PORTS of each worker
	struct call_times calls[CALL_OPS]; // by operation (rsock/wire.py)
	struct account accounts[MAX_ACCOUNTS];
	struct interface_counters counters[MAX_WORKERS * MAX_INTERFACES]; // MAX_INTERFACES of each worker: the sum counts
	struct dad_entry dad[MAX_ADDRESSES];
	struct neighbor_entry neighbors[MAX_NEIGHBORS]; // open addressing
	struct socket_entry sockets[MAX_SOCKETS];
	struct pending_packet pending[MAX_PENDING];
	struct membership_source membership_sources[MAX_MEMBERSHIP_SOURCES];
	struct tcp_socket tcp[MAX_TCP_SOCKETS];
	struct tcp_request tcp_requests[MAX_TCP_REQUESTS];
	struct tcp_timewait tcp_timewaits[MAX_TCP_TIMEWAITS];
	struct answered_request answered[MAX_ANSWERED];
	uint64_t tcp_keys_used;   // places of `tcp_keys` below this were in use once
	struct tcp_key tcp_keys[TCP_MAX_KEYS];
	uint64_t bfd_used;        // places of `bfd` below this were in use once
	uint64_t bfd_events;      // changes of state of all sessions
	struct bfd_session bfd[MAX_BFD_SESSIONS];
	struct control_counters control_plane[CONTROL_CLASSES];
	struct policer_counters policers[MAX_WORKERS * MAX_INTERFACES * POLICE_DIRECTIONS]; // worker, interface, direction
	struct filter_counter filter_counters[MAX_WORKERS * MAX_FILTER_COUNTERS]; // MAX_FILTER_COUNTERS of each worker
};

#endif
