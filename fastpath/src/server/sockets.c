// The fd of each socket: opening it, and datagrams through it.
//
// Unconnected sockets carry struct rsock_datagram before each payload, both ways.
// Connected ones carry bare payloads; there a record of no bytes tells of a pending error
// or, without one, of an empty datagram.
//
// A repeated OPEN with the same token gives the same socket with a new pair of fds, and the
// old pair ends: who repeats has not received it.  No end of the app's is kept here.
#define _GNU_SOURCE
#include "server/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <linux/sockios.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { NAMED_COPIES = 64 };

int sockets_attach(struct server *server, uint32_t slot, int fd)
{
	struct app *app = &server->apps[slot];
	app->generation = ++server->generation;
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = event_data(EVENT_SOCKET, slot, app->generation)};
	if (epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		return -errno;
	app->fd = fd;
	app->deaf = false;
	app->judged_root = 0;
	server->state->sockets[slot].flags &= ~(uint32_t)SOCKET_ORPHANED;
	return 0;
}

void sockets_detach(struct server *server, uint32_t slot)
{
	struct app *app = &server->apps[slot];
	if (app->fd < 0)
		return;
	// Control's copy keeps the file open, so closing alone would leave it in the epoll set.
	epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, app->fd, NULL);
	close(app->fd);
	app->fd = -1;
}

void sockets_close(struct server *server, uint32_t slot)
{
	struct app *app = &server->apps[slot];
	sockets_detach(server, slot);
	if (!app->hold_add && server->holder != NULL) {
		app->hold_gone = true;
		app->gone_cookie = server->state->sockets[slot].cookie;
	}
	app->hold_add = false;
	quota_discharge(server, server->state->sockets[slot].account, false, app->buffer);
	app->buffer = 0;
	host_close(server->host, slot);
	hold_changed(server);
}

struct owner sockets_owner(const struct socket_entry *entry)
{
	return (struct owner){.uid = entry->uid, .gid = entry->gid, .account = entry->account, .type = entry->type, .protocol = entry->protocol};
}

// --- opening ---

static int find_token(const struct server *server, uint32_t account, const uint8_t *token)
{
	static const uint8_t none[16];
	if (memcmp(token, none, sizeof(none)) == 0)
		return -1;
	for (uint32_t slot = 0; slot < host_slots(server->state); slot++) {
		const struct socket_entry *entry = &server->state->sockets[slot];
		if (entry->cookie != 0 && entry->account == account && memcmp(entry->token, token, sizeof(entry->token)) == 0)
			return (int)slot;
	}
	return -1;
}

void sockets_take_name(char app[16], const uint8_t *name, uint32_t length)
{
	for (uint32_t i = 0; i < length && i < 15; i++) {
		if (name[i] == '\0')
			break;
		app[i] = name[i] >= ' ' && name[i] < 0x7f ? (char)name[i] : '?';
	}
}

struct admission sockets_admission(const struct request *request, struct rsock_open *open)
{
	memcpy(open, request->body, sizeof(*open));
	return (struct admission){
		.owner = {.type = open->type, .protocol = open->protocol},
		.identity = open->identity,
		.app = request->body + sizeof(*open),
		.app_length = request->length - (uint32_t)sizeof(*open),
	};
}

static int open_slot(struct server *server, const struct connection *connection, const struct request *request, uint32_t *slot)
{
	struct rsock_open open;
	if (request->length < sizeof(open))
		return -EINVAL;
	struct admission admission = sockets_admission(request, &open);
	int error = rights_admit(server, connection, &admission);
	if (error < 0)
		return error;
	int known = find_token(server, admission.owner.account, open.token);
	if (known >= 0) {
		*slot = (uint32_t)known;
		return 0;
	}
	if (open.type == SOCK_STREAM) // these have slots beyond those of server->apps
		return -ESOCKTNOSUPPORT;
	error = quota_open(server, &admission.owner);
	if (error < 0)
		return error;
	error = host_socket(server->host, open.family, open.type, open.protocol, slot);
	if (error < 0)
		return error;
	struct app *app = &server->apps[*slot];
	app->fd = -1; // perhaps the first use of the slot
	app->buffer = 0;
	app->byte_rate = quota_byte_rate(server, &admission.owner);
	quota_charge(server, admission.owner.account, false);
	struct socket_entry *entry = &server->state->sockets[*slot];
	memcpy(entry->token, open.token, sizeof(entry->token));
	entry->uid = connection->peer.uid;
	entry->gid = admission.owner.gid;
	entry->account = (uint16_t)admission.owner.account;
	entry->pid = connection->peer.pid;
	entry->rights = admission.rights;
	entry->created_ns = server->now;
	sockets_take_name(entry->app, admission.app, admission.app_length);
	return 0;
}

// By its name the app's end is known to whoever it is handed to.  An end that is still on its way to somebody, as
// when an OPEN is repeated, has the name until it is closed.
static void name_end(const struct server *server, uint32_t slot, int fd)
{
	struct sockaddr_un name;
	for (uint32_t copy = 0; copy < NAMED_COPIES; copy++) {
		uint32_t length = names_of_datagrams(server, slot, &server->state->sockets[slot], copy, &name);
		if (bind(fd, (const struct sockaddr *)&name, length) == 0 || errno != EADDRINUSE)
			return;
	}
}

// Make the pair; ours is watched, the app's is handed back in *app_fd.
static int open_pair(struct server *server, uint32_t slot, int *app_fd)
{
	int pair[2];
	struct app *app = &server->apps[slot];
	const struct owner owner = sockets_owner(&server->state->sockets[slot]);
	int size = FD_BUFFER;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	(void)setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	app->buffer = quota_buffer(server, &owner, app->buffer, FD_BUFFER);
	size = (int)app->buffer;
	(void)setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	connection_refuse_rights(pair[0]);
	(void)fcntl(pair[1], F_SETFL, O_RDWR); // the app's end blocks, as socket(2) has it
	name_end(server, slot, pair[1]);
	sockets_detach(server, slot);
	int error = sockets_attach(server, slot, pair[0]);
	if (error < 0) {
		close(pair[0]);
		close(pair[1]);
		return error;
	}
	*app_fd = pair[1];
	return 0;
}

void sockets_open(struct server *server, struct connection *connection, const struct request *request)
{
	uint32_t slot;
	int app_fd = -1;
	int error = open_slot(server, connection, request, &slot);
	if (error == 0) {
		error = open_pair(server, slot, &app_fd);
		if (error < 0)
			sockets_close(server, slot);
	}
	if (error < 0) {
		connection_reply(connection, request, error, NULL, 0);
		return;
	}
	const struct socket_entry *entry = &server->state->sockets[slot];
	struct rsock_opened opened = {.socket = slot, .rights = entry->rights, .cookie = entry->cookie};
	connection_reply_fds(connection, request, 0, &opened, sizeof(opened), &app_fd, 1);
	close(app_fd);
	if (connection->closing)
		sockets_close(server, slot);
	else
		server->apps[slot].hold_add = true;
	hold_changed(server);
}

// --- from the host stack to the app ---

bool server_upcall(struct server *server, uint32_t slot, const void *header, const uint8_t *payload, uint32_t length)
{
	const struct app *app = &server->apps[slot];
	if (app->fd < 0)
		return hold_keep(server, slot, header, payload, length);
	struct iovec parts[2] = {
		{.iov_base = (void *)(uintptr_t)header, .iov_len = sizeof(struct rsock_datagram)},
		{.iov_base = (void *)(uintptr_t)payload, .iov_len = length},
	};
	bool bare = server->state->sockets[slot].flags & SOCKET_CONNECTED;
	server_tell(server, &server->apps[slot].told);
	struct msghdr message = {.msg_iov = bare ? parts + 1 : parts, .msg_iovlen = bare ? 1 : 2};
	return sendmsg(app->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

// The app's fd has changed its form.  What waits there in the old one ends with a mark, behind which the new one begins.
bool sockets_mark(struct server *server, uint32_t slot, uint32_t *marked)
{
	const struct rsock_datagram mark = {.version = RSOCK_VERSION, .flags = RSOCK_DATAGRAM_MARK};
	int waiting = 0;
	*marked = ioctl(server->apps[slot].fd, SIOCOUTQ, &waiting) < 0 || waiting != 0;
	return *marked == 0 || send(server->apps[slot].fd, &mark, sizeof(mark), MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof(mark);
}

int sockets_give_back(struct server *server, uint32_t slot, const uint8_t *payload, uint32_t length)
{
	if ((server->state->sockets[slot].flags & SOCKET_CONNECTED) == 0)
		return -ENOTCONN;
	if (send(server->apps[slot].fd, payload, length, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
		return 0;
	server->state->host_drops[DROP_SOCKET_QUEUE_FULL]++;
	return -ENOBUFS;
}

void server_error(struct server *server, uint32_t slot, int error)
{
	(void)error; // stands in the socket entry, for SO_ERROR
	const struct app *app = &server->apps[slot];
	if (app->fd >= 0 && (server->state->sockets[slot].flags & SOCKET_CONNECTED))
		(void)send(app->fd, "", 0, MSG_DONTWAIT | MSG_NOSIGNAL);
}

// --- from the app to the host stack ---

// Tell the app that a datagram of its own was refused here.
static void refuse(struct server *server, uint32_t slot, const struct rsock_datagram *sent, int error)
{
	struct socket_entry *entry = &server->state->sockets[slot];
	if (error == ENOBUFS || error == 0)
		return; // lost, as on any crowded link
	if (sent == NULL) {
		entry->error = error;
		server_error(server, slot, error);
		return;
	}
	struct rsock_datagram record = *sent;
	record.flags = RSOCK_DATAGRAM_ERROR;
	record.error = (uint32_t)error;
	record.timestamp = server->now;
	record.local_port = entry->local_port;
	memset(record.local, 0, sizeof(record.local));
	(void)server_upcall(server, slot, &record, NULL, 0);
}

static bool destination_allowed(struct server *server, uint32_t slot, uint8_t family, const uint8_t *address)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	struct app *app = &server->apps[slot];
	uint8_t plain[16] = {0};
	if (family == FAMILY_IPV6 && memcmp(address, mapped, sizeof(mapped)) == 0) {
		family = FAMILY_IPV4;
		memcpy(plain, address + sizeof(mapped), 4);
	} else {
		memcpy(plain, address, family == FAMILY_IPV4 ? 4 : 16);
	}
	// root + 1: the verdict of a VR without any publication must be taken anew as well.
	if (app->judged_root == server->tables->root + 1 && app->judged_family == family && memcmp(app->judged_address, plain, sizeof(plain)) == 0)
		return app->judged_allowed;
	const struct socket_entry *entry = &server->state->sockets[slot];
	const struct owner owner = sockets_owner(entry);
	app->judged_allowed = rights_destination(server, &owner, UINT32_MAX, family, plain);
	app->judged_root = server->tables->root + 1;
	app->judged_family = family;
	memcpy(app->judged_address, plain, sizeof(plain));
	return app->judged_allowed;
}

// Count a datagram that is not sent, for want of a right or for too much of a rate.
static int withhold(struct server *server, uint32_t slot, enum denial denial, int error)
{
	server->state->host_drops[DROP_SOCKET_DENIED]++;
	return -accounts_deny(server, server->state->sockets[slot].account, denial, error);
}

// May it be sent?  An errno; it is counted against the rate where it may.
static int judge(struct server *server, uint32_t slot, uint8_t family, const uint8_t *address, uint32_t length)
{
	const struct app *app = &server->apps[slot];
	uint32_t account = server->state->sockets[slot].account;
	if (!destination_allowed(server, slot, family, address))
		return withhold(server, slot, DENIAL_SEND, EACCES);
	if (!quota_may_send(server, account, app->byte_rate))
		return withhold(server, slot, DENIAL_BYTE_RATE, ENOBUFS);
	quota_sent(server, account, app->byte_rate, length);
	if (!rights_trusted(server, server->state->sockets[slot].uid))
		rest_spend(server, account, RECORD_NS + length); // as quota_sent has it
	return 0;
}

static void take_connected(struct server *server, uint32_t slot, const uint8_t *record, uint32_t length)
{
	const struct socket_entry *entry = &server->state->sockets[slot];
	int error = judge(server, slot, entry->family == AF_INET ? FAMILY_IPV4 : FAMILY_IPV6, entry->remote, length);
	if (error == 0)
		error = -host_send(server->host, slot, NULL, record, length, server->now);
	if (error > 0)
		refuse(server, slot, NULL, error);
}

static void take_addressed(struct server *server, uint32_t slot, const uint8_t *record, uint32_t length)
{
	struct rsock_datagram header;
	bool whole = length >= sizeof(header);
	if (whole)
		memcpy(&header, record, sizeof(header));
	if (!whole || header.version != RSOCK_VERSION || (header.family != FAMILY_IPV4 && header.family != FAMILY_IPV6)) {
		server->state->host_drops[DROP_SOCKET_MALFORMED]++;
		return;
	}
	int error = judge(server, slot, header.family, header.address, length);
	if (error == 0)
		error = -host_send(server->host, slot, &header, record + sizeof(header), length - (uint32_t)sizeof(header), server->now);
	if (error > 0)
		refuse(server, slot, &header, error);
}

// A record of no bytes: the end of the file, the app's shutdown of its side, or a datagram.
enum empty { EMPTY_DATAGRAM, EMPTY_SHUTDOWN, EMPTY_END };

static enum empty empty_record(int fd)
{
	struct pollfd ask = {.fd = fd, .events = POLLRDHUP};
	if (poll(&ask, 1, 0) <= 0)
		return EMPTY_DATAGRAM;
	if (ask.revents & (POLLHUP | POLLNVAL))
		return EMPTY_END;
	return ask.revents & POLLRDHUP ? EMPTY_SHUTDOWN : EMPTY_DATAGRAM;
}

// Give one record to the host stack; false when the fd has no more to say.
static bool take_record(struct server *server, uint32_t slot, const uint8_t *record, uint32_t length, bool truncated)
{
	struct app *app = &server->apps[slot];
	bool connected = server->state->sockets[slot].flags & SOCKET_CONNECTED;
	if (length == 0) {
		enum empty empty = empty_record(app->fd);
		if (empty == EMPTY_END) {
			sockets_close(server, slot);
			return false;
		}
		if (empty == EMPTY_SHUTDOWN) {
			struct epoll_event event = {.data.u64 = event_data(EVENT_SOCKET, slot, app->generation)};
			app->deaf = true;
			(void)epoll_ctl(server->epoll_fd, EPOLL_CTL_MOD, app->fd, &event);
			return false;
		}
	}
	if (truncated)
		server->state->host_drops[DROP_SOCKET_MALFORMED]++;
	else if (connected)
		take_connected(server, slot, record, length);
	else
		take_addressed(server, slot, record, length);
	return true;
}

int sockets_drain(struct server *server, uint32_t slot, int most)
{
	const struct app *app = &server->apps[slot];
	int taken = 0;
	bool reset = false;
	while (taken < most && app->fd >= 0) {
		struct mmsghdr messages[RECORDS_PER_CALL];
		struct iovec parts[RECORDS_PER_CALL];
		memset(messages, 0, sizeof(messages));
		for (int i = 0; i < RECORDS_PER_CALL; i++) {
			parts[i] = (struct iovec){.iov_base = server->records[i], .iov_len = RECORD_ROOM};
			messages[i].msg_hdr.msg_iov = &parts[i];
			messages[i].msg_hdr.msg_iovlen = 1;
		}
		int wanted = most - taken < RECORDS_PER_CALL ? most - taken : RECORDS_PER_CALL;
		int count = recvmmsg(app->fd, messages, (unsigned int)wanted, MSG_DONTWAIT, NULL);
		if (count < 0 && errno == ECONNRESET && !reset) {
			reset = true; // the app left with datagrams unread; what it sent is behind this
			continue;
		}
		if (count <= 0)
			break;
		for (int i = 0; i < count; i++) {
			bool truncated = messages[i].msg_hdr.msg_flags & MSG_TRUNC;
			if (!take_record(server, slot, server->records[i], messages[i].msg_len, truncated))
				return taken;
			taken++;
		}
		if (count < wanted)
			break;
	}
	return taken;
}

int sockets_event(struct server *server, uint32_t slot, uint32_t events)
{
	(void)events; // readable, over or reset: reading tells which
	server_hear(server, &server->apps[slot].told);
	uint32_t account = server->state->sockets[slot].account;
	uint64_t start = quota_clock();
	int taken = 0;
	int some;
	int most = quota_turn_over(server, account) ? 0 : rest_owes(server, account) ? 1 : RECORDS_AT_FIRST;
	// A large datagram costs more than many small ones: not before it is known how long some take are more asked for.
	while (most > 0) {
		some = sockets_drain(server, slot, most);
		taken += some;
		bool more = some == most && taken < RECORDS_PER_EVENT && quota_clock() - start < TURN_NS && !quota_turn_over(server, account);
		most = !more ? 0 : most < RECORDS_PER_CALL ? 2 * most : RECORDS_PER_CALL;
	}
	quota_turn(server, account, start);
	return taken;
}

bool sockets_reap(struct server *server, uint16_t port)
{
	bool reaped = false;
	for (uint32_t slot = 0; slot < host_slots(server->state); slot++) {
		const struct socket_entry *entry = &server->state->sockets[slot];
		struct pollfd ask = {.fd = server->apps[slot].fd};
		if (entry->cookie == 0 || entry->local_port != port || ask.fd < 0 || poll(&ask, 1, 0) <= 0)
			continue;
		if ((ask.revents & POLLHUP) == 0)
			continue;
		sockets_drain(server, slot, RECORDS_PER_EVENT); // what it sent last goes out, then its end is read
		reaped |= entry->cookie == 0;
	}
	return reaped;
}
