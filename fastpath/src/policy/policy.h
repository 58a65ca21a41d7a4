// Route policies for the bulk path: programs made by vrouter/rib/policy_program.py, run on one route at a time.
//
//   bytes --policy_load: copied, verified once--> struct policy --policy_evaluate--> verdict
//
// A program is trusted no more than a packet.  policy_load() checks every reference in it; what then runs has
// no loop but over its own operands, only goes forward, allocates nothing and keeps no state.
// vrouter/rib/policy.py is the executable specification.
#ifndef POLICY_POLICY_H
#define POLICY_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	POLICY_MAX_PREPEND = 32,
	POLICY_LIST_BYTES = 65532,         // of one kind of communities: more than an attribute holds there is never
	POLICY_INTERFACE_SIZE = 32
};

// Which fields of a route count; what is not there matches no condition.
enum policy_has {
	POLICY_HAS_ORIGIN = 1 << 0,
	POLICY_HAS_LOCAL_PREF = 1 << 1,
	POLICY_HAS_MED = 1 << 2,
	POLICY_HAS_NEXT_HOP = 1 << 3,
	POLICY_HAS_NEIGHBOR = 1 << 4,
	POLICY_HAS_AS_PATH = 1 << 5        // an empty path is one too
};

// A route, its lists where the caller has them.  Addresses: FAMILY_IPV4 has its 4 bytes first.
struct policy_route {
	uint32_t has;                      // enum policy_has
	uint8_t family;                    // 4 or 6
	uint8_t length;
	uint8_t protocol;                  // enum route_protocol
	uint8_t origin;
	uint8_t address[16];               // of the prefix; bits behind `length` are zero
	uint8_t next_hop_family;
	uint8_t neighbor_family;
	uint8_t next_hop[16];
	uint8_t neighbor[16];              // who sent it, or for an export who would get it
	char interface[POLICY_INTERFACE_SIZE];
	uint32_t local_pref;
	uint32_t med;
	uint32_t metric;
	uint32_t tag;
	uint32_t preference;
	uint32_t weight;
	uint32_t as_path_size;             // bytes; segments as in AS_PATH with 4-byte AS numbers
	uint32_t communities_size;         // bytes; what a multiple of the element's size leaves over is not seen
	uint32_t large_size;
	uint32_t extended_size;
	const uint8_t *as_path;
	const uint8_t *communities;        // 4 bytes each, network order
	const uint8_t *large;              // 12 bytes each
	const uint8_t *extended;           // 8 bytes each
};

// What a verdict has changed.
enum policy_changed {
	POLICY_LOCAL_PREF = 1 << 0,
	POLICY_MED = 1 << 1,
	POLICY_METRIC = 1 << 2,
	POLICY_TAG = 1 << 3,
	POLICY_PREFERENCE = 1 << 4,
	POLICY_WEIGHT = 1 << 5,
	POLICY_ORIGIN = 1 << 6,
	POLICY_NEXT_HOP = 1 << 7,
	POLICY_COMMUNITIES = 1 << 8,
	POLICY_LARGE = 1 << 9,
	POLICY_EXTENDED = 1 << 10,
	POLICY_PREPEND = 1 << 11
};

enum policy_next_hop { POLICY_TO_ADDRESS = 1, POLICY_TO_SELF = 2, POLICY_TO_DISCARD = 3, POLICY_TO_PEER = 4 };

// Where lists are put together that a policy changes; the caller's, one for all its calls.
struct policy_room {
	uint8_t communities[POLICY_LIST_BYTES];
	uint8_t large[POLICY_LIST_BYTES];
	uint8_t extended[POLICY_LIST_BYTES];
};

// The answer; values count where `changed` has their bit.  Lists stand in the room until its next use.
struct policy_verdict {
	bool accept;
	uint8_t origin;
	uint8_t next_hop_kind;             // enum policy_next_hop
	uint8_t next_hop_family;
	uint8_t next_hop[16];
	uint32_t changed;                  // enum policy_changed
	uint32_t local_pref;
	uint32_t med;
	uint32_t metric;
	uint32_t tag;
	uint32_t preference;
	uint32_t weight;
	uint32_t communities_size;         // bytes
	uint32_t large_size;
	uint32_t extended_size;
	uint32_t prepend_count;
	uint32_t prepend[POLICY_MAX_PREPEND];  // the first comes first in the path, numbers in host order
	int32_t term;                      // that decided, from 0; -1: none did
};

struct policy;

// Copy and verify a program.  EINVAL: it is none; ENOMEM.
int policy_load(const void *program, size_t size, struct policy **policy);
void policy_free(struct policy *policy);

// Do answers depend on the prefix of a route?  If not, one holds for all routes that are else equal.
bool policy_looks_at_prefix(const struct policy *policy);

void policy_evaluate(const struct policy *policy, const struct policy_route *route, struct policy_room *room,
    struct policy_verdict *verdict);

#endif
