// A socket that turns out to belong elsewhere, or that is to be connected after it has failed to: another takes its
// number, with its options and epoll registrations.
//
// Nothing is recorded beforehand but that epoll_ctl(2) was called: options are read from the old socket and compared
// with those of a fresh one; registrations stand in /proc/self/fdinfo/EPOLL.  Multicast memberships, and what was
// queued, are lost; whoever waits for the old socket in poll(2) in another thread goes on waiting for it.
#define _GNU_SOURCE
#include "preload.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include "sys.h"

enum { FDS = 65536, REGISTRATIONS = 16, LINE = 160, OPTION_ROOM = 32 };

// The epoll fd that a number was last registered with, plus 1; 0: with none.
static uint32_t epoll_of[FDS];

struct registration {
	int epoll;
	struct epoll_event event;
};

void preload_registered(int epoll, int fd)
{
	if (fd >= 0 && fd < FDS)
		__atomic_store_n(&epoll_of[fd], (uint32_t)epoll + 1, __ATOMIC_RELAXED);
}

// --- options ---

static const struct option_name {
	int level, name;
} copied[] = {
	{SOL_SOCKET, SO_REUSEADDR},
	{SOL_SOCKET, SO_REUSEPORT},
	{SOL_SOCKET, SO_KEEPALIVE},
	{SOL_SOCKET, SO_BROADCAST},
	{SOL_SOCKET, SO_LINGER},
	{SOL_SOCKET, SO_OOBINLINE},
	{SOL_SOCKET, SO_DONTROUTE},
	{SOL_SOCKET, SO_PRIORITY},
	{SOL_SOCKET, SO_RCVTIMEO},
	{SOL_SOCKET, SO_SNDTIMEO},
	{SOL_SOCKET, SO_RCVBUF},
	{SOL_SOCKET, SO_SNDBUF},
	{SOL_SOCKET, SO_TIMESTAMP},
	{SOL_SOCKET, SO_TIMESTAMPNS},
	{IPPROTO_IP, IP_TOS},
	{IPPROTO_IP, IP_TTL},
	{IPPROTO_IP, IP_PKTINFO},
	{IPPROTO_IP, IP_RECVTTL},
	{IPPROTO_IP, IP_RECVTOS},
	{IPPROTO_IP, IP_RECVERR},
	{IPPROTO_IP, IP_MTU_DISCOVER},
	{IPPROTO_IP, IP_MULTICAST_TTL},
	{IPPROTO_IP, IP_MULTICAST_LOOP},
	{IPPROTO_IP, IP_HDRINCL},
	{IPPROTO_IP, IP_MINTTL},
	{IPPROTO_IP, IP_FREEBIND},
	{IPPROTO_IP, IP_TRANSPARENT},
	{IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT},
	{IPPROTO_IPV6, IPV6_V6ONLY},
	{IPPROTO_IPV6, IPV6_TCLASS},
	{IPPROTO_IPV6, IPV6_UNICAST_HOPS},
	{IPPROTO_IPV6, IPV6_RECVPKTINFO},
	{IPPROTO_IPV6, IPV6_RECVHOPLIMIT},
	{IPPROTO_IPV6, IPV6_RECVTCLASS},
	{IPPROTO_IPV6, IPV6_RECVERR},
	{IPPROTO_IPV6, IPV6_MULTICAST_HOPS},
	{IPPROTO_IPV6, IPV6_MULTICAST_LOOP},
	{IPPROTO_TCP, TCP_NODELAY},
	{IPPROTO_TCP, TCP_KEEPIDLE},
	{IPPROTO_TCP, TCP_KEEPINTVL},
	{IPPROTO_TCP, TCP_KEEPCNT},
	{IPPROTO_TCP, TCP_USER_TIMEOUT},
	{IPPROTO_TCP, TCP_SYNCNT},
	{IPPROTO_TCP, TCP_DEFER_ACCEPT},
	{IPPROTO_TCP, TCP_CORK},
	{IPPROTO_TCP, TCP_NOTSENT_LOWAT},
	{IPPROTO_TCP, TCP_WINDOW_CLAMP},
};

static bool applies(const struct option_name *option, int domain, int type)
{
	if (option->level == IPPROTO_IPV6)
		return domain == AF_INET6;
	return option->level != IPPROTO_TCP || type == SOCK_STREAM;
}

// Set what was set on the old socket: where it differs from `fresh`, one of the same making.
static void copy_options(int from, int fresh, int to, int domain, int type)
{
	for (size_t i = 0; i < sizeof(copied) / sizeof(copied[0]); i++) {
		char old[OPTION_ROOM] = {0}, usual[OPTION_ROOM] = {0};
		socklen_t length = sizeof(old), size = sizeof(usual);
		const struct option_name *option = &copied[i];
		if (!applies(option, domain, type) || rsock_getsockopt(from, option->level, option->name, old, &length) < 0)
			continue;
		if (rsock_getsockopt(fresh, option->level, option->name, usual, &size) == 0 && size == length &&
			memcmp(old, usual, length) == 0)
			continue;
		// What is told of a buffer is twice what was asked for.
		if (option->level == SOL_SOCKET && (option->name == SO_RCVBUF || option->name == SO_SNDBUF)) {
			int bytes;
			memcpy(&bytes, old, sizeof(bytes));
			bytes /= 2;
			memcpy(old, &bytes, sizeof(bytes));
		}
		if (rsock_setsockopt(to, option->level, option->name, old, length) < 0)
			trace(1, "fd %d: option %d/%d is not taken along: %s", from, option->level, option->name, strerror(errno));
	}
}

// --- epoll ---

static int read_registrations(int epoll, int fd, struct registration *found)
{
	char path[40], line[LINE];
	int count = 0;
	(void)snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", epoll);
	FILE *info = fopen(path, "re");
	if (info == NULL)
		return 0;
	while (count < REGISTRATIONS && fgets(line, sizeof(line), info) != NULL) {
		int number;
		unsigned int events;
		unsigned long long data;
		if (sscanf(line, "tfd: %d events: %x data: %llx", &number, &events, &data) == 3 && number == fd)
			found[count++] = (struct registration){.epoll = epoll, .event = {.events = events, .data.u64 = data}};
	}
	(void)fclose(info);
	return count;
}

// --- the exchange ---

struct socket_kind {
	int domain, type, protocol;
	int flags;                   // SOCK_NONBLOCK, SOCK_CLOEXEC
};

static int kind_of(int fd, struct socket_kind *kind)
{
	socklen_t length = sizeof(int);
	int status = sys_fcntl(fd, F_GETFL, 0);
	int descriptor = sys_fcntl(fd, F_GETFD, 0);
	if (status < 0 || descriptor < 0)
		return -EBADF;
	if (rsock_getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &kind->domain, &length) < 0 ||
	    rsock_getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind->type, &length) < 0 ||
	    rsock_getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &kind->protocol, &length) < 0)
		return -errno;
	kind->flags = (status & O_NONBLOCK ? SOCK_NONBLOCK : 0) | (descriptor & FD_CLOEXEC ? SOCK_CLOEXEC : 0);
	return 0;
}

// A socket that was bound to any address before it was known where it belongs; its port, if it can be had there too.
static void bind_again(int from, int to)
{
	struct sockaddr_storage name;
	socklen_t length = sizeof(name);
	if (rsock_getsockname(from, (struct sockaddr *)&name, &length) < 0 || ((struct sockaddr_in *)&name)->sin_port == 0)
		return;
	if (rsock_bind(to, (struct sockaddr *)&name, length) < 0)
		trace(0, "fd %d: bound already, which its new router does not take: %s", from, strerror(errno));
}

int preload_swap(int fd, const char *vr)
{
	struct socket_kind kind;
	struct handle handle;
	struct registration registrations[REGISTRATIONS];
	bool to_kernel = strcmp(vr, RSOCK_KERNEL) == 0;
	int count = 0;
	int error = kind_of(fd, &kind);
	if (error < 0)
		return error;
	int made = rsock_socket(vr, kind.domain, kind.type | kind.flags, kind.protocol);
	if (made < 0)
		return -errno;
	bool ours = handle_get(fd, &handle);
	const char *from = ours ? link_router_name(handle.router) : RSOCK_KERNEL;
	int fresh = rsock_socket(from, kind.domain, kind.type | SOCK_CLOEXEC, kind.protocol);
	if (fresh >= 0) {
		copy_options(fd, fresh, made, kind.domain, kind.type);
		(void)rsock_close(fresh);
	}
	if (!ours || (handle.flags & HANDLE_BOUND))
		bind_again(fd, made);
	uint32_t epoll = fd < FDS ? __atomic_load_n(&epoll_of[fd], __ATOMIC_RELAXED) : 0;
	if (epoll != 0)
		count = read_registrations((int)epoll - 1, fd, registrations);
	bool known = !to_kernel && handle_get(made, &handle);
	error = (int)SYS_CALL(SYS_dup3, made, fd, kind.flags & SOCK_CLOEXEC ? O_CLOEXEC : 0);
	(void)sys_close(made);
	if (error < 0)
		return error;
	if (known)
		handle_put(fd, &handle);
	for (int i = 0; i < count; i++)
		(void)SYS_CALL(SYS_epoll_ctl, registrations[i].epoll, EPOLL_CTL_ADD, fd, &registrations[i].event);
	trace(1, "fd %d: now in %s", fd, vr);
	return 0;
}
