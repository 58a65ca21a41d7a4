// What apps ask about their stream sockets: bind, listen, connect, options, names.
//
// Whoever shows a socket's cookie may name it; so may, with the nonce of its name alone, whoever has
// its owner's uid: that is how an accepted connection is named, and one that came with exec.
#define _GNU_SOURCE
#include "server/internal.h"

#include <errno.h>
#include <netinet/in.h>
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

void stream_names(const struct tcp_socket *s, struct rsock_name *name)
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

int stream_bind(struct server *server, uint32_t slot, const struct rsock_name *name)
{
	const struct tcp_socket *s = host_stream(server->host, slot);
	const struct owner owner = stream_owner(s);
	if (name->family != s->family)
		return -EAFNOSUPPORT;
	if (name->interface >= MAX_INTERFACES)
		return -ENODEV;
	if (rights_open(rights_of_socket(server, &owner), SOCK_STREAM, 0) != 0 || !rights_port(server, &owner, name->port))
		return accounts_deny(server, owner.account, DENIAL_BIND, EACCES);
	int error = host_bind(server->host, slot, name->address, name->port, (uint16_t)name->interface);
	// To its app close(2) is over when it returns; we may not have looked yet.
	if (error == -EADDRINUSE && streams_reap(server, name->port))
		error = host_bind(server->host, slot, name->address, name->port, (uint16_t)name->interface);
	return error;
}

static int request_bind(struct server *server, uint32_t slot, const struct request *request)
{
	struct rsock_name name;
	if (request->length < sizeof(name))
		return -EINVAL;
	memcpy(&name, request->body, sizeof(name));
	return stream_bind(server, slot, &name);
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
		return accounts_deny(server, owner.account, DENIAL_LISTEN, EACCES);
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

int stream_connect(struct server *server, uint32_t slot, const struct rsock_name *name)
{
	const struct tcp_socket *s = host_stream(server->host, slot);
	const struct owner owner = stream_owner(s);
	struct stream *stream = stream_at(server, slot);
	uint8_t plain[16];
	if (name->family != s->family)
		return -EAFNOSUPPORT;
	if (name->interface >= MAX_INTERFACES)
		return -ENODEV;
	uint8_t family = request_plain_address(name->family, name->address, plain);
	if (!rights_destination(server, &owner, RULE_CONNECT, family, plain))
		return accounts_deny(server, owner.account, DENIAL_CONNECT, EACCES);
	if (stream->state == STREAM_FAILED)
		return -ECONNABORTED; // the fd cannot be connected again
	int error = host_connect(server->host, slot, name->address, name->port, (uint16_t)name->interface);
	if (error != 0 && error != -EINPROGRESS)
		return error;
	stream->failed = false;
	return 0;
}

static void reply(struct server *server, struct connection *connection, const struct request *request, uint32_t slot, int error)
{
	struct rsock_name name;
	const struct tcp_socket *s = host_stream(server->host, slot);
	if (error == 0 && s == NULL)
		error = -EBADF;
	if (error == 0)
		stream_names(s, &name);
	connection_reply(connection, request, error, &name, sizeof(name));
}

void stream_connected(struct server *server, struct connection *connection, const struct request *request, uint32_t slot)
{
	struct stream_answer answer;
	stream_names(host_stream(server->host, slot), &answer.name);
	memcpy(answer.listener, server->streams.name, server->streams.name_length);
	connection_reply(connection, request, 0, &answer, (uint32_t)sizeof(answer.name) + server->streams.name_length);
}

static void request_connect(struct server *server, struct connection *connection, const struct request *request, uint32_t slot)
{
	struct stream *stream = stream_at(server, slot);
	struct rsock_name name;
	struct rsock_filler filler = {0};
	if (request->length < sizeof(name)) {
		connection_reply(connection, request, EINVAL, NULL, 0);
		return;
	}
	memcpy(&name, request->body, sizeof(name));
	if (request->length >= sizeof(name) + sizeof(filler))
		memcpy(&filler, request->body + sizeof(name), sizeof(filler));
	int error = stream_connect(server, slot, &name);
	bool waits = (request->header.flags & RSOCK_FLAG_WAIT) != 0;
	// Who has waited for it in vain before may go on.
	bool begun = waits && stream->state == STREAM_ALONE && stream->waiter == 0;
	bool connected = begun && error == -EISCONN;
	if (error < 0 && !connected && !(begun && error == -EALREADY)) {
		connection_reply(connection, request, error, NULL, 0);
		return;
	}
	stream->skip = filler.bytes;
	if (waits && !connected)
		stream_wait(server, slot, connection, request);
	else
		stream_connected(server, connection, request, slot);
}

static void request_setopt(struct server *server, struct connection *connection, const struct request *request)
{
	struct rsock_option option;
	const uint8_t *value = request_option(request, &option);
	int error = value == NULL ? -EINVAL
		: host_setopt(server->host, request->header.socket, (int)option.level, (int)option.name, value, option.length);
	connection_reply(connection, request, error, NULL, 0);
}

static void resolve(struct server *server, struct connection *connection, const struct request *request, const struct tcp_socket *s)
{
	uint32_t slot = request->header.socket;
	struct rsock_name name;
	struct rsock_resolved resolved = {.cookie = s->cookie, .socket = slot, .family = s->family, .type = SOCK_STREAM, .protocol = IPPROTO_TCP};
	if (s->state == TCP_STATE_LISTEN)
		resolved.state = RSOCK_STATE_LISTENING;
	else if (s->state >= TCP_STATE_ESTABLISHED)
		resolved.state = RSOCK_STATE_CONNECTED;
	else if (s->state != TCP_STATE_CLOSED)
		resolved.state = RSOCK_STATE_CONNECTING;
	else
		resolved.state = stream_at(server, slot)->state != STREAM_ALONE ? RSOCK_STATE_OVER : s->local_port != 0 ? RSOCK_STATE_BOUND : RSOCK_STATE_NEW;
	stream_names(s, &name);
	request_resolved(connection, request, &resolved, &name);
}

// What became of a socket that is not here any more: an accepted connection that ended well is EBADF.
static int epitaph(const struct server *server, uint64_t shown)
{
	if (shown > ACCEPTED_NONCE || shown >> 32 == 0)
		return EBADF; // not the nonce of an accepted one
	if (shown >> 32 != (server->state->attaches & 0xfff))
		return ECONNRESET;
	uint64_t reset = server->streams.resets[shown % STREAM_RESETS];
	return (reset & ACCEPTED_NONCE) == shown ? (int)(reset >> ACCEPTED_NONCE_BITS) : EBADF;
}

void stream_request(struct server *server, struct connection *connection, const struct request *request)
{
	uint32_t slot = request->header.socket;
	const struct tcp_socket *s = host_stream(server->host, slot);
	if (s == NULL || stream_at(server, slot)->state == STREAM_NONE || !request_proven(server, connection, request, s->cookie, s->uid)) {
		connection_reply(connection, request, epitaph(server, request->header.cookie), NULL, 0);
		return;
	}
	switch (request->again ? RSOCK_OP_NAME : request->header.op) {
	case RSOCK_OP_BIND:
		reply(server, connection, request, slot, request_bind(server, slot, request));
		break;
	case RSOCK_OP_LISTEN:
		reply(server, connection, request, slot, request_listen(server, slot, request));
		break;
	case RSOCK_OP_CONNECT:
		request_connect(server, connection, request, slot);
		break;
	case RSOCK_OP_SETOPT:
		request_setopt(server, connection, request);
		break;
	case RSOCK_OP_GETOPT:
		request_getopt(server, connection, request);
		break;
	case RSOCK_OP_RESOLVE:
		resolve(server, connection, request, s);
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
