// What may reach the slow paths of a router, and what its interfaces may carry: rates that
// control publishes, and what the forwarder has counted.
//
//   tables_segment.police_root --> struct police_table: immutable, replaced as a whole
//   state_segment.control_plane[class]                    by worker 0
//   state_segment.policers[worker, interface, direction]  by each worker
#ifndef ABI_POLICE_H
#define ABI_POLICE_H

#include <stdint.h>
#include "abi/limits.h"

// Work that packets from a wire ask of a router beyond forwarding.  Each interface that they
// come in by has a rate of its own for each class.
enum control_class {
	CONTROL_NEIGHBOR = 0, // ARP and neighbor discovery that nobody waits for
	CONTROL_RESOLVE,      // transit to a neighbor that is not known: it has to be asked for
	CONTROL_BFD,
	CONTROL_BGP,          // of configured neighbors
	CONTROL_ROUTING,      // OSPF, RIP, PIM, VRRP, IGMP, MLD, router discovery, of this link
	CONTROL_ECHO,         // ICMP echo requests for us
	CONTROL_ERROR,        // packets that an ICMP error may be sent about
	CONTROL_FRAGMENT,     // fragments for us
	CONTROL_OPTIONS,      // IPv4 options and IPv6 hop-by-hop options
	CONTROL_SYN,          // TCP connections that somebody wants to open
	CONTROL_TCP,          // other TCP segments for us
	CONTROL_GROUP,        // multicast that a program has joined, and broadcast
	CONTROL_APP,          // all else for us
	CONTROL_CLASSES
};

struct police_rate {
	uint64_t rate;         // a second: packets, or bits of policers that count those; 0: no limit
	uint64_t burst;        // packets, or bytes
};

enum police_direction { POLICE_IN = 0, POLICE_OUT = 1, POLICE_DIRECTIONS = 2 };
enum police_unit { POLICE_BITS = 1, POLICE_PACKETS = 2 };

// A policer of an interface.
struct police_entry {
	uint16_t interface;
	uint8_t direction;     // enum police_direction
	uint8_t unit;          // enum police_unit
	uint32_t reserved;
	struct police_rate rate;
};

// A neighbor of a routing protocol, wherever it is.
struct police_peer {
	uint8_t address[16];
	uint64_t family;
};

enum { MAX_POLICE_PEERS = 16384 };

struct police_table {
	uint64_t epoch;        // counts publications
	uint32_t checksum;     // CRC-32 of this struct with the field zero, then of both arrays
	uint32_t entry_count;  // struct police_entry, right behind this struct
	uint32_t peer_count;   // struct police_peer, right behind those; ascending, none twice
	uint32_t reserved;
	struct police_rate control[CONTROL_CLASSES];
};

struct control_counters {
	uint64_t passed;
	uint64_t dropped;
};

struct policer_counters {
	uint64_t passed_packets;
	uint64_t passed_bytes;   // of IP packets as they are on the wire; a super-packet counts as its segments
	uint64_t dropped_packets;
	uint64_t dropped_bytes;
};

#endif
