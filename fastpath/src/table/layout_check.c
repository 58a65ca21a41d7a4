// The layout of shared memory, asserted.  Two builds that disagree here would read each other's
// bytes wrongly; cffi reads the same headers, but ignores what it does not understand.
#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>

#include "abi/core.h"
#include "abi/ring.h"
#include "abi/state.h"
#include "abi/tables.h"

#define SIZE(type, bytes) static_assert(sizeof(struct type) == (bytes), #type " has another size")
#define AT(type, field, bytes) \
	static_assert(offsetof(struct type, field) == (bytes), #type "." #field " lies elsewhere")
// Words that are loaded and stored at once must not straddle.
#define WORD(type, field) \
	static_assert(offsetof(struct type, field) % sizeof(((struct type *)0)->field) == 0, \
	              #type "." #field " is not aligned")
// No padding that the compiler chose: the last field ends where the struct ends.
#define FULL(type, last) \
	static_assert(offsetof(struct type, last) + sizeof(((struct type *)0)->last) == sizeof(struct type), \
	              #type " has hidden padding at its end")

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "Python reads the segments as little-endian");
static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "64-bit stores must be atomic between processes");

SIZE(prefix, 24);
AT(prefix, family, 16);

SIZE(segment_header, 128);
AT(segment_header, magic, 0);
AT(segment_header, abi_hash, 8);
AT(segment_header, size, 16);
AT(segment_header, kind, 24);
AT(segment_header, router_name, 32);
AT(segment_header, created_ns, 64);
FULL(segment_header, reserved);

SIZE(interface_entry, 56);
AT(interface_entry, mtu, 8);
AT(interface_entry, features, 20);
AT(interface_entry, name, 24);
FULL(interface_entry, name);
SIZE(address_entry, 24);
AT(address_entry, interface, 18);
FULL(address_entry, reserved);
SIZE(port_range, 4);
SIZE(quota, 32);
FULL(quota, memory);
SIZE(rule_entry, 80 + 4 * MAX_RULE_PORTS + 24 * MAX_RULE_PREFIXES);
AT(rule_entry, quota, 48);
AT(rule_entry, ports, 80);
FULL(rule_entry, prefixes);
// The arrays of a root follow each other in one block.
static_assert(sizeof(struct interface_entry) % 8 == 0 && sizeof(struct address_entry) % 8 == 0 &&
              sizeof(struct rule_entry) % 8 == 0, "arrays must keep 8-byte alignment");
SIZE(tables_root, 48);
AT(tables_root, interfaces, 24);

SIZE(nexthop, 32);
AT(nexthop, via, 16);
FULL(nexthop, via);
SIZE(nexthop_group, 16);
AT(nexthop_group, hops, 16);

SIZE(fib_node, 24);
WORD(fib_node, children);
WORD(fib_node, leaf_starts);
WORD(fib_node, leaf_base);
WORD(fib_node, child_base);
FULL(fib_node, child_base);
SIZE(fib_path, 24);
WORD(fib_path, path);
WORD(fib_path, hit);
AT(fib_path, child_base, 20);
FULL(fib_path, child_base);
SIZE(fib_root, 24);
WORD(fib_root, direct);
FULL(fib_root, family);
static_assert(MAX_GROUPS == 1 << 16, "a leaf is a u16, and any u16 must be an index of groups");

SIZE(prefix_entry, 28);
// The writer stores family, length, group, protocol and preference as one word.
AT(prefix_entry, family, 16);
AT(prefix_entry, reserved, 22);
AT(prefix_entry, metric, 24);
FULL(prefix_entry, metric);
SIZE(prefix_table, 16);
AT(prefix_table, entries, 16);

AT(tables_segment, root, 128);
WORD(tables_segment, root);
WORD(tables_segment, epoch);
AT(tables_segment, fib_root, 144);
WORD(tables_segment, prefix_root);
WORD(tables_segment, arena_end);
WORD(tables_segment, generation);
WORD(tables_segment, bfd_root);
WORD(tables_segment, police_root);
AT(tables_segment, groups, 256);
FULL(tables_segment, groups);

SIZE(worker_state, 64);
WORD(worker_state, reader_epoch);
FULL(worker_state, reserved);
SIZE(port_state, 88);
WORD(port_state, progress);
FULL(port_state, ended);
SIZE(interface_counters, 8 * (10 + DROP_REASON_COUNT));
SIZE(neighbor_entry, 64);
FULL(neighbor_entry, deadline_ns);
static_assert((MAX_NEIGHBORS & (MAX_NEIGHBORS - 1)) == 0, "neighbors are hashed by a mask");
SIZE(pending_packet, 32 + PENDING_ROOM);
FULL(pending_packet, data);
SIZE(dad_entry, 32);
FULL(dad_entry, deadline_ns);
SIZE(socket_membership, 24);
SIZE(membership_source, 24);
FULL(membership_source, reserved);
FULL(account, denials);
WORD(account, memory);
FULL(call_times, buckets);
WORD(socket_entry, cookie);
WORD(socket_entry, rx_packets);
FULL(socket_entry, app);
FULL(tcp_cubic_state, reserved);
FULL(tcp_listener_state, cookies_ms);
static_assert(sizeof(struct tcp_socket) <= 512, "an idle connection costs no more than 512 bytes");
WORD(tcp_socket, cookie);
WORD(tcp_socket, retransmit_at);
WORD(tcp_socket, bytes_sent);
FULL(tcp_socket, bind_previous);
static_assert(sizeof(struct tcp_request) <= 128, "a half-open connection costs no more than 128 bytes");
WORD(tcp_request, deadline_ns);
FULL(tcp_request, answered_ms);
SIZE(tcp_timewait, 60);
FULL(tcp_timewait, flags);
WORD(state_segment, tcp_used);
WORD(state_segment, ready);
WORD(state_segment, tables_epoch);
static_assert(offsetof(struct state_segment, workers) % 64 == 0, "each worker's words have a cache line of their own");
static_assert(offsetof(struct state_segment, counters) % 8 == 0 && offsetof(struct state_segment, neighbors) % 8 == 0 &&
              offsetof(struct state_segment, sockets) % 8 == 0 && offsetof(struct state_segment, pending) % 8 == 0 &&
              offsetof(struct state_segment, tcp) % 8 == 0 && offsetof(struct state_segment, tcp_requests) % 8 == 0,
              "64-bit words must be aligned");

SIZE(bfd_entry, 80);
FULL(bfd_entry, reserved2);
SIZE(bfd_table, 16);
SIZE(police_rate, 16);
SIZE(police_entry, 24);
SIZE(police_peer, 24);
SIZE(police_table, 24 + 16 * CONTROL_CLASSES);
FULL(police_table, control);
WORD(state_segment, control_plane[0].passed);
WORD(state_segment, policers[0].passed_packets);
FULL(bfd_session, longest_gap_ns);
WORD(bfd_session, transmit_ns);
WORD(state_segment, bfd_used);
static_assert((MAX_BFD_SESSIONS & (MAX_BFD_SESSIONS - 1)) == 0, "a discriminator tells its slot by a mask");

SIZE(filter_field, 24);
FULL(filter_field, reserved);
SIZE(filter_classifier, 8 + FILTER_FIELDS * 24);
SIZE(filter_entry, 16);
FULL(filter_entry, reserved);
SIZE(filter_list, ROUTER_NAME_SIZE + 24 + 2 * (8 + FILTER_FIELDS * 24));
SIZE(filter_interface, 136);
FULL(filter_interface, dscp);
SIZE(filter_prefixes, 32);
FULL(filter_prefixes, reserved);
SIZE(filter_table, 104);
AT(filter_table, checksum, 8);
FULL(filter_table, prefixes);
SIZE(filter_counter, 24);
WORD(tables_segment, filter_root);
static_assert(offsetof(struct state_segment, filter_counters) % 8 == 0, "64-bit words must be aligned");
static_assert(MAX_ACL_ENTRIES <= 64 * 64, "a summary is one word");

SIZE(link_head, 16);
FULL(link_head, vnet);
static_assert((LINK_UNITS & (LINK_UNITS - 1)) == 0, "units are found by a mask");
// Producer and consumer index lie on lines of their own.
AT(link_segment, producer, 128);
AT(link_segment, consumer, 256);
AT(link_segment, units, 384);

SIZE(port_spec, 80);
FULL(port_spec, mode);
SIZE(route_change, 28);
FULL(route_change, metric);
