// Stream sockets: their fds, from OPEN to the end.
//
// The app's fd is one AF_UNIX stream, made and bound here (names.c), that is never swapped for another:
// it serves as connector and as listener.  We keep no copy of it.
//
//   OPEN --> ALONE --LISTEN--> LISTENING            connections come from our own ends (stream_accept.c)
//              |
//              +--the fd connects to us--> JOINED --reset, refused--> FAILED
//                                            ^
//   DIAL --> DIALED --TCP is connected-------+      here the fd is made last (stream_dial.c)
//
// In ALONE, LISTENING and FAILED nothing but the fd's name tells that it is still open (stream_watch.c);
// in JOINED its other end does.
//
// Not supported: a repeated OPEN makes another socket; the first one goes when its fd is closed unread.
#define _GNU_SOURCE
#include "server/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { STREAM_BACKLOG = 4096 };

bool streams_new(struct server *server)
{
	server->streams.listener = -1;
	server->streams.at = calloc(MAX_TCP_SOCKETS, sizeof(*server->streams.at));
	return server->streams.at != NULL;
}

static void leave(struct stream *stream)
{
	close(stream->fd); // nobody has a copy, so it leaves the epoll set with that
	stream->state = STREAM_NONE;
}

void streams_free(struct server *server)
{
	struct streams *streams = &server->streams;
	for (uint32_t i = 0; i < streams->used; i++) {
		if (streams->at[i].state == STREAM_JOINED)
			leave(&streams->at[i]);
		else if (streams->at[i].waiting != 0)
			close(streams->at[streams->at[i].waiting - 1].fd);
	}
	if (streams->listener >= 0)
		close(streams->listener);
	free(streams->at);
}

// --- where apps' fds connect to ---

static int serve_name(struct server *server)
{
	struct streams *streams = &server->streams;
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	uint64_t nonce[2];
	if (getrandom(nonce, sizeof(nonce), 0) != (ssize_t)sizeof(nonce))
		return -EIO;
	int length = snprintf(name.sun_path + 1, sizeof(name.sun_path) - 1, "anabranch/streams/%016llx%016llx",
		(unsigned long long)nonce[0], (unsigned long long)nonce[1]);
	streams->name_length = 1 + (uint32_t)length;
	memcpy(streams->name, name.sun_path, streams->name_length);
	streams->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (streams->listener < 0)
		return -errno;
	connection_refuse_rights(streams->listener);
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = event_data(EVENT_STREAMS, 0, 0)};
	socklen_t size = (socklen_t)sizeof(name.sun_family) + streams->name_length;
	if (bind(streams->listener, (struct sockaddr *)&name, size) < 0 || listen(streams->listener, STREAM_BACKLOG) < 0 ||
	    epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, streams->listener, &event) < 0)
		return -errno;
	return 0;
}

int streams_serve(struct server *server)
{
	uint64_t used = server->state->tcp_used < MAX_TCP_SOCKETS ? server->state->tcp_used : MAX_TCP_SOCKETS;
	for (uint32_t slot = MAX_SOCKETS; slot < MAX_SOCKETS + used; slot++) {
		const struct tcp_socket *s = host_stream(server->host, slot);
		if (s == NULL)
			continue;
		stream_begin(server, slot)->state = s->state == TCP_STATE_LISTEN ? STREAM_LISTENING : STREAM_ALONE;
		stream_watch(server, slot);
	}
	return serve_name(server);
}

// --- life ---

struct stream *stream_begin(struct server *server, uint32_t slot)
{
	struct stream *stream = stream_at(server, slot);
	const struct owner owner = stream_owner(host_stream(server->host, slot));
	const struct stream before = *stream;
	// It may still stand on the lists of its predecessor in this slot.
	*stream = (struct stream){
		.fd = -1,
		.account = owner.account,
		.byte_rate = quota_byte_rate(server, &owner),
		.state = STREAM_ALONE,
		.retried = before.retried,
		.retry_next = before.retry_next,
		.queued = before.queued,
		.queue_next = before.queue_next,
	};
	if (slot - MAX_SOCKETS >= server->streams.used)
		server->streams.used = slot - MAX_SOCKETS + 1;
	quota_charge(server, owner.account, true);
	return stream;
}

int stream_join(struct server *server, uint32_t slot, int fd)
{
	struct stream *stream = stream_at(server, slot);
	const struct owner owner = stream_owner(host_stream(server->host, slot));
	int from = (int)stream->held;
	stream->buffer = quota_buffer(server, &owner, stream->buffer, STREAM_OUR_BUFFER);
	int size = (int)stream->buffer;
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	connection_refuse_rights(fd);
	if (setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &from, sizeof(from)) < 0)
		return -errno;
	stream->generation = ++server->generation;
	// Edges: the last byte stays unread, so the fd is readable for ever.
	struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.u64 = event_data(EVENT_STREAM, slot - MAX_SOCKETS, stream->generation)};
	if (epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		return -errno;
	stream_unwatch(server, slot);
	stream->fd = fd;
	stream->state = STREAM_JOINED;
	host_stream_resume(server->host, slot);
	return 0;
}

void stream_watch_room(struct server *server, uint32_t slot, bool on)
{
	struct stream *stream = stream_at(server, slot);
	struct epoll_event event = {
		.events = EPOLLIN | EPOLLRDHUP | EPOLLET | (on ? (uint32_t)EPOLLOUT : 0),
		.data.u64 = event_data(EVENT_STREAM, slot - MAX_SOCKETS, stream->generation),
	};
	if (stream->watches_room != on)
		(void)epoll_ctl(server->epoll_fd, EPOLL_CTL_MOD, stream->fd, &event);
	stream->watches_room = on;
}

// An accepted fd has its listener's name, which tells nothing of it.
static void remember_reset(struct server *server, uint32_t slot)
{
	const struct tcp_socket *s = host_stream(server->host, slot);
	if (s == NULL)
		return;
	uint64_t nonce = names_accepted_nonce(server, slot, s->cookie);
	uint64_t error = s->error > 0 ? (uint64_t)s->error : ECONNRESET;
	server->streams.resets[nonce % STREAM_RESETS] = error << ACCEPTED_NONCE_BITS | nonce;
}

void stream_fail(struct server *server, uint32_t slot)
{
	struct stream *stream = stream_at(server, slot);
	if (stream->state != STREAM_JOINED) {
		stream->failed = true; // told once the app's fd leads to us
		return;
	}
	leave(stream);
	stream->state = STREAM_FAILED;
	if (!stream->accepted) {
		stream_watch(server, slot);
		return;
	}
	remember_reset(server, slot);
	stream_close(server, slot, false);
}

void stream_reset(struct server *server, uint32_t slot)
{
	if (stream_at(server, slot)->accepted)
		remember_reset(server, slot);
	stream_close(server, slot, true);
}

void stream_close(struct server *server, uint32_t slot, bool reset)
{
	struct stream *stream = stream_at(server, slot);
	uint32_t waiting = stream->waiting;
	if (stream->state == STREAM_NONE)
		return;
	stream_unwatch(server, slot);
	stream_unqueue(server, slot);
	stream_refuse_waiter(server, stream);
	if (stream->state == STREAM_JOINED || stream->waits_at != 0)
		leave(stream);
	if (stream->waits_at != 0)
		server->streams.at[stream->waits_at - 1].waiting = 0;
	stream->state = STREAM_NONE;
	stream->waits_at = 0;
	quota_discharge(server, stream->account, true, stream->buffer);
	stream->buffer = 0;
	if (reset)
		host_abort(server->host, slot);
	else
		host_close(server->host, slot);
	if (waiting != 0)
		stream_close(server, MAX_SOCKETS + waiting - 1, true);
}

struct owner stream_owner(const struct tcp_socket *s)
{
	return (struct owner){.uid = s->uid, .gid = s->gid, .account = s->account, .type = SOCK_STREAM};
}

// --- opening ---

int stream_slot(struct server *server, const struct connection *connection, uint16_t family, struct admission *admission, uint32_t *slot)
{
	int error = rights_admit(server, connection, admission);
	if (error == 0)
		error = quota_open(server, &admission->owner);
	if (error < 0)
		return error;
	error = host_socket(server->host, family, SOCK_STREAM, admission->owner.protocol, slot);
	if (error < 0)
		return error;
	struct tcp_socket *s = host_stream(server->host, *slot);
	s->uid = connection->peer.uid;
	s->gid = admission->owner.gid;
	s->account = (uint16_t)admission->owner.account;
	s->pid = connection->peer.pid;
	s->rights = admission->rights;
	s->created_s = (uint32_t)(server->now / 1000000000);
	sockets_take_name(s->app, admission->app, admission->app_length);
	stream_begin(server, *slot);
	return 0;
}

// The app's fd, bound to its name.
static int open_fd(struct server *server, uint32_t slot, int *fd)
{
	struct sockaddr_un name;
	uint32_t length = names_of_socket(server, slot, host_stream(server->host, slot), &name);
	int size = RSOCK_STREAM_APP_BUFFER;
	int made = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (made < 0)
		return -errno;
	(void)setsockopt(made, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	if (bind(made, (struct sockaddr *)&name, length) < 0) {
		int error = -errno;
		close(made);
		return error;
	}
	*fd = made;
	return 0;
}

void streams_open(struct server *server, struct connection *connection, const struct request *request)
{
	struct rsock_open open;
	uint32_t slot;
	int fd = -1;
	struct admission admission = sockets_admission(request, &open);
	int error = stream_slot(server, connection, open.family, &admission, &slot);
	if (error == 0) {
		error = open_fd(server, slot, &fd);
		if (error < 0)
			stream_close(server, slot, true);
	}
	if (error < 0) {
		connection_reply(connection, request, error, NULL, 0);
		return;
	}
	const struct tcp_socket *s = host_stream(server->host, slot);
	struct rsock_opened opened = {.socket = slot, .rights = s->rights, .cookie = s->cookie};
	connection_reply_fds(connection, request, 0, &opened, sizeof(opened), &fd, 1);
	close(fd);
	if (connection->closing)
		stream_close(server, slot, true);
	else
		stream_watch(server, slot);
}
