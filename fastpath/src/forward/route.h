// Where a packet goes: what the forwarding files share beyond forward.h.
#ifndef FORWARD_ROUTE_H
#define FORWARD_ROUTE_H

#include "forward/forward.h"

// One decision, copied out of shared memory and checked.
struct route {
	uint8_t kind;         // enum nexthop_kind
	uint8_t family;       // of nexthop
	uint16_t group;       // of the FIB; 0: none was asked
	const struct interface_entry *out; // NULL for BLACKHOLE and UNREACHABLE, perhaps for LOCAL
	uint8_t nexthop[16];  // the neighbor to give it to; FORWARD, CONNECTED, BROADCAST
};

// By the FIB: DROP_NO_ROUTE or DROP_BAD_NEXTHOP where there is none.  Of a group, a hop whose interface is down, or whose
// neighbor BFD has found dead, is passed over for one that is up, or, where there is none, for a backup.
enum drop_reason route_lookup(const struct forward *f, uint8_t family, const uint8_t *destination, uint32_t hash,
	struct route *route);
// A hop of the group leads to somebody on `interface`, or on any where that is 0; so does a backup while it is in use.
bool route_leads(const struct forward *f, uint16_t group, uint16_t interface);
// For a packet of our own; groups, broadcasts and link-local addresses need no FIB.
enum drop_reason route_output(const struct forward *f, uint8_t family, const uint8_t *destination, uint16_t interface,
	uint32_t hash, struct route *route);
// Whence and whither a traced packet goes, of a header that was checked.
void header_trace(struct forward *f, const struct packet *packet, uint8_t family, const uint8_t *source,
	const uint8_t *destination, uint8_t ttl, uint8_t protocol);
// How a traced packet goes on.
void route_trace(struct forward *f, const struct packet *packet, const struct route *route);

// --- local.c ---
// Give a packet to the host stack and count it as punted where it came in.
enum drop_reason local_deliver(struct forward *f, struct packet *packet);
// Deliver one of our own packets to ourselves, not deeper than a few answers to answers.
enum drop_reason local_loop(struct forward *f, const struct interface_entry *in, struct packet *packet);
// A packet for one of our addresses: ICMP is looked at first.
enum drop_reason ip4_local(struct forward *f, struct packet *packet);
enum drop_reason ip6_local(struct forward *f, const struct interface_entry *in, struct packet *packet);
// Somebody here listens to this group.
bool ip4_group_joined(const struct forward *f, const struct interface_entry *in, const uint8_t *group);
bool ip6_group_joined(const struct forward *f, const struct interface_entry *in, const uint8_t *group);

// --- ip4_options.c ---
// What a header asks routers to do; offsets from the IP header, 0: none.
struct ip4_options {
	uint8_t record_route;
	uint8_t timestamp;
	uint8_t route_slot;   // where our address was written
	uint8_t time_slot;
	bool source_route;
	bool trailing;        // bytes that are not zero after the end of the list
	bool changed;         // the checksum is stale
};
// Check all options.  False where one is malformed: *pointer is its offset for an ICMP error.
bool ip4_options_parse(const uint8_t *ip, struct ip4_options *options, uint8_t *pointer);
// Write what was asked for, with our address towards the sender, as errors quote it.
void ip4_options_record(const struct forward *f, uint8_t *ip, struct ip4_options *options, const uint8_t *address);
// Before the packet goes on: set the checksum, and our address to the one towards its
// destination where that is given.
void ip4_options_finish(uint8_t *ip, const struct ip4_options *options, const uint8_t *address);

#endif
