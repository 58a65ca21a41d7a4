// The socket server of one VR: what its epoll events lead to.
//
//   vr/NAME.sock --accept--> connection: requests of apps, operators, manager, control
//   socketpair   ----------> app: datagrams of one socket, both ways
//   abstract name --accept-> stream: bytes of one connection, both ways
//
// Nothing here blocks, and no event does more than a bounded amount of work: the fds are
// level-triggered, so what is left over comes up again after packets had their turn.
// Everything that a peer sends is hostile.
#include "server/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

struct server *server_new(struct host *host, struct state_segment *state, const struct tables_view *tables, const struct server_ops *ops, int epoll_fd)
{
	struct server *server = calloc(1, sizeof(*server));
	if (server == NULL)
		return NULL;
	server->host = host;
	server->state = state;
	server->tables = tables;
	server->ops = *ops;
	server->epoll_fd = epoll_fd;
	server->listener = -1;
	server->tables_ro = -1;
	server->state_ro = -1;
	server->uid = geteuid();
	server->lately = 1;
	for (uint32_t slot = 0; slot < host_slots(server->state); slot++)
		server->apps[slot].fd = -1;
	if (!streams_new(server)) {
		free(server);
		return NULL;
	}
	return server;
}

void server_free(struct server *server)
{
	for (uint32_t i = 0; i < MAX_CONNECTIONS; i++)
		if (server->connections[i] != NULL)
			connection_close(server, server->connections[i]);
	// The sockets stay in the state segment, for a successor.
	for (uint32_t slot = 0; slot < host_slots(server->state); slot++)
		sockets_detach(server, slot);
	streams_free(server);
	if (server->listener >= 0)
		epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, server->listener, NULL);
	free(server);
}

int server_listen(struct server *server, int listener_fd, int tables_ro_fd, int state_ro_fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = event_data(EVENT_LISTENER, 0, 0)};
	if (epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, listener_fd, &event) < 0)
		return -errno;
	server->listener = listener_fd;
	server->tables_ro = tables_ro_fd;
	server->state_ro = state_ro_fd;
	// What a predecessor left has this long to find its fds again; the first tick counts.
	server->orphans_until = 1;
	server->review_next = REVIEW_OVER;
	server->rules_checksum = UINT32_MAX;
	accounts_open(server);
	return streams_serve(server);
}

uint32_t server_owed(struct server *server, uint64_t now)
{
	if (now >= server->lately_until) {
		server->lately_until = now + LATELY_NS;
		server->lately = server->lately == UINT32_MAX ? 1 : server->lately + 1;
		server->owed = 0;
	}
	return server->owed;
}

void server_turn(struct server *server)
{
	server->turn++;
}

static int take_requests(struct server *server, struct connection *connection, uint32_t events)
{
	uint32_t account = connection->account;
	bool limited = !connection->trusted && !rights_relay(server, connection->peer.uid);
	if (limited && rest_due(server, account)) {
		rest_park(server, account, connection->fd, event_data(EVENT_CONNECTION, connection->index, connection->generation));
		return 0;
	}
	if (!connection->trusted && quota_turn_over(server, account))
		return 0;
	if (connection != server->holder)
		rest_heard(server, account);
	struct stint stint = rest_begin(server, account);
	int handled = connection_event(server, connection, events);
	quota_turn(server, account, stint.start);
	if (limited)
		rest_end(server, account, &stint);
	return handled;
}

static int take_datagrams(struct server *server, uint32_t slot, uint32_t events)
{
	const struct socket_entry *entry = &server->state->sockets[slot];
	uint32_t account = entry->account;
	bool limited = !rights_trusted(server, entry->uid);
	if (limited && rest_due(server, account)) {
		rest_park(server, account, server->apps[slot].fd, event_data(EVENT_SOCKET, slot, server->apps[slot].generation));
		return 0;
	}
	rest_heard(server, account);
	struct stint stint = rest_begin(server, account);
	int handled = sockets_event(server, slot, events);
	if (limited)
		rest_end(server, account, &stint);
	return handled;
}

static int listener_event(struct server *server)
{
	int accepted = connection_accept(server);
	if (accepted >= 0)
		return accepted;
	// Out of fds: a level-triggered listener would keep us awake for nothing.
	epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, server->listener, NULL);
	server->listen_at = server->now + RETRY_NS;
	return 0;
}

int server_event(struct server *server, uint64_t data, uint32_t events, uint64_t now)
{
	server->now = now;
	uint32_t index = data & 0xffffff;
	uint32_t generation = (uint32_t)(data >> 24);
	switch ((data >> 56) & 0x7f) {
	case EVENT_LISTENER:
		return listener_event(server);
	case EVENT_CONNECTION:
		// The generation tells an event of this batch that is older than its owner.
		if (index < MAX_CONNECTIONS && server->connections[index] != NULL && server->connections[index]->generation == generation)
			return take_requests(server, server->connections[index], events);
		return 0;
	case EVENT_SOCKET:
		if (index < MAX_SOCKETS && server->apps[index].fd >= 0 && server->apps[index].generation == generation)
			return take_datagrams(server, index, events);
		return 0;
	case EVENT_STREAM:
		if (index < server->streams.used && server->streams.at[index].state == STREAM_JOINED &&
		    server->streams.at[index].generation == generation) {
			rest_heard(server, server->streams.at[index].account);
			return stream_event(server, MAX_SOCKETS + index, events);
		}
		return 0;
	case EVENT_STREAMS:
		return streams_accept(server);
	default:
		return 0;
	}
}

bool server_is_datagrams(uint64_t data)
{
	return (data & SERVER_EVENT) != 0 && ((data >> 56) & 0x7f) == EVENT_SOCKET;
}

int server_poll(struct server *server, uint64_t now)
{
	server->now = now;
	server_turn(server);
	int handled = server->listener >= 0 && server->listen_at == 0 ? listener_event(server) : 0;
	for (uint32_t i = 0; i < MAX_CONNECTIONS; i++)
		if (server->connections[i] != NULL)
			handled += connection_event(server, server->connections[i], EPOLLIN);
	for (uint32_t slot = 0; slot < host_slots(server->state); slot++)
		if (server->apps[slot].fd >= 0 && !server->apps[slot].deaf)
			handled += sockets_event(server, slot, EPOLLIN);
	return handled + streams_poll(server);
}

void server_tick(struct server *server, uint64_t now)
{
	server->now = now;
	streams_tick(server);
	review_tick(server);
	rest_tick(server);
	if (server->orphans_until == 1)
		server->orphans_until = now + ORPHAN_LIFE;
	if (server->orphans_until != 0 && now >= server->orphans_until)
		hold_orphans_expire(server);
	if (server->hold_at != 0 && now >= server->hold_at)
		hold_flush(server);
	if (server->listen_at != 0 && now >= server->listen_at) {
		struct epoll_event event = {.events = EPOLLIN, .data.u64 = event_data(EVENT_LISTENER, 0, 0)};
		server->listen_at = 0;
		if (epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, server->listener, &event) < 0)
			server->listen_at = now + RETRY_NS;
	}
}

static uint64_t sooner(uint64_t deadline, uint64_t at)
{
	return at != 0 && at < deadline ? at : deadline;
}

uint64_t server_deadline_exact(const struct server *server)
{
	return sooner(sooner(SERVER_NEVER, server->rest_at), server->listen_at);
}

uint64_t server_deadline(const struct server *server)
{
	uint64_t deadline = sooner(sooner(server_deadline_exact(server), server->orphans_until), server->hold_at);
	return sooner(sooner(deadline, streams_deadline(server)), review_deadline(server));
}
