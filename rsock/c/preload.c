// The library that is preloaded into unmodified programs: sockets, addresses and options.
//
//   RSOCK_VR=red LD_PRELOAD=librsock-preload.so CMD      all sockets of IPv4 and IPv6 live in "red"
//   RSOCK_MAP=10.0.0.0/8=red,*=kernel ...                the first address decides
//   setsockopt(SO_BINDTODEVICE, "red")                   so does a program that knows VRFs
//
// Only calls that name addresses or options are wrapped; read, write, poll, epoll_wait, fork, exec, sendfile and
// fcntl are the C library's own.  The functions behind are looked up once, in the constructor.
//
// Not supported: read(2) and write(2) on unconnected datagram sockets; system calls that a program makes itself.
#define _GNU_SOURCE
#include "preload.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include "sys.h"

struct preload_next preload_next;
static struct map map;

// The C library's function, or where it is not known yet the system call.
#define NEXT(name, ...) \
	(preload_next.name != NULL ? preload_next.name(__VA_ARGS__) : (int)syscall(SYS_##name, __VA_ARGS__))

static int give(int result)
{
	if (result >= 0)
		return result;
	errno = -result;
	return -1;
}

// --- which router ---

const char *preload_default(void)
{
	static const struct sockaddr_in anywhere = {.sin_family = AF_INET, .sin_addr = {.s_addr = INADDR_ANY}};
	if (map.count == 0)
		return settings_get()->default_vr;
	const char *found = map_find(&map, (const struct sockaddr *)(const void *)&anywhere, sizeof(anywhere));
	return found == NULL || strcmp(found, RSOCK_KERNEL) == 0 ? "" : found;
}

bool preload_mapped(void)
{
	// "*=red" alone decides at once.
	return map.count > 1 || (map.count == 1 && map.at[0].bits != 0);
}

// A program that would use the kernel without knowing is told: once on stderr, each time by errno.
static int refuse(int domain, int type, int protocol, int error)
{
	static bool told;
	if (!__atomic_exchange_n(&told, true, __ATOMIC_RELAXED))
		trace(0, "socket(%d, %d, %d): %s has no such sockets: %s", domain, type, protocol, preload_default(),
			strerror(-error));
	else
		trace(1, "socket(%d, %d, %d): %s", domain, type, protocol, strerror(-error));
	return give(error);
}

EXPORT int socket(int domain, int type, int protocol)
{
	struct handle handle;
	int fd;
	const char *vr = preload_default();
	if (domain == AF_PACKET && vr[0] != '\0')
		return refuse(domain, type, protocol, -EAFNOSUPPORT);
	if ((domain != AF_INET && domain != AF_INET6) || vr[0] == '\0' || preload_mapped())
		return NEXT(socket, domain, type, protocol);
	int error = client_open(vr, domain, type, protocol, &handle, &fd);
	if (error == -EPROTONOSUPPORT || error == -ESOCKTNOSUPPORT || error == -EAFNOSUPPORT)
		return refuse(domain, type, protocol, error);
	if (error < 0) {
		trace(1, "socket in %s: %s", vr, strerror(-error));
		return give(error);
	}
	if (handle.type != SOCK_STREAM)
		handle_any_datagram = true;
	return fd;
}

// Has a kernel socket an address that only the kernel has, or a peer?  One that is bound to any address may still go.
static bool kernel_uses(int fd)
{
	struct sockaddr_storage name = {0};
	socklen_t length = sizeof(name);
	if (sys_getpeername(fd, &name, &length) == 0 || sys_int_option(fd, SOL_SOCKET, SO_ACCEPTCONN, 0) != 0)
		return true;
	length = sizeof(name);
	if (sys_getsockname(fd, &name, &length) < 0)
		return true;
	const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)&name;
	if (name.ss_family == AF_INET6)
		return !IN6_IS_ADDR_UNSPECIFIED(&six->sin6_addr);
	return ((const struct sockaddr_in *)&name)->sin_addr.s_addr != htonl(INADDR_ANY);
}

// Does the map send an address elsewhere than the socket is?  Then the socket moves, if it is still free to.
int preload_settle(int fd, const struct sockaddr *address, socklen_t length, bool binding)
{
	struct handle handle;
	if (map.count == 0)
		return 0;
	if (address == NULL || length < sizeof(address->sa_family) ||
		(address->sa_family != AF_INET && address->sa_family != AF_INET6))
		return 0;
	const char *wanted = map_find(&map, address, length);
	int domain = sys_int_option(fd, SOL_SOCKET, SO_DOMAIN, 0);
	if (domain != AF_INET && domain != AF_INET6 && domain != AF_UNIX)
		return 0;
	bool ours = handle_get(fd, &handle);
	if ((!ours && domain == AF_UNIX) || (ours && (handle.flags & HANDLE_CHOSEN)))
		return 0;
	if (wanted == NULL) {
		trace(1, "fd %d: RSOCK_MAP sends this address nowhere", fd);
		return binding ? -EADDRNOTAVAIL : -ENETUNREACH;
	}
	if (strcmp(wanted, ours ? link_router_name(handle.router) : RSOCK_KERNEL) == 0)
		return 0;
	if (ours ? (handle.flags & (HANDLE_JOINED | HANDLE_LISTENING | HANDLE_CONNECTED | HANDLE_BOUND)) != 0
			 : kernel_uses(fd)) {
		trace(0, "fd %d: RSOCK_MAP wants another router than the one that the socket is in", fd);
		return binding ? -EINVAL : -ENETUNREACH;
	}
	return preload_swap(fd, wanted);
}

// --- addresses ---

EXPORT int bind(int fd, const struct sockaddr *address, socklen_t length)
{
	struct handle handle;
	int error = preload_settle(fd, address, length, true);
	if (error < 0)
		return give(error);
	return handle_get(fd, &handle) ? give(client_bind(fd, &handle, address, length)) : NEXT(bind, fd, address, length);
}

static int connect_ours(int fd, struct handle *handle, const struct sockaddr *address, socklen_t length)
{
	if (handle->type != SOCK_STREAM)
		return datagram_connect(fd, handle, address, length);
	int error = stream_connect(fd, handle, address, length);
	if (error != -ECONNABORTED)
		return error;
	// As with the kernel's, it may be tried again: with another socket under the same number.
	error = preload_swap(fd, link_router_name(handle->router));
	if (error < 0 || !handle_get(fd, handle))
		return error < 0 ? error : -ENETDOWN;
	return stream_connect(fd, handle, address, length);
}

EXPORT int connect(int fd, const struct sockaddr *address, socklen_t length)
{
	struct handle handle;
	int error = address == NULL || address->sa_family == AF_UNIX ? 0 : preload_settle(fd, address, length, false);
	if (error < 0)
		return give(error);
	if (!handle_get(fd, &handle))
		return NEXT(connect, fd, address, length);
	error = connect_ours(fd, &handle, address, length);
	trace(1, "fd %d: connect in %s: %s", fd, link_router_name(handle.router), error == 0 ? "done" : strerror(-error));
	return give(error);
}

EXPORT int listen(int fd, int backlog)
{
	return handle_peek(fd, &(struct handle){0}) ? rsock_listen(fd, backlog) : NEXT(listen, fd, backlog);
}

EXPORT int accept(int fd, struct sockaddr *address, socklen_t *length)
{
	struct handle handle;
	if (!handle_peek(fd, &handle) || handle.type != SOCK_STREAM)
		return NEXT(accept, fd, address, length);
	return give(stream_accept(fd, &handle, address, length, 0));
}

EXPORT int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
	struct handle handle;
	if (!handle_peek(fd, &handle) || handle.type != SOCK_STREAM)
		return NEXT(accept4, fd, address, length, flags);
	return give(stream_accept(fd, &handle, address, length, flags));
}

EXPORT int getsockname(int fd, struct sockaddr *address, socklen_t *length)
{
	return handle_peek(fd, &(struct handle){0}) ? rsock_getsockname(fd, address, length)
												: NEXT(getsockname, fd, address, length);
}

EXPORT int getpeername(int fd, struct sockaddr *address, socklen_t *length)
{
	return handle_peek(fd, &(struct handle){0}) ? rsock_getpeername(fd, address, length)
												: NEXT(getpeername, fd, address, length);
}

EXPORT int shutdown(int fd, int how)
{
	return handle_peek(fd, &(struct handle){0}) ? rsock_shutdown(fd, how) : NEXT(shutdown, fd, how);
}

// --- options ---

// The router that a program means by a device's name; false: it means a device, or nothing.
static bool read_router(const void *value, socklen_t length, char vr[RSOCK_VR_NAME])
{
	char path[CLIENT_RUN_DIR + RSOCK_VR_NAME + 16];
	if (value == NULL || length == 0)
		return false;
	size_t size = strnlen(value, length);
	if (size == 0 || size >= RSOCK_VR_NAME)
		return false;
	memcpy(vr, value, size);
	vr[size] = '\0';
	if (strcmp(vr, RSOCK_KERNEL) == 0)
		return true;
	if (!name_valid(vr))
		return false;
	(void)snprintf(path, sizeof(path), "%s/vr/%s.sock", settings_get()->run_dir, vr);
	return access(path, F_OK) == 0;
}

static int select_router(int fd, const char *vr)
{
	struct handle handle;
	bool ours = handle_get(fd, &handle);
	int domain = sys_int_option(fd, SOL_SOCKET, SO_DOMAIN, 0);
	if (!ours && domain != AF_INET && domain != AF_INET6)
		return -EOPNOTSUPP;
	if (strcmp(vr, ours ? link_router_name(handle.router) : RSOCK_KERNEL) != 0) {
		if (ours && (handle.flags & (HANDLE_JOINED | HANDLE_LISTENING | HANDLE_BOUND | HANDLE_CONNECTED)))
			return -EISCONN;
		int error = preload_swap(fd, vr);
		if (error < 0)
			return error;
	}
	if (handle_get(fd, &handle)) {
		handle.flags |= HANDLE_CHOSEN;
		handle_put(fd, &handle);
	}
	return 0;
}

EXPORT int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
	char vr[RSOCK_VR_NAME];
	if (((level == SOL_SOCKET && name == SO_BINDTODEVICE) || (level == SOL_RSOCK && name == RSOCK_VR)) &&
		read_router(value, length, vr))
		return give(select_router(fd, vr));
	return handle_peek(fd, &(struct handle){0}) ? rsock_setsockopt(fd, level, name, value, length)
		: NEXT(setsockopt, fd, level, name, value, length);
}

EXPORT int getsockopt(int fd, int level, int name, void *value, socklen_t *length)
{
	return handle_peek(fd, &(struct handle){0}) ? rsock_getsockopt(fd, level, name, value, length)
		: NEXT(getsockopt, fd, level, name, value, length);
}

EXPORT int epoll_ctl(int epoll, int op, int fd, struct epoll_event *event)
{
	int result = NEXT(epoll_ctl, epoll, op, fd, event);
	if (result == 0 && op == EPOLL_CTL_ADD)
		preload_registered(epoll, fd);
	return result;
}

// --- ioctl(2): what the other end of the fd, or its header, makes different ---

static int unsent(int fd, const struct handle *handle, int *bytes)
{
	struct tcp_info info = {0};
	socklen_t length = sizeof(info);
	int error = option_get(fd, handle, IPPROTO_TCP, TCP_INFO, &info, &length);
	if (error < 0)
		return error;
	*bytes = (int)(info.tcpi_unacked * info.tcpi_snd_mss);
	return 0;
}

static int waiting(int fd, const struct handle *handle, int *bytes)
{
	ssize_t got = sys_recvfrom(fd, NULL, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT, NULL, NULL);
	const ssize_t header = handle->flags & HANDLE_CONNECTED ? 0 : (ssize_t)sizeof(struct rsock_datagram);
	if (got < 0 && got != -EAGAIN)
		return (int)got;
	*bytes = got > header ? (int)(got - header) : 0;
	return 0;
}

static bool ioctl_ours(int fd, unsigned long request, void *argument, int *result)
{
	struct handle handle;
	// 0x89 is the type of all that ask about interfaces, routes and sockets (linux/sockios.h).
	bool about_sockets = _IOC_TYPE(request) == 0x89;
	if (!about_sockets && request != SIOCOUTQ && request != FIONREAD)
		return false;
	if (!handle_get(fd, &handle) || argument == NULL)
		return false;
	if (preload_interface_ioctl(handle.router, request, argument, result))
		return true;
	if (request == SIOCATMARK) {
		*(int *)argument = 0;
		*result = 0;
		return true;
	}
	bool stream = handle.type == SOCK_STREAM;
	if ((request == FIONREAD && stream) || (request == SIOCOUTQ && !stream))
		return false;
	if (request != FIONREAD && request != SIOCOUTQ) {
		trace(0, "ioctl(%#lx) asks for what only the kernel has", request);
		*result = -EOPNOTSUPP;
		return true;
	}
	*result = stream ? unsent(fd, &handle, argument) : waiting(fd, &handle, argument);
	return true;
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
	int result;
	va_list arguments;
	va_start(arguments, request);
	void *argument = va_arg(arguments, void *);
	va_end(arguments);
	if (ioctl_ours(fd, request, argument, &result))
		return give(result);
	return NEXT(ioctl, fd, request, argument);
}

// --- loading ---

static void find_next(void)
{
#define FIND(name) *(void **)&preload_next.name = dlsym(RTLD_NEXT, #name)
	FIND(socket);
	FIND(bind);
	FIND(connect);
	FIND(listen);
	FIND(accept);
	FIND(accept4);
	FIND(getsockname);
	FIND(getpeername);
	FIND(setsockopt);
	FIND(getsockopt);
	FIND(shutdown);
	FIND(send);
	FIND(sendto);
	FIND(sendmsg);
	FIND(sendmmsg);
	FIND(recv);
	FIND(recvfrom);
	FIND(recvmsg);
	FIND(recvmmsg);
	FIND(epoll_ctl);
	FIND(ioctl);
	FIND(getaddrinfo);
	FIND(getnameinfo);
	FIND(gethostbyname);
	FIND(gethostbyname2);
	FIND(gethostbyaddr);
	FIND(gethostbyname_r);
	FIND(gethostbyname2_r);
	FIND(gethostbyaddr_r);
	FIND(res_send);
	FIND(res_query);
	FIND(res_search);
	FIND(res_nsend);
	FIND(res_nquery);
	FIND(res_nsearch);
	FIND(getifaddrs);
	FIND(freeifaddrs);
	FIND(if_nametoindex);
	FIND(if_indextoname);
	FIND(if_nameindex);
	FIND(if_freenameindex);
#undef FIND
}

// Datagram sockets that came with exec(2): from now on receiving looks for headers.
static void find_inherited(void)
{
	struct handle handle;
	DIR *directory = opendir("/proc/self/fd");
	if (directory == NULL)
		return;
	for (const struct dirent *entry; (entry = readdir(directory)) != NULL;) {
		int fd = atoi(entry->d_name);
		if (entry->d_name[0] != '.' && sys_int_option(fd, SOL_SOCKET, SO_DOMAIN, 0) == AF_UNIX &&
			handle_peek(fd, &handle) && handle.type != SOCK_STREAM)
			handle_any_datagram = true;
	}
	(void)closedir(directory);
}

__attribute__((constructor)) static void preload_begin(void)
{
	const char *wrong = NULL;
	const char *text = getenv("RSOCK_MAP");
	find_next();
	(void)settings_get(); // before the program empties its environment, as dovecot does
	if (text != NULL && map_parse(text, &map, &wrong) < 0) {
		trace(0, "RSOCK_MAP: not understood from here on: %s", wrong);
		_exit(127);
	}
	find_inherited();
}
