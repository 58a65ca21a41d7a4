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
	MAX_REQUEST = 4096,
	MAX_REQUEST_FDS = 8,
	MAX_OPTION = 256,
	REQUESTS_PER_EVENT = 4,      // a flooding app gets its turn, not more
	RECORDS_PER_EVENT = 64,
	RECORDS_PER_CALL = 16,
	RECORD_ROOM = sizeof(struct rsock_datagram) + 65536,
	FD_BUFFER = 1 << 20,         // asked for; the kernel's own limit decides
	HOLD_ALL = -1                // as unsigned: all that was held has been given back
};

#define SERVER_NEVER UINT64_MAX
#define ORPHAN_LIFE (5 * 1000000000ull)
#define RETRY_NS (100 * 1000000ull)

enum event_kind { EVENT_LISTENER = 0, EVENT_CONNECTION = 1, EVENT_SOCKET = 2 };

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
	return SERVER_EVENT | (uint64_t)kind << 48 | (uint64_t)(generation & 0xffffff) << 16 | index;
}

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
void request_run(struct server *server, struct connection *connection, struct request *request);

// --- rights.c ---
bool rights_trusted(const struct server *server, uint32_t uid);
// The operations that a peer may use; *gid becomes the group by which, if by one.
uint32_t rights_of_peer(const struct server *server, const struct peer *peer, uint32_t *gid);
// The same for a socket as it stands now, and what its rule says of ports and destinations.
uint32_t rights_of_socket(const struct server *server, const struct socket_entry *entry);
bool rights_port(const struct server *server, const struct socket_entry *entry, uint16_t port);
bool rights_destination(const struct server *server, const struct socket_entry *entry, uint8_t family, const uint8_t *address);
// 0, or the errno that opening such a socket earns.
int rights_open(uint32_t operations, uint16_t type, uint16_t protocol);

// --- sockets.c ---
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
