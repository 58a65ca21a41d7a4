// Connections on vr/NAME.sock: who is there, what he asks, and the answers.
//
// A stranger's fds are never taken, and never let go either: what happens as the last copy
// of an fd is closed is up to who made it.  A TCP socket that lingers holds whoever closes it
// for as long as it likes, be it by close(), by reading the message it came with into no
// room, or by closing the socket where that message waits.  So a stranger's message is looked
// at before it is read, and a connection with fds in its queue is put aside, open, until the
// process ends (an exiting process does not linger).
#define _GNU_SOURCE
#include "server/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	ACCEPTS_PER_EVENT = 16,
	STRANGER_BUFFER = 16 << 10, // unread answers, each perhaps with an fd: some tens
	UNANSWERED = -1,            // no errno
	DISCARDS = 1024             // records that are thrown away before a connection is closed
};

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83        // Linux 6.16: 0 refuses fds to who sends them
#endif

enum waiting { WAITING_NOTHING, WAITING_END, WAITING_RECORD, WAITING_FDS };

// What does a stranger's queue begin with?  With credentials asked for, each record has them,
// even an empty one, and the end of the file has none; fds find no room beside them.
static enum waiting stranger_waiting(int fd)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(struct ucred))];
	} control;
	char byte;
	struct iovec part = {.iov_base = &byte, .iov_len = sizeof(byte)};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof(control.room)};
	if (recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT) < 0)
		return WAITING_NOTHING;
	if (message.msg_flags & MSG_CTRUNC)
		return WAITING_FDS;
	return message.msg_controllen > 0 ? WAITING_RECORD : WAITING_END;
}

void connection_refuse_rights(int fd)
{
	int off = 0;
	(void)setsockopt(fd, SOL_SOCKET, SO_PASSRIGHTS, &off, sizeof(off));
}

static void stranger_open(int fd)
{
	int on = 1;
	int size = STRANGER_BUFFER;
	connection_refuse_rights(fd);
	(void)setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

// Close it, or put it aside.
static void stranger_close(int fd)
{
	uint8_t byte;
	enum waiting waiting = WAITING_RECORD;
	for (int i = 0; i < DISCARDS && waiting == WAITING_RECORD; i++) {
		waiting = stranger_waiting(fd);
		if (waiting == WAITING_RECORD)
			(void)!recv(fd, &byte, sizeof(byte), MSG_DONTWAIT);
	}
	if (waiting == WAITING_NOTHING || waiting == WAITING_END)
		close(fd);
}

static bool peer_read(int fd, struct peer *peer)
{
	struct ucred credentials;
	socklen_t length = sizeof(credentials);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) < 0)
		return false;
	peer->uid = credentials.uid;
	peer->gid = credentials.gid;
	peer->pid = (uint32_t)credentials.pid;
	// Somebody in more groups than we look at is judged by his uid and first group.
	length = sizeof(peer->groups);
	peer->group_count = 0;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, peer->groups, &length) == 0)
		peer->group_count = length / (uint32_t)sizeof(peer->groups[0]);
	return true;
}

static uint32_t free_index(const struct server *server)
{
	uint32_t index = 0;
	while (index < MAX_CONNECTIONS && server->connections[index] != NULL)
		index++;
	return index;
}

// The account that a newcomer is counted on; -1: there is no place for him.  *counted: whose time this takes; 0: nobody's.
static int admit(struct server *server, const struct peer *peer, bool trusted, uint32_t *counted)
{
	int account = accounts_of(server, peer->uid, NULL);
	*counted = account < 0 || trusted || rights_relay(server, peer->uid) ? 0 : (uint32_t)account;
	if (trusted)
		return account < 0 ? 0 : account;
	// The relay speaks for many, over few connections of its own.
	if (account < 0 || rights_relay(server, peer->uid) || quota_connection(server, (uint32_t)account))
		return account;
	(void)accounts_deny(server, (uint32_t)account, DENIAL_CONNECTIONS, ECONNREFUSED);
	return -1;
}

static bool connection_open(struct server *server, int fd, uint32_t *counted)
{
	struct peer peer;
	uint32_t index = free_index(server);
	if (!peer_read(fd, &peer))
		return false;
	bool trusted = rights_trusted(server, peer.uid);
	if (!trusted)
		stranger_open(fd);
	int account = index == MAX_CONNECTIONS ? -1 : admit(server, &peer, trusted, counted);
	if (account < 0)
		return false;
	struct connection *connection = calloc(1, sizeof(*connection));
	if (connection == NULL)
		return false;
	connection->fd = fd;
	connection->index = index;
	connection->generation = ++server->generation;
	connection->peer = peer;
	connection->account = (uint32_t)account;
	connection->trusted = trusted;
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = event_data(EVENT_CONNECTION, index, connection->generation)};
	if (epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
		free(connection);
		return false;
	}
	server->connections[index] = connection;
	quota_connected(server, connection->account);
	return true;
}

int connection_accept(struct server *server)
{
	int accepted = 0;
	while (accepted < ACCEPTS_PER_EVENT) {
		int fd = accept4(server->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0) {
			if (errno == ECONNABORTED || errno == EINTR)
				continue;
			return errno == EAGAIN ? accepted : -errno;
		}
		uint32_t account = 0;
		uint64_t start = quota_clock();
		if (!connection_open(server, fd, &account))
			stranger_close(fd);
		accepted++;
		if (account != 0 && rest_accepted(server, account, start))
			break;
	}
	return accepted;
}

void connection_close(struct server *server, struct connection *connection)
{
	observe_stop(server, connection);
	stream_waiters_gone(server, connection);
	if (server->holder == connection)
		server->holder = NULL;
	streams_look_soon(server, connection->peer.pid);
	server->connections[connection->index] = NULL;
	quota_disconnected(server, connection->account);
	epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, connection->fd, NULL);
	if (connection->trusted)
		close(connection->fd);
	else
		stranger_close(connection->fd);
	free(connection);
}

bool connection_send(const struct connection *connection, const void *header, uint32_t header_length, const void *body, uint32_t length, const int *fds, int fd_count)
{
	struct iovec parts[2] = {
		{.iov_base = (void *)(uintptr_t)header, .iov_len = header_length},
		{.iov_base = (void *)(uintptr_t)body, .iov_len = length},
	};
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int) * MAX_REQUEST_FDS)];
	} control;
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = length > 0 ? 2 : 1};
	if (fd_count > 0) {
		size_t bytes = sizeof(int) * (size_t)fd_count;
		memset(&control, 0, sizeof(control));
		message.msg_control = control.room;
		message.msg_controllen = CMSG_SPACE(bytes);
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(bytes);
		memcpy(CMSG_DATA(&control.header), fds, bytes);
	}
	return sendmsg(connection->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

static void send_answer(struct connection *connection, const struct request *request, uint8_t flags, int error, const void *body, uint32_t length, const int *fds, int fd_count)
{
	struct rsock_header header = {
		.magic = RSOCK_MAGIC,
		.op = request->header.op,
		.flags = flags,
		.request = request->header.request,
		.socket = request->header.socket,
		.error = (uint32_t)error,
		.cookie = request->header.cookie,
	};
	connection->answer = error;
	if (!connection_send(connection, &header, sizeof(header), body, length, fds, fd_count))
		connection->closing = true;
}

void connection_reply(struct connection *connection, const struct request *request, int error, const void *body, uint32_t length)
{
	if (error != 0)
		send_answer(connection, request, RSOCK_FLAG_REPLY | RSOCK_FLAG_ERROR, error < 0 ? -error : error, NULL, 0, NULL, 0);
	else
		send_answer(connection, request, RSOCK_FLAG_REPLY, 0, body, length, NULL, 0);
}

void connection_reply_fds(struct connection *connection, const struct request *request, uint8_t flags, const void *body, uint32_t length, const int *fds, int fd_count)
{
	send_answer(connection, request, (uint8_t)(RSOCK_FLAG_REPLY | flags), 0, body, length, fds, fd_count);
}

// Collect the fds of a message; what is more than we take is closed at once.
static void take_fds(struct msghdr *message, struct request *request)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (request->fd_count < MAX_REQUEST_FDS)
				request->fds[request->fd_count++] = fd;
			else
				close(fd);
		}
	}
}

// What came is no request.
static void refuse(struct server *server, struct connection *connection)
{
	(void)accounts_deny(server, connection->account, DENIAL_MALFORMED, EPROTO);
	connection->closing = true;
}

// Read and run one request; false when there is none or the connection is over.
static bool serve_one(struct server *server, struct connection *connection)
{
	uint8_t buffer[MAX_REQUEST];
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int) * MAX_REQUEST_FDS)];
	} control;
	struct iovec part = {.iov_base = buffer, .iov_len = sizeof(buffer)};
	struct msghdr message = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = connection->trusted ? control.room : NULL,
		.msg_controllen = connection->trusted ? sizeof(control.room) : 0,
	};
	if (!connection->trusted && stranger_waiting(connection->fd) == WAITING_FDS) {
		refuse(server, connection);
		return false;
	}
	ssize_t got = recvmsg(connection->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	struct request request = {.fd_count = 0};
	if (got >= 0)
		take_fds(&message, &request);
	if (got <= 0) {
		connection->closing = true;
	} else if (got < (ssize_t)sizeof(request.header) || (message.msg_flags & MSG_TRUNC)) {
		refuse(server, connection);
	} else {
		memcpy(&request.header, buffer, sizeof(request.header));
		request.body = buffer + sizeof(request.header);
		request.length = (uint32_t)got - (uint32_t)sizeof(request.header);
		if (request.header.magic != RSOCK_MAGIC || (request.header.flags & RSOCK_FLAG_REPLY))
			refuse(server, connection);
		else
			request_run(server, connection, &request);
	}
	for (int i = 0; i < request.fd_count; i++)
		if (request.fds[i] >= 0)
			close(request.fds[i]);
	return !connection->closing;
}

int connection_event(struct server *server, struct connection *connection, uint32_t events)
{
	int served = 0;
	if ((events & EPOLLOUT) && connection == server->holder)
		hold_flush(server);
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		server_hear(server, &connection->told);
		connection->answer = UNANSWERED;
		served = serve_one(server, connection); // as a rule there is one; others bring another event
		if (connection->answer != UNANSWERED)
			server_tell(server, &connection->told);
	}
	if (connection->closing)
		connection_close(server, connection);
	return served;
}
