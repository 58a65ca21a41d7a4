// Reading and writing: scattered buffers are one piece towards the stack, and a blocking call
// goes on where it can.
#include "pd_so.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>

#ifndef TCP_CM_INQ
#define TCP_CM_INQ 36
#endif

static ssize_t finish(struct pd_world *w, ssize_t result)
{
	pd_leave(w);
	if (result >= 0)
		return result;
	errno = (int)-result;
	return -1;
}

// Bytes of all parts; negative: one of them is no memory.
static ssize_t total(const struct iovec *parts, size_t count)
{
	size_t sum = 0;
	for (size_t i = 0; i < count; i++) {
		if (parts[i].iov_base == NULL && parts[i].iov_len > 0)
			return -EFAULT;
		sum += parts[i].iov_len;
	}
	return (ssize_t)sum;
}

static void scatter(const uint8_t *from, size_t bytes, const struct iovec *parts, size_t count)
{
	for (size_t i = 0; i < count && bytes > 0; i++) {
		size_t piece = parts[i].iov_len < bytes ? parts[i].iov_len : bytes;
		if (piece > 0)
			memcpy(parts[i].iov_base, from, piece);
		from += piece;
		bytes -= piece;
	}
}

static void gather(uint8_t *to, const struct iovec *parts, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (parts[i].iov_len > 0)
			memcpy(to, parts[i].iov_base, parts[i].iov_len);
		to += parts[i].iov_len;
	}
}

static bool may_block(const struct pd_handle *handle, int flags)
{
	return (handle->flags & O_NONBLOCK) == 0 && (flags & MSG_DONTWAIT) == 0;
}

// Returns at the first bytes, or with MSG_WAITALL when all are there.
static ssize_t take(struct pd_world *w, const struct pd_handle *handle, uint8_t *buffer, size_t length, int flags)
{
	size_t done = 0;
	for (;;) {
		int result = host_stream_read(w->host, handle->slot, buffer + done, (uint32_t)(length - done), flags & MSG_PEEK);
		if (result > 0)
			done += (size_t)result;
		bool enough = done == length || (done > 0 && (flags & MSG_WAITALL) == 0);
		if (enough || (result <= 0 && result != -EAGAIN) || !may_block(handle, flags))
			return done > 0 ? (ssize_t)done : result;
		if (result <= 0)
			pd_block(w, PD_NEVER);
	}
}

// A blocking write ends when the last byte has found room in the send queue.  It goes on when the
// stack tells of room: less than a third of the buffer wakes nobody.
static ssize_t give(struct pd_world *w, struct pd_handle *handle, const uint8_t *data, size_t length, int flags)
{
	size_t done = 0;
	for (;;) {
		int result = host_stream_write(w->host, handle->slot, data + done, (uint32_t)(length - done), flags & ~MSG_DONTWAIT);
		if (result > 0)
			done += (size_t)result;
		if (done == length || (result < 0 && result != -EAGAIN) || !may_block(handle, flags))
			return done > 0 ? (ssize_t)done : result;
		handle->writable = false;
		while (!handle->writable)
			pd_block(w, PD_NEVER);
	}
}

static ssize_t receive(struct pd_world *w, int fd, const struct iovec *parts, size_t count, int flags)
{
	const struct pd_handle *handle = pd_handle(w, fd, PD_STREAM);
	if (handle == NULL)
		return -errno;
	ssize_t room = total(parts, count);
	if (room < 0 && may_block(handle, flags)) {
		struct host_stream_status status;
		while (host_stream_status(w->host, handle->slot, &status) == 0 && !status.readable)
			pd_block(w, PD_NEVER);
	}
	if (room < 0)
		return room;
	uint8_t *buffer = malloc((size_t)room + 1);
	if (buffer == NULL)
		return -ENOMEM;
	ssize_t result = take(w, handle, buffer, (size_t)room, flags);
	if (result > 0)
		scatter(buffer, (size_t)result, parts, count);
	free(buffer);
	return result;
}

static ssize_t transmit(struct pd_world *w, int fd, const struct iovec *parts, size_t count, int flags)
{
	struct pd_handle *handle = pd_handle(w, fd, PD_STREAM);
	if (handle == NULL)
		return -errno;
	ssize_t length = total(parts, count);
	if (length < 0)
		return length;
	uint8_t *buffer = malloc((size_t)length + 1);
	if (buffer == NULL)
		return -ENOMEM;
	gather(buffer, parts, count);
	ssize_t result = give(w, handle, buffer, (size_t)length, flags & (MSG_MORE | MSG_EOR | MSG_OOB | MSG_DONTWAIT));
	free(buffer);
	return result;
}

ssize_t pd_readv(void *user, int fd, const struct iovec *parts, int count)
{
	struct pd_world *w = user;
	pd_enter(w);
	return finish(w, receive(w, fd, parts, (size_t)count, 0));
}

ssize_t pd_recv(void *user, int fd, void *buffer, size_t length, int flags)
{
	struct pd_world *w = user;
	struct iovec part = {buffer, length};
	pd_enter(w);
	return finish(w, receive(w, fd, &part, 1, flags));
}

ssize_t pd_read(void *user, int fd, void *buffer, size_t count)
{
	return pd_recv(user, fd, buffer, count, 0);
}

// A stream has no datagram to name the sender of.
ssize_t pd_recvfrom(void *user, int fd, void *buffer, size_t length, int flags, struct sockaddr *address, socklen_t *size)
{
	if (address != NULL && size != NULL)
		*size = 0;
	return pd_recv(user, fd, buffer, length, flags);
}

// TCP_INQ: bytes left to read; at the end of the stream 1, so that the app reads once more.
static int unread_hint(struct pd_world *w, const struct pd_handle *handle)
{
	struct host_stream_status status;
	if (host_stream_status(w->host, handle->slot, &status) < 0)
		return 0;
	return status.unread == 0 && status.peer_closed ? 1 : (int)status.unread;
}

static void tell_unread(struct pd_world *w, int fd, struct msghdr *message)
{
	const struct pd_handle *handle = pd_handle(w, fd, PD_STREAM);
	struct cmsghdr *control = CMSG_FIRSTHDR(message);
	if (handle == NULL || !handle->inq || control == NULL || message->msg_controllen < CMSG_SPACE(sizeof(int))) {
		message->msg_controllen = 0;
		return;
	}
	int hint = unread_hint(w, handle);
	*control = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = IPPROTO_TCP, .cmsg_type = TCP_CM_INQ};
	memcpy(CMSG_DATA(control), &hint, sizeof(hint));
	message->msg_controllen = CMSG_SPACE(sizeof(int));
}

ssize_t pd_recvmsg(void *user, int fd, struct msghdr *message, int flags)
{
	struct pd_world *w = user;
	pd_enter(w);
	message->msg_flags = 0;
	message->msg_namelen = 0;
	if (flags & MSG_ERRQUEUE)
		return finish(w, -EAGAIN);
	ssize_t result = receive(w, fd, message->msg_iov, message->msg_iovlen, flags);
	if (result >= 0)
		tell_unread(w, fd, message);
	return finish(w, result);
}

ssize_t pd_writev(void *user, int fd, const struct iovec *parts, int count)
{
	struct pd_world *w = user;
	pd_enter(w);
	return finish(w, transmit(w, fd, parts, (size_t)count, 0));
}

ssize_t pd_send(void *user, int fd, const void *buffer, size_t length, int flags)
{
	struct pd_world *w = user;
	struct iovec part = {(void *)(uintptr_t)buffer, length};
	pd_enter(w);
	return finish(w, transmit(w, fd, &part, 1, flags));
}

ssize_t pd_write(void *user, int fd, const void *buffer, size_t count)
{
	return pd_send(user, fd, buffer, count, 0);
}

// A connected stream ignores the address (RFC 7413's data on SYN is not supported).
ssize_t pd_sendto(void *user, int fd, const void *buffer, size_t length, int flags, const struct sockaddr *address, socklen_t size)
{
	(void)address;
	(void)size;
	return pd_send(user, fd, buffer, length, flags);
}

ssize_t pd_sendmsg(void *user, int fd, const struct msghdr *message, int flags)
{
	struct pd_world *w = user;
	pd_enter(w);
	return finish(w, transmit(w, fd, message->msg_iov, message->msg_iovlen, flags));
}
