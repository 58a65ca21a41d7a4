// Socket calls of packetdrill as calls of the host stack: POSIX results, blocking where the
// descriptor is.
#include "pd_so.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include "base/bytes.h"

#ifndef TCP_INQ
#define TCP_INQ 36
#endif
#ifndef TCP_CC_INFO
#define TCP_CC_INFO 26
#endif
#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif
#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif

struct pd_handle *pd_handle(struct pd_world *w, int fd, enum pd_kind kind)
{
	if (fd < PD_FIRST || fd >= PD_FIRST + PD_HANDLES || w->handles[fd - PD_FIRST].kind == PD_FREE) {
		errno = EBADF;
		return NULL;
	}
	if (w->handles[fd - PD_FIRST].kind != kind) {
		errno = kind == PD_STREAM ? ENOTSOCK : EINVAL;
		return NULL;
	}
	return &w->handles[fd - PD_FIRST];
}

int pd_handle_new(struct pd_world *w, enum pd_kind kind, struct pd_handle **handle)
{
	for (int i = 0; i < PD_HANDLES; i++) {
		if (w->handles[i].kind != PD_FREE)
			continue;
		w->handles[i] = (struct pd_handle){.kind = kind};
		*handle = &w->handles[i];
		return PD_FIRST + i;
	}
	errno = EMFILE;
	return -1;
}

// The result of a call of the stack, which is a negated errno, as POSIX has it; leaves the facade.
static int finish(struct pd_world *w, int result)
{
	pd_leave(w);
	if (result >= 0)
		return result;
	errno = -result;
	return -1;
}

// Enter for a call about a stream socket; NULL: left again, errno is set.
static struct pd_handle *begin(struct pd_world *w, int fd)
{
	pd_enter(w);
	struct pd_handle *handle = pd_handle(w, fd, PD_STREAM);
	if (handle == NULL) {
		int error = errno;
		finish(w, -error);
	}
	return handle;
}

static bool may_block(const struct pd_handle *handle)
{
	return (handle->flags & O_NONBLOCK) == 0;
}

int pd_socket(void *user, int domain, int type, int protocol)
{
	struct pd_world *w = user;
	struct pd_handle *handle;
	uint32_t slot;
	const int modes = SOCK_NONBLOCK | SOCK_CLOEXEC;
	if ((type & ~modes) != SOCK_STREAM || (protocol != 0 && protocol != IPPROTO_TCP)) {
		errno = EPROTONOSUPPORT;
		return -1;
	}
	pd_enter(w);
	int result = host_socket(w->host, (uint16_t)domain, SOCK_STREAM, IPPROTO_TCP, &slot);
	if (result < 0)
		return finish(w, result);
	result = pd_handle_new(w, PD_STREAM, &handle);
	if (result < 0) {
		host_abort(w->host, slot);
		return finish(w, -EMFILE);
	}
	handle->slot = slot;
	handle->family = domain;
	handle->flags = type & SOCK_NONBLOCK ? O_NONBLOCK : 0;
	return finish(w, result);
}

// An address as its socket calls it: the first 4 bytes for AF_INET, all 16 for AF_INET6.
static int read_address(const struct pd_handle *handle, const struct sockaddr *from, socklen_t length, uint8_t *address, uint16_t *port)
{
	memset(address, 0, 16);
	if (from == NULL)
		return -EFAULT;
	if (length < (handle->family == AF_INET ? sizeof(struct sockaddr_in) : 24 /* SIN6_LEN_RFC2133 */))
		return -EINVAL;
	if (from->sa_family != handle->family)
		return -EAFNOSUPPORT;
	if (handle->family == AF_INET) {
		const struct sockaddr_in *in = (const void *)from;
		memcpy(address, &in->sin_addr, 4);
		*port = ntohs(in->sin_port);
	} else {
		const struct sockaddr_in6 *in6 = (const void *)from;
		memcpy(address, &in6->sin6_addr, 16);
		*port = ntohs(in6->sin6_port);
	}
	return 0;
}

// The peer of a connection, whose record has the mapped form.
static void write_peer(const struct pd_handle *handle, const struct tcp_socket *s, struct sockaddr *to, socklen_t *length)
{
	union {
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
	} peer = {0};
	socklen_t size = sizeof(peer.in6);
	if (to == NULL || length == NULL)
		return;
	if (handle->family == AF_INET) {
		size = sizeof(peer.in);
		peer.in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(s->remote_port)};
		memcpy(&peer.in.sin_addr, s->remote + 12, 4);
	} else {
		peer.in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(s->remote_port)};
		memcpy(&peer.in6.sin6_addr, s->remote, 16);
	}
	memcpy(to, &peer, *length < size ? *length : size);
	*length = size;
}

int pd_bind(void *user, int fd, const struct sockaddr *address, socklen_t length)
{
	struct pd_world *w = user;
	uint8_t plain[16];
	uint16_t port = 0;
	struct pd_handle *handle = begin(w, fd);
	if (handle == NULL)
		return -1;
	int result = read_address(handle, address, length, plain, &port);
	return finish(w, result < 0 ? result : host_bind(w->host, handle->slot, plain, port, 0));
}

int pd_listen(void *user, int fd, int backlog)
{
	struct pd_world *w = user;
	struct pd_handle *handle = begin(w, fd);
	if (handle == NULL)
		return -1;
	int result = host_listen(w->host, handle->slot, backlog);
	pd_tell_listeners(w);
	return finish(w, result);
}

int pd_accept(void *user, int fd, struct sockaddr *address, socklen_t *length)
{
	struct pd_world *w = user;
	struct pd_handle *handle = begin(w, fd), *child;
	uint32_t slot;
	int result;
	if (handle == NULL)
		return -1;
	while ((result = host_accept(w->host, handle->slot, &slot)) == -EAGAIN && may_block(handle))
		pd_block(w, PD_NEVER);
	if (result < 0)
		return finish(w, result);
	result = pd_handle_new(w, PD_STREAM, &child);
	if (result < 0) {
		host_abort(w->host, slot);
		return finish(w, -EMFILE);
	}
	child->slot = slot;
	child->family = handle->family;
	write_peer(child, host_stream(w->host, slot), address, length);
	return finish(w, result);
}

// SO_ERROR: the pending error, which is cleared.
static int take_error(struct pd_world *w, const struct pd_handle *handle)
{
	int error = 0;
	uint32_t length = sizeof(error);
	int result = host_getopt(w->host, handle->slot, SOL_SOCKET, SO_ERROR, (uint8_t *)&error, &length);
	return result < 0 ? result : -error;
}

int pd_connect(void *user, int fd, const struct sockaddr *address, socklen_t length)
{
	struct pd_world *w = user;
	uint8_t plain[16];
	uint16_t port = 0;
	struct pd_handle *handle = begin(w, fd);
	if (handle == NULL)
		return -1;
	if (length >= sizeof(sa_family_t) && address != NULL && address->sa_family == AF_UNSPEC)
		return finish(w, host_disconnect(w->host, handle->slot));
	int result = read_address(handle, address, length, plain, &port);
	if (result == 0)
		result = host_connect(w->host, handle->slot, plain, port, 0);
	if ((result != -EINPROGRESS && result != -EALREADY) || !may_block(handle))
		return finish(w, result);
	const struct tcp_socket *s;
	while ((s = host_stream(w->host, handle->slot)) != NULL &&
	       (s->state == TCP_STATE_SYN_SENT || s->state == TCP_STATE_SYN_RECEIVED))
		pd_block(w, PD_NEVER);
	return finish(w, s == NULL ? -EBADF : take_error(w, handle));
}

int pd_close(void *user, int fd)
{
	struct pd_world *w = user;
	pd_enter(w);
	if (fd < PD_FIRST || fd >= PD_FIRST + PD_HANDLES || w->handles[fd - PD_FIRST].kind == PD_FREE)
		return finish(w, -EBADF);
	struct pd_handle *handle = &w->handles[fd - PD_FIRST];
	pd_watch_forget(w, fd);
	if (handle->kind == PD_STREAM)
		host_close(w->host, handle->slot);
	handle->kind = PD_FREE;
	pd_tell_listeners(w);
	return finish(w, 0);
}

int pd_shutdown(void *user, int fd, int how)
{
	struct pd_world *w = user;
	struct pd_handle *handle = begin(w, fd);
	return handle == NULL ? -1 : finish(w, host_shutdown(w->host, handle->slot, how));
}

int pd_fcntl(void *user, int fd, int command, ...)
{
	struct pd_world *w = user;
	va_list more;
	va_start(more, command);
	long argument = va_arg(more, long);
	va_end(more);
	struct pd_handle *handle = begin(w, fd);
	if (handle == NULL)
		return -1;
	if (command == F_GETFL)
		return finish(w, O_RDWR | handle->flags);
	if (command != F_SETFL)
		return finish(w, -EINVAL);
	handle->flags = (int)argument & O_NONBLOCK;
	return finish(w, 0);
}

int pd_ioctl(void *user, int fd, unsigned long request, ...)
{
	struct pd_world *w = user;
	struct host_stream_status status;
	va_list more;
	va_start(more, request);
	int *value = va_arg(more, int *);
	va_end(more);
	struct pd_handle *handle = begin(w, fd);
	if (handle == NULL)
		return -1;
	int result = host_stream_status(w->host, handle->slot, &status);
	if (result < 0)
		return finish(w, result);
	const struct tcp_socket *s = host_stream(w->host, handle->slot);
	if (s->state == TCP_STATE_LISTEN)
		return finish(w, -EINVAL);
	if (request == SIOCINQ)
		*value = (int)status.unread;
	else if (request == SIOCOUTQ)
		*value = (int)status.unacknowledged;
	else if (request == SIOCOUTQNSD)
		*value = (int)status.unsent;
	else
		result = -ENOTTY;
	return finish(w, result);
}

// What is told of memory: the stack's limits, nothing of the kernel's own accounting.
static int memory_info(struct pd_world *w, const struct pd_handle *handle, void *value, socklen_t *length)
{
	uint32_t info[SK_MEMINFO_VARS] = {0};
	const struct tcp_socket *s = host_stream(w->host, handle->slot);
	if (s == NULL)
		return -EBADF;
	info[SK_MEMINFO_RCVBUF] = s->rcvbuf;
	info[SK_MEMINFO_SNDBUF] = s->sndbuf;
	socklen_t size = *length < sizeof(info) ? *length : (socklen_t)sizeof(info);
	memcpy(value, info, size);
	*length = size;
	return 0;
}

int pd_getsockopt(void *user, int fd, int level, int name, void *value, socklen_t *length)
{
	struct pd_world *w = user;
	struct pd_handle *handle = begin(w, fd);
	if (handle == NULL)
		return -1;
	if (value == NULL || length == NULL)
		return finish(w, -EFAULT);
	if (level == SOL_SOCKET && name == SO_MEMINFO)
		return finish(w, memory_info(w, handle, value, length));
	if (level == IPPROTO_TCP && name == TCP_CC_INFO) {
		*length = 0; // as Linux answers for an algorithm that has nothing to tell
		return finish(w, 0);
	}
	if (level == IPPROTO_TCP && name == TCP_INQ) {
		*(int *)value = handle->inq;
		*length = sizeof(int);
		return finish(w, 0);
	}
	uint32_t size = *length;
	memset(value, 0, size);
	int result = host_getopt(w->host, handle->slot, level, name, value, &size);
	// packetdrill wants all that its own struct has; members that the stack does not know are zero.
	if (level != IPPROTO_TCP || name != TCP_INFO)
		*length = size;
	return finish(w, result);
}

int pd_setsockopt(void *user, int fd, int level, int name, const void *value, socklen_t length)
{
	struct pd_world *w = user;
	struct pd_handle *handle = begin(w, fd);
	if (handle == NULL)
		return -1;
	if (value == NULL && length > 0)
		return finish(w, -EFAULT);
	if (level == IPPROTO_TCP && name == TCP_INQ) {
		if (length < sizeof(int))
			return finish(w, -EINVAL);
		handle->inq = *(const int *)value != 0;
		return finish(w, 0);
	}
	// Nothing is sent from the app's pages here: a request to do so is granted, and has no effect.
	if (level == SOL_SOCKET && name == SO_ZEROCOPY)
		return finish(w, 0);
	return finish(w, host_setopt(w->host, handle->slot, level, name, value, length));
}
