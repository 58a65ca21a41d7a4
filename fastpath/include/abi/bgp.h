// The BGP routes of one VR: what Python sees of fastpath/src/bgp.
//
// No shared memory: the table is private to the process that opened it, and used by one thread.
// The contract of each call stands in vrouter/rib/bgp_table.py.  Addresses are 16 bytes beside
// their family, IPv4 in the first four (abi/address.h).  Functions give 0 or a count, or -errno.
#ifndef ABI_BGP_H
#define ABI_BGP_H

#include <stdint.h>
#include "abi/tables.h"

enum bgp_limits {
	BGP_FAMILIES = 2,          // index 0: IPv4 unicast, 1: IPv6 unicast
	BGP_HEADER = 19,
	BGP_MESSAGE = 4096,        // RFC 4271 section 4.1
	BGP_MESSAGE_EXTENDED = 65535, // RFC 8654
	BGP_NEXT_HOPS_SHOWN = 64,
	BGP_NO_ROOM = 105          // ENOBUFS: one prefix has more paths than there was room for
};

enum bgp_peer_kind { BGP_LOCAL = 0, BGP_EXTERNAL = 1, BGP_INTERNAL = 2, BGP_CLIENT = 3 };

enum bgp_event_kind {
	BGP_EVENT_MESSAGE = 1, BGP_EVENT_END_OF_RIB = 2, BGP_EVENT_ERROR = 3, BGP_EVENT_MAX_PREFIX = 4,
	BGP_EVENT_UPDATE_EARLY = 5
};

// Why a received path is not a candidate.
enum bgp_verdict {
	BGP_ACCEPTED = 0, BGP_REFUSED_POLICY, BGP_REFUSED_NO_POLICY, BGP_REFUSED_AS_LOOP, BGP_REFUSED_ORIGINATOR,
	BGP_REFUSED_CLUSTER, BGP_REFUSED_NEXT_HOP, BGP_REFUSED_OTC,
	BGP_REFUSED_PREFIX, // which is ignored: no path has this one
	BGP_VERDICTS
};

// Where a path lost against the best one; RFC 4271 section 9.1.2.
enum bgp_reason {
	BGP_REASON_BEST = 0, BGP_REASON_MULTIPATH, BGP_REASON_REFUSED, BGP_REASON_UNREACHABLE, BGP_REASON_WEIGHT,
	BGP_REASON_LOCAL_PREF, BGP_REASON_LOCAL, BGP_REASON_AS_PATH, BGP_REASON_ORIGIN, BGP_REASON_MED,
	BGP_REASON_EXTERNAL, BGP_REASON_METRIC, BGP_REASON_AGE, BGP_REASON_ROUTER_ID, BGP_REASON_CLUSTER_LIST,
	BGP_REASON_ADDRESS, BGP_REASON_PATH_ID, BGP_REASONS
};

// What was done about a malformed attribute; RFC 7606 section 2.
enum bgp_repair { BGP_WITHDRAWN = 0, BGP_DISCARDED = 1, BGP_RESET = 2, BGP_REPAIRS };

struct bgp_identity {
	uint32_t local_as;
	uint32_t router_id;
	uint32_t cluster_id;       // 0: the router id
	uint16_t multipath;
	uint16_t multipath_internal;
	uint8_t multipath_relax;
	uint8_t always_compare_med;
	uint8_t compare_router_id;
	uint8_t preference_external;
	uint8_t preference_internal;
	uint8_t preference_local;
	uint8_t reserved[2];
};

struct bgp_family {
	uint8_t enabled;
	uint8_t receive_paths;     // RFC 7911
	uint8_t extended_next_hop; // RFC 8950
	uint8_t import_deny;       // RFC 8212
	uint8_t export_deny;
	uint8_t next_hop_family;   // of next_hop; 0: none
	uint8_t has_link_local;
	uint8_t reserved;
	uint32_t send_paths;       // RFC 7911; 0: the best alone, without identifiers
	uint32_t max_prefixes;
	uint32_t import_policy;    // number of a program; 0: accept all
	uint32_t export_policy;
	uint8_t next_hop[16];
	uint8_t next_hop_link_local[16];
};

struct bgp_settings {
	uint8_t kind;              // enum bgp_peer_kind
	uint8_t family;            // of address
	uint8_t as4;
	uint8_t extended_messages;
	int8_t role;               // RFC 9234; -1: none
	uint8_t next_hop_self;
	uint8_t next_hop_unchanged;
	uint8_t send_communities;
	uint8_t remove_private_as;
	uint8_t as_override;
	uint8_t shared_link;
	uint8_t enforce_first_as;
	uint32_t local_as;
	uint32_t remote_as;
	uint32_t router_id;
	uint32_t interface;        // the caller's number of the link of a session over link-local addresses
	uint32_t allow_own_as;
	uint32_t weight;
	uint8_t address[16];
	char interface_name[INTERFACE_NAME_SIZE];
	struct bgp_family families[BGP_FAMILIES];
};

struct bgp_event {
	uint8_t kind;              // enum bgp_event_kind
	uint8_t type;              // of a message
	uint8_t code;              // of a NOTIFICATION to be sent
	uint8_t subcode;
	uint8_t family;            // 4 or 6
	uint8_t reserved[3];
	uint32_t count;
	uint32_t offset;           // of the body within what was fed
	uint32_t length;
};

struct bgp_fed {
	uint32_t consumed;
	uint32_t updates;
	uint32_t events;
};

struct bgp_next_hop {
	uint32_t id;
	uint32_t interface;
	uint8_t family;
	uint8_t reserved[7];
	uint8_t address[16];
};

// The best path of a prefix; hop_count 0: none.
struct bgp_route {
	struct prefix prefix;
	uint8_t preference;
	uint8_t internal;
	uint8_t installed;         // 0: a prefix without a best path
	uint8_t reserved;
	uint32_t metric;
	uint32_t hop_count;
	uint32_t size;             // of the attributes
	const uint8_t *attributes; // valid until the next call that changes the table
	struct nexthop hops[BGP_NEXT_HOPS_SHOWN];
};

// One path as `show` sees it.
struct bgp_path {
	struct prefix prefix;
	uint32_t peer;             // 0: local
	uint32_t path_id;          // received; in view "out": sent
	uint32_t metric;           // of the way to the next hop
	uint32_t weight;
	uint32_t size;
	uint8_t verdict;           // enum bgp_verdict
	uint8_t reason;            // enum bgp_reason
	uint8_t stale;
	uint8_t best;              // 1: best; 2: used beside it
	uint8_t next_hop_family;
	uint8_t reserved[3];
	uint8_t next_hop[16];
	uint32_t next_hop_interface;
	uint32_t reserved2;
	const uint8_t *attributes; // valid until the next call that changes the table
};

struct bgp_family_counts {
	uint64_t received;         // paths held of this neighbor
	uint64_t accepted;
	uint64_t sent;             // prefixes that the neighbor was told of
	uint64_t stale;
};

struct bgp_counts {
	uint64_t updates;
	uint64_t updates_sent;
	uint64_t withdrawn;        // prefixes withdrawn by the neighbor
	uint64_t treated_as_withdrawn; // UPDATEs
	struct bgp_family_counts families[BGP_FAMILIES];
	uint64_t errors[3][256];   // [enum bgp_repair][type of the attribute]; type 0: the message as a whole
	uint64_t refused[BGP_VERDICTS];
};

struct bgp_totals {
	uint64_t prefixes[BGP_FAMILIES];
	uint64_t paths[BGP_FAMILIES];
	uint64_t attributes;       // distinct sets
	uint64_t bundles;          // distinct (neighbor, path identifier, next hop, attributes)
	uint64_t next_hops;
	uint64_t groups;           // update groups
	uint64_t hop_groups;       // next-hop groups of the FIB
	uint64_t bytes;            // private memory
};

enum bgp_view { BGP_VIEW_LOC = 0, BGP_VIEW_IN = 1, BGP_VIEW_OUT = 2 };

struct bgp_table;
struct table_writer;

// Without a writer, FIB changes wait for bgp_fib().
int bgp_table_open(struct table_writer *writer, struct bgp_table **out);
void bgp_table_close(struct bgp_table *table);
int bgp_configure(struct bgp_table *table, const struct bgp_identity *identity);
// Set or replace a compiled policy program (policy/policy.h); size 0 takes it away.
int bgp_policy(struct bgp_table *table, uint32_t number, const void *program, uint32_t size);

int bgp_peer_add(struct bgp_table *table, uint32_t peer);
int bgp_peer_delete(struct bgp_table *table, uint32_t peer);
int bgp_peer_up(struct bgp_table *table, uint32_t peer, const struct bgp_settings *settings);
int bgp_peer_change(struct bgp_table *table, uint32_t peer, const struct bgp_settings *settings);
// Bit i of `keep`: routes of family index i become stale.
int bgp_peer_down(struct bgp_table *table, uint32_t peer, uint32_t keep);
int bgp_peer_flush(struct bgp_table *table, uint32_t peer, uint8_t family, int stale_only);
int bgp_peer_stale(struct bgp_table *table, uint32_t peer, uint8_t family);

int bgp_feed(struct bgp_table *table, uint32_t peer, const uint8_t *data, uint32_t length, struct bgp_event *events,
	uint32_t room, struct bgp_fed *fed);
int bgp_originate(struct bgp_table *table, const struct prefix *prefix, uint8_t next_hop_family,
	const uint8_t next_hop[16], const uint8_t *attributes, uint32_t size, uint8_t protocol);
int bgp_unoriginate(struct bgp_table *table, const struct prefix *prefix);
// 1: more waits.
int bgp_process(struct bgp_table *table, uint32_t limit);
int bgp_waiting(const struct bgp_table *table);
// Bytes written.
int bgp_export(struct bgp_table *table, uint32_t peer, uint8_t *buffer, uint32_t room);
int bgp_refresh(struct bgp_table *table, uint32_t peer, uint8_t family);

int bgp_new_next_hops(struct bgp_table *table, struct bgp_next_hop *out, uint32_t room);
int bgp_dead_next_hops(struct bgp_table *table, uint32_t *out, uint32_t room);
int bgp_next_hop_set(struct bgp_table *table, uint32_t next_hop, uint32_t metric, const struct nexthop *hops,
	uint32_t count);

int bgp_hold(struct bgp_table *table, const struct prefix *prefix);
int bgp_unhold(struct bgp_table *table, const struct prefix *prefix);
int bgp_held(struct bgp_table *table, struct bgp_route *out, uint32_t room);
int bgp_watch(struct bgp_table *table, int enabled);
int bgp_changes(struct bgp_table *table, struct bgp_route *out, uint32_t room);
int bgp_fib(struct bgp_table *table, struct bgp_route *out, uint32_t room);
// 1: found.
int bgp_lookup(struct bgp_table *table, uint8_t family, const uint8_t address[16], uint32_t longest,
	struct bgp_route *out);
// Remove from the writer's segment BGP routes that this table has no path to.
int bgp_sweep(struct bgp_table *table);

int bgp_counts(struct bgp_table *table, uint32_t peer, struct bgp_counts *out);
int bgp_totals(struct bgp_table *table, struct bgp_totals *out);
// Paths in the order of prefixes, after `after` (family 0: from the start).  Whole prefixes only;
// -ENOBUFS: the next prefix has more paths than `room`.
int bgp_routes(struct bgp_table *table, uint8_t family, uint32_t view, uint32_t peer, const struct prefix *after,
	struct bgp_path *out, uint32_t room);
int bgp_explain(struct bgp_table *table, const struct prefix *prefix, struct bgp_path *out, uint32_t room);
// The same in the order of the table, for dumps: `cursor` begins at 0 and the table must not change.
int bgp_dump(struct bgp_table *table, uint8_t family, uint64_t *cursor, struct bgp_path *out, uint32_t room);

#endif
