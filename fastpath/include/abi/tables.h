// The tables segment: written by the control process of a VR, read by its forwarder.
//
//   struct tables_segment (fixed part)
//     root ------------> struct tables_root: immutable; interfaces, addresses, rules
//     groups[i] -------> struct nexthop_group: immutable; flipping the word moves
//                        every route that uses group i
//     fib_root[f] -----> struct fib_root: direct table, nodes, leaves (see below)
//     prefix_root -----> struct prefix_table: what the FIB was built from, for show
//                        and for a control that comes back
//     bfd_root --------> struct bfd_table (bfd.h): immutable
//     filter_root -----> struct filter_table (filter.h): immutable
//   arena ... size: blocks, addressed by byte offset from the start of the segment
//
// Every word that readers follow is one aligned 64-bit or 32-bit store.  A block is
// complete before a word leads to it and is reused only after every worker's epoch
// (state segment) has passed the one in which the word was changed.  Readers check
// every offset and index against the size of the segment.
#ifndef ABI_TABLES_H
#define ABI_TABLES_H

#include <stdint.h>
#include "abi/address.h"
#include "abi/bfd.h"
#include "abi/filter.h"
#include "abi/limits.h"
#include "abi/police.h"
#include "abi/segment.h"

enum interface_kind {
	INTERFACE_ETHERNET = 1, // a port of its own: AF_PACKET ring or patch link
	INTERFACE_VLAN = 2,     // 802.1Q sub-interface of another interface's port
	INTERFACE_LOOPBACK = 3  // no port; always up
};

enum interface_flags { INTERFACE_ADMIN_UP = 1 };

// Stages that are on at an interface (forward/stage.h); what they do stands in tables of their own.
enum interface_features {
	FEATURE_ACL_IN = 1, FEATURE_RPF = 2, FEATURE_POLICE_IN = 4, FEATURE_DSCP_IN = 8,
	FEATURES_INGRESS = 0xff,
	FEATURE_ACL_OUT = 0x100, FEATURE_DSCP_OUT = 0x200, FEATURE_POLICE_OUT = 0x400,
	FEATURES_EGRESS = 0xff00,
	FEATURE_COUNT_ROUTES = 0x10000 // count what comes in here and is forwarded, by route
};

struct interface_entry {
	uint16_t index;     // 1..MAX_INTERFACES-1, stable while the interface lives
	uint16_t port;      // port id whose frames are ours; 0 for a loopback
	uint16_t vlan;      // 802.1Q VLAN id of our frames on that port; 0 untagged
	uint8_t kind;       // enum interface_kind
	uint8_t flags;      // enum interface_flags
	uint32_t mtu;       // largest IP packet in bytes
	uint8_t mac[6];     // source of our frames
	uint8_t reserved[2];
	uint32_t features;  // enum interface_features
	char name[INTERFACE_NAME_SIZE];
};

enum address_flags {
	ADDRESS_LINK_LOCAL = 1,
	ADDRESS_NO_DAD = 2 // no duplicate address detection
};

struct address_entry {
	uint8_t address[16];
	uint8_t family;
	uint8_t length;     // of the connected prefix
	uint16_t interface;
	uint8_t flags;      // enum address_flags
	uint8_t reserved[3];
};

// Who may do what in this VR's socket layer; first match decides, no match denies.
// RULE_ANY is any local app: a remote one is let in by its key alone.  RULE_RELAY allows nothing; it
// names the uid of the process that may open sockets for remote apps, in the name of their keys.
enum rule_identity { RULE_UID = 1, RULE_GID = 2, RULE_CURVE = 3, RULE_ANY = 4, RULE_RELAY = 5 };
enum rule_operation {
	RULE_CONNECT = 1, RULE_LISTEN = 2, RULE_UDP = 4, RULE_RAW = 8, RULE_MULTICAST = 16
};

struct port_range {
	uint16_t first;
	uint16_t last; // inclusive
};

// What each identity that a rule lets in may have and do; 0: as much as there is.
struct quota {
	uint32_t sockets;      // at a time
	uint32_t opens;        // sockets opened, a second
	uint32_t accepts;      // connections accepted, a second
	uint32_t reserved;
	uint64_t bytes;        // sent, a second
	uint64_t memory;       // bytes of its sockets' buffers
};

struct rule_entry {
	uint32_t identity;     // enum rule_identity
	uint32_t id;           // uid or gid
	uint32_t operations;   // enum rule_operation bits that this rule allows
	uint16_t port_count;   // 0: every local port
	uint16_t prefix_count; // 0: every remote address
	uint8_t curve_key[32];
	struct quota quota;
	struct port_range ports[MAX_RULE_PORTS];
	struct prefix prefixes[MAX_RULE_PREFIXES];
};

struct tables_root {
	uint64_t epoch;        // counts publications
	uint32_t checksum;     // CRC-32 of this struct with the field zero, then of the arrays
	uint32_t interface_count;
	uint32_t address_count;
	uint32_t rule_count;
	uint64_t interfaces;   // offsets of the arrays
	uint64_t addresses;
	uint64_t rules;
};

enum nexthop_kind {
	NEXTHOP_FORWARD = 1,     // to the neighbor `via`
	NEXTHOP_CONNECTED = 2,   // the destination itself is the neighbor
	NEXTHOP_LOCAL = 3,       // an address of this VR
	NEXTHOP_BROADCAST = 4,   // directed broadcast of a connected prefix
	NEXTHOP_BLACKHOLE = 5,   // discard in silence
	NEXTHOP_UNREACHABLE = 6  // discard with an ICMP error
};

struct nexthop {
	uint8_t kind;         // enum nexthop_kind
	uint8_t family;       // of via
	uint16_t interface;   // egress; 0 for BLACKHOLE and UNREACHABLE
	uint32_t weight;      // >= 1
	uint32_t weight_end;  // sum of the weights up to and including this one
	uint32_t reserved;
	uint8_t via[16];
};

struct nexthop_group {
	uint32_t count;        // 1..MAX_GROUP_HOPS
	uint32_t total_weight; // of these
	uint32_t checksum;     // CRC-32 of the group with this field zero
	uint32_t backups;      // hops behind them, for when none of them can be used; with them MAX_GROUP_HOPS at most
	struct nexthop hops[];
};

// Population-count trie with path compression.  References are in units of 8 bytes from the
// start of the segment ("offset8").  An entry of the direct table, indexed by the first
// direct_bits of the address, is FIB_LEAF | group or the offset8 of one node.
// A fib_node consumes 6 bits: bit i of `children` says that slot i is a node, found at
// child_base + 3 * popcount(children below i); else it is a leaf: the u16 at
// leaf_base[popcount(leaf_starts up to and including i) - 1].
// With FIB_PATH in child_base it is a fib_path instead: it consumes 64 - shift bits, which have
// to be the first ones of `path`, else the answer is `miss`.  After them comes the one node at
// child_base without the flag, or, where that is 0, the answer `hit`.
// IPv4 addresses are 32 bits, IPv6 addresses 128, both followed by zeros in the last stride.
// Children of one node lie side by side.  What a node is, `leaf_starts`, `path` and `shift` change
// only by replacing the whole block that the node lies in, and so do leaf_base with leaf_starts and
// child_base with children; a single u16 leaf, the word with hit and miss, the offset in child_base
// alone and an entry of the direct table are stored in place.
#define FIB_LEAF 0x80000000
#define FIB_PATH 0x80000000

struct fib_node {
	uint64_t children;
	uint64_t leaf_starts;
	uint32_t leaf_base;
	uint32_t child_base;
};

struct fib_path {
	uint64_t path;         // bits that follow, from the highest; zeros behind them
	uint16_t hit;
	uint16_t miss;
	uint32_t shift;        // 64 - their number, which is 1..60
	uint32_t reserved;
	uint32_t child_base;   // where fib_node has it
};

struct fib_root {
	uint64_t epoch;
	uint64_t direct;       // offset in bytes of uint32_t[1 << direct_bits]
	uint32_t direct_bits;
	uint32_t family;
};

// One installed route.  Written before the FIB leads to its group and removed after.
struct prefix_entry {
	uint8_t address[16];
	uint8_t family;        // 0: slot is free
	uint8_t length;
	uint16_t group;
	uint8_t protocol;      // enum route_protocol
	uint8_t preference;    // smaller wins between protocols
	uint16_t reserved;
	uint32_t metric;
};

enum route_protocol {
	ROUTE_LOCAL = 1, ROUTE_CONNECTED = 2, ROUTE_STATIC = 3, ROUTE_BGP = 4,
	ROUTE_OSPF = 5, ROUTE_RIP = 6, ROUTE_ISIS = 7, ROUTE_LEAK = 8
};

// Open addressing, linear probing: a prefix stands in the first slot of its probe sequence that
// holds it, and a free slot ends the sequence.  With hi and lo the halves of the address as
// big-endian numbers, all modulo 2^64:
//   x = hi * 0x9e3779b97f4a7c15 + rotl((lo ^ (family << 8 | length)) * 0xc2b2ae3d27d4eb4f, 31)
//   first slot = (((x ^ x >> 32) * 0x9e3779b97f4a7c15 >> 32) * capacity) >> 32
struct prefix_table {
	uint64_t capacity;     // slots
	uint64_t count;
	struct prefix_entry entries[];
};

struct tables_segment {
	struct segment_header header;
	uint64_t root;         // byte offset of struct tables_root; 0: nothing published
	uint64_t epoch;        // current reclamation epoch, starts at 1
	uint64_t fib_root[2];  // byte offsets of struct fib_root: IPv4, IPv6; 0: empty
	uint64_t prefix_root;  // byte offset of struct prefix_table; 0: empty
	uint64_t arena_end;    // first byte that was never allocated
	uint64_t generation;   // odd while control rewrites prefixes, for consistent show
	uint64_t bfd_root;     // byte offset of struct bfd_table; 0: no sessions
	uint64_t police_root;  // byte offset of struct police_table; 0: no limits
	uint64_t filter_root;  // byte offset of struct filter_table; 0: nothing is filtered
	uint64_t mirrored;     // 1: control keeps a copy for the XDP offload in line with this (bypass.h)
	uint64_t turns;        // of control's loop, beats, allowance, and whether it is at work: fastpath/pulse.py
	uint8_t reserved[32];
	uint64_t groups[MAX_GROUPS]; // byte offsets of struct nexthop_group; 0: none
};

#endif
