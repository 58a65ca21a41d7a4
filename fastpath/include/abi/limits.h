// Sizes that both sides of a shared segment rely on.
#ifndef ABI_LIMITS_H
#define ABI_LIMITS_H

enum limits {
	MAX_INTERFACES = 256,     // interface indices 1..255; 0 means none
	MAX_PORTS = 128,          // port ids 1..127; 0 means none
	MAX_WORKERS = 4,          // forwarding workers of one VR
	MAX_GROUPS = 65536,       // next-hop groups; FIB leaves are 16 bits; 0 means no route
	MAX_GROUP_HOPS = 64,      // next hops in one group
	MAX_ADDRESSES = 4096,     // addresses of one VR
	MAX_RULES = 1024,         // socket-layer rules of one VR
	MAX_ACCOUNTS = 1024,      // identities that use one VR at a time
	MAX_RULE_PORTS = 16,      // port ranges in one rule
	MAX_RULE_PREFIXES = 16,   // prefixes in one rule
	MAX_NEIGHBORS = 8192,     // ARP and ND entries of one VR, a power of two
	MAX_PENDING = 1024,       // packets of one VR that wait for a neighbor
	MAX_PENDING_PER_NEIGHBOR = 16,
	PENDING_ROOM = 2048,      // bytes of one waiting packet; a longer one is not held
	MAX_SOCKETS = 4096,       // datagram and raw sockets of one VR
	MAX_TCP_SOCKETS = 131072, // TCP connections and listeners of one VR; their slots begin at MAX_SOCKETS
	MAX_TCP_REQUESTS = 16384, // half-open connections of one VR
	MAX_TCP_TIMEWAITS = 65534, // connections of one VR in TIME-WAIT: their links have 16 bits
	MAX_BFD_SESSIONS = 1024,  // of one VR, a power of two
	BATCH_SIZE = 64,          // packets taken from a port before their fate is recorded
	PACKET_HEADROOM = 128,    // bytes free before a received frame
	PACKET_ROOM = 2048,       // bytes of an ordinary packet buffer after the headroom
	SUPER_ROOM = 69632,       // bytes of a super-packet buffer after the headroom
	INTERFACE_NAME_SIZE = 32,
	ROUTER_NAME_SIZE = 32
};

#endif
