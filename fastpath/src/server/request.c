// What apps ask about their sockets: bind, connect, options, names.
//
// A socket is named by slot and cookie; the cookie is the proof, so that a child or another
// process that was given the fd can go on with it over a connection of its own.  Who has the fd
// alone finds slot and nonce in its name (names.c), which is proof enough for its owner's uid.
#include "server/internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

static void name_of(const struct socket_entry *entry, struct rsock_name *name)
{
	*name = (struct rsock_name){
		.family = entry->family,
		.port = entry->local_port,
		.interface = entry->interface,
	};
	memcpy(name->address, entry->local, sizeof(name->address));
	if (entry->flags & SOCKET_CONNECTED) {
		name->remote_family = entry->family;
		name->remote_port = entry->remote_port;
		name->remote_interface = entry->interface;
		memcpy(name->remote_address, entry->remote, sizeof(name->remote_address));
	}
}

static void reply_name(struct connection *connection, const struct request *request, const struct socket_entry *entry, int error)
{
	struct rsock_name name;
	name_of(entry, &name);
	connection_reply(connection, request, error, &name, sizeof(name));
}

bool request_proven(const struct server *server, const struct connection *connection, const struct request *request, uint64_t cookie, uint32_t uid)
{
	uint64_t shown = request->header.cookie;
	if (shown == cookie)
		return true;
	// Above the nonce stands what tells fds, or forwarders, apart.
	bool owner = connection->peer.uid == uid || connection->peer.uid == 0;
	return owner && shown <= ACCEPTED_NONCE && (uint32_t)shown == names_nonce(server, request->header.socket, cookie);
}

void request_resolved(struct connection *connection, const struct request *request, const struct rsock_resolved *resolved, const struct rsock_name *name)
{
	struct {
		struct rsock_resolved resolved;
		struct rsock_name name;
	} __attribute__((packed)) answer = {*resolved, *name};
	connection_reply(connection, request, 0, &answer, sizeof(answer));
}

static void request_resolve(struct connection *connection, const struct request *request, const struct socket_entry *entry)
{
	struct rsock_name name;
	const struct rsock_resolved resolved = {
		.cookie = entry->cookie,
		.socket = request->header.socket,
		.family = entry->family,
		.type = entry->type,
		.protocol = entry->protocol,
		.state = entry->flags & SOCKET_CONNECTED ? RSOCK_STATE_CONNECTED : entry->flags & SOCKET_BOUND ? RSOCK_STATE_BOUND : RSOCK_STATE_NEW,
	};
	name_of(entry, &name);
	request_resolved(connection, request, &resolved, &name);
}

static int bind_checked(struct server *server, const struct socket_entry *entry, uint32_t slot, const struct rsock_name *name)
{
	if (name->family != entry->family)
		return -EAFNOSUPPORT;
	if (name->interface >= MAX_INTERFACES)
		return -ENODEV;
	const struct owner owner = sockets_owner(entry);
	bool has_port = entry->type == SOCK_DGRAM && entry->protocol == IPPROTO_UDP;
	if (rights_open(rights_of_socket(server, &owner), entry->type, entry->protocol) != 0 ||
	    (has_port && !rights_port(server, &owner, name->port)))
		return accounts_deny(server, owner.account, DENIAL_BIND, EACCES);
	int error = host_bind(server->host, slot, name->address, name->port, (uint16_t)name->interface);
	// To its app close(2) is over when it returns; to us it is an event that may wait behind this request.
	if (error == -EADDRINUSE && sockets_reap(server, name->port))
		error = host_bind(server->host, slot, name->address, name->port, (uint16_t)name->interface);
	return error;
}

uint8_t request_plain_address(uint16_t family, const uint8_t *address, uint8_t *plain)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	memset(plain, 0, 16);
	if (family == AF_INET || memcmp(address, mapped, sizeof(mapped)) == 0) {
		memcpy(plain, family == AF_INET ? address : address + sizeof(mapped), 4);
		return FAMILY_IPV4;
	}
	memcpy(plain, address, 16);
	return FAMILY_IPV6;
}

static int connect_checked(struct server *server, const struct socket_entry *entry, uint32_t slot, const struct rsock_name *name)
{
	// Records sent before this call were written for the old state.
	(void)sockets_drain(server, slot, 4 * RECORDS_PER_EVENT);
	if (entry->cookie == 0)
		return -EBADF;
	if (name->family == AF_UNSPEC)
		return host_disconnect(server->host, slot);
	if (name->family != entry->family)
		return -EAFNOSUPPORT;
	if (name->interface >= MAX_INTERFACES)
		return -ENODEV;
	uint8_t plain[16];
	uint8_t family = request_plain_address(name->family, name->address, plain);
	const struct owner owner = sockets_owner(entry);
	if (!rights_destination(server, &owner, UINT32_MAX, family, plain))
		return accounts_deny(server, owner.account, DENIAL_CONNECT, EACCES);
	return host_connect(server->host, slot, name->address, name->port, (uint16_t)name->interface);
}

static bool is_join(uint32_t level, uint32_t name)
{
	if (level == IPPROTO_IP)
		return name == IP_ADD_MEMBERSHIP || name == IP_ADD_SOURCE_MEMBERSHIP || name == MCAST_JOIN_GROUP || name == MCAST_JOIN_SOURCE_GROUP;
	return level == IPPROTO_IPV6 && (name == IPV6_JOIN_GROUP || name == MCAST_JOIN_GROUP || name == MCAST_JOIN_SOURCE_GROUP);
}

static int setopt_checked(struct server *server, const struct socket_entry *entry, uint32_t slot, const struct rsock_option *option, const uint8_t *value)
{
	const struct owner owner = sockets_owner(entry);
	if (is_join(option->level, option->name) && !(rights_of_socket(server, &owner) & RULE_MULTICAST))
		return accounts_deny(server, owner.account, DENIAL_MULTICAST, EACCES);
	int error = host_setopt(server->host, slot, (int)option->level, (int)option->name, value, option->length);
	if (error == 0 && option->level == SOL_SOCKET && option->name == SO_RCVBUF && option->length >= sizeof(int)) {
		// What waits for the app waits in our end of the pair.
		int size;
		memcpy(&size, value, sizeof(size));
		size = size < 0 ? 0 : size < FD_BUFFER ? size : FD_BUFFER;
		struct app *app = &server->apps[slot];
		app->buffer = quota_buffer(server, &owner, app->buffer, (uint32_t)size);
		size = (int)app->buffer;
		(void)setsockopt(app->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	}
	return error;
}

const uint8_t *request_option(const struct request *request, struct rsock_option *option)
{
	if (request->length < sizeof(*option))
		return NULL;
	memcpy(option, request->body, sizeof(*option));
	if (option->length > MAX_OPTION || option->length > request->length - sizeof(*option))
		return NULL;
	return request->body + sizeof(*option);
}

static void request_setopt(struct server *server, struct connection *connection, const struct request *request, const struct socket_entry *entry)
{
	struct rsock_option option;
	const uint8_t *value = request_option(request, &option);
	int error = value == NULL ? -EINVAL : setopt_checked(server, entry, request->header.socket, &option, value);
	connection_reply(connection, request, error, NULL, 0);
}

void request_getopt(struct server *server, struct connection *connection, const struct request *request)
{
	struct {
		struct rsock_option option;
		uint8_t value[MAX_OPTION];
	} __attribute__((packed)) answer;
	if (request->length < sizeof(answer.option)) {
		connection_reply(connection, request, EINVAL, NULL, 0);
		return;
	}
	memcpy(&answer.option, request->body, sizeof(answer.option));
	uint32_t slot = request->header.socket;
	uint32_t length = answer.option.length < MAX_OPTION ? answer.option.length : MAX_OPTION;
	// Some options are questions: what getsockopt(2) finds in the app's buffer came along.
	uint32_t asked = request->length - (uint32_t)sizeof(answer.option);
	memset(answer.value, 0, length);
	memcpy(answer.value, request->body + sizeof(answer.option), asked < length ? asked : length);
	int error;
	if (slot < MAX_SOCKETS && answer.option.level == SOL_SOCKET && answer.option.name == SO_RCVBUF) {
		socklen_t room = length;
		error = getsockopt(server->apps[slot].fd, SOL_SOCKET, SO_SNDBUF, answer.value, &room) < 0 ? -errno : 0;
		length = room;
	} else {
		error = host_getopt(server->host, slot, (int)answer.option.level, (int)answer.option.name, answer.value, &length);
	}
	answer.option.length = length;
	connection_reply(connection, request, error, &answer, (uint32_t)sizeof(answer.option) + length);
}

static void request_name(struct server *server, struct connection *connection, const struct request *request, const struct socket_entry *entry)
{
	struct rsock_name name;
	if (request->length < sizeof(name)) {
		connection_reply(connection, request, EINVAL, NULL, 0);
		return;
	}
	memcpy(&name, request->body, sizeof(name));
	uint32_t slot = request->header.socket;
	bool bare = entry->flags & SOCKET_CONNECTED; // perhaps by this very request, whose answer was lost: it has a mark
	int error = request->header.op == RSOCK_OP_BIND ? bind_checked(server, entry, slot, &name) : connect_checked(server, entry, slot, &name);
	struct {
		struct rsock_name name;
		struct rsock_kept kept;
	} __attribute__((packed)) answer;
	uint32_t marked = 0;
	bool keeps = error == 0 && !bare && request->header.op == RSOCK_OP_CONNECT && request->length >= sizeof(answer) &&
		sockets_mark(server, slot, &marked);
	answer.kept.marked = marked;
	name_of(entry, &name);
	answer.name = name;
	connection_reply(connection, request, error, &answer, keeps ? sizeof(answer) : sizeof(answer.name));
}

static void request_socket(struct server *server, struct connection *connection, const struct request *request)
{
	uint32_t slot = request->header.socket;
	if (slot >= MAX_SOCKETS) {
		stream_request(server, connection, request);
		return;
	}
	const struct socket_entry *entry = &server->state->sockets[slot];
	if (entry->cookie == 0 || !request_proven(server, connection, request, entry->cookie, entry->uid)) {
		connection_reply(connection, request, EBADF, NULL, 0);
		return;
	}
	switch (request->again ? RSOCK_OP_NAME : request->header.op) {
	case RSOCK_OP_BIND:
	case RSOCK_OP_CONNECT:
		request_name(server, connection, request, entry);
		break;
	case RSOCK_OP_SETOPT:
		request_setopt(server, connection, request, entry);
		break;
	case RSOCK_OP_GETOPT:
		request_getopt(server, connection, request);
		break;
	case RSOCK_OP_NAME:
		reply_name(connection, request, entry, 0);
		break;
	case RSOCK_OP_BACK:
		connection_reply(connection, request, sockets_give_back(server, slot, request->body, request->length), NULL, 0);
		break;
	case RSOCK_OP_RESOLVE:
		request_resolve(connection, request, entry);
		break;
	case RSOCK_OP_LISTEN:
		connection_reply(connection, request, EOPNOTSUPP, NULL, 0);
		break;
	default:
		sockets_close(server, slot);
		connection_reply(connection, request, 0, NULL, 0);
		break;
	}
}

static bool opens_stream(const struct request *request)
{
	struct rsock_open open;
	if (request->length < sizeof(open))
		return false;
	memcpy(&open, request->body, sizeof(open));
	return open.type == SOCK_STREAM;
}

static void run(struct server *server, struct connection *connection, struct request *request)
{
	switch (request->header.op) {
	case RSOCK_OP_OPEN:
		if (opens_stream(request))
			streams_open(server, connection, request);
		else
			sockets_open(server, connection, request);
		break;
	case RSOCK_OP_BIND:
	case RSOCK_OP_LISTEN:
	case RSOCK_OP_CONNECT:
	case RSOCK_OP_BACK:
	case RSOCK_OP_SETOPT:
	case RSOCK_OP_GETOPT:
	case RSOCK_OP_NAME:
	case RSOCK_OP_RESOLVE:
	case RSOCK_OP_CLOSE:
		request_socket(server, connection, request);
		break;
	case RSOCK_OP_DIAL:
		stream_dial(server, connection, request);
		break;
	case RSOCK_OP_INTERFACES:
		interfaces_tell(server, connection, request);
		break;
	case RSOCK_OP_HOLD:
		hold_request(server, connection, request);
		break;
	case RSOCK_OP_TRACE:
		observe_trace(server, connection, request);
		break;
	case RSOCK_OP_CAPTURE:
		capture_request(server, connection, request);
		break;
	default:
		admin_run(server, connection, request);
		break;
	}
}

// The bucket of struct call_times: four for each power of two.
static uint32_t bucket_of(uint64_t ns)
{
	if (ns < CALL_FIRST_NS)
		return 0;
	uint32_t power = 63 - (uint32_t)__builtin_clzll(ns);
	uint32_t quarter = (uint32_t)(ns >> (power - 2)) & 3;
	uint32_t bucket = 1 + 4 * (power - (uint32_t)__builtin_ctz(CALL_FIRST_NS)) + quarter;
	return bucket < CALL_BUCKETS ? bucket : CALL_BUCKETS - 1;
}

void request_run(struct server *server, struct connection *connection, struct request *request)
{
	struct call_times *times = request->header.op < CALL_OPS ? &server->state->calls[request->header.op] : NULL;
	uint64_t start = quota_clock();
	server->state->accounts[connection->account].used_ns = server->now;
	if (!replay(server, connection, request)) {
		run(server, connection, request);
		replay_note(server, connection, request);
	}
	if (times == NULL)
		return;
	uint64_t ns = quota_clock() - start;
	times->count++;
	times->total_ns += ns;
	times->buckets[bucket_of(ns)]++;
}
