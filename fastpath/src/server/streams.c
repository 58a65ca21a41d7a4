// Stream sockets: their fds, from OPEN to the end.
//
// The app's fd is one AF_UNIX stream, made and bound here (names.c), that is never swapped for another:
// it serves as connector and as listener.  We keep no copy of it.
//
//   OPEN --> ALONE --LISTEN--> LISTENING            connections come from our own ends (stream_accept.c)
//              |
//              +--the fd connects to us--> JOINED --reset, refused--> FAILED
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

static void leave(struct server *server, struct stream *stream)
{
	// Whoever inherited a copy would keep it in the epoll set.
	epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, stream->fd, NULL);
	close(stream->fd);
	stream->state = STREAM_NONE;
}

void streams_free(struct server *server)
{
	struct streams *streams = &server->streams;
	for (uint32_t i = 0; i < streams->used; i++) {
		if (streams->at[i].state == STREAM_JOINED)
			leave(server, &streams->at[i]);
		else if (streams->at[i].waiting != 0)
			close(streams->at[streams->at[i].waiting - 1].fd);
	}
	if (streams->listener >= 0)
		close(streams->listener);
	free(streams->at);
	free(streams->users);
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
		stream_begin(server, slot, s->uid)->state = s->state == TCP_STATE_LISTEN ? STREAM_LISTENING : STREAM_ALONE;
		stream_watch(server, slot);
	}
	return serve_name(server);
}

// --- who has how many ---

static struct stream_user *find_user(const struct server *server, uint32_t uid)
{
	for (uint32_t i = 0; i < server->streams.user_count; i++)
		if (server->streams.users[i].uid == uid)
			return &server->streams.users[i];
	return NULL;
}

bool stream_quota_left(const struct server *server, uint32_t uid)
{
	const struct stream_user *user = find_user(server, uid);
	return user == NULL || user->count < MAX_STREAMS_PER_USER || rights_trusted(server, uid);
}

static void charge(struct server *server, uint32_t uid)
{
	struct streams *streams = &server->streams;
	struct stream_user *user = find_user(server, uid);
	if (user == NULL && streams->user_count == streams->user_room) {
		uint32_t room = streams->user_room * 2 + 8;
		struct stream_user *users = realloc(streams->users, room * sizeof(*users));
		if (users == NULL)
			return;
		streams->users = users;
		streams->user_room = room;
	}
	if (user == NULL) {
		user = &streams->users[streams->user_count++];
		*user = (struct stream_user){.uid = uid};
	}
	user->count++;
}

static void discharge(struct server *server, uint32_t uid)
{
	struct streams *streams = &server->streams;
	struct stream_user *user = find_user(server, uid);
	if (user != NULL && --user->count == 0)
		*user = streams->users[--streams->user_count];
}

// --- life ---

struct stream *stream_begin(struct server *server, uint32_t slot, uint32_t uid)
{
	struct stream *stream = stream_at(server, slot);
	const struct stream before = *stream;
	// It may still stand on the lists of its predecessor in this slot.
	*stream = (struct stream){
		.fd = -1,
		.uid = uid,
		.state = STREAM_ALONE,
		.retried = before.retried,
		.retry_next = before.retry_next,
		.queued = before.queued,
		.queue_next = before.queue_next,
	};
	if (slot - MAX_SOCKETS >= server->streams.used)
		server->streams.used = slot - MAX_SOCKETS + 1;
	charge(server, uid);
	return stream;
}

int stream_join(struct server *server, uint32_t slot, int fd)
{
	struct stream *stream = stream_at(server, slot);
	int from_start = 0;
	int size = STREAM_OUR_BUFFER;
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	connection_refuse_rights(fd);
	if (setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &from_start, sizeof(from_start)) < 0)
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

void stream_fail(struct server *server, uint32_t slot)
{
	struct stream *stream = stream_at(server, slot);
	if (stream->state != STREAM_JOINED) {
		stream->failed = true; // told once the app's fd leads to us
		return;
	}
	leave(server, stream);
	stream->state = STREAM_FAILED;
	if (!stream->accepted) {
		stream_watch(server, slot);
		return;
	}
	// An accepted fd has its listener's name, which tells nothing of it.
	const struct tcp_socket *s = host_stream(server->host, slot);
	if (s != NULL) {
		uint64_t nonce = names_accepted_nonce(server, slot, s->cookie);
		server->streams.resets[nonce % STREAM_RESETS] = nonce;
	}
	stream_close(server, slot, false);
}

void stream_close(struct server *server, uint32_t slot, bool reset)
{
	struct stream *stream = stream_at(server, slot);
	uint32_t waiting = stream->waiting;
	if (stream->state == STREAM_NONE)
		return;
	stream_unwatch(server, slot);
	stream_unqueue(server, slot);
	if (stream->state == STREAM_JOINED)
		leave(server, stream);
	stream->state = STREAM_NONE;
	stream->waiting = 0;
	discharge(server, stream->uid);
	if (reset)
		host_abort(server->host, slot);
	else
		host_close(server->host, slot);
	if (waiting != 0) {
		close(stream_at(server, MAX_SOCKETS + waiting - 1)->fd);
		stream_close(server, MAX_SOCKETS + waiting - 1, true);
	}
}

struct owner stream_owner(const struct tcp_socket *s)
{
	return (struct owner){.uid = s->uid, .gid = s->gid, .type = SOCK_STREAM};
}

// --- opening ---

static int open_slot(struct server *server, const struct connection *connection, const struct request *request, uint32_t *slot)
{
	struct rsock_open open;
	uint32_t gid;
	memcpy(&open, request->body, sizeof(open));
	uint32_t rights = rights_of_peer(server, &connection->peer, &gid);
	int denied = rights_open(rights, open.type, open.protocol);
	if (denied != 0)
		return -denied;
	if (!stream_quota_left(server, connection->peer.uid))
		return -EMFILE;
	int error = host_socket(server->host, open.family, open.type, open.protocol, slot);
	if (error < 0)
		return error;
	struct tcp_socket *s = host_stream(server->host, *slot);
	s->uid = connection->peer.uid;
	s->gid = gid;
	s->pid = connection->peer.pid;
	s->rights = rights;
	s->created_s = (uint32_t)(server->now / 1000000000);
	sockets_take_name(s->app, request->body + sizeof(open), request->length - (uint32_t)sizeof(open));
	stream_begin(server, *slot, s->uid);
	return 0;
}

// The app's fd, bound to its name.
static int open_fd(struct server *server, uint32_t slot, int *fd)
{
	struct sockaddr_un name;
	uint32_t length = names_of_socket(server, slot, host_stream(server->host, slot)->cookie, &name);
	int size = STREAM_APP_BUFFER;
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
	uint32_t slot;
	int fd = -1;
	int error = open_slot(server, connection, request, &slot);
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
