// What the files of neighbor resolution share: the table (neighbor_table.c), the state
// machine (neighbor.c), its two protocols (arp.c, nd.c) and address detection (dad.c).
#ifndef FORWARD_NEIGHBOR_H
#define FORWARD_NEIGHBOR_H

#include "forward/forward.h"
#include "wire/ethernet.h"

#define NS_PER_S 1000000000ull

enum {
	NEIGHBOR_WINDOW = 64,            // slots after its hash that a key may lie in
	NEIGHBOR_LIMIT = MAX_NEIGHBORS / 8 * 7,
	NEIGHBOR_INCOMPLETE_LIMIT = 1024, // so that a sweep cannot push out known neighbors
	SOLICITED_SLOTS = 16384,         // a power of two
	DAD_BUCKETS = 4096,              // a power of two
	SILENT_NEIGHBORS = 64            // that BFD has found dead, noted at a time
};

// When a key was last asked for, kept beyond its entry: one request a second for each
// destination holds even while a sweep turns the table over.
struct solicited {
	uint64_t key;
	uint64_t at_ns;
};

struct dad_index {
	uint16_t heads[DAD_BUCKETS];     // first entry of state->dad + 1, by address
	uint16_t next[MAX_ADDRESSES];
	bool listed[MAX_ADDRESSES];      // scratch of dad_tables_changed
	uint64_t defended_ns[MAX_ADDRESSES];
	uint32_t count;                  // entries 0..count-1 of state->dad are in use
	uint64_t deadline_ns;            // 0: none
};

// Private to this process and rebuilt from the state segment.
struct neighbor_table {
	uint16_t heap[MAX_NEIGHBORS];    // entries by deadline, a binary heap
	uint16_t place[MAX_NEIGHBORS];   // position in the heap + 1; 0: no timer
	uint32_t heap_count;
	uint32_t used;
	uint16_t older[MAX_NEIGHBORS];   // list of the INCOMPLETE ones, entry + 1
	uint16_t newer[MAX_NEIGHBORS];
	uint16_t oldest, newest;
	uint32_t incomplete;
	uint16_t pending_free[MAX_PENDING]; // a stack
	uint32_t pending_free_count;
	uint32_t pending_fresh;          // slots from here on were never used
	struct solicited solicited[SOLICITED_SLOTS];
	uint64_t heard_ns[MAX_NEIGHBORS]; // when a known neighbor was last heard out of turn
	bool up[MAX_INTERFACES];
	uint8_t macs[MAX_INTERFACES][ETHERNET_ADDRESS];
	uint64_t prefixes[MAX_INTERFACES]; // digest; 0: not known
	struct dad_index dad;
	// Set by other workers, atomically: entries that they have sent to while they were STALE.
	uint64_t touched[MAX_NEIGHBORS / 64];
	uint32_t touched_any;
	uint32_t silent_count;
	uint64_t silent[SILENT_NEIGHBORS]; // silent.c
};

// --- silent.c ---
// BFD has found that a neighbor is dead, or no longer.
void neighbor_silence(struct forward *f, uint16_t interface, uint8_t family, const uint8_t *address, bool silent);
// Is it?  Any worker may ask; by its hash, where that is known.
bool neighbor_silent(const struct forward *f, uint16_t interface, uint8_t family, const uint8_t *address);
bool neighbor_silent_by(const struct forward *f, uint64_t hash);

// --- neighbor_table.c ---
void neighbor_table_attach(struct forward *f);
uint64_t neighbor_hash(const struct forward *f, uint16_t interface, uint8_t family, const uint8_t *address);
struct neighbor_entry *neighbor_find(const struct forward *f, uint16_t interface, uint8_t family,
	const uint8_t *address);
// A new entry in no state yet, making room where that is allowed; NULL and *reason if not.
struct neighbor_entry *neighbor_create(struct forward *f, uint16_t interface, uint8_t family, const uint8_t *address,
	enum drop_reason *reason);
// Forget an entry; what it holds is dropped for `reason`.
void neighbor_remove(struct forward *f, struct neighbor_entry *entry, enum drop_reason reason);
// The only place that changes a state.  deadline 0: no timer.
void neighbor_enter(struct forward *f, struct neighbor_entry *entry, enum neighbor_state state, uint64_t deadline_ns);
void neighbor_arm(struct forward *f, struct neighbor_entry *entry, uint64_t deadline_ns);
// Change the link-layer address, in one store.
void neighbor_set_mac(struct neighbor_entry *entry, const uint8_t *mac);
// When it was last sent to; any worker may note that.
uint64_t neighbor_used(const struct neighbor_entry *entry);
void neighbor_use(struct neighbor_entry *entry, uint64_t now);
// Keep a packet until the neighbor is known.  Takes it on DROP_NONE.
enum drop_reason neighbor_hold(struct forward *f, struct neighbor_entry *entry, struct packet *packet);
// Detach the chain of waiting packets; feed it to neighbor_next_held until that gives NULL.
uint32_t neighbor_detach(struct neighbor_entry *entry);
struct packet *neighbor_next_held(struct forward *f, uint32_t *chain);
// May this destination be asked for now?  Notes the time if so.
bool neighbor_may_solicit(struct forward *f, const struct neighbor_entry *entry);
bool neighbor_was_solicited(const struct forward *f, uint64_t key);

// --- neighbor.c ---
// What a message said of a neighbor's link-layer address.
enum neighbor_evidence {
	EVIDENCE_ASKED_US,   // it asked for one of our addresses: we shall talk
	EVIDENCE_ANSWER,     // an answer that may be to our request
	EVIDENCE_UNSOLICITED // an announcement: news of those that we know, nothing more
};
// May a message about `address` cause work?  What answers us always may, what a known neighbor says
// may now and then; all else is policed.  `entry`: of that address, or NULL.
bool neighbor_admit(struct forward *f, uint16_t interface, const struct neighbor_entry *entry, const uint8_t *mac,
	bool answer);
void neighbor_learn(struct forward *f, uint16_t interface, uint8_t family, const uint8_t *address, const uint8_t *mac,
	enum neighbor_evidence evidence);
void neighbor_reachable(struct forward *f, struct neighbor_entry *entry, const uint8_t *mac);
void neighbor_stale(struct forward *f, struct neighbor_entry *entry, const uint8_t *mac);
// Somebody else claims the address of a neighbor in use: ask the one that we know.
void neighbor_doubt(struct forward *f, struct neighbor_entry *entry);
// The link-layer address of a group or of the limited broadcast; false for others.
bool neighbor_group_mac(uint8_t family, const uint8_t *address, uint8_t *mac);
bool neighbor_has_mac(const struct neighbor_entry *entry);
// An empty packet of ours with room for `length` bytes of payload, which are zeroed.
struct packet *packet_own(struct forward *f, uint32_t length);
// Send a packet of ours to a link-layer address; counts and frees it where that fails.
void packet_send_own(struct forward *f, const struct interface_entry *out, const uint8_t *mac, uint16_t ethertype,
	struct packet *packet);

// --- neighbor_worker.c ---
// The entry of a neighbor whose MAC is known, or NULL; any worker may ask.
struct neighbor_entry *neighbor_known(const struct forward *f, uint16_t interface, uint8_t family,
	const uint8_t *address);
// neighbor_output of a transit worker: send, or hand over.
enum drop_reason neighbor_transit(struct forward *f, const struct interface_entry *out, uint8_t family,
	const uint8_t *address, struct packet *packet);

// --- arp.c ---
// Ask for `target`; mac NULL: broadcast.  source NULL: choose one of the interface's.
void arp_request(struct forward *f, const struct interface_entry *out, const uint8_t *target, const uint8_t *mac,
	const uint8_t *source);
void arp_announce(struct forward *f, const struct interface_entry *out, const uint8_t *address);

// --- nd.c ---
void nd_solicit(struct forward *f, const struct interface_entry *out, const uint8_t *target, const uint8_t *mac,
	const uint8_t *source);
// The probe of duplicate address detection: from the unspecified address.
void nd_probe(struct forward *f, const struct interface_entry *out, const uint8_t *target);
void nd_announce(struct forward *f, const struct interface_entry *out, const uint8_t *address);

// --- dad.c ---
void dad_attach(struct forward *f);
void dad_interface(struct forward *f, uint16_t interface, bool up);
// The entry of one of our addresses on this interface, whatever its state, or NULL.
struct dad_entry *dad_find(const struct forward *f, uint8_t family, const uint8_t *address, uint16_t interface);
// Somebody else uses this address of ours on the link.
void dad_conflict(struct forward *f, struct dad_entry *entry);
// Is `target` in the connected prefix of this address?
bool address_covers(const struct address_entry *prefix, const uint8_t *target);
// A usable address of ours on this interface that is best for talking to `target`.
const uint8_t *dad_source(const struct forward *f, uint8_t family, uint16_t interface, const uint8_t *target);

#endif
