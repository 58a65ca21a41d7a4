// Preloaded: datagrams with addresses.
//
// Streams are let through untouched: until the process has seen a datagram socket of a router, and where no address is
// named, a call costs one load.
#define _GNU_SOURCE
#include "preload.h"

#include <errno.h>
#include <string.h>
#include "sys.h"

// glibc's fortified variants, which no header declares to us.
ssize_t __recv_chk(int fd, void *data, size_t length, size_t room, int flags);
ssize_t __recvfrom_chk(
	int fd, void *data, size_t length, size_t room, int flags, struct sockaddr *address, socklen_t *size);
extern void __chk_fail(void) __attribute__((noreturn));

#define NEXT(name, ...) \
	(preload_next.name != NULL ? preload_next.name(__VA_ARGS__) : (ssize_t)syscall(SYS_##name, __VA_ARGS__))

// Is there nothing to do for us?
static bool plain(int fd, bool named, int flags)
{
	struct handle handle;
	if (!handle_any_datagram && !named && !(flags & (MSG_OOB | MSG_ERRQUEUE)))
		return true;
	return !handle_peek(fd, &handle);
}

// The map may send a datagram's destination elsewhere than the socket is.
static bool settled(int fd, const void *address, socklen_t length)
{
	if (address == NULL || !preload_mapped() || sys_int_option(fd, SOL_SOCKET, SO_TYPE, SOCK_STREAM) == SOCK_STREAM)
		return true; // an address means nothing to a stream
	int error = preload_settle(fd, address, length, false);
	if (error < 0)
		errno = -error;
	return error == 0;
}

EXPORT ssize_t send(int fd, const void *data, size_t length, int flags)
{
	if (!plain(fd, false, flags))
		return rsock_sendto(fd, data, length, flags, NULL, 0);
	return preload_next.send != NULL ? preload_next.send(fd, data, length, flags)
									 : syscall(SYS_sendto, fd, data, length, flags, NULL, 0);
}

EXPORT ssize_t sendto(
	int fd, const void *data, size_t length, int flags, const struct sockaddr *address, socklen_t size)
{
	if (!settled(fd, address, size))
		return -1;
	if (!plain(fd, address != NULL, flags))
		return rsock_sendto(fd, data, length, flags, address, size);
	return NEXT(sendto, fd, data, length, flags, address, size);
}

EXPORT ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	if (message != NULL && !settled(fd, message->msg_name, message->msg_namelen))
		return -1;
	if (message != NULL && !plain(fd, message->msg_name != NULL, flags))
		return rsock_sendmsg(fd, message, flags);
	return NEXT(sendmsg, fd, message, flags);
}

EXPORT int sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
	bool named = count > 0 && messages[0].msg_hdr.msg_name != NULL;
	if (named && !settled(fd, messages[0].msg_hdr.msg_name, messages[0].msg_hdr.msg_namelen))
		return -1;
	if (!plain(fd, named, flags))
		return rsock_sendmmsg(fd, messages, count, flags);
	return (int)NEXT(sendmmsg, fd, messages, count, flags);
}

EXPORT ssize_t recv(int fd, void *data, size_t length, int flags)
{
	if (!plain(fd, false, flags))
		return rsock_recvfrom(fd, data, length, flags, NULL, NULL);
	return preload_next.recv != NULL ? preload_next.recv(fd, data, length, flags)
									 : syscall(SYS_recvfrom, fd, data, length, flags, NULL, NULL);
}

EXPORT ssize_t recvfrom(int fd, void *data, size_t length, int flags, struct sockaddr *address, socklen_t *size)
{
	if (!plain(fd, address != NULL, flags))
		return rsock_recvfrom(fd, data, length, flags, address, size);
	return NEXT(recvfrom, fd, data, length, flags, address, size);
}

EXPORT ssize_t __recv_chk(int fd, void *data, size_t length, size_t room, int flags)
{
	if (length > room)
		__chk_fail();
	return recv(fd, data, length, flags);
}

EXPORT ssize_t __recvfrom_chk(
	int fd, void *data, size_t length, size_t room, int flags, struct sockaddr *address, socklen_t *size)
{
	if (length > room)
		__chk_fail();
	return recvfrom(fd, data, length, flags, address, size);
}

// fds that come from another process may be datagram sockets of a router.
static void look_for_fds(struct msghdr *message)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
			handle_any_datagram = true;
}

EXPORT ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
	if (message != NULL && !plain(fd, message->msg_name != NULL || message->msg_control != NULL, flags))
		return rsock_recvmsg(fd, message, flags);
	ssize_t got = NEXT(recvmsg, fd, message, flags);
	if (got >= 0 && !handle_any_datagram && message->msg_control != NULL && message->msg_controllen > 0)
		look_for_fds(message);
	return got;
}

EXPORT int recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout)
{
	if (!plain(fd, true, flags))
		return rsock_recvmmsg(fd, messages, count, flags, timeout);
	return (int)NEXT(recvmmsg, fd, messages, count, flags, timeout);
}
