// How apps' fds and our ends of them meet: apps connect to us, and we connect to apps that listen.
//
// The fd of a connection that an app accepts is made by the kernel, from our connect() to the app's
// listening fd.  Where the app's own backlog is full, one connection waits here and the others in
// TCP's accept queue: an established one is never dropped.
#define _GNU_SOURCE
#include "server/internal.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

// --- apps that connect ---

static void meet(struct server *server, int fd, const struct sockaddr_un *name, socklen_t length)
{
	uint32_t slot;
	struct stream *stream = NULL;
	if (names_slot(server, name, length, &slot))
		stream = stream_at(server, slot);
	if (stream == NULL || stream->state != STREAM_ALONE || stream_join(server, slot, fd) < 0) {
		close(fd);
		return;
	}
	// What TCP told before there was anybody to be told.
	stream_queue(server, slot, (stream->failed ? (uint32_t)HOST_STREAM_FAILED : 0) | (stream->connected ? (uint32_t)HOST_STREAM_CONNECTED : 0) |
		(stream->peer_closed ? (uint32_t)HOST_STREAM_PEER_CLOSED : 0));
}

int streams_accept(struct server *server)
{
	int accepted = 0;
	while (accepted < STREAM_ACCEPTS) {
		struct sockaddr_un name;
		socklen_t length = sizeof(name);
		int fd = accept4(server->streams.listener, (struct sockaddr *)&name, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0)
			break;
		meet(server, fd, &name, length);
		accepted++;
	}
	return accepted;
}

// --- apps that listen ---

static bool allowed(const struct server *server, const struct tcp_socket *s)
{
	uint8_t plain[16];
	const struct owner owner = stream_owner(s);
	uint8_t family = request_plain_address(AF_INET6, s->remote, plain);
	return rights_destination(server, &owner, RULE_LISTEN, family, plain);
}

// Our end of a connection that is about to be accepted, not connected yet; -errno.
static int end_new(const struct server *server, uint32_t slot, const struct tcp_socket *s)
{
	struct sockaddr_un name;
	uint32_t length = names_of_connection(server, slot, s, &name);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd >= 0 && bind(fd, (struct sockaddr *)&name, length) < 0) {
		int error = -errno;
		close(fd);
		return error;
	}
	return fd < 0 ? -errno : fd;
}

// The next connection of TCP's queue becomes the one that waits; false: there is none, or no fd.
static bool take_next(struct server *server, uint32_t slot)
{
	struct stream *stream = stream_at(server, slot);
	struct tcp_socket *listener = host_stream(server->host, slot);
	uint32_t child;
	if (listener == NULL || listener->role.listener.accept_count == 0)
		return false;
	// Beyond a quota connections wait where those of a slow app do.
	const struct owner owner = stream_owner(listener);
	if (!quota_accept(server, &owner, stream->put_off)) {
		stream->put_off = true;
		stream_retry(server, slot);
		return false;
	}
	stream->put_off = false;
	if (host_accept(server->host, slot, &child) < 0)
		return false;
	struct tcp_socket *s = host_stream(server->host, child);
	if (s == NULL)
		return true;
	s->uid = listener->uid;
	s->gid = listener->gid;
	s->pid = listener->pid;
	s->rights = listener->rights;
	s->account = listener->account;
	memcpy(s->app, listener->app, sizeof(s->app));
	int fd = -EACCES;
	if (allowed(server, s)) {
		fd = end_new(server, child, s);
	} else {
		server->state->host_drops[DROP_SOCKET_DENIED]++;
		(void)accounts_deny(server, s->account, DENIAL_ACCEPT, EACCES);
	}
	if (fd < 0) {
		host_abort(server->host, child);
		return true;
	}
	struct stream *made = stream_begin(server, child);
	made->accepted = true;
	made->connected = true;
	made->fd = fd;
	made->waits_at = slot - MAX_SOCKETS + 1;
	stream->waiting = child - MAX_SOCKETS + 1;
	return true;
}

// Connect the one that waits to the app; false: not now, or the app is gone.
static bool introduce(struct server *server, uint32_t slot)
{
	struct stream *stream = stream_at(server, slot);
	uint32_t child = MAX_SOCKETS + stream->waiting - 1;
	struct stream *made = stream_at(server, child);
	struct sockaddr_un name;
	uint32_t length = names_of_socket(server, slot, host_stream(server->host, slot), &name);
	if (connect(made->fd, (struct sockaddr *)&name, length) < 0) {
		// Refused: it is gone, or has not called listen(2) yet.
		if (errno != ECONNREFUSED || !stream_look(server, slot))
			stream_retry(server, slot);
		return false;
	}
	stream->waiting = 0;
	made->waits_at = 0;
	int fd = made->fd;
	if (stream_join(server, child, fd) < 0) {
		close(fd);
		stream_close(server, child, true);
		return true;
	}
	const struct tcp_socket *s = host_stream(server->host, child);
	if (made->failed || s == NULL || s->state == TCP_STATE_CLOSED)
		stream_queue(server, child, HOST_STREAM_FAILED);
	else if (made->peer_closed)
		stream_queue(server, child, HOST_STREAM_PEER_CLOSED);
	return true;
}

void stream_offer(struct server *server, uint32_t slot)
{
	struct stream *stream = stream_at(server, slot);
	for (int i = 0; i < STREAM_ACCEPTS; i++) {
		if (stream->waiting == 0 && !take_next(server, slot))
			return;
		if (stream->waiting != 0 && !introduce(server, slot))
			return;
	}
	stream_queue(server, slot, HOST_STREAM_ACCEPTABLE);
}
