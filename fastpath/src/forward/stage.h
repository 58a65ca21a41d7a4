// Stages: what an operator has switched on at an interface, between the header checks and the
// route look-up of a packet that comes in, and between route and link of one that goes out.
//
//   ip4_input, ip6_input -> stages_ingress:  ACL -> reverse path -> policer -> DSCP -> route
//   ip_transmit          -> stages_egress:   ACL -> DSCP -> policer -> MTU, neighbor
//
// A bit of interface_entry.features for each; an interface without one costs one test of a word
// that is at hand.  A stage is a function in a file of its own.  It returns DROP_NONE, or why the
// packet goes no further; then it has sent the ICMP error that is due, if any.  It neither takes
// nor frees the packet, may change bytes of its headers, and keeps the checksums right.
//
// Ingress stages see every IP packet that comes in, for us or not, once: also when another worker
// goes on with it (packet->staged).  Egress stages see packets in transit and our own (`own`), with
// their TTL decremented, before they are cut into fragments or segments; ACLs are not for our own.
#ifndef FORWARD_STAGE_H
#define FORWARD_STAGE_H

#include "forward/forward.h"

enum { STAGE_NO_MARK = FILTER_NO_MARK };

enum stage_direction { STAGE_IN = 0, STAGE_OUT = 1 };

// One packet at one interface in one direction: what its stages share.
struct stage {
	struct packet *packet;
	const struct interface_entry *interface;
	uint8_t *ip;              // its IP header, which was checked; IPv4 options and IPv6 extensions were not
	uint32_t length;          // bytes from there to the end of what lies in the buffer
	uint8_t family;           // of that header
	uint8_t direction;        // enum stage_direction
	uint8_t mark;             // DSCP that a stage before the DSCP stage chose; STAGE_NO_MARK: none
	bool own;                 // made by this VR
	bool own_echo;            // a BFD echo packet of ours that came back
	uint16_t source_group;    // FIB's answer for the source; IPv4 and STAGE_IN only
};

enum drop_reason stages_ingress(struct forward *f, const struct interface_entry *in, struct packet *packet,
	uint16_t source_group, bool own_echo);
enum drop_reason stages_egress(struct forward *f, const struct interface_entry *out, struct packet *packet);

// One file each.
enum drop_reason stage_acl(struct forward *f, struct stage *stage);
enum drop_reason stage_rpf(struct forward *f, struct stage *stage);
// Write stage->mark, or what the interface's map says where that is STAGE_NO_MARK.
void stage_dscp(struct forward *f, struct stage *stage);
// Count a packet that is forwarded (data begins at its IP header) for the longest counted prefix.
void stage_count_route(struct forward *f, const struct packet *packet);

// The count of an entry that has a new owner starts anew; readers look at the identity first.
static inline void filter_count(struct forward *f, const struct filter_entry *entry, uint32_t bytes)
{
	struct filter_counter *counter = &f->filter_counters[entry->counter];

	if (counter->identity != entry->identity) {
		counter->packets = 0;
		counter->bytes = 0;
		__atomic_store_n(&counter->identity, entry->identity, __ATOMIC_RELEASE);
	}
	counter->packets++;
	counter->bytes += bytes;
}

#endif
