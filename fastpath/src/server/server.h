// The socket server of one VR: AF_UNIX connections of apps, operators and the manager on
// vr/NAME.sock, and the fd of each socket.  Speaks rsock/wire.py (generated rsock_wire.h).
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include <stdbool.h>
#include <stdint.h>
#include "abi/core.h"
#include "base/packet.h"
#include "host/host.h"

struct server;

enum { SERVER_MAX_FDS = 12 }; // of one request or answer

// What the server asks of the core for the manager and for operators.
struct rsock_offload;

struct server_ops {
	int (*port_add)(void *user, const struct port_spec *spec, const int *fds, int fd_count);
	int (*port_remove)(void *user, uint16_t port);
	int (*port_link)(void *user, uint16_t port, uint32_t link_up, uint32_t mtu);
	// The n-th port that is held (n from 0) with its fds (borrowed, SERVER_MAX_FDS at most); false past the last.
	bool (*port_at)(void *user, int n, struct port_spec *spec, int *fds, int *fd_count);
	// Serve the maps of the XDP offload; fds NULL: none.  Owns the fds on success only.
	int (*offload)(void *user, const struct rsock_offload *maps, const int *fds);
	// Those that are served, with their two fds (borrowed); false: none.
	bool (*offload_maps)(void *user, struct rsock_offload *maps, int *fds);
	// A trace or capture is wanted (any > 0) or not any more.
	void (*observe)(void *user, bool trace, bool capture);
	void (*shutdown)(void *user);
	void *user;
};

struct server *server_new(struct host *host, struct state_segment *state, const struct tables_view *tables, const struct server_ops *ops, int epoll_fd);
void server_free(struct server *server);
int server_listen(struct server *server, int listener_fd, int tables_ro_fd, int state_ro_fd);
// An epoll event whose data.u64 has SERVER_EVENT set; returns messages handled.
#define SERVER_EVENT (1ull << 63)
int server_event(struct server *server, uint64_t data, uint32_t events, uint64_t now);
// Whether such an event is of a datagram or raw socket of an app.
bool server_is_datagrams(uint64_t data);
// How many apps were given an answer or bytes lately and have not come back since?  They may wait for this very processor.
uint32_t server_owed(struct server *server, uint64_t now);
// A new round begins: everybody may have a turn again.
void server_turn(struct server *server);
// For core_poll without epoll results: look at everything once.
int server_poll(struct server *server, uint64_t now);
// Called by the host stack's operations.
bool server_upcall(struct server *server, uint32_t slot, const void *header, const uint8_t *payload, uint32_t length);
void server_error(struct server *server, uint32_t slot, int error);
// See struct host_ops.deliver and .stream.
uint32_t server_deliver(struct server *server, uint32_t slot, const struct iovec *parts, int count);
void server_stream(struct server *server, uint32_t slot, uint32_t events);
// Observation: trace records and captured frames go to those who asked.
// Does somebody want the life of this packet, a frame or (`link` false) an IP packet of ours?  It would have this number.
bool server_wants_trace(struct server *server, uint16_t interface, const struct packet *packet, bool link, uint32_t trace);
void server_trace(struct server *server, const struct packet *packet, const char *stage, const char *detail, uint64_t now);
void server_capture(struct server *server, uint16_t interface, bool outgoing, const struct packet *packet, uint64_t now);
// An iteration ends: tell what was captured in it, and what became of it.
void server_capture_flush(struct server *server);
// A BFD session has another state; control hears of it, and if it does not listen now, then later.
void server_bfd_changed(struct server *server, uint32_t slot, uint32_t state);
void server_tick(struct server *server, uint64_t now);
uint64_t server_deadline(const struct server *server);
// What of it is not put off to the next whole millisecond.
uint64_t server_deadline_exact(const struct server *server);

#endif
