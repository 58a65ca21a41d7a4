// The second holder: control keeps a copy of our end of every socket's fd, so that the
// apps' fds survive this process.
//
//   we -> control   HOLD {slot, cookie} + fd, or {slot, gone}    as sockets come and go
//   control -> us   HOLD {slot, cookie} + fd, for each           to a successor
//   control -> us   HOLD {HOLD_ALL}                              then the above begins
//
// What comes for a socket meanwhile is kept.  One whose fd does not come back is closed after ORPHAN_LIFE,
// or at once when control says that these were all.
#define _GNU_SOURCE
#include "server/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

static bool hold_send(const struct server *server, uint32_t slot, bool gone, uint64_t cookie, const int *fd)
{
	struct rsock_header header = {
		.magic = RSOCK_MAGIC,
		.op = RSOCK_OP_HOLD,
		.flags = RSOCK_FLAG_DATA,
		.socket = slot,
		.cookie = cookie,
	};
	struct rsock_hold body = {.socket = slot, .gone = gone, .cookie = cookie};
	return connection_send(server->holder, &header, sizeof(header), &body, sizeof(body), fd, fd != NULL ? 1 : 0);
}

static bool hold_slot(struct server *server, uint32_t slot)
{
	struct app *app = &server->apps[slot];
	if (app->hold_gone) {
		if (!hold_send(server, slot, true, app->gone_cookie, NULL))
			return false;
		app->hold_gone = false;
	}
	if (app->hold_add && app->fd >= 0) {
		if (!hold_send(server, slot, false, server->state->sockets[slot].cookie, &app->fd))
			return false;
		app->hold_add = false;
	}
	return true;
}

// What has changed stands in the state segment; this says only that somebody should look.
static bool tell_bfd(const struct server *server, uint32_t slot, uint32_t state)
{
	struct rsock_header header = {.magic = RSOCK_MAGIC, .op = RSOCK_OP_BFD, .flags = RSOCK_FLAG_DATA};
	struct rsock_bfd body = {.events = server->state->bfd_events, .slot = slot, .state = state};
	return connection_send(server->holder, &header, sizeof(header), &body, sizeof(body), NULL, 0);
}

void server_bfd_changed(struct server *server, uint32_t slot, uint32_t state)
{
	if (server->holder != NULL && tell_bfd(server, slot, state))
		return;
	server->bfd_untold = true;
	if (server->holder != NULL && server->hold_at == 0)
		server->hold_at = server->now + RETRY_NS;
}

void hold_flush(struct server *server)
{
	server->hold_at = 0;
	if (server->holder == NULL)
		return;
	if (server->bfd_untold)
		server->bfd_untold = !tell_bfd(server, UINT32_MAX, 0);
	bool all = !server->bfd_untold;
	for (uint32_t slot = 0; slot < host_slots(server->state) && all; slot++)
		all = hold_slot(server, slot);
	struct connection *holder = server->holder;
	struct epoll_event event = {
		.events = all ? EPOLLIN : EPOLLIN | EPOLLOUT,
		.data.u64 = event_data(EVENT_CONNECTION, holder->index, holder->generation),
	};
	(void)epoll_ctl(server->epoll_fd, EPOLL_CTL_MOD, holder->fd, &event);
	// Too many fds in flight does not make the socket unwritable, so time helps too.
	if (!all)
		server->hold_at = server->now + RETRY_NS;
}

void hold_changed(struct server *server)
{
	if (server->holder != NULL)
		hold_flush(server);
}

// --- what comes while the fds are away ---

struct kept {
	uint32_t slot;
	uint32_t length;             // of the payload, behind its header
	struct rsock_datagram header;
};

bool hold_keep(struct server *server, uint32_t slot, const void *header, const uint8_t *payload, uint32_t length)
{
	struct kept kept = {.slot = slot, .length = length};
	if (server->orphans_until == 0 || !(server->state->sockets[slot].flags & SOCKET_ORPHANED) ||
	    sizeof(kept) + length > KEPT_ROOM - server->kept_used)
		return false;
	memcpy(&kept.header, header, sizeof(kept.header));
	memcpy(server->kept + server->kept_used, &kept, sizeof(kept));
	if (length > 0)
		memcpy(server->kept + server->kept_used + sizeof(kept), payload, length);
	server->kept_used += (uint32_t)sizeof(kept) + length;
	return true;
}

// The fd is back.
static void deliver_kept(struct server *server, uint32_t slot)
{
	struct kept kept;
	for (uint32_t at = 0; at < server->kept_used; at += (uint32_t)sizeof(kept) + kept.length) {
		memcpy(&kept, server->kept + at, sizeof(kept));
		if (kept.slot == slot && !server_upcall(server, slot, &kept.header, server->kept + at + sizeof(kept), kept.length))
			server->state->host_drops[DROP_SOCKET_QUEUE_FULL]++;
	}
}

// --- back from control ---

static bool is_app_end(int fd)
{
	int domain = 0;
	int type = 0;
	int listening = 1;
	socklen_t length = sizeof(int);
	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) < 0 || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) < 0)
		return false;
	return domain == AF_UNIX && type == SOCK_SEQPACKET && !listening;
}

// Our end's buffer has the size that our predecessor gave it, and counts again.
static void charge_buffer(struct server *server, uint32_t slot)
{
	struct app *app = &server->apps[slot];
	const struct owner owner = sockets_owner(&server->state->sockets[slot]);
	int size = 0;
	socklen_t length = sizeof(size);
	if (getsockopt(app->fd, SOL_SOCKET, SO_SNDBUF, &size, &length) < 0 || size < 0)
		return;
	size /= 2; // the kernel doubles what it is asked for
	app->buffer = quota_buffer(server, &owner, app->buffer, (uint32_t)(size < FD_BUFFER ? size : FD_BUFFER));
}

static void take_back(struct server *server, struct connection *connection, struct request *request, const struct rsock_hold *body)
{
	uint32_t slot = body->socket;
	const struct socket_entry *entry = slot < MAX_SOCKETS ? &server->state->sockets[slot] : NULL;
	bool ours = entry != NULL && entry->cookie != 0 && entry->cookie == body->cookie;
	if (ours && (entry->flags & SOCKET_ORPHANED) && request->fd_count == 1 && is_app_end(request->fds[0])) {
		(void)fcntl(request->fds[0], F_SETFL, O_RDWR | O_NONBLOCK);
		if (sockets_attach(server, slot, request->fds[0]) == 0) {
			request->fds[0] = -1;
			charge_buffer(server, slot);
			deliver_kept(server, slot);
		}
		return;
	}
	if (ours && server->apps[slot].fd >= 0)
		return; // we have it already
	struct rsock_header header = {.magic = RSOCK_MAGIC, .op = RSOCK_OP_HOLD, .flags = RSOCK_FLAG_DATA, .socket = slot, .cookie = body->cookie};
	struct rsock_hold gone = {.socket = slot, .gone = 1, .cookie = body->cookie};
	(void)connection_send(connection, &header, sizeof(header), &gone, sizeof(gone), NULL, 0);
}

void hold_orphans_expire(struct server *server)
{
	server->orphans_until = 0;
	server->kept_used = 0;
	for (uint32_t slot = 0; slot < host_slots(server->state); slot++) {
		const struct socket_entry *entry = &server->state->sockets[slot];
		if (entry->cookie != 0 && (entry->flags & SOCKET_ORPHANED))
			sockets_close(server, slot);
	}
}

void hold_request(struct server *server, struct connection *connection, struct request *request)
{
	struct rsock_hold body;
	if (!connection->trusted) {
		connection_reply(connection, request, EACCES, NULL, 0);
		return;
	}
	if (request->length < sizeof(body)) {
		connection_reply(connection, request, EINVAL, NULL, 0);
		return;
	}
	memcpy(&body, request->body, sizeof(body));
	if (body.socket != (uint32_t)HOLD_ALL) {
		take_back(server, connection, request, &body);
		return;
	}
	hold_orphans_expire(server);
	server->holder = connection;
	for (uint32_t slot = 0; slot < host_slots(server->state); slot++) {
		server->apps[slot].hold_gone = false;
		server->apps[slot].hold_add = server->apps[slot].fd >= 0;
	}
	server->bfd_untold = server->state->bfd_used != 0; // what happened while nobody listened
	connection_reply(connection, request, 0, &body, sizeof(body));
	hold_flush(server);
}
