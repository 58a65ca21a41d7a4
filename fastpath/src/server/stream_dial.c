// Connecting in one request, and requests whose answer waits for TCP.
//
//   DIAL            open and connect; the answer comes at once, and the fd is full of filler until TCP is connected
//   DIAL + WAIT     the same, answered when TCP is connected: until then there is no fd
//   CONNECT + WAIT  answered when TCP is connected; then the app's fd connects to us (stream_accept.c)
//
// The fd of a dialed socket is one end of a pair, since it will never listen; it has a name like any other.  One
// byte that the app never wrote waits in it from the beginning, for the sake of resets (stream_data.c).
// Who asked and waits can take it back by closing the connection that he asked on.
#define _GNU_SOURCE
#include "server/internal.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct dial_answer {
	struct rsock_opened opened;
	struct rsock_name name;
} __attribute__((packed));

// --- who waits ---

void stream_wait(struct server *server, uint32_t slot, struct connection *connection, const struct request *request)
{
	struct stream *stream = stream_at(server, slot);
	uint32_t link = slot - MAX_SOCKETS + 1;
	stream_refuse_waiter(server, stream);
	stream->waiter = connection->index + 1;
	stream->waiter_request = request->header.request;
	stream->waiter_op = request->header.op;
	stream->waiter_previous = 0;
	stream->waiter_next = connection->waiters;
	if (connection->waiters != 0)
		server->streams.at[connection->waiters - 1].waiter_previous = link;
	connection->waiters = link;
}

static struct connection *waiter_of(const struct server *server, const struct stream *stream)
{
	return stream->waiter == 0 ? NULL : server->connections[stream->waiter - 1];
}

void stream_forget_waiter(struct server *server, struct stream *stream)
{
	struct stream *all = server->streams.at;
	struct connection *connection = waiter_of(server, stream);
	if (connection == NULL)
		return;
	if (stream->waiter_previous != 0)
		all[stream->waiter_previous - 1].waiter_next = stream->waiter_next;
	else
		connection->waiters = stream->waiter_next;
	if (stream->waiter_next != 0)
		all[stream->waiter_next - 1].waiter_previous = stream->waiter_previous;
	stream->waiter = 0;
}

static struct request waited_for(const struct stream *stream)
{
	return (struct request){.header = {.op = stream->waiter_op, .request = stream->waiter_request}};
}

void stream_refuse_waiter(struct server *server, struct stream *stream)
{
	struct connection *connection = waiter_of(server, stream);
	const struct request request = waited_for(stream);
	if (connection == NULL)
		return;
	stream_forget_waiter(server, stream);
	connection_reply(connection, &request, ECONNABORTED, NULL, 0);
}

void stream_waiters_gone(struct server *server, struct connection *connection)
{
	while (connection->waiters != 0) {
		uint32_t slot = MAX_SOCKETS + connection->waiters - 1;
		struct stream *stream = stream_at(server, slot);
		stream_forget_waiter(server, stream);
		if (stream->state == STREAM_DIALED)
			stream_close(server, slot, false);
	}
}

// --- the fd ---

// Fill the app's end, as the library does with an fd that it connects itself (rsock/streams.py).
static bool fill(struct server *server, const struct stream *stream, int fd)
{
	if (!stream->connected &&
	    send(fd, server->records, RSOCK_STREAM_FILLER, MSG_DONTWAIT | MSG_NOSIGNAL) != RSOCK_STREAM_FILLER)
		return false;
	return send(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1;
}

static int dial_pair(struct server *server, uint32_t slot, int *app_fd)
{
	struct stream *stream = stream_at(server, slot);
	struct sockaddr_un name;
	uint32_t length = names_of_socket(server, slot, host_stream(server->host, slot), &name);
	int size = stream->connected ? RSOCK_STREAM_CONNECTED_BUFFER : RSOCK_STREAM_APP_BUFFER;
	int pair[2];
	// The app's end blocks, as socket(2) has it, and of ours nothing is asked without MSG_DONTWAIT.
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	(void)setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	int error = bind(pair[1], (const struct sockaddr *)&name, length) < 0 ? -errno : 0;
	if (error == 0 && !fill(server, stream, pair[1]))
		error = -ENOBUFS;
	stream->held = stream->connected;
	stream->skip = stream->connected ? 0 : RSOCK_STREAM_FULL;
	if (error == 0)
		error = stream_join(server, slot, pair[0]);
	if (error < 0) {
		close(pair[0]);
		close(pair[1]);
		return error;
	}
	*app_fd = pair[1];
	return 0;
}

// Give the app its fd; a socket that nobody gets is closed.
static void hand_over(struct server *server, struct connection *connection, const struct request *request, uint32_t slot)
{
	int app_fd = -1;
	int error = dial_pair(server, slot, &app_fd);
	if (error < 0) {
		stream_close(server, slot, true);
		connection_reply(connection, request, error, NULL, 0);
		return;
	}
	const struct tcp_socket *s = host_stream(server->host, slot);
	struct dial_answer answer = {.opened = {.socket = slot, .rights = s->rights, .cookie = s->cookie}};
	stream_names(s, &answer.name);
	connection_reply_fds(connection, request, 0, &answer, sizeof(answer), &app_fd, 1);
	close(app_fd);
	if (connection->closing)
		stream_close(server, slot, true);
}

void stream_waited(struct server *server, uint32_t slot)
{
	struct stream *stream = stream_at(server, slot);
	struct connection *connection = waiter_of(server, stream);
	const struct request request = waited_for(stream);
	struct tcp_socket *s = host_stream(server->host, slot);
	bool dialed = stream->state == STREAM_DIALED;
	if (connection == NULL)
		return;
	stream_forget_waiter(server, stream);
	server_tell(server, &connection->told);
	if (!stream->connected) {
		int error = s == NULL || s->error == 0 ? ECONNRESET : s->error;
		if (s != NULL)
			s->error = 0;
		if (dialed)
			stream_close(server, slot, false);
		connection_reply(connection, &request, error, NULL, 0);
	} else if (dialed) {
		hand_over(server, connection, &request, slot);
	} else {
		stream_connected(server, connection, &request, slot);
	}
}

// --- DIAL ---

static int dial(struct server *server, uint32_t slot, const struct rsock_name *name)
{
	struct rsock_name local = {.family = name->remote_family, .port = name->remote_port, .interface = name->remote_interface};
	memcpy(local.address, name->remote_address, sizeof(local.address));
	int error = local.family != 0 ? stream_bind(server, slot, &local) : 0;
	return error < 0 ? error : stream_connect(server, slot, name);
}

void stream_dial(struct server *server, struct connection *connection, const struct request *request)
{
	struct {
		struct rsock_dial dial;
		struct rsock_name name;
	} __attribute__((packed)) asked;
	uint32_t slot;
	if (request->length < sizeof(asked)) {
		connection_reply(connection, request, EINVAL, NULL, 0);
		return;
	}
	memcpy(&asked, request->body, sizeof(asked));
	struct admission admission = {
		.owner = {.type = SOCK_STREAM, .protocol = asked.dial.protocol},
		.identity = asked.dial.identity,
		.app = request->body + sizeof(asked),
		.app_length = request->length - (uint32_t)sizeof(asked),
	};
	int error = stream_slot(server, connection, asked.dial.family, &admission, &slot);
	if (error == 0) {
		error = dial(server, slot, &asked.name);
		if (error < 0)
			stream_close(server, slot, true);
	}
	if (error < 0) {
		connection_reply(connection, request, error, NULL, 0);
	} else if (request->header.flags & RSOCK_FLAG_WAIT) {
		stream_at(server, slot)->state = STREAM_DIALED;
		stream_wait(server, slot, connection, request);
	} else {
		hand_over(server, connection, request, slot);
	}
}
