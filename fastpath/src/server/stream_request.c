// What apps ask about their stream sockets: bind, listen, connect, options, names.
//
// Whoever shows a socket's cookie may name it; so may, with the nonce of its name alone, whoever has
// its owner's uid: that is how an accepted connection is named, and one that came with exec.
#define _GNU_SOURCE
#include "server/internal.h"

#include <errno.h>
#include <sys/socket.h>

struct stream_answer {
	struct rsock_name name;
	uint8_t listener[STREAM_NAME];
} __attribute__((packed));

// An address as a socket of this family names it; inside TCP it is in mapped form.
static void show(uint16_t family, const uint8_t *address, uint8_t *shown)
{
	memset(shown, 0, 16);
	if (family == AF_INET)
		memcpy(shown, address + 12, 4);
	else
		memcpy(shown, address, 16);
}

static void name_of(const struct tcp_socket *s, struct rsock_name *name)
{
	*name = (struct rsock_name){.family = s->family, .port = s->local_port, .interface = s->interface};
	show(s->family, s->local, name->address);
	if (s->state < TCP_STATE_ESTABLISHED)
		return;
	name->remote_family = s->family;
	name->remote_port = s->remote_port;
	name->remote_interface = s->interface;
	show(s->family, s->remote, name->remote_address);
}

static int request_bind(struct server *server, uint32_t slot, const struct request *request)
{
	const struct tcp_socket *s = host_stream(server->host, slot);
	const struct owner owner = stream_owner(s);
	struct rsock_name name;
	if (request->length < sizeof(name))
		return -EINVAL;
	memcpy(&name, request->body, sizeof(name));
	if (name.family != s->family)
		return -EAFNOSUPPORT;
	if (name.interface >= MAX_INTERFACES)
		return -ENODEV;
	if (rights_open(rights_of_socket(server, &owner), SOCK_STREAM, 0) != 0 || !rights_port(server, &owner, name.port))
		return -EACCES;
	int error = host_bind(server->host, slot, name.address, name.port, (uint16_t)name.interface);
	// To its app close(2) is over when it returns; we may not have looked yet.
	if (error == -EADDRINUSE && streams_reap(server, name.port))
		error = host_bind(server->host, slot, name.address, name.port, (uint16_t)name.interface);
	return error;
}

static int request_listen(struct server *server, uint32_t slot, const struct request *request)
{
	const struct tcp_socket *s = host_stream(server->host, slot);
	const struct owner owner = stream_owner(s);
	struct stream *stream = stream_at(server, slot);
	struct rsock_listen listen;
	if (request->length < sizeof(listen))
		return -EINVAL;
	memcpy(&listen, request->body, sizeof(listen));
	if (!(rights_of_socket(server, &owner) & RULE_LISTEN))
		return -EACCES;
	if (stream->state != STREAM_ALONE && stream->state != STREAM_LISTENING)
		return -EINVAL;
	int backlog = listen.backlog > INT32_MAX ? INT32_MAX : (int)listen.backlog;
	int error = host_listen(server->host, slot, backlog);
	if (error == -EADDRINUSE && streams_reap(server, s->local_port))
		error = host_listen(server->host, slot, backlog);
	if (error == 0)
		stream->state = STREAM_LISTENING;
	return error;
}

static int request_connect(struct server *server, uint32_t slot, const struct request *request)
{
	const struct tcp_socket *s = host_stream(server->host, slot);
	const struct owner owner = stream_owner(s);
	struct stream *stream = stream_at(server, slot);
	struct rsock_name name;
	struct rsock_filler filler = {0};
	uint8_t plain[16];
	if (request->length < sizeof(name))
		return -EINVAL;
	memcpy(&name, request->body, sizeof(name));
	if (request->length >= sizeof(name) + sizeof(filler))
		memcpy(&filler, request->body + sizeof(name), sizeof(filler));
	if (name.family != s->family)
		return -EAFNOSUPPORT;
	if (name.interface >= MAX_INTERFACES)
		return -ENODEV;
	uint8_t family = request_plain_address(name.family, name.address, plain);
	if (!rights_destination(server, &owner, RULE_CONNECT, family, plain))
		return -EACCES;
	if (stream->state == STREAM_FAILED)
		return -ECONNABORTED; // the fd cannot be connected again
	int error = host_connect(server->host, slot, name.address, name.port, (uint16_t)name.interface);
	if (error != 0 && error != -EINPROGRESS)
		return error;
	stream->skip = filler.bytes;
	return 0;
}

static void reply(struct server *server, struct connection *connection, const struct request *request, uint32_t slot, int error)
{
	struct stream_answer answer;
	uint32_t length = sizeof(answer.name);
	const struct tcp_socket *s = host_stream(server->host, slot);
	if (error == 0 && s == NULL)
		error = -EBADF;
	if (error < 0) {
		connection_reply(connection, request, error, NULL, 0);
		return;
	}
	name_of(s, &answer.name);
	if (request->header.op == RSOCK_OP_CONNECT) {
		memcpy(answer.listener, server->streams.name, server->streams.name_length);
		length += server->streams.name_length;
	}
	connection_reply(connection, request, 0, &answer, length);
}

static void request_setopt(struct server *server, struct connection *connection, const struct request *request)
{
	struct rsock_option option;
	const uint8_t *value = request_option(request, &option);
	int error = value == NULL ? -EINVAL
		: host_setopt(server->host, request->header.socket, (int)option.level, (int)option.name, value, option.length);
	connection_reply(connection, request, error, NULL, 0);
}

static bool proven(const struct server *server, const struct connection *connection, const struct request *request, const struct tcp_socket *s)
{
	uint32_t slot = request->header.socket;
	uint64_t shown = request->header.cookie;
	if (shown == s->cookie)
		return true;
	bool owner = connection->peer.uid == s->uid || connection->peer.uid == 0;
	return owner && (shown == names_nonce(server, slot, s->cookie) || shown == names_accepted_nonce(server, slot, s->cookie));
}

// What became of a socket that is not here any more: an accepted connection that ended well is EBADF.
static int epitaph(const struct server *server, uint64_t shown)
{
	if (shown >> 44 != 0 || shown >> 32 == 0)
		return EBADF; // not the nonce of an accepted one
	bool other = shown >> 32 != (server->state->attaches & 0xfff);
	return other || server->streams.resets[shown % STREAM_RESETS] == shown ? ECONNRESET : EBADF;
}

void stream_request(struct server *server, struct connection *connection, const struct request *request)
{
	uint32_t slot = request->header.socket;
	const struct tcp_socket *s = host_stream(server->host, slot);
	if (s == NULL || stream_at(server, slot)->state == STREAM_NONE || !proven(server, connection, request, s)) {
		connection_reply(connection, request, epitaph(server, request->header.cookie), NULL, 0);
		return;
	}
	switch (request->header.op) {
	case RSOCK_OP_BIND:
		reply(server, connection, request, slot, request_bind(server, slot, request));
		break;
	case RSOCK_OP_LISTEN:
		reply(server, connection, request, slot, request_listen(server, slot, request));
		break;
	case RSOCK_OP_CONNECT:
		reply(server, connection, request, slot, request_connect(server, slot, request));
		break;
	case RSOCK_OP_SETOPT:
		request_setopt(server, connection, request);
		break;
	case RSOCK_OP_GETOPT:
		request_getopt(server, connection, request);
		break;
	case RSOCK_OP_NAME:
		reply(server, connection, request, slot, 0);
		break;
	default:
		// CLOSE is a hint: other processes may hold the same fd.
		if (stream_at(server, slot)->state != STREAM_JOINED)
			(void)stream_look(server, slot);
		connection_reply(connection, request, 0, NULL, 0);
		break;
	}
}
