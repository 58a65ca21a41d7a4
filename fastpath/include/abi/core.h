// What Python calls in the C core, and the messages between manager and forwarder.
//
// Functions return 0 or a count, or a negated errno.  Nothing here keeps a pointer that
// it was given beyond the call, unless it says so.
#ifndef ABI_CORE_H
#define ABI_CORE_H

#include <stdint.h>
#include "abi/limits.h"

enum port_driver {
	DRIVER_AF_PACKET = 1, // fds: packet socket with a version 2 RX ring [, those of port/volley.h]
	DRIVER_LINK = 2,      // fds: own segment (rw), peer's segment (ro), own eventfd, peer's eventfd
	DRIVER_TRACE = 3,     // wrappers; they take no fd
	DRIVER_FAULT = 4,
	DRIVER_AF_XDP = 5,    // fds: AF_XDP socket, the memory of its frames [, those of port/volley.h]
	DRIVER_TAP = 6,       // fds: the device's, of /dev/net/tun
	DRIVER_PCAP = 7,      // fds: files, as the mode tells: input, output
	DRIVER_AF_PACKET_V3 = 8 // fds: packet socket with a version 3 RX ring [, those of port/volley.h]
};

struct port_spec {
	uint16_t port;          // 1..MAX_PORTS-1, given by the manager
	uint16_t driver;        // enum port_driver
	uint32_t ifindex;       // of the device; 0 for a link
	uint32_t mtu;           // of the device
	uint32_t link_up;       // 1: carrier
	uint32_t block_size;    // AF_PACKET: tpacket_req as the manager set it; AF_XDP: port/af_xdp.c
	uint32_t block_count;
	uint32_t frame_size;
	uint32_t frame_count;
	uint8_t mac[6];
	uint8_t reserved[2];
	uint32_t fault_permille[4]; // drop, duplicate, reorder, corrupt; all 0: no fault wrapper
	uint64_t fault_seed;
	uint64_t generation;    // of the coupling; a new one resets the progress
	uint16_t queue;         // number of the worker that serves it; each has fds of its own
	uint16_t queues;        // of this port: how many workers serve it, 0 or 1: worker 0 alone
	uint16_t plain;         // 1: frames leave without a vnet header; the driver says so, not the manager
	uint16_t mode;          // enum port_mode (state.h), as the manager set it
};

struct core; // one VR's data plane; opaque

// Map both segments (their fds stay the caller's), check them, and take over what a
// predecessor left: progress, counters, neighbors, sockets.  -EPROTO: another ABI.
int core_create(int tables_fd, int state_fd, struct core **out);
void core_destroy(struct core *core);
// Give the core its listening socket (vr/NAME.sock) and the read-only segment fds that it
// hands to operators.  It keeps the fds open but does not close them.
int core_serve(struct core *core, int listener_fd, int tables_ro_fd, int state_ro_fd);
// Have `count` workers in all, of which worker 0 is whoever calls core_run or core_poll; the others are threads.
// `cpus`: of each worker, -1 for any; NULL: any.  Once, before the first port.
int core_workers(struct core *core, uint32_t count, const int32_t *cpus);
// Take a port, or the part of one that worker spec->queue serves; part 0 comes first.  Ownership of the fds passes to
// the core on success only.
int core_port_add(struct core *core, const struct port_spec *spec, const int *fds, int fd_count);
int core_port_remove(struct core *core, uint16_t port);
int core_port_link(struct core *core, uint16_t port, uint32_t link_up, uint32_t mtu);
// Serve the XDP offload by its two maps (bypass.h: links, fib), of these sizes, with counters of so many processors;
// fds NULL: serve none.  Ownership of the fds passes to the core on success only.
int core_offload(struct core *core, const int *fds, uint64_t links_bytes, uint64_t fib_bytes, uint32_t processors);
// One iteration without waiting, at `now_ns` (any monotonic clock): receive, forward,
// transmit, timers, sockets.  Returns the packets and messages handled.
int core_poll(struct core *core, uint64_t now_ns);
// Nanoseconds of the same clock until which nothing is to do; UINT64_MAX: for ever.
uint64_t core_deadline(struct core *core);
// Serve until SIGTERM or a SHUTDOWN message; CLOCK_BOOTTIME.  Releases the GIL for good.
int core_run(struct core *core);
uint64_t core_abi_hash(void);

// Segments.  A new one is a memfd of `size` bytes, sealed against shrinking and growing,
// its header filled; the caller owns the fd.
int segment_create(uint32_t kind, uint64_t size, uint32_t router_id, const char *router_name);
int segment_check(int fd, uint32_t kind);

// The other end of a patch link, for tests and tools in the same process.
struct link_end;
int link_end_open(int own_fd, int peer_fd, int own_event, int peer_event, struct link_end **out);
int link_end_send(struct link_end *end, const uint8_t *frame, uint32_t length, const uint8_t *vnet);
int link_end_receive(struct link_end *end, uint8_t *frame, uint32_t room, uint8_t *vnet);
void link_end_close(struct link_end *end);

// Confinement of the calling process; irreversible.  profile 1: forwarder, 2: control,
// 3: broker and other unprivileged helpers.
int confine_drop(uint32_t uid, uint32_t gid);      // ids, groups, all capabilities, no_new_privs, not dumpable
int confine_seccomp(uint32_t profile);

// The zygote's loop.  Forks a child for each message of the manager and reports births, ends
// and stops, until the manager goes: 0.  A forwarder stays in C; in any other child it returns
// 1, and `birth` says what was asked.
enum zygote_role { ZYGOTE_FORWARDER = 1, ZYGOTE_PYTHON = 2 };
enum zygote_word {
	ZYGOTE_READY = 1,   // said by the zygote's Python
	ZYGOTE_FAILED = 2,  // the same; a text follows
	ZYGOTE_SPAWNED = 3, // with a pidfd; without: no process was to be had
	ZYGOTE_EXITED = 4,
	ZYGOTE_STOPPED = 5
};
enum zygote_limits { ZYGOTE_FDS = 16, ZYGOTE_REQUEST = 4096 };
struct zygote_report {
	uint32_t word;
	uint32_t request; // its number
	int32_t pid;
	int32_t status;   // of one that exited; negative: the signal that ended it
};
struct zygote_birth {
	uint32_t number;  // of the request; the message is number, role, request
	uint32_t role;
	uint32_t length;  // of the request
	uint32_t fd_count;
	int32_t fds[ZYGOTE_FDS];
	uint8_t request[ZYGOTE_REQUEST];
};
// Request and fds of a forwarder; the last fd is only held open.
enum forwarder_fd {
	FORWARDER_NETNS, FORWARDER_TABLES, FORWARDER_STATE, FORWARDER_STATE_RO, FORWARDER_LISTENER, FORWARDER_UID_LOCK,
	FORWARDER_FDS
};
struct forwarder_birth {
	uint32_t uid;
	uint32_t gid;
	char name[ROUTER_NAME_SIZE];
	uint32_t workers;            // 0: one
	int32_t cpus[MAX_WORKERS];   // that they are pinned to; -1: free
};
int zygote_serve(int manager_fd, struct zygote_birth *birth);

// Writer of a tables segment (control).  One for each segment; rebuilds its allocator
// from what is published, so that a successor goes on where the dead one stopped.
struct table_writer;
struct interface_entry;
struct address_entry;
struct rule_entry;
struct bfd_entry;
struct nexthop;
struct police_rate;
struct police_entry;
struct police_peer;
struct route_change {
	uint8_t address[16];
	uint8_t family;
	uint8_t length;
	uint16_t group;        // 0: remove
	uint8_t protocol;
	uint8_t preference;
	uint16_t reserved;
	uint32_t metric;
};
int table_writer_open(int tables_fd, int state_ro_fd, struct table_writer **out);
void table_writer_close(struct table_writer *writer);
int table_writer_publish(struct table_writer *writer,
	const struct interface_entry *interfaces, uint32_t interface_count,
	const struct address_entry *addresses, uint32_t address_count,
	const struct rule_entry *rules, uint32_t rule_count);
// Replace the BFD sessions; does nothing if they are the published ones.
int table_writer_bfd(struct table_writer *writer, const struct bfd_entry *entries, uint32_t count);
// Replace the rates of all control classes, the policers, and the known neighbors, which ascend by family and address.
int table_writer_police(struct table_writer *writer, const struct police_rate *control,
	const struct police_entry *entries, uint32_t entry_count, const struct police_peer *peers, uint32_t peer_count);
// Replace the filters by this block (abi/filter.h; epoch and checksum are filled in here), or by none where
// `bytes` is 0; does nothing if it is the published one.  -EINVAL: no forwarder would follow it.
int table_writer_filter(struct table_writer *writer, const void *table, uint64_t bytes);
// Find or make the group with exactly these hops; returns its index (counted reference) or -errno.
int table_writer_group(struct table_writer *writer, const struct nexthop *hops, uint32_t count);
// Make a group of its own, which nobody else is given for the same hops; else like table_writer_group.  Behind the
// hops are `backups` more, for when none of these can be used.
int table_writer_group_new(struct table_writer *writer, const struct nexthop *hops, uint32_t count, uint32_t backups);
// 1: some route uses the group.  0, -ENOENT.
int table_writer_group_used(const struct table_writer *writer, uint16_t group);
// Give back a reference of table_writer_group.  Routes hold references of their own; a group
// without either is removed.
int table_writer_group_release(struct table_writer *writer, uint16_t group);
// Point an existing group at other hops: every route that uses it moves with one store.
int table_writer_group_set(struct table_writer *writer, uint16_t group, const struct nexthop *hops, uint32_t count,
	uint32_t backups);
// Install, replace and remove routes.  A successor calls it with what it wants, then sweeps.
// On an error some were not installed or replaced; all that were to be removed are gone.
int table_writer_apply(struct table_writer *writer, const struct route_change *changes, uint32_t count);
// Read what is installed: fills up to `room` entries from slot *cursor on; 0 at the end.
struct prefix_entry;
int table_writer_routes(struct table_writer *writer, uint64_t *cursor, struct prefix_entry *entries, uint32_t room);
// Keep a copy of groups and tries in a map (struct bypass_fib, abi/bypass.h) of `size` bytes, instead of an earlier one;
// map_fd -1: in none.  The fd stays the caller's.  What the map is too small for, it says itself.
int table_writer_mirror(struct table_writer *writer, int map_fd, uint64_t size);
// Give back what no reader can still see.
int table_writer_reclaim(struct table_writer *writer);

#endif
