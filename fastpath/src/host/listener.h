// The multicast listener of each interface: what the files of IGMP and MLD share.  Private to
// the host stack, as internal.h.
//
//   membership.c --update--> listener.c --records--> listener_report.c --> igmp.c | mld.c
//                               ^---------------queries, reports of others----------'
#ifndef HOST_LISTENER_H
#define HOST_LISTENER_H

#include "host/internal.h"

enum listener_limits {
	LISTENER_FAMILIES = 2,
	LISTENER_BUCKETS = 1024,
	LISTENER_NODES = 16384,
	// One for each membership, solicited-node group and all-routers group: never too few.
	LISTENER_GROUPS = MAX_SOCKETS * SOCKET_MEMBERSHIPS + MAX_ADDRESSES + 2 * MAX_INTERFACES
};

#define LISTENER_NEVER UINT64_MAX
#define LISTENER_MS 1000000ull
#define LISTENER_S 1000000000ull

// RFC 3376 section 4.2.12, RFC 3810 section 5.2.12.
enum record_type {
	RECORD_IS_INCLUDE = 1, RECORD_IS_EXCLUDE = 2, RECORD_TO_INCLUDE = 3, RECORD_TO_EXCLUDE = 4, RECORD_ALLOW = 5, RECORD_BLOCK = 6
};

// An address in the filter of a group, or in the list of a query that waits for its answer.
struct listener_node {
	uint8_t address[16];
	uint16_t next;        // number + 1
	uint8_t changes;      // records that are still to tell of its change
	bool listed;          // it is in the filter; else it has left it, and `changes` is not 0
};

// What one interface wants of one group (RFC 3376 section 3.2), and what it has told.
struct listener_group {
	uint8_t address[16];
	uint64_t answer_at;   // answer to a query, or the next unsolicited report of an old version
	uint32_t chain;       // next of the bucket, or of the free ones: number + 1
	uint32_t next;        // of the interface
	uint32_t previous;
	uint32_t next_changed;
	uint16_t nodes;       // first of the filter: number + 1
	uint16_t asked;       // first of those that a query asked for; 0: for all
	uint16_t interface;
	uint8_t family;       // 0: free
	uint8_t mode;         // enum membership_mode
	uint8_t mode_changes; // records that are still to tell of a change of mode
	uint8_t unsolicited;  // reports of an old version that are still to come
	bool implicit;        // the VR itself is a member
	bool wanted;          // scratch of listener_tick
	bool queued;          // it is on the list of changed ones
	bool announced;       // a report said that there are members
	bool reporter;        // the last report on the link was ours (old versions)
};

// One interface and family.
struct listener_port {
	bool up;
	bool local;           // MLD: it has a link-local address to speak from
	uint8_t robustness;   // Robustness Variable
	uint64_t interval;    // Query Interval
	uint64_t response;    // Query Response Interval
	uint64_t older[2];    // until when a querier of version 1, of version 2 is taken to be there
	uint64_t general_at;  // answer to a general query
	uint64_t changes_at;  // report of what has changed
	uint64_t answers_at;  // not later than any group's answer_at
	uint32_t groups;      // first: number + 1
	uint32_t changed;
};

struct listener {
	bool stale;           // interfaces, links or addresses are other ones
	uint64_t deadline;
	uint32_t groups_used; // slots below were in use once
	uint32_t groups_free;
	uint32_t nodes_used;
	uint16_t nodes_free;
	uint32_t buckets[LISTENER_BUCKETS];
	struct listener_port ports[LISTENER_FAMILIES][MAX_INTERFACES];
	struct listener_group groups[LISTENER_GROUPS];
	struct listener_node nodes[LISTENER_NODES];
};

struct listener_query {
	uint8_t family;
	uint8_t version;      // 1 .. listener_newest()
	uint8_t robustness;   // 0: not told
	uint16_t interface;
	uint32_t source_count;
	uint64_t delay;       // Max Response Time
	uint64_t interval;    // 0: not told
	uint8_t group[16];    // all zero: a general query
	const uint8_t *sources; // as on the wire
};

// --- listener_table.c ---
struct listener *listener_new(void);
void listener_free(struct listener *l);
bool listener_joined(const struct listener *l, const struct listener_group *group);
// A node before `next`; 0 where none is left.
uint16_t listener_node_new(struct listener *l, const uint8_t *address, uint16_t next);
// Take out the node that *at leads to.
void listener_node_remove(struct listener *l, uint16_t *at);
void listener_nodes_clear(struct listener *l, uint16_t *head);
struct listener_node *listener_node_find(struct listener *l, uint16_t head, const uint8_t *address);
struct listener_group *listener_find(struct listener *l, uint8_t family, uint16_t interface, const uint8_t *address);
struct listener_group *listener_group_new(struct listener *l, uint8_t family, uint16_t interface, const uint8_t *address);
// Forget a group that nobody wants and of which nothing is still to be said.
void listener_group_release(struct listener *l, struct listener_group *group);
// Is a change of the group still to be told?
bool listener_changing(struct listener *l, const struct listener_group *group);
// Nothing is left to be told of what the group was.
void listener_forget_changes(struct listener *l, struct listener_group *group);

// --- listener.c ---
// The memberships of a group on an interface may have changed.
void listener_update(struct host *host, uint8_t family, uint16_t interface, const uint8_t *group);
void listener_query(struct host *host, const struct listener_query *query);
// Somebody else has reported the group with an old version.
void listener_heard(struct host *host, uint8_t family, uint16_t interface, const uint8_t *group);
void listener_tick(struct host *host);
uint64_t listener_deadline(const struct host *host);

static inline uint8_t listener_newest(uint8_t family)
{
	return family == FAMILY_IPV4 ? 3 : 2;
}

static inline struct listener_port *listener_port_of(struct listener *l, uint8_t family, uint16_t interface)
{
	return &l->ports[family == FAMILY_IPV6][interface];
}

static inline struct listener_node *listener_node(struct listener *l, uint16_t at)
{
	return &l->nodes[at - 1];
}

static inline uint32_t listener_address_size(uint8_t family)
{
	return family == FAMILY_IPV4 ? 4 : 16;
}

// --- listener_report.c: reports of the newest versions, which have one format ---
struct listener_report {
	struct host *host;
	uint8_t family;
	uint16_t interface;
	uint16_t records;
	uint32_t length;      // of the body so far
	uint32_t room;
	struct packet *packet; // NULL: none is begun
	uint8_t *body;
};
void report_begin(struct host *host, uint8_t family, uint16_t interface, struct listener_report *report);
// The record of the present state, or of the answer to a query that named sources.
void report_current(struct listener_report *report, const struct listener_group *group);
// The records of what has changed since.
void report_changes(struct listener_report *report, const struct listener_group *group);
void report_send(struct listener_report *report);

// --- igmp.c, mld.c ---
enum drop_reason igmp_input(struct host *host, const struct inbound *in);
enum drop_reason mld_input(struct host *host, const struct inbound *in);
// A packet with its IP header and room for `length` bytes behind, zeroed; NULL without a buffer.
struct packet *igmp_packet(struct host *host, uint16_t interface, const uint8_t *destination, uint32_t length, uint8_t **body);
struct packet *mld_packet(struct host *host, uint16_t interface, const uint8_t *destination, uint32_t length, uint8_t **body);
// Finish and send a packet of theirs: checksum over the body.
void igmp_send(struct host *host, uint16_t interface, struct packet *packet);
void mld_send(struct host *host, uint16_t interface, struct packet *packet);
// A report of an old version (1 or 2 for IGMP, 1 for MLD), and the message of who leaves.
void igmp_report(struct host *host, uint16_t interface, const uint8_t *group, uint8_t version);
void igmp_leave(struct host *host, uint16_t interface, const uint8_t *group);
void mld_report(struct host *host, uint16_t interface, const uint8_t *group);
void mld_done(struct host *host, uint16_t interface, const uint8_t *group);

#endif
