// The public calls of librsock: what POSIX has, for sockets in virtual routers and for the kernel's own.
//
// Everything happens in the files below (internal.h); here errno is set, and ordinary sockets are handed on.
#define _GNU_SOURCE
#include "internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include "sys.h"

#define EXPORT __attribute__((visibility("default")))

static int give(int result)
{
	if (result >= 0)
		return result;
	errno = -result;
	return -1;
}

static ssize_t give_size(ssize_t result)
{
	if (result >= 0)
		return result;
	errno = (int)-result;
	return -1;
}

EXPORT int rsock_init(const struct rsock_config *config)
{
	return give(settings_init(config));
}

EXPORT int rsock_set_default_vr(const char *vr)
{
	return give(settings_default_vr(vr));
}

// --- routers ---

EXPORT int rsock_vr_list(struct rsock_vr *vrs, size_t *count)
{
	char path[CLIENT_RUN_DIR + 4];
	size_t found = 0;
	(void)snprintf(path, sizeof(path), "%s/vr", settings_get()->run_dir);
	DIR *directory = opendir(path);
	if (directory == NULL && errno != ENOENT)
		return -1;
	for (const struct dirent *entry; directory != NULL && (entry = readdir(directory)) != NULL;) {
		static const char suffix[] = ".sock";
		struct rsock_vr vr = {.up = 0};
		size_t length = strlen(entry->d_name);
		if (length < sizeof(suffix) || length - sizeof(suffix) + 1 >= sizeof(vr.name) ||
		    strcmp(entry->d_name + length - sizeof(suffix) + 1, suffix) != 0)
			continue;
		memcpy(vr.name, entry->d_name, length - sizeof(suffix) + 1);
		int router = link_router(vr.name);
		if (router < 0)
			continue;
		if (found < *count && vrs != NULL) {
			vr.up = link_up(router) > 0;
			vrs[found] = vr;
		}
		found++;
	}
	if (directory != NULL)
		(void)closedir(directory);
	*count = found;
	return 0;
}

// --- sockets ---

EXPORT int rsock_socket(const char *vr, int domain, int type, int protocol)
{
	struct handle handle;
	int fd;
	const char *chosen = vr != NULL ? vr : settings_get()->default_vr;
	if (chosen[0] == '\0' || strcmp(chosen, RSOCK_KERNEL) == 0)
		return give(sys_socket(domain, type, protocol));
	int error = client_open(chosen, domain, type, protocol, &handle, &fd);
	if (error == 0 && handle.type != SOCK_STREAM)
		handle_any_datagram = true;
	return error < 0 ? give(error) : fd;
}

EXPORT int rsock_bind(int fd, const struct sockaddr *address, socklen_t length)
{
	struct handle handle;
	if (!handle_get(fd, &handle))
		return give((int)SYS_CALL(SYS_bind, fd, address, length));
	return give(client_bind(fd, &handle, address, length));
}

EXPORT int rsock_connect(int fd, const struct sockaddr *address, socklen_t length)
{
	struct handle handle;
	if (!handle_get(fd, &handle))
		return give(sys_connect(fd, address, length));
	if (handle.type == SOCK_STREAM)
		return give(stream_connect(fd, &handle, address, length));
	return give(datagram_connect(fd, &handle, address, length));
}

EXPORT int rsock_listen(int fd, int backlog)
{
	struct handle handle;
	if (!handle_get(fd, &handle))
		return give(sys_listen(fd, backlog));
	return give(handle.type == SOCK_STREAM ? stream_listen(fd, &handle, backlog) : -EOPNOTSUPP);
}

EXPORT int rsock_accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
	struct handle handle;
	if (!handle_get(fd, &handle))
		return give(sys_accept4(fd, address, length, flags));
	return give(handle.type == SOCK_STREAM ? stream_accept(fd, &handle, address, length, flags) : -EOPNOTSUPP);
}

EXPORT int rsock_accept(int fd, struct sockaddr *address, socklen_t *length)
{
	return rsock_accept4(fd, address, length, 0);
}

static int name_of(int fd, bool remote, struct sockaddr *address, socklen_t *length)
{
	struct handle handle;
	if (!handle_get(fd, &handle))
		return remote ? sys_getpeername(fd, address, length) : sys_getsockname(fd, address, length);
	if (address == NULL || length == NULL)
		return -EFAULT;
	return handle.type == SOCK_STREAM ? stream_name(fd, &handle, remote, address, length)
		: datagram_name(&handle, remote, address, length);
}

EXPORT int rsock_getsockname(int fd, struct sockaddr *address, socklen_t *length)
{
	return give(name_of(fd, false, address, length));
}

EXPORT int rsock_getpeername(int fd, struct sockaddr *address, socklen_t *length)
{
	return give(name_of(fd, true, address, length));
}

EXPORT int rsock_setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
	struct handle handle;
	if (!handle_get(fd, &handle))
		return give(sys_setsockopt(fd, level, name, value, length));
	return give(option_set(fd, &handle, level, name, value, length));
}

EXPORT int rsock_getsockopt(int fd, int level, int name, void *value, socklen_t *length)
{
	struct handle handle;
	if (!handle_get(fd, &handle))
		return give(sys_getsockopt(fd, level, name, value, length));
	int error = option_get(fd, &handle, level, name, value, length);
	// Whoever connects without blocking asks for the outcome here.
	if (error == 0 && level == SOL_SOCKET && name == SO_ERROR && (handle.flags & HANDLE_CONNECTING))
		stream_connect_told(fd, &handle, *(const char *)value != 0);
	return give(error);
}

EXPORT int rsock_shutdown(int fd, int how)
{
	struct handle handle;
	if (!handle_get(fd, &handle))
		return give(sys_shutdown(fd, how));
	if (handle.type == SOCK_STREAM)
		return give(stream_shutdown(fd, &handle, how));
	return give(handle.flags & HANDLE_CONNECTED ? sys_shutdown(fd, how) : -ENOTCONN);
}

EXPORT int rsock_close(int fd)
{
	struct handle handle;
	bool lone = handle_peek(fd, &handle) && handle.type == SOCK_STREAM && !(handle.flags & HANDLE_JOINED);
	int result = sys_close(fd);
	// Nothing else tells the forwarder at once that a listener is closed.
	if (lone)
		link_hint(handle.router, RSOCK_OP_CLOSE, handle.slot, handle.key);
	return give(result);
}

EXPORT int rsock_fd_info(int fd, struct rsock_info *info)
{
	struct handle handle;
	if (info == NULL || info->size < sizeof(*info))
		return give(-EINVAL);
	if (!handle_get(fd, &handle))
		return give(-ENOTSOCK);
	*info = (struct rsock_info){
		.size = sizeof(*info),
		.domain = handle.domain,
		.type = handle.type,
		.protocol = handle.protocol,
		.slot = handle.slot,
	};
	strcpy(info->vr, link_router_name(handle.router));
	return 0;
}

// --- messages ---

static ssize_t send_message(int fd, const struct msghdr *message, int flags)
{
	struct handle handle;
	if (!handle_get(fd, &handle))
		return sys_sendmsg(fd, message, flags);
	if (handle.type != SOCK_STREAM)
		return datagram_send(fd, &handle, message, flags);
	// An address means nothing to a connected stream.
	struct msghdr bare = *message;
	bare.msg_name = NULL;
	bare.msg_namelen = 0;
	bare.msg_control = NULL;
	bare.msg_controllen = 0;
	return sys_sendmsg(fd, &bare, flags & ~MSG_OOB);
}

static ssize_t receive_message(int fd, struct msghdr *message, int flags)
{
	struct handle handle;
	if (!handle_get(fd, &handle))
		return sys_recvmsg(fd, message, flags);
	if (handle.type != SOCK_STREAM)
		return datagram_receive(fd, &handle, message, flags);
	if (flags & MSG_ERRQUEUE)
		return -EAGAIN;
	message->msg_namelen = 0;
	message->msg_controllen = 0;
	struct msghdr bare = {.msg_iov = message->msg_iov, .msg_iovlen = message->msg_iovlen};
	ssize_t got = sys_recvmsg(fd, &bare, flags);
	message->msg_flags = bare.msg_flags;
	if (got != 0)
		return got;
	for (size_t i = 0; i < message->msg_iovlen; i++)
		if (message->msg_iov[i].iov_len > 0)
			return stream_ended(fd, &handle);
	return 0;
}

EXPORT ssize_t rsock_sendmsg(int fd, const struct msghdr *message, int flags)
{
	return give_size(send_message(fd, message, flags));
}

EXPORT ssize_t rsock_sendto(
	int fd, const void *data, size_t length, int flags, const struct sockaddr *address, socklen_t size)
{
	struct iovec part = {.iov_base = (void *)(uintptr_t)data, .iov_len = length};
	const struct msghdr message = {
		.msg_name = (void *)(uintptr_t)address,
		.msg_namelen = size,
		.msg_iov = &part,
		.msg_iovlen = 1,
	};
	return give_size(send_message(fd, &message, flags));
}

EXPORT ssize_t rsock_send(int fd, const void *data, size_t length, int flags)
{
	return rsock_sendto(fd, data, length, flags, NULL, 0);
}

EXPORT ssize_t rsock_recvmsg(int fd, struct msghdr *message, int flags)
{
	return give_size(receive_message(fd, message, flags));
}

EXPORT ssize_t rsock_recvfrom(int fd, void *data, size_t length, int flags, struct sockaddr *address, socklen_t *size)
{
	struct iovec part = {.iov_base = data, .iov_len = length};
	struct msghdr message = {
		.msg_name = address,
		.msg_namelen = address != NULL && size != NULL ? *size : 0,
		.msg_iov = &part,
		.msg_iovlen = 1,
	};
	ssize_t got = receive_message(fd, &message, flags);
	if (got >= 0 && address != NULL && size != NULL)
		*size = message.msg_namelen;
	return give_size(got);
}

EXPORT ssize_t rsock_recv(int fd, void *data, size_t length, int flags)
{
	return rsock_recvfrom(fd, data, length, flags, NULL, NULL);
}

EXPORT int rsock_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
	for (unsigned int i = 0; i < count; i++) {
		ssize_t sent = send_message(fd, &messages[i].msg_hdr, flags);
		if (sent < 0)
			return i > 0 ? (int)i : give((int)sent);
		messages[i].msg_len = (unsigned int)sent;
	}
	return (int)count;
}

static int64_t now_ns(void)
{
	struct timespec now;
	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

// As the kernel's, the time is looked at after each datagram only.
EXPORT int rsock_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout)
{
	int64_t end = timeout == NULL ? INT64_MAX : now_ns() + timeout->tv_sec * 1000000000ll + timeout->tv_nsec;
	int each = flags & ~MSG_WAITFORONE;
	for (unsigned int i = 0; i < count; i++) {
		ssize_t got = receive_message(fd, &messages[i].msg_hdr, each);
		if (got < 0)
			return i > 0 ? (int)i : give((int)got);
		messages[i].msg_len = (unsigned int)got;
		if (flags & MSG_WAITFORONE)
			each |= MSG_DONTWAIT;
		if (timeout != NULL && now_ns() >= end)
			return (int)i + 1;
	}
	return (int)count;
}
