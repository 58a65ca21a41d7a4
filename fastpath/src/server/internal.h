// What the files of the socket server share among themselves; nobody else includes it.
#ifndef SERVER_INTERNAL_H
#define SERVER_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include "rsock_wire.h"
#include "server/server.h"

enum server_limits {
	MAX_CONNECTIONS = 1024,
	MAX_CONNECTIONS_PER_USER = 256,
	MAX_SOCKETS_PER_USER = 1024,
	MAX_GROUPS_OF_PEER = 64,     // supplementary groups that are looked at
	MAX_REQUEST = 12288,
	MAX_REQUEST_FDS = 8,
	MAX_OPTION = 8448,           // a struct group_filter of MEMBERSHIP_SOURCES sources
	REQUESTS_PER_EVENT = 4,      // a flooding app gets its turn, not more
	RECORDS_PER_EVENT = 64,
	RECORDS_PER_CALL = 16,
	RECORD_ROOM = sizeof(struct rsock_datagram) + 65536,
	FD_BUFFER = 1 << 20,         // asked for; the kernel's own limit decides
	MAX_STREAMS_PER_USER = 65536,
	// Of the app's end; the kernel doubles it.  A quarter of that is less than what one write of the
	// library's filler takes (rsock/streams.py), so the fd is not writable until all of it is read.
	STREAM_APP_BUFFER = 80 << 10,
	STREAM_OUR_BUFFER = 256 << 10, // the same of ours: what waits behind TCP's own window
	STREAM_TURN = 256 << 10,     // bytes that one event takes from an app
	STREAM_PEEK = 4096,          // what is looked at first, and often is all
	STREAM_HELD = 8192,          // bytes at most that stay in an app's queue
	STREAM_HELD_WRITES = 8,      // each of them costs the app a buffer of its own
	STREAM_PARTS = STREAM_TURN / 4096 + 2,
	STREAMS_PER_TICK = 16,
	STREAM_ACCEPTS = 64,         // of one event, either way
	STREAM_LOOKS = 64,           // sockets that one tick looks for
	STREAM_RESETS = 8192,        // accepted connections of which it is remembered how they ended
	STREAM_NAME = 108,           // bytes of an abstract name, the NUL before it included
	HOLD_ALL = -1                // as unsigned: all that was held has been given back
};

#define SERVER_NEVER UINT64_MAX
#define ORPHAN_LIFE (5 * 1000000000ull)
#define RETRY_NS (100 * 1000000ull)
#define BACKLOG_RETRY_NS (2 * 1000000ull)
#define LOOK_NS (1000 * 1000000ull)
#define LOOK_SOON_NS (10 * 1000000ull)

enum event_kind { EVENT_LISTENER = 0, EVENT_CONNECTION = 1, EVENT_SOCKET = 2, EVENT_STREAM = 3, EVENT_STREAMS = 4 };

struct peer {
	uint32_t uid;
	uint32_t gid;
	uint32_t pid;
	uint32_t group_count;
	uint32_t groups[MAX_GROUPS_OF_PEER];
};

struct connection {
	int fd;
	uint32_t index;
	uint32_t generation;
	struct peer peer;
	bool trusted;                // root or this VR's own uid
	bool closing;                // to be closed once its request is done
	bool traces;
	bool captures;
	struct rsock_trace trace;
	struct rsock_capture capture;
	uint64_t trace_request;
	uint64_t capture_request;
	uint32_t trace_lost;
	uint32_t capture_lost;
	struct trace_memory *memory; // stages of packets that may yet end in a drop; NULL: all are told
};

// The forwarder's side of one socket; slots are those of the state segment.
struct app {
	int fd;                      // -1: none
	uint32_t generation;
	bool deaf;                   // the app has shut down its sending side
	bool hold_add;               // control is to be given the fd
	bool hold_gone;              // control is to drop the fd it has
	uint64_t gone_cookie;
	// The last verdict on a destination, for the rules of one publication.
	uint64_t judged_root;
	uint8_t judged_family;
	bool judged_allowed;
	uint8_t judged_address[16];
};

enum stream_state {
	STREAM_NONE = 0,
	STREAM_ALONE,                // the app's fd leads nowhere yet: not connected, or connecting
	STREAM_LISTENING,
	STREAM_JOINED,               // we hold the other end of the app's fd
	STREAM_FAILED                // we have closed it; the pending error stands in the socket
};

// The forwarder's side of one stream socket; the index is its slot - MAX_SOCKETS.  All links
// are index + 1.
struct stream {
	int fd;                      // our end; valid in STREAM_JOINED
	uint32_t generation;
	uint32_t uid;                // who is charged for it
	uint8_t state;               // enum stream_state
	uint8_t held_writes;
	bool accepted;               // came from a listener: the fd's name is the listener's
	bool connected;              // TCP is: bytes may flow
	bool failed;                 // before the app's fd led to us
	bool peer_closed;            // TCP saw the peer's FIN
	bool ending;                 // the app has shut down, or closed; its last bytes may still wait
	bool shut;                   // TCP knows that
	bool wants_room;             // the app's bytes wait for room in TCP
	bool full;                   // TCP's bytes wait for room in the fd
	bool watches_room;           // EPOLLOUT is watched
	bool bulk;                   // much was waiting last time
	bool watched;                // on the list of those whose app may be gone
	bool retried;                // on the list of listeners with somebody waiting
	bool queued;                 // on the list of those with `events`
	uint32_t events;             // enum host_stream_event bits not acted on yet
	uint32_t skip;               // filler that is still to come
	uint32_t held;               // bytes in the app's queue that TCP has already
	uint32_t watch_previous, watch_next;
	uint32_t retry_next;
	uint32_t queue_next;
	uint32_t waiting;            // listener: a connection that finds the app's backlog full
};

struct stream_user {
	uint32_t uid;
	uint32_t count;
};

// All stream sockets of one VR.
struct streams {
	struct stream *at;           // MAX_TCP_SOCKETS of them; pages that were never used cost nothing
	uint32_t used;               // none from here on was ever used
	int listener;                // where the apps' fds connect to
	uint8_t name[STREAM_NAME];   // its name
	uint32_t name_length;
	uint32_t watch_head, watch_tail, watch_count;
	uint64_t watch_at;           // next look for apps that are gone; 0: nobody is watched
	uint32_t retry_head;
	uint64_t retry_at;           // 0: nobody waits
	uint32_t queue_head, queue_tail;
	struct stream_user *users;
	uint32_t user_count, user_room;
	// Nonces of accepted connections that were reset: all that is left of them.
	uint64_t resets[STREAM_RESETS];
};

struct server {
	struct host *host;
	struct state_segment *state;
	const struct tables_view *tables;
	struct server_ops ops;
	int epoll_fd;
	int listener;
	int tables_ro;
	int state_ro;
	uint32_t uid;                // our own
	uint64_t now;
	uint32_t generation;
	uint64_t orphans_until;      // 0: no orphan is left
	uint64_t listen_at;          // when accepting is tried again; 0: it is on
	uint64_t hold_at;            // when holding is tried again; 0: nothing to do
	struct connection *connections[MAX_CONNECTIONS];
	struct connection *holder;   // the control that keeps our fds
	uint32_t tracers;
	uint32_t capturers;
	struct app apps[MAX_SOCKETS];
	struct streams streams;
	uint8_t records[RECORDS_PER_CALL][RECORD_ROOM];
};

// One request, as received.
struct request {
	struct rsock_header header;
	const uint8_t *body;
	uint32_t length;
	int fds[MAX_REQUEST_FDS];    // -1 once somebody owns it
	int fd_count;
};

static inline uint64_t event_data(enum event_kind kind, uint32_t index, uint32_t generation)
{
	return SERVER_EVENT | (uint64_t)kind << 56 | (uint64_t)generation << 24 | index;
}

// Who owns a socket, for the rules.
struct owner {
	uint32_t uid;
	uint32_t gid;
	uint16_t type;
	uint16_t protocol;
};

// --- connection.c ---
int connection_accept(struct server *server);
int connection_event(struct server *server, struct connection *connection, uint32_t events);
void connection_close(struct server *server, struct connection *connection);
// Have the kernel refuse fds to who sends them to this socket, where it can.
void connection_refuse_rights(int fd);
// Send one record; false where the peer does not take it now.
bool connection_send(const struct connection *connection, const void *header, uint32_t header_length, const void *body, uint32_t length, const int *fds, int fd_count);
// Answer a request; a peer that does not read its answers is closed.
void connection_reply(struct connection *connection, const struct request *request, int error, const void *body, uint32_t length);
void connection_reply_fds(struct connection *connection, const struct request *request, uint8_t flags, const void *body, uint32_t length, const int *fds, int fd_count);

// --- request.c ---
// A peer's address as packets carry it, for the rules; gives the family.
uint8_t request_plain_address(uint16_t family, const uint8_t *address, uint8_t *plain);
// SETOPT: the value behind struct rsock_option, or NULL where the request is malformed.
const uint8_t *request_option(const struct request *request, struct rsock_option *option);
void request_getopt(struct server *server, struct connection *connection, const struct request *request);
void request_run(struct server *server, struct connection *connection, struct request *request);

// --- rights.c ---
bool rights_trusted(const struct server *server, uint32_t uid);
// The operations that a peer may use; *gid becomes the group by which, if by one.
uint32_t rights_of_peer(const struct server *server, const struct peer *peer, uint32_t *gid);
// The same for a socket as it stands now, and what its rule says of ports and destinations; `operations`: one of
// them must be allowed.
uint32_t rights_of_socket(const struct server *server, const struct owner *owner);
bool rights_port(const struct server *server, const struct owner *owner, uint16_t port);
bool rights_destination(const struct server *server, const struct owner *owner, uint32_t operations, uint8_t family, const uint8_t *address);
// 0, or the errno that opening such a socket earns.
int rights_open(uint32_t operations, uint16_t type, uint16_t protocol);

// --- names.c: abstract names of AF_UNIX, which reach this VR alone ---
// Both give the length of a struct sockaddr_un with the name.
struct sockaddr_un;
// Of the app's fd, by which it is found again for as long as some process holds it.
uint32_t names_of_socket(const struct server *server, uint32_t slot, uint64_t cookie, struct sockaddr_un *name);
// Of our end of an accepted connection: it tells the app who the peer is.
uint32_t names_of_connection(const struct server *server, uint32_t slot, const struct tcp_socket *s, struct sockaddr_un *name);
// The slot that the name of an app's fd tells; false: it is none of ours.
bool names_slot(const struct server *server, const struct sockaddr_un *name, uint32_t length, uint32_t *slot);
// What stands for the cookie in those names: it proves nothing but who may use it is known by his uid.
uint32_t names_nonce(const struct server *server, uint32_t slot, uint64_t cookie);
// The same in the name of an accepted connection: above it stands which of the forwarders accepted it.
uint64_t names_accepted_nonce(const struct server *server, uint32_t slot, uint64_t cookie);

// --- streams.c ---
static inline struct stream *stream_at(struct server *server, uint32_t slot)
{
	return &server->streams.at[slot - MAX_SOCKETS];
}
bool streams_new(struct server *server);
void streams_free(struct server *server);
// Begin to serve: the name that apps' fds connect to, and the sockets that a predecessor left.
int streams_serve(struct server *server);
void streams_open(struct server *server, struct connection *connection, const struct request *request);
// Our end of an app's fd, connected: watch it.  0 or a negated errno.
int stream_join(struct server *server, uint32_t slot, int fd);
// The app's fd leads nowhere from now on; the socket stays until the app has closed it.
void stream_fail(struct server *server, uint32_t slot);
// The app is gone: close(2), or `reset`.
void stream_close(struct server *server, uint32_t slot, bool reset);
void stream_watch_room(struct server *server, uint32_t slot, bool on);
// A slot that the host stack has just made; charged to its owner.
struct stream *stream_begin(struct server *server, uint32_t slot, uint32_t uid);
bool stream_quota_left(const struct server *server, uint32_t uid);
struct owner stream_owner(const struct tcp_socket *s);

// --- stream_watch.c: whose app is gone, and what is to be done soon ---
void stream_watch(struct server *server, uint32_t slot);
void stream_unwatch(struct server *server, uint32_t slot);
// Is it not held by any process any more?  Then it is closed.
bool stream_look(struct server *server, uint32_t slot);
// Look for all of them soon.
void streams_look_soon(struct server *server);
// Close those on a local port whose apps are gone; true where there was one.
bool streams_reap(struct server *server, uint16_t port);
void stream_retry(struct server *server, uint32_t slot);
void stream_queue(struct server *server, uint32_t slot, uint32_t events);
void stream_unqueue(struct server *server, uint32_t slot);
void streams_tick(struct server *server);
uint64_t streams_deadline(const struct server *server);

// --- stream_request.c ---
void stream_request(struct server *server, struct connection *connection, const struct request *request);

// --- stream_accept.c ---
// Apps' fds that have connected to us; returns how many.
int streams_accept(struct server *server);
// Hand established connections to the app of a listener, as many as it takes.
void stream_offer(struct server *server, uint32_t slot);

// --- stream_data.c ---
int stream_event(struct server *server, uint32_t slot, uint32_t events);
// For server_poll: look at all of them once.
int streams_poll(struct server *server);
// Take what the app has written; returns bytes.
int stream_pull(struct server *server, uint32_t slot);
// Act on what TCP told.
void stream_run(struct server *server, uint32_t slot, uint32_t events);

// --- sockets.c ---
// What the app calls itself; shown to operators and never relied on.
void sockets_take_name(char app[16], const uint8_t *name, uint32_t length);
void sockets_open(struct server *server, struct connection *connection, const struct request *request);
int sockets_event(struct server *server, uint32_t slot, uint32_t events);
// Close the sockets on a local port whose apps have closed them; true where there was one.
bool sockets_reap(struct server *server, uint16_t port);
void sockets_close(struct server *server, uint32_t slot);
// Take the app's records that wait on the fd; at most `most`.
int sockets_drain(struct server *server, uint32_t slot, int most);
// Watch a forwarder's end; 0 or a negated errno.
int sockets_attach(struct server *server, uint32_t slot, int fd);
void sockets_detach(struct server *server, uint32_t slot);

// --- hold.c ---
void hold_request(struct server *server, struct connection *connection, struct request *request);
void hold_changed(struct server *server);
void hold_flush(struct server *server);
void hold_orphans_expire(struct server *server);

// --- observe.c ---
void observe_trace(struct server *server, struct connection *connection, const struct request *request);
void observe_capture(struct server *server, struct connection *connection, const struct request *request);
void observe_stop(struct server *server, struct connection *connection);

// --- admin.c ---
void admin_run(struct server *server, struct connection *connection, struct request *request);

#endif
