// The BGP table: what its parts share.
//
//   feed.c     framing of a session's bytes      message.c    one UPDATE; RFC 7606
//   canonical.c, attribute.c, as_path.c          canonical form of path attributes
//   enter.c    judgement of what came in         run.c        what is pending, grouped
//   intern.c   distinct attribute sets, bundles  prefixes.c   prefixes and their paths
//   best.c     RFC 4271 section 9.1.2            hops.c       next hops and their groups in the FIB
//   process.c  what waits -> FIB, groups         peers.c      neighbors come, change and go
//   group.c    update groups, what each is owed  rewrite.c    attributes as a neighbor gets them
//   pack.c     messages out                      show.c       iteration and counters
//
// A path is the number of a bundle: neighbor, path identifier, next hop and attributes, interned
// together.  A prefix is a few words beside its address, so that a route costs about 40 bytes.
#ifndef BGP_INTERNAL_H
#define BGP_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "abi/bgp.h"
#include "abi/core.h"
#include "base/bytes.h"
#include "policy/policy.h"

enum { MAX_PEERS = 65536, ROUTE_CHUNK = 4096, NONE = 0, ATTRIBUTES_ROOM = 65535, FIB_BATCH = 4096,
	SCRATCH_ROOM = 2 * ATTRIBUTES_ROOM + 1024, SCRATCH_ROOMS = 8, BEST_NONE = 0xffff, LOCAL_WEIGHT = 32768, DEFAULT_LOCAL_PREF = 100, SEVERAL = MAX_PEERS,
	GROUP_BUCKETS = 8192 };

enum attribute_type {
	ATTRIBUTE_ORIGIN = 1, ATTRIBUTE_AS_PATH = 2, ATTRIBUTE_NEXT_HOP = 3, ATTRIBUTE_MED = 4, ATTRIBUTE_LOCAL_PREF = 5,
	ATTRIBUTE_ATOMIC = 6, ATTRIBUTE_AGGREGATOR = 7, ATTRIBUTE_COMMUNITIES = 8, ATTRIBUTE_ORIGINATOR = 9,
	ATTRIBUTE_CLUSTER_LIST = 10, ATTRIBUTE_MP_REACH = 14, ATTRIBUTE_MP_UNREACH = 15, ATTRIBUTE_EXTENDED = 16,
	ATTRIBUTE_AS4_PATH = 17, ATTRIBUTE_AS4_AGGREGATOR = 18, ATTRIBUTE_EXTENDED6 = 25, ATTRIBUTE_LARGE = 32,
	ATTRIBUTE_OTC = 35
};

enum attribute_flags { FLAG_OPTIONAL = 0x80, FLAG_TRANSITIVE = 0x40, FLAG_PARTIAL = 0x20, FLAG_LONG = 0x10 };

enum segment_type { AS_SET = 1, AS_SEQUENCE = 2, AS_CONFED_SEQUENCE = 3, AS_CONFED_SET = 4 };
enum { AS_TRANS = 23456 };

static inline bool bit_get(const uint64_t *bits, uint32_t i)
{
	return bits[i / 64] >> i % 64 & 1;
}
static inline void bit_set(uint64_t *bits, uint32_t i)
{
	bits[i / 64] |= UINT64_C(1) << i % 64;
}
static inline void bit_clear(uint64_t *bits, uint32_t i)
{
	bits[i / 64] &= ~(UINT64_C(1) << i % 64);
}

// RFC 9234 section 4.1: roles are those of this router.
enum role { ROLE_PROVIDER, ROLE_ROUTE_SERVER, ROLE_CLIENT, ROLE_CUSTOMER, ROLE_PEER };

enum attributes_has {
	HAS_MED = 1, HAS_LOCAL_PREF = 2, HAS_ORIGINATOR = 4, HAS_OTC = 8,
	HAS_NO_EXPORT = 16, HAS_NO_ADVERTISE = 32
};

// A distinct set of path attributes: in wire form by ascending type with 4-byte AS numbers,
// without next hop and NLRI.  Known attributes have their own flags, and the Partial bit as received.
struct attributes {
	struct attributes *next;   // of the same bucket
	uint32_t hash;
	uint32_t refs;
	uint32_t med;
	uint32_t local_pref;
	uint32_t originator;
	uint32_t otc;
	uint32_t first_as;         // 0: none
	uint16_t path_length;      // RFC 4271 section 9.1.2.2 a
	uint16_t cluster_count;
	uint8_t origin;
	uint8_t has;               // enum attributes_has
	uint16_t size;
	uint8_t wire[];
};

// A next hop as it was announced, and the way to it.
struct next_hop {
	struct next_hop *next;     // of the same bucket
	uint32_t refs;             // of bundles
	uint32_t users;            // of them, those that are candidates: only then it is resolved
	uint32_t id;               // 0: nobody was asked to resolve it
	uint32_t metric;
	uint32_t count;
	struct nexthop *hops;      // resolved; none: unreachable
	struct next_hop_key {
		uint8_t address[16];
		uint8_t link_local[16]; // beside a global one; RFC 2545 section 3
		uint32_t interface;    // of the session
		uint8_t family;
		uint8_t has_link_local;
		uint8_t reserved[2];
	} key;
	uint32_t of;               // the neighbor that all users came from; SEVERAL: there were others
	bool reported;
	bool changed;              // since the last scan
	bool failed;               // that neighbor has gone: others are taken while there are any
	bool moved;                // its groups are to be flipped
};

struct bundle {
	struct attributes *attributes; // NULL: a free slot
	struct next_hop *next_hop; // NULL: local, without
	uint32_t hash;
	uint32_t next;             // of the same bucket, or free
	uint32_t refs;
	uint32_t path_id;
	uint32_t weight;
	uint16_t peer;             // 0: local
	uint16_t epoch;            // of the neighbor's family when it came
	uint8_t verdict;           // enum bgp_verdict
	uint8_t preference;        // by policy, where has_preference
	uint8_t has_preference : 1, discard : 1; // by policy: packets are dropped
	uint8_t protocol;          // of a local route: enum route_protocol
	uint32_t tag;              // by policy
};

enum route_flags {
	ROUTE_DIRTY = 1, ROUTE_HELD = 2, ROUTE_HELD_CHANGED = 4, ROUTE_WATCHED = 8, ROUTE_FIB_WAITS = 16,
	ROUTE_TOUCHED = 32, // the best path was replaced or removed
	ROUTE_LIVE = 64,
	ROUTE_INSTALLED = 128 // in the segment; of a held one: it may be, by our hand or the RIB's
};

// A prefix.  Its paths are bundles, the oldest first.
struct route {
	union {
		uint32_t path[2];
		uint32_t *paths;       // of more than two; room for a power of two
	};
	uint16_t count;
	uint16_t best;             // place of the best path, BEST_NONE: none
	uint16_t group;            // struct hop_group in the FIB
	uint8_t length;
	uint8_t flags;
	uint8_t address[];         // 4 of IPv4, 8 of IPv6; of a longer prefix its number in routes.wide
};

struct list {
	uint32_t *items;
	uint32_t first, count, room;
};

// Prefixes of a family: a hash of indices, and the prefixes in chunks that never move.
struct routes {
	uint32_t *index;           // of routes (prefixes.c); 0: free
	uint32_t capacity;         // a power of two
	uint32_t count;            // live ones
	uint32_t end;              // numbers below were used
	uint32_t free;             // 1 + first free number, linked by path[0]
	uint32_t chunk_room;
	uint8_t **chunks;
	uint32_t stride;
	uint32_t width;            // bytes of an address
	uint8_t (*wide)[16];       // addresses of prefixes of more than 64 bits
	uint32_t wide_end, wide_room;
	uint32_t wide_free;        // 1 + first free one, linked by its first bytes
	uint64_t paths;
	struct list dirty, held, watched, fib;
	uint32_t scan;             // next to look at for changed next hops; `end`: done
};

struct hop_group {
	struct hop_group *next;    // of the same bucket
	uint32_t routes;
	uint32_t hash;
	uint16_t number;           // ours
	uint16_t fib;              // the writer's; 0: none
	uint32_t count;
	struct next_hop *hops[];   // behind the last one the backup, NULL: none
};

// What decides how a route leaves; equal for all members of an update group.
struct export_key {
	struct bgp_family family;
	uint32_t local_as, remote_as, role;
	uint8_t kind, as4, extended, next_hop_self;
	uint8_t next_hop_unchanged, send_communities, remove_private_as, as_override;
	uint8_t neighbor_family;
	uint8_t neighbor[16];      // this and the interface where a policy may look at them
	uint8_t reserved[3];
	char interface[INTERFACE_NAME_SIZE];
	uint32_t peer;             // of a group of its own: with path identifiers
};

// Who of an update group gets something: not a path's source, and not who originated it.
struct audience {
	uint16_t except[2];        // members that do not get it; 0: none
	uint16_t only;             // the member that alone gets it; 0: all
};

// Whole messages.
struct chunk {
	uint32_t readers;          // members that have not come past it
	uint32_t size, room;
	uint32_t messages;
	struct audience audience;
	bool sealed;               // somebody has read it
	uint8_t *bytes;
};

struct item {
	uint32_t route;
	uint32_t path_id;
	uint32_t next;             // in its chain, 1 + number
};

struct chain {
	uint32_t bundle;           // 0: withdraw
	struct audience audience;
	bool denied;               // by policy
	uint32_t judged;           // when that was found, by run.keys; 0: it was not
	uint32_t first;            // item, 1 + number
};

// A part of what is pending, grouped by bundle.
struct run {
	struct item *items;
	uint32_t count, room;
	struct chain *chains;      // in the order of their first item
	uint32_t chain_count, chain_room, at;
	uint32_t recent;           // chain that was found last
	uint32_t *buckets;         // hash of chains
	uint32_t bucket_count;
	uint64_t *bits;            // routes of its items
	bool forced;               // equal ones leave too
	bool building;
	uint32_t keys;             // that the group has had while this was built
	uint32_t same_a, same_b;   // the last two bundles that were compared
	bool same;
	uint32_t known;            // the last bundle that a prefix was to be told of first; 0: none
	bool known_wanted, known_unheard;
	struct audience known_audience;
};

struct sent {
	uint32_t path_id : 31;     // ours
	uint32_t otherwise : 1;    // members are to be told of it in another way
	uint32_t bundle;
};

// Paths sent of one prefix, where several are (RFC 7911).
struct sent_paths {
	uint32_t count, room;
	struct sent list[];
};

struct update_group {
	struct update_group *next;
	struct export_key key;
	struct export_key before;  // by which members were told, while `comparing`
	uint32_t f;
	uint32_t members;
	uint32_t *out;             // of each route: the bundle that members were told of
	struct sent_paths **sent;  // instead of it, with path identifiers
	bool several;              // with path identifiers
	uint32_t room;             // of out or sent, and of bits
	uint64_t *pending_bits;
	struct list pending;
	struct run run;
	uint32_t walk;             // routes below were looked at
	bool walking;
	bool comparing;            // the walk finds what leaves in another way than by `before`
	bool forced;               // what is pending leaves even if equal
	bool end_of_rib;           // owed
	bool fresh;                // nothing has left
	struct chunk **chunks;
	uint32_t chunk_count, chunk_room;
	uint64_t first_chunk;      // number of chunks[0]
	uint64_t chunk_bytes;
	uint64_t advertised;       // prefixes
};

struct membership {
	struct update_group *group;
	uint64_t next_chunk;
	uint64_t excluded;         // prefixes of the group that this member was not told of
};

struct peer {
	uint32_t number;
	bool up;
	struct bgp_settings settings;
	uint16_t epoch[BGP_FAMILIES];
	struct membership out[BGP_FAMILIES];
	uint64_t received[BGP_FAMILIES], accepted[BGP_FAMILIES], stale[BGP_FAMILIES], prefixes[BGP_FAMILIES];
	uint64_t updates, updates_sent, withdrawn;
	uint64_t treated;          // UPDATEs treated as withdrawals
	uint64_t errors[BGP_REPAIRS][256];
	uint64_t refused[BGP_VERDICTS];
};

struct program {
	uint32_t number;
	bool retired;              // gone as soon as no group compares with it
	struct policy *policy;
};

struct bgp_table {
	struct table_writer *writer;
	struct bgp_identity identity;
	uint64_t seed;
	uint64_t bytes;
	struct peer **peers;
	uint32_t peer_room;
	struct routes routes[BGP_FAMILIES];
	struct attributes **attribute_buckets;
	uint32_t attribute_capacity, attribute_count;
	struct bundle *bundles;
	uint32_t *bundle_buckets;
	uint32_t bundle_capacity, bundle_room, bundle_end, bundle_free, bundle_count;
	struct next_hop *next_hop_buckets[256];
	struct next_hop **next_hops; // by id
	uint32_t next_hop_end, next_hop_room, next_hop_count;
	struct list new_hops, dead_hops;
	struct hop_group *group_buckets[GROUP_BUCKETS];
	struct hop_group **groups; // by number
	uint32_t group_room, group_low, group_count;
	struct update_group *update_groups;
	struct program *programs;
	uint32_t program_count, program_room;
	bool watching;
	uint32_t held_count;
	bool scan_all;             // the scan judges each prefix anew
	uint64_t installed;        // prefixes in the FIB
	uint32_t burst;            // so many changes of the FIB wait for the rest of what a neighbor left
	uint32_t idle_calls;       // of process(), since a neighbor read
	struct candidate *candidates; // of one prefix
	uint32_t candidate_room;
	struct policy_room *policy_room;
	uint8_t *shown;            // attributes of the last page of view "out"
	uint32_t shown_size;
	uint8_t scratch[SCRATCH_ROOMS][SCRATCH_ROOM];
	uint8_t encoded[SCRATCH_ROOM];
	uint8_t previous[SCRATCH_ROOM];
	uint8_t message[SCRATCH_ROOM];
};

// --- memory.c: counted, never aborting ---
void *memory_take(struct bgp_table *t, size_t bytes); // zeroed
void *memory_resize(struct bgp_table *t, void *block, size_t bytes);
void memory_give(struct bgp_table *t, void *block);
int list_push(struct bgp_table *t, struct list *list, uint32_t item);
void list_free(struct bgp_table *t, struct list *list);
static inline bool list_empty(const struct list *list)
{
	return list->first == list->count;
}
uint32_t list_pop(struct bgp_table *t, struct list *list);
void list_skip(struct bgp_table *t, struct list *list, uint32_t count);
uint64_t hash_bytes(uint64_t seed, const void *data, size_t size);

static inline uint32_t family_of(uint8_t family) // index; BGP_FAMILIES: none
{
	return family == FAMILY_IPV4 ? 0 : family == FAMILY_IPV6 ? 1 : BGP_FAMILIES;
}

// --- attribute.c ---
// One attribute of a set in canonical form.
struct attribute {
	uint8_t flags, type;
	uint32_t size;
	const uint8_t *value;
};
// Step through a set; false at its end.
bool attribute_next(const uint8_t **at, const uint8_t *end, struct attribute *out);
bool wire_find(const uint8_t *wire, uint32_t size, uint8_t type, struct attribute *out);
bool attributes_find(const struct attributes *set, uint8_t type, struct attribute *out);
// Append one: known types with a long length only where it is needed.
uint32_t attribute_put(uint8_t *to, uint8_t flags, uint8_t type, const uint8_t *value, uint32_t size);

// --- as_path.c: paths with 4-byte AS numbers unless told otherwise ---
// Length and first byte of each segment are sound.
bool as_path_valid(const uint8_t *data, uint32_t size, uint32_t width, bool confederation);
uint32_t as_path_length(const uint8_t *data, uint32_t size); // RFC 4271 section 9.1.2.2 a
uint32_t as_path_count(const uint8_t *data, uint32_t size, uint32_t as); // times that `as` stands in it
uint32_t as_path_first(const uint8_t *data, uint32_t size);
// Widen a path of 2-byte numbers; gives its size.
uint32_t as_path_widen(const uint8_t *data, uint32_t size, uint8_t *out);
// RFC 6793 section 4.2.3: merge AS_PATH (widened) and AS4_PATH.
uint32_t as_path_merge(const uint8_t *path, uint32_t size, const uint8_t *path4, uint32_t size4, uint8_t *out);
// Put numbers in front.
uint32_t as_path_prepend(const uint8_t *data, uint32_t size, const uint32_t *numbers, uint32_t count, uint8_t *out);
uint32_t as_path_narrow(const uint8_t *data, uint32_t size, uint8_t *out, bool *lossy);
// `keep`: stays though it is private; 0: none.
uint32_t as_path_without_private(const uint8_t *data, uint32_t size, uint32_t keep, uint8_t *out);
void as_path_override(uint8_t *data, uint32_t size, uint32_t from, uint32_t to);

// --- intern.c ---
// Each gives a counted reference, or NULL / 0 without memory.
struct attributes *attributes_intern(struct bgp_table *t, const uint8_t *wire, uint32_t size);
void attributes_drop(struct bgp_table *t, struct attributes *set);
uint32_t bundle_intern(struct bgp_table *t, const struct bundle *wanted);
void bundle_keep(struct bgp_table *t, uint32_t number);
void bundle_drop(struct bgp_table *t, uint32_t number);
static inline struct bundle *bundle_at(const struct bgp_table *t, uint32_t number)
{
	return &t->bundles[number];
}

// --- prefixes.c ---
void routes_open(struct routes *routes, uint32_t f);
void routes_close(struct bgp_table *t, struct routes *routes);
static inline struct route *route_at(const struct routes *routes, uint32_t number)
{
	return (struct route *)(void *)(routes->chunks[number / ROUTE_CHUNK] +
	                                (size_t)(number % ROUTE_CHUNK) * routes->stride);
}
static inline const uint32_t *route_paths(const struct route *route)
{
	return route->count > 2 ? route->paths : route->path;
}
static inline uint32_t *route_paths_mut(struct route *route)
{
	return route->count > 2 ? route->paths : route->path;
}
uint32_t routes_hash(const struct bgp_table *t, uint32_t f, const uint8_t *address, uint32_t length);
void routes_prefetch(const struct routes *routes, uint32_t hash);
// 1 + number; 0: not there.
uint32_t routes_find(const struct bgp_table *t, uint32_t f, const uint8_t *address, uint32_t length, uint32_t hash);
// Find or make; 1 + number, 0 without memory.
uint32_t routes_make(struct bgp_table *t, uint32_t f, const uint8_t *address, uint32_t length, uint32_t hash);
// Let go of a prefix that nobody needs any more.
void routes_release(struct bgp_table *t, uint32_t f, uint32_t number);
// The same for many: where they are most of all, the index is made anew.
void routes_release_list(struct bgp_table *t, uint32_t f, const uint32_t *numbers, uint32_t count);
int route_dirty(struct bgp_table *t, uint32_t f, uint32_t number);
// Put a path in the place of the neighbor's earlier one, or beside the others; takes the reference.
int route_path_set(struct bgp_table *t, uint32_t f, uint32_t number, uint32_t bundle);
// Remove the neighbor's path; false: there is none.
bool route_path_clear(struct bgp_table *t, uint32_t f, uint32_t number, uint32_t peer, uint32_t path_id);
void route_path_remove(struct bgp_table *t, uint32_t f, uint32_t number, uint32_t place);
void route_prefix(const struct routes *routes, const struct route *route, struct prefix *out);
static inline bool length_wide(const struct routes *routes, uint32_t length)
{
	return routes->width == 16 && length > 64;
}
// All bytes of its address that its length covers.
static inline const uint8_t *route_address(const struct routes *routes, const struct route *route)
{
	uint32_t number;
	if (!length_wide(routes, route->length))
		return route->address;
	memcpy(&number, route->address, sizeof(number));
	return routes->wide[number];
}

// --- best.c ---
// The place of the best path, BEST_NONE: none.  -ENOMEM.
int route_best(struct bgp_table *t, const struct route *route, uint16_t *best);
// Places of candidates by rank, at most `most`; -ENOMEM.
int route_rank(struct bgp_table *t, const struct route *route, uint16_t *places, uint32_t most);
// Places of the paths in use, the best first; -ENOMEM.
int route_used(struct bgp_table *t, const struct route *route, uint16_t places[MAX_GROUP_HOPS]);
// The place of the best path that leads elsewhere than those in use, BEST_NONE: none.  -ENOMEM.
int route_backup(struct bgp_table *t, const struct route *route, const uint16_t *places, uint32_t used, uint16_t *backup);
// For each path, in its place, an enum bgp_reason.  -ENOMEM.
int route_reasons(struct bgp_table *t, const struct route *route, uint8_t *reasons);

// --- hops.c ---
// Find or make, with a counted reference; NULL without memory.
struct next_hop *next_hop_get(struct bgp_table *t, const struct next_hop_key *key);
void next_hop_drop(struct bgp_table *t, struct next_hop *hop);
// A bundle that is a candidate begins or ceases to use it.  -ENOMEM.
int next_hop_use(struct bgp_table *t, struct next_hop *hop, uint32_t peer);
void next_hop_unuse(struct bgp_table *t, struct next_hop *hop);
// What a neighbor alone has brought has failed with it, or is back: one pass over the groups.
void next_hops_fail(struct bgp_table *t, uint32_t peer, bool failed);
bool next_hop_on_link(const struct next_hop *hop);
// Do packets go to the same address?
bool next_hop_same_way(const struct next_hop *a, const struct next_hop *b);
void next_hops_close(struct bgp_table *t);
// Does the bundle need its next hop resolved?
static inline bool bundle_tracked(const struct bundle *bundle)
{
	return bundle->next_hop != NULL && bundle->peer != 0 && bundle->verdict == BGP_ACCEPTED && !bundle->discard;
}
static inline bool bundle_usable(const struct bundle *bundle)
{
	return bundle->verdict == BGP_ACCEPTED && (!bundle_tracked(bundle) || bundle->next_hop->count != 0);
}
// The group for the paths in use: its number, counted; 0: without hops; -errno.
int hop_group_get(struct bgp_table *t, const struct route *route);
void hop_group_drop(struct bgp_table *t, uint16_t number);
int route_hops(struct bgp_table *t, const struct route *route, struct nexthop out[MAX_GROUP_HOPS]);

// --- process.c ---
int route_process(struct bgp_table *t, uint32_t f, uint32_t number);
// Much was taken away at once: neighbors are told of all that before the FIB follows.
void fib_burst(struct bgp_table *t);
uint8_t bundle_preference(const struct bgp_table *t, const struct bundle *bundle);
void bgp_route_fill(struct bgp_table *t, uint32_t f, const struct route *route, struct bgp_route *out);

// --- peers.c ---
struct peer *peer_find(const struct bgp_table *t, uint32_t number);
struct policy *program_find(const struct bgp_table *t, uint32_t number);
// Let go of retired ones that no group needs any more.
void programs_sweep(struct bgp_table *t);

// --- message.c ---
// Attributes of a local route in canonical form; NULL with *error set.
struct attributes *message_canonical(struct bgp_table *t, const uint8_t *data, uint32_t size, int *error);
int message_update(struct bgp_table *t, struct peer *peer, const uint8_t *data, uint32_t size, uint32_t base,
	struct bgp_event *events, uint32_t room, uint32_t *count);

// --- group.c ---
int group_grow(struct bgp_table *t, struct update_group *group, uint32_t number);
int group_join(struct bgp_table *t, struct peer *peer, uint32_t f);
void group_leave(struct bgp_table *t, struct peer *peer, uint32_t f);
// Owe the neighbor all of a family anew.
int group_restart(struct bgp_table *t, struct peer *peer, uint32_t f);
// The neighbor has other settings: owe it what leaves otherwise than before.
int group_change(struct bgp_table *t, struct peer *peer, uint32_t f);
bool for_member(const struct audience *audience, uint32_t peer);
bool groups_use_policy(const struct bgp_table *t, uint32_t number);
// Owe members the prefix anew, if its best path differs from what they were told.
int groups_mark(struct bgp_table *t, uint32_t f, uint32_t number, uint32_t best);
bool groups_refer(const struct bgp_table *t, uint32_t f, uint32_t number);
// Go on with walks over the whole table.  -ENOMEM.
int groups_walk(struct bgp_table *t, uint32_t *budget);
bool groups_waiting(const struct bgp_table *t);
// Members are to be told of something, or have not read it.
bool groups_owe(const struct bgp_table *t);
void update_groups_close(struct bgp_table *t);
static inline bool group_member(const struct update_group *group, const struct peer *peer)
{
	return peer != NULL && peer->out[group->f].group == group;
}
uint32_t group_told(const struct update_group *group, uint32_t number);

// --- run.c ---
// Group what is pending by bundle, at most `budget` prefixes.  -ENOMEM.
int run_build(struct bgp_table *t, struct update_group *group, uint32_t *budget);
// A member has gone to a group of its own: that one owes it the withdrawals that have not left.
int run_take_withdrawals(struct bgp_table *t, const struct run *from, struct update_group *to, uint32_t peer);
// Let go of its chains; the items have left.
void run_clear(struct bgp_table *t, struct run *run);
void run_free(struct bgp_table *t, struct run *run);
void group_set_told(struct bgp_table *t, struct update_group *group, uint32_t number, uint32_t bundle);
// Nobody of the group gets it.
bool group_unheard(const struct bgp_table *t, const struct update_group *group, const struct audience *audience);
struct audience group_audience(const struct bgp_table *t, const struct update_group *group, uint32_t bundle);

// --- pack.c ---
int pack_chain(struct bgp_table *t, struct update_group *group, const struct chain *chain);
int pack_end_of_rib(struct bgp_table *t, struct update_group *group);
void chunk_drop(struct bgp_table *t, struct chunk *chunk);

// --- rewrite.c ---
struct rewritten {
	uint32_t size;             // of the attributes, without MP_REACH_NLRI
	uint32_t next_hop_size;    // of MP_REACH_NLRI; 0: the attributes have NEXT_HOP
	uint8_t next_hop[32];
};
// One change to a set of attributes.
struct edit {
	uint8_t type, flags;
	bool remove;
	uint32_t size;
	const uint8_t *value;
};
// Apply edits, ascending by type; gives the new size, 0: it would be too large.
uint32_t attributes_edit(const uint8_t *wire, uint32_t size, const struct edit *edits, uint32_t count, uint8_t *out,
	uint32_t room);
void export_key_make(const struct peer *peer, uint32_t f, struct export_key *out);
// May this path leave to the group at all, whatever policies say?
bool rewrite_allowed(const struct bgp_table *t, const struct update_group *group, const struct bundle *bundle);
bool rewrite_by_prefix(const struct bgp_table *t, const struct export_key *key);
// The attributes as members get them, in `out` (ATTRIBUTES_ROOM); false: they do not get the route.
bool rewrite(struct bgp_table *t, const struct update_group *group, const struct bundle *bundle,
	const struct prefix *prefix, uint8_t *out, struct rewritten *result);
// Do members get a path otherwise than by the key `before`?
bool rewrite_differs(struct bgp_table *t, const struct update_group *group, const struct bundle *bundle,
	const struct prefix *prefix);
// Would members get the same for both?
bool rewrite_same(struct bgp_table *t, const struct update_group *group, const struct bundle *a,
	const struct bundle *b, const struct prefix *prefix);
void policy_route_fill(const struct bundle *bundle, const struct prefix *prefix, struct policy_route *out);
// Edits for what a policy has changed; `buffer` holds values.  Gives their number.
uint32_t policy_edits(const struct attributes *set, const struct policy_verdict *verdict,
	const struct policy_room *room, uint8_t *buffer, struct edit *edits);
// The size that messages to a group may have.
static inline uint32_t group_limit(const struct update_group *group)
{
	return group->key.extended ? BGP_MESSAGE_EXTENDED : BGP_MESSAGE;
}

#endif
