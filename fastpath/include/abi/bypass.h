// The memory of the XDP offload: two BPF arrays, each one value that is mapped by its writer.
//
//   struct bypass_fib     written by control: a second copy of the tries and groups that are published in `tables`,
//                         with the same structures (tables.h) and the same order of stores.  The program is a reader
//                         like any worker: it announces the epoch in which it follows references.
//   struct bypass_links   written by the forwarder: interfaces, neighbors, the key of the flow hash; and counters and
//                         times of use, which the program writes, each processor in words of its own
//
// The program (bpf/offload.bpf.c) forwards a packet only if everything that it needs to know stands here and is valid;
// any other packet goes on to the forwarder, which decides.  So whoever writes may take out anything at any time.
#ifndef ABI_BYPASS_H
#define ABI_BYPASS_H

#include <stdint.h>
#include "abi/limits.h"
#include "abi/tables.h"

enum bypass_limits {
	BYPASS_CPUS = 256,        // processors with a place in struct bypass_fib; others let all packets go on
	BYPASS_NEIGHBORS = 4096,  // a power of two
	BYPASS_WINDOW = 8,        // places after its hash that a neighbor may lie in
	BYPASS_SOURCES = 65536,   // bits of the filter of our own addresses, a power of two
	BYPASS_ADJACENCIES = 256, // groups that a program remembers, a power of two
	BYPASS_LEASE_MS = 10000   // a dead forwarder's neighbors are used for
};

struct bypass_reader {
	uint64_t epoch;           // 0: not reading
	uint64_t reserved[7];
};

struct bypass_fib {
	struct tables_segment tables; // of which epoch, arena_end, fib_root and groups are used
	uint64_t ready;           // 1: complete, and follows every change
	uint64_t wanted;          // bytes of a map that would be large enough; 0: this one is
	uint64_t changes;         // of groups, one more after each, in the map's whole life; 0: nobody counts them
	uint64_t reserved[5];
	struct bypass_reader readers[BYPASS_CPUS];
	// blocks up to the size of the map
};

// Why packets that come in on a port are not forwarded by the program.
enum bypass_state {
	BYPASS_OFF = 0,           // no interface, or not attached
	BYPASS_ON = 1,
	BYPASS_FEATURES = 2,      // stages are on that only the forwarder has
	BYPASS_VLANS = 3,         // the port has VLAN interfaces
	BYPASS_OBSERVED = 4,      // traces or captures run
	BYPASS_DOWN = 5,
	BYPASS_NO_ROUTES = 6      // control has not copied the routes yet
};

// A port, as packets come in by it.
struct bypass_port {
	uint64_t until_ns;        // CLOCK_MONOTONIC_COARSE: packets are forwarded before that
	uint16_t interface;
	uint8_t mac[6];           // that frames to us carry
	uint32_t state;           // enum bypass_state
	uint32_t reserved;
	uint64_t reserved2;
};

// An interface, as packets leave by it.  `port`: bits 0..15 its number, 0: not by the program; the others are other
// ones after each change.  It is 0 while the rest changes.
struct bypass_interface {
	uint32_t port;
	uint32_t mtu;
	uint8_t mac[6];
	uint8_t reserved[2];
};

// `link`: bits 0..47 the MAC address, its first byte lowest; bit 48 set: valid.  It is 0 while the rest changes.
struct bypass_neighbor {
	uint64_t link;
	uint8_t address[16];
	uint16_t interface;
	uint8_t family;
	uint8_t reserved[5];
	uint64_t used_ns;         // CLOCK_MONOTONIC_COARSE, written by the program
	uint64_t reserved2[3];
};

struct bypass_count {
	uint64_t rx_packets;      // came in here, and were forwarded
	uint64_t rx_bytes;
	uint64_t tx_packets;      // were sent here
	uint64_t tx_bytes;
};

struct bypass_processor {
	struct bypass_count counts[MAX_INTERFACES]; // ever
	struct bypass_count folded[MAX_INTERFACES]; // of them, those that the forwarder has added to its own
};

struct bypass_links {
	uint64_t attaches;        // forwarders that ever attached
	uint64_t ready;           // 1: a forwarder has
	uint64_t hash_key[2];     // state_segment.random_key
	uint64_t neighbor_key;    // of the hash of neighbors
	uint64_t mark;            // of frames that are to be forwarded at tc: a random number of 32 bits, 0: not set yet
	uint64_t changes;         // of interfaces and neighbors, another number after each; upper half: as `attaches`, or
	                          // the forwarder is one that does not count them
	uint64_t reserved;
	struct bypass_port ports[MAX_PORTS];
	struct bypass_interface interfaces[MAX_INTERFACES];
	uint64_t sources[BYPASS_SOURCES / 64]; // a bit for each IPv4 address of ours: see bypass_source_bit
	struct bypass_neighbor neighbors[BYPASS_NEIGHBORS];
	struct bypass_processor processors[]; // as many as the machine can have
};

// Where a group of one next hop leads to, as a program has found it: right while both maps have as many changes.
struct bypass_adjacency {
	uint64_t routes;          // bypass_fib.changes
	uint64_t links;           // bypass_links.changes
	uint64_t header;          // the first 8 bytes of a frame, as they lie in memory
	uint32_t header_end;      // the next 4
	uint32_t group;           // 0: empty
	uint32_t port;            // as in struct bypass_interface
	uint32_t egress;          // interface
	uint32_t mtu;
	uint32_t neighbor;        // its place
	uint64_t used_ns;         // as last told there
	uint64_t reserved;
};

// What a program remembers, in a map of its own: one for each processor.
struct bypass_memory {
	uint64_t tick;
	uint64_t now_ns;          // CLOCK_MONOTONIC_COARSE at that tick
	uint64_t reserved[6];
	struct bypass_adjacency adjacencies[BYPASS_ADJACENCIES];
};

#endif
