// System calls as they are, past the C library, whose functions may be the preloaded library's own.
// Each gives a negated errno and leaves errno alone; RSOCK_BYPASS takes it past the filter of `rsock exec`.
#ifndef RSOCK_SYS_H
#define RSOCK_SYS_H

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "bypass.h"

static inline long sys_result(long result, int before)
{
	if (result >= 0)
		return result;
	long error = -errno;
	errno = before;
	return error;
}

#define SYS_CALL(...) ({ int sys_before = errno; sys_result(syscall(__VA_ARGS__), sys_before); })

static inline int sys_socket(int domain, int type, int protocol)
{
	return (int)SYS_CALL(SYS_socket, domain, type, protocol, RSOCK_BYPASS);
}

static inline int sys_connect(int fd, const void *address, socklen_t length)
{
	return (int)SYS_CALL(SYS_connect, fd, address, length, RSOCK_BYPASS);
}

static inline int sys_listen(int fd, int backlog)
{
	return (int)SYS_CALL(SYS_listen, fd, backlog, 0, RSOCK_BYPASS);
}

static inline int sys_accept4(int fd, void *address, socklen_t *length, int flags)
{
	return (int)SYS_CALL(SYS_accept4, fd, address, length, flags, RSOCK_BYPASS);
}

static inline int sys_getsockname(int fd, void *address, socklen_t *length)
{
	return (int)SYS_CALL(SYS_getsockname, fd, address, length, RSOCK_BYPASS);
}

static inline int sys_getpeername(int fd, void *address, socklen_t *length)
{
	return (int)SYS_CALL(SYS_getpeername, fd, address, length, RSOCK_BYPASS);
}

static inline int sys_setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
	return (int)SYS_CALL(SYS_setsockopt, fd, level, name, value, length, RSOCK_BYPASS);
}

static inline int sys_getsockopt(int fd, int level, int name, void *value, socklen_t *length)
{
	return (int)SYS_CALL(SYS_getsockopt, fd, level, name, value, length, RSOCK_BYPASS);
}

static inline int sys_shutdown(int fd, int how)
{
	return (int)SYS_CALL(SYS_shutdown, fd, how);
}

static inline ssize_t sys_sendto(
	int fd, const void *data, size_t length, int flags, const void *address, socklen_t size)
{
	return SYS_CALL(SYS_sendto, fd, data, length, flags, address, size);
}

static inline ssize_t sys_recvfrom(int fd, void *data, size_t length, int flags, void *address, socklen_t *size)
{
	return SYS_CALL(SYS_recvfrom, fd, data, length, flags, address, size);
}

static inline ssize_t sys_sendmsg(int fd, const struct msghdr *message, int flags)
{
	return SYS_CALL(SYS_sendmsg, fd, message, flags, RSOCK_BYPASS);
}

static inline ssize_t sys_recvmsg(int fd, struct msghdr *message, int flags)
{
	return SYS_CALL(SYS_recvmsg, fd, message, flags, RSOCK_BYPASS);
}

static inline int sys_close(int fd)
{
	return (int)SYS_CALL(SYS_close, fd);
}

static inline int sys_fcntl(int fd, int command, long argument)
{
	return (int)SYS_CALL(SYS_fcntl, fd, command, argument);
}

// `timeout_ms` -1: for ever.
static inline int sys_poll(struct pollfd *fds, unsigned int count, int timeout_ms)
{
	struct timespec timeout = {.tv_sec = timeout_ms / 1000, .tv_nsec = (long)(timeout_ms % 1000) * 1000000};
	return (int)SYS_CALL(SYS_ppoll, fds, count, timeout_ms < 0 ? NULL : &timeout, NULL, 0);
}

static inline int64_t sys_now_ms(void)
{
	struct timespec now;
	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static inline int sys_int_option(int fd, int level, int name, int otherwise)
{
	int value = otherwise;
	socklen_t length = sizeof(value);
	return sys_getsockopt(fd, level, name, &value, &length) < 0 ? otherwise : value;
}

// What tells an open socket from another that has taken its number; 0: it is no socket.
static inline uint64_t sys_cookie(int fd)
{
	uint64_t cookie = 0;
	socklen_t length = sizeof(cookie);
	return sys_getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length) < 0 ? 0 : cookie;
}

#endif
