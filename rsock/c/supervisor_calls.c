// Calls that name addresses or options: bind, connect, listen, accept, names, options, ioctl.
//
// Each is made on a duplicate of the program's fd, with the client library.  Nothing here waits: what would block is
// looked at again when the file says so.
#define _GNU_SOURCE
#include "supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include "sys.h"

enum { GUARD_US = 1000 };

// An address to be given to the program.
struct shown {
	struct sockaddr_storage address;
	socklen_t length;
};

// --- bind, connect ---

static int64_t take_address(struct supervisor *supervisor, struct call *call, struct sockaddr_storage *address)
{
	int error = tracee_address(call, call->args[1], (uint32_t)call->args[2], address);
	if (error < 0)
		return error;
	if (!tracee_valid(supervisor, call))
		return CALL_SENT;
	// The preloaded library, or the program for itself: names of AF_UNIX.
	if (address->ss_family == AF_UNIX)
		return CALL_KERNEL;
	return place_by_address(supervisor, call, address);
}

int64_t call_bind(struct supervisor *supervisor, struct call *call)
{
	struct sockaddr_storage address;
	int64_t placed = take_address(supervisor, call, &address);
	if (placed != 0)
		return placed;
	return client_bind(call->fd, &call->record->handle, (struct sockaddr *)&address, (socklen_t)call->args[2]);
}

// As stream_connect, but that it waits in our loop.
static int64_t connect_stream(struct call *call, const struct sockaddr_storage *address)
{
	const int size = RSOCK_STREAM_CONNECTED_BUFFER;
	struct handle *handle = &call->record->handle;
	bool again = handle->flags & HANDLE_JOINED;
	if (!call->waited) {
		if ((handle->flags & HANDLE_LISTENING) || (again && !(handle->flags & HANDLE_CONNECTING)))
			return -EISCONN;
		int error =
			again ? 0 : stream_connect_begin(call->fd, handle, (const struct sockaddr *)address, (socklen_t)call->args[2]);
		if (error < 0)
			return error;
		if (!tracee_blocks(call))
			return again ? stream_connect_result(call->fd, handle) : -EINPROGRESS;
		call->deadline = tracee_deadline(call, SO_SNDTIMEO);
	}
	int error = stream_connect_result(call->fd, handle);
	if (error == -EALREADY)
		return tracee_now() >= call->deadline ? -EINPROGRESS : CALL_WAIT_OUT; // see socket(7), SO_SNDTIMEO
	if (error == 0)
		(void)sys_setsockopt(call->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	return error;
}

int64_t call_connect(struct supervisor *supervisor, struct call *call)
{
	struct sockaddr_storage address = {0};
	if (call->waited)
		return connect_stream(call, &address);
	int64_t placed = take_address(supervisor, call, &address);
	if (placed != 0)
		return placed;
	resolver_redirect(call->record, &address);
	if (call->record->handle.type == SOCK_STREAM)
		return connect_stream(call, &address);
	return datagram_connect(call->fd, &call->record->handle, (struct sockaddr *)&address, (socklen_t)call->args[2]);
}

// --- listen, accept ---

int64_t call_listen(struct supervisor *supervisor, struct call *call)
{
	const struct sockaddr_storage any = {.ss_family = call->record->handle.domain};
	int64_t placed = place_by_address(supervisor, call, &any);
	if (placed != 0)
		return placed;
	if (call->record->handle.type != SOCK_STREAM)
		return -EOPNOTSUPP;
	return stream_listen(call->fd, &call->record->handle, (int)call->args[1]);
}

static void interrupt_only(int number)
{
	(void)number;
}

// accept4 on a file that blocks, after poll(2) has seen a connection: another process may have taken it meanwhile,
// and O_NONBLOCK is the program's to set.  A timer gets us out.
static int accept_guarded(struct call *call, struct shown *peer, int flags)
{
	const struct sigaction action = {.sa_handler = interrupt_only};
	const struct itimerval guard = {.it_value.tv_usec = GUARD_US, .it_interval.tv_usec = GUARD_US};
	const struct itimerval off = {.it_value.tv_usec = 0};
	struct pollfd ask = {.fd = call->fd, .events = POLLIN};
	bool blocks = tracee_blocks(call);
	if (sys_poll(&ask, 1, 0) <= 0)
		return -EAGAIN;
	if (blocks) {
		(void)sigaction(SIGALRM, &action, NULL);
		(void)setitimer(ITIMER_REAL, &guard, NULL);
	}
	peer->length = sizeof(peer->address);
	int made = stream_accept(call->fd, &call->record->handle, (struct sockaddr *)&peer->address, &peer->length, flags);
	if (blocks)
		(void)setitimer(ITIMER_REAL, &off, NULL);
	return made == -EINTR ? -EAGAIN : made;
}

// One that was accepted for a call that is over.
static int accept_held(struct call *call, struct shown *peer, int flags)
{
	struct handle handle;
	int fd = call->record->held;
	call->record->held = -1;
	peer->length = sizeof(peer->address);
	if (!handle_get(fd, &handle) || stream_name(fd, &handle, true, (struct sockaddr *)&peer->address, &peer->length) < 0) {
		(void)sys_close(fd);
		return -ECONNABORTED;
	}
	(void)sys_fcntl(fd, F_SETFL, O_RDWR | (flags & SOCK_NONBLOCK ? O_NONBLOCK : 0));
	return fd;
}

int64_t call_accept(struct supervisor *supervisor, struct call *call)
{
	struct shown peer;
	int flags = call->nr == SYS_accept4 ? (int)call->args[3] : 0;
	if (!record_is_ours(call->record))
		return CALL_KERNEL;
	if (call->record->handle.type != SOCK_STREAM)
		return -EOPNOTSUPP;
	if (!(call->record->handle.flags & HANDLE_LISTENING) || (flags & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)))
		return -EINVAL;
	int made = call->record->held >= 0 ? accept_held(call, &peer, flags) : accept_guarded(call, &peer, flags);
	if (made == -EAGAIN && tracee_blocks(call)) {
		if (!call->waited)
			call->deadline = tracee_deadline(call, SO_RCVTIMEO);
		return tracee_now() >= call->deadline ? -EAGAIN : CALL_WAIT_IN;
	}
	if (made < 0)
		return made;
	int error = tracee_valid(supervisor, call)
		? tracee_give_address(call, &peer.address, peer.length, call->args[1], call->args[2])
		: 0;
	if (error == 0 && !tracee_answer_fd(supervisor, call, made, flags & SOCK_CLOEXEC)) {
		call->record->held = made;
		return CALL_SENT;
	}
	(void)sys_close(made);
	return error < 0 ? error : CALL_SENT;
}

// --- names ---

int64_t call_name(struct supervisor *supervisor, struct call *call)
{
	struct shown found = {.length = sizeof(found.address)};
	bool remote = call->nr == SYS_getpeername;
	struct handle *handle = &call->record->handle;
	if (!record_is_ours(call->record))
		return CALL_KERNEL;
	int error = handle->type == SOCK_STREAM
		? stream_name(call->fd, handle, remote, (struct sockaddr *)&found.address, &found.length)
		: datagram_name(handle, remote, (struct sockaddr *)&found.address, &found.length);
	if (error < 0)
		return error;
	if (remote)
		resolver_restore(call->record, &found.address);
	if (call->args[1] == 0 || call->args[2] == 0)
		return -EFAULT;
	if (!tracee_valid(supervisor, call))
		return CALL_SENT;
	return tracee_give_address(call, &found.address, found.length, call->args[1], call->args[2]);
}

// --- options ---

static bool names_router(const struct call *call)
{
	int level = (int)call->args[1], name = (int)call->args[2];
	return (level == SOL_SOCKET && name == SO_BINDTODEVICE) || (level == SOL_RSOCK && name == RSOCK_VR);
}

int64_t call_setsockopt(struct supervisor *supervisor, struct call *call)
{
	uint8_t value[CLIENT_OPTION + 1];
	uint32_t length = (uint32_t)call->args[4];
	bool router = names_router(call);
	if (!record_is_ours(call->record) && !router)
		return CALL_KERNEL;
	if (length > CLIENT_OPTION)
		return -EINVAL;
	int error = tracee_read(call, call->args[3], value, length);
	if (error < 0)
		return error;
	if (!tracee_valid(supervisor, call))
		return CALL_SENT;
	value[length] = '\0';
	int64_t placed = router ? place_by_name(supervisor, call, (const char *)value) : 0;
	if (placed != 0 || !record_is_ours(call->record))
		return placed == 1 ? 0 : CALL_KERNEL;
	return option_set(call->fd, &call->record->handle, (int)call->args[1], (int)call->args[2], value, length);
}

int64_t call_getsockopt(struct supervisor *supervisor, struct call *call)
{
	uint8_t value[CLIENT_OPTION];
	int room;
	if (!record_is_ours(call->record))
		return CALL_KERNEL;
	int error = tracee_read(call, call->args[4], &room, sizeof(room));
	if (error < 0)
		return error;
	if (room < 0)
		return -EINVAL;
	socklen_t length = room < CLIENT_OPTION ? (socklen_t)room : CLIENT_OPTION;
	// Some options are questions, which stand in the buffer.
	error = tracee_read(call, call->args[3], value, length);
	if (error == 0)
		error = option_get(call->fd, &call->record->handle, (int)call->args[1], (int)call->args[2], value, &length);
	if (error < 0)
		return error;
	if (!tracee_valid(supervisor, call))
		return CALL_SENT;
	error = tracee_write(call, call->args[3], value, length);
	return error < 0 ? error : tracee_write(call, call->args[4], &length, sizeof(length));
}

// The kernel would tell of its own devices.
int64_t call_ioctl(struct supervisor *supervisor, struct call *call)
{
	static bool complained;
	const int no = 0;
	if (!record_is_ours(call->record))
		return CALL_KERNEL;
	switch ((uint32_t)call->args[1]) {
	case FIOSETOWN:
	case SIOCSPGRP:
	case FIOGETOWN:
	case SIOCGPGRP:
		return CALL_KERNEL;
	case SIOCATMARK:
		return tracee_valid(supervisor, call) ? tracee_write(call, call->args[2], &no, sizeof(no)) : CALL_SENT;
	default:
		if (!complained)
			tracee_tell(supervisor, call, "ioctl %#x on a socket of a virtual router is not supported",
				(unsigned int)call->args[1]);
		complained = true;
		return -EOPNOTSUPP;
	}
}
