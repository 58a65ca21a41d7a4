// Stream sockets: TCP on an AF_UNIX stream whose other end the forwarder holds.
//
// The fd is one kernel object from beginning to end.  rsock/wire.py tells how it is connected: natively, to a name that
// CONNECT gave, and filled so that it is not writable; the forwarder reads the filler once TCP is connected.
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include "sys.h"

enum {
	ENTRANCE = 108,
	NS_PER_MS = 1000000
};

static const char filler[RSOCK_STREAM_FILLER];

// --- connecting ---

struct entrance {
	struct sockaddr_un name;
	socklen_t length;
};

static int ask_connect(
	const struct handle *handle, const struct sockaddr *address, socklen_t length, struct entrance *entrance)
{
	struct answer answer;
	struct {
		struct rsock_name name;
		struct rsock_filler filler;
	} __attribute__((packed)) body = {.filler = {.bytes = RSOCK_STREAM_FULL}};
	struct rsock_name name;
	int error = address_to_wire(handle->domain, address, length, &name);
	if (error < 0)
		return error;
	body.name = name;
	error = handle_call(handle, RSOCK_OP_CONNECT, &body, sizeof(body), &answer);
	if (error < 0)
		return error;
	uint32_t room = answer.length - (uint32_t)sizeof(name);
	if (answer.length < sizeof(name) || room > ENTRANCE)
		return -EPROTO;
	memset(&entrance->name, 0, sizeof(entrance->name));
	entrance->name.sun_family = AF_UNIX;
	memcpy(entrance->name.sun_path, answer.body + sizeof(name), room);
	entrance->length = (socklen_t)offsetof(struct sockaddr_un, sun_path) + room;
	return 0;
}

static int join(int fd, const struct entrance *entrance)
{
	const struct timespec pause = {.tv_nsec = NS_PER_MS};
	int patience = settings_get()->timeout_ms;
	int error;
	// Interrupted, it has not begun; the backlog that is full passes.
	while ((error = sys_connect(fd, &entrance->name, entrance->length)) == -EAGAIN || error == -EINTR) {
		if (patience-- <= 0)
			return -ETIMEDOUT;
		(void)SYS_CALL(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &pause, NULL);
	}
	if (error < 0)
		return error == -ECONNREFUSED ? -ECONNABORTED : error; // that forwarder is gone, and the connection with it
	// Where this fails the connection has failed already, and that is what is told.
	(void)sys_sendto(fd, filler, sizeof(filler), MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);
	(void)sys_sendto(fd, filler, 1, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);
	return 0;
}

int stream_connect_begin(int fd, struct handle *handle, const struct sockaddr *address, socklen_t length)
{
	struct entrance entrance;
	int error = ask_connect(handle, address, length, &entrance);
	if (error == 0)
		error = join(fd, &entrance);
	if (error < 0)
		return error;
	handle->flags |= HANDLE_JOINED | HANDLE_CONNECTING;
	handle_put(fd, handle);
	return 0;
}

static int pending_error(int fd, const struct handle *handle)
{
	int error = 0;
	socklen_t length = sizeof(error);
	int failed = option_get(fd, handle, SOL_SOCKET, SO_ERROR, &error, &length);
	return failed < 0 ? failed : -error;
}

static void widen(int fd)
{
	const int size = RSOCK_STREAM_CONNECTED_BUFFER;
	(void)sys_setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

int stream_connect_result(int fd, struct handle *handle)
{
	struct pollfd ask = {.fd = fd, .events = POLLOUT};
	int ready = sys_poll(&ask, 1, 0);
	if (ready <= 0)
		return ready < 0 ? ready : -EALREADY;
	handle->flags &= (uint16_t)~HANDLE_CONNECTING;
	handle_put(fd, handle);
	if (ask.revents & (POLLHUP | POLLERR)) {
		int error = pending_error(fd, handle);
		return error < 0 ? error : -ECONNRESET;
	}
	return 0;
}

void stream_connect_told(int fd, struct handle *handle, bool failed)
{
	if (!failed) {
		(void)stream_connect_result(fd, handle);
		return;
	}
	handle->flags &= (uint16_t)~HANDLE_CONNECTING;
	handle_put(fd, handle);
}

// poll(2) is never restarted, connect(2) is if the handler wants it.  Which handler ran is not told: one that does
// not restart calls speaks for all.
static bool interrupts(void)
{
	for (int number = 1; number < NSIG; number++) {
		struct sigaction action;
		if (sigaction(number, NULL, &action) == 0 && action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN &&
		    !(action.sa_flags & SA_RESTART))
			return true;
	}
	return false;
}

static int send_timeout_ms(int fd)
{
	struct timeval timeout = {0};
	socklen_t length = sizeof(timeout);
	if (sys_getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, &length) < 0 ||
		(timeout.tv_sec == 0 && timeout.tv_usec == 0))
		return -1;
	return timeout.tv_sec > INT32_MAX / 1000 - 1 ? INT32_MAX : (int)(timeout.tv_sec * 1000 + timeout.tv_usec / 1000);
}

static int wait_connected(int fd, struct handle *handle)
{
	struct pollfd ask = {.fd = fd, .events = POLLOUT};
	int timeout = send_timeout_ms(fd);
	int ready;
	while ((ready = sys_poll(&ask, 1, timeout)) == -EINTR)
		if (interrupts())
			return -EINTR;
	if (ready == 0)
		return -EINPROGRESS; // SO_SNDTIMEO, see socket(7)
	if (ready < 0)
		return ready;
	int error = stream_connect_result(fd, handle);
	if (error == 0)
		widen(fd);
	return error;
}

// A connection that has ended cannot be made again: its fd leads nowhere for ever.
static int connected_already(int fd)
{
	struct pollfd ask = {.fd = fd};
	return sys_poll(&ask, 1, 0) > 0 && (ask.revents & (POLLHUP | POLLERR)) ? -ECONNABORTED : -EISCONN;
}

int stream_connect(int fd, struct handle *handle, const struct sockaddr *address, socklen_t length)
{
	int flags = sys_fcntl(fd, F_GETFL, 0);
	bool again = handle->flags & HANDLE_JOINED;
	int error = 0;
	if (flags < 0)
		return flags;
	if (handle->flags & HANDLE_LISTENING)
		return -EISCONN;
	if (address != NULL && length >= sizeof(address->sa_family) && address->sa_family == AF_UNSPEC)
		return again ? -EOPNOTSUPP : 0;
	if (again && !(handle->flags & HANDLE_CONNECTING))
		return connected_already(fd);
	if (!again)
		error = stream_connect_begin(fd, handle, address, length);
	if (error < 0)
		return error;
	if (flags & O_NONBLOCK)
		return again ? stream_connect_result(fd, handle) : -EINPROGRESS;
	return wait_connected(fd, handle);
}

// --- listening ---

int stream_listen(int fd, struct handle *handle, int backlog)
{
	const struct rsock_listen body = {.backlog = backlog < 0 ? SOMAXCONN : (uint32_t)backlog};
	if (handle->flags & HANDLE_JOINED)
		return -EINVAL;
	int error = handle_call(handle, RSOCK_OP_LISTEN, &body, sizeof(body), NULL);
	if (error == 0)
		error = sys_listen(fd, backlog < 0 ? SOMAXCONN : backlog);
	if (error < 0)
		return error;
	handle->flags |= HANDLE_LISTENING | HANDLE_BOUND;
	handle_put(fd, handle);
	link_keep_identity(handle->router);
	return 0;
}

int stream_accept(int fd, const struct handle *handle, struct sockaddr *address, socklen_t *length, int flags)
{
	for (;;) {
		struct sockaddr_un name;
		struct name_parts parts;
		socklen_t room = sizeof(name);
		const socklen_t head = offsetof(struct sockaddr_un, sun_path);
		int made = sys_accept4(fd, &name, &room, flags);
		if (made < 0)
			return made;
		if (room <= head || room > sizeof(name) || !name_parse(name.sun_path, room - head, &parts) || !parts.accepted) {
			(void)sys_close(made); // another app of this router, not a connection
			continue;
		}
		struct handle accepted = {
			.file = sys_cookie(made),
			.key = parts.nonce,
			.slot = parts.slot,
			.router = handle->router,
			.protocol = handle->protocol,
			.flags = HANDLE_OURS | HANDLE_STATE_KNOWN | HANDLE_WANTS_KNOWN | HANDLE_JOINED | HANDLE_BOUND,
			.domain = handle->domain,
			.type = SOCK_STREAM,
		};
		handle_put(made, &accepted);
		widen(made);
		socklen_t size = handle->domain == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
		address_give(&parts.peer, size, address, length);
		return made;
	}
}

// --- names and the end ---

// The name of the other end of an accepted connection tells both addresses, without a question to anybody.
static bool told_by_name(int fd, bool remote, struct sockaddr_storage *address)
{
	struct sockaddr_un name;
	struct name_parts parts;
	socklen_t length = sizeof(name);
	const socklen_t head = offsetof(struct sockaddr_un, sun_path);
	if (sys_getpeername(fd, &name, &length) < 0 || length <= head || length > sizeof(name) ||
	    !name_parse(name.sun_path, length - head, &parts) || !parts.accepted || !(remote || parts.has_local))
		return false;
	*address = remote ? parts.peer : parts.local;
	return true;
}

int stream_name(int fd, const struct handle *handle, bool remote, struct sockaddr *address, socklen_t *length)
{
	struct sockaddr_storage found;
	socklen_t size = handle->domain == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
	struct rsock_name name;
	if (!(handle->flags & HANDLE_JOINED) || !told_by_name(fd, remote, &found)) {
		int error = client_name(handle, &name);
		if (error < 0)
			return error;
		if (remote && name.remote_family == 0)
			return -ENOTCONN;
		size = remote ? address_of_remote(&name, &found) : address_of_local(&name, &found);
	}
	address_give(&found, size, address, length);
	return 0;
}

int stream_shutdown(int fd, const struct handle *handle, int how)
{
	if (!(handle->flags & (HANDLE_JOINED | HANDLE_LISTENING)))
		return -ENOTCONN;
	return sys_shutdown(fd, how);
}

int stream_ended(int fd, const struct handle *handle)
{
	struct pollfd ask = {.fd = fd};
	if (sys_poll(&ask, 1, 0) <= 0 || !(ask.revents & POLLHUP))
		return 0;
	int error = pending_error(fd, handle);
	return error == -ENETDOWN ? -ECONNRESET : error;
}
