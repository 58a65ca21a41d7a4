// Rates: what may reach the slow paths (control_plane.c), and what interfaces may carry (police.c).
//
// Control publishes them (abi/police.h); without a table there is no limit.  The buckets are
// private, of all workers, and begin full.
#ifndef FORWARD_POLICE_H
#define FORWARD_POLICE_H

#include "abi/police.h"
#include "base/bucket.h"
#include "forward/forward.h"
#include "forward/stage.h"
#include "wire/ip6.h"

struct policer {
	uint64_t full;               // see base/bucket.h
	struct bucket_rate rate;     // tokens are bytes, or packets
	uint8_t unit;                // enum police_unit; 0: there is no policer
};

struct police {
	uint64_t root, epoch;        // of the table that is followed; 0: none
	uint64_t refused, refused_epoch; // one that failed its checks
	struct bucket_rate control[CONTROL_CLASSES];
	uint64_t control_full[MAX_INTERFACES][CONTROL_CLASSES];
	struct policer policers[MAX_INTERFACES][POLICE_DIRECTIONS];
	struct police_peer *peers;   // ascending
	uint32_t peer_count;
};

// --- police.c ---
int police_init(struct forward *f);
void police_fini(struct forward *f);
// Is the published table perhaps another one?
bool police_stale(const struct forward *f);
// Follow it if so; called by worker 0 while no other worker forwards.
void police_follow(struct forward *f);
// The stage of both directions: DROP_POLICE_IN or DROP_POLICE_OUT where the packet is too much.
enum drop_reason stage_police(struct forward *f, struct stage *stage);
// Is this the address of a configured neighbor of a routing protocol?
bool police_is_peer(const struct forward *f, uint8_t family, const uint8_t *address);

// --- control_plane.c: worker 0 only ---
// May a packet that came in on `interface` cause work of this class?  Our own (0) always may.  Counts.
bool control_allow(struct forward *f, uint16_t interface, enum control_class class);
// A packet for ourselves, before anybody looks into it: DROP_CONTROL_PLANE where it is too much.
enum drop_reason control_local4(struct forward *f, const struct packet *packet);
enum drop_reason control_local6(struct forward *f, const struct packet *packet, const struct ip6_walk *walk);
// One with options, which are looked at wherever it goes.
enum drop_reason control_options(struct forward *f, const struct packet *packet);

#endif
