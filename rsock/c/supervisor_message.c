// Messages with addresses or ancillary data.  The records on a datagram socket's fd have a header (rsock/wire.py) that
// the client library adds and takes; streams come here only where the kernel would tell an AF_UNIX address.
//
// A message's bytes are copied through us.  At most SUPERVISOR_MESSAGE of them, in SUPERVISOR_PARTS: more than the
// longest datagram; of a stream's bytes fewer than wanted may be taken, as with any stream.
#define _GNU_SOURCE
#include "supervisor.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/uio.h>
#include "sys.h"

enum { MANY = 64, PARTS_MOST = 1024 }; // UIO_MAXIOV of the kernel

// A message as it lies in the program's memory.
struct remote {
	struct iovec parts[SUPERVISOR_PARTS];
	size_t count;
	size_t length; // of all parts, at most SUPERVISOR_MESSAGE
	uint64_t name, control;
	uint32_t name_length;
	size_t control_length;
};

// What came of receiving.
struct received {
	struct sockaddr_storage name;
	socklen_t name_length;
	size_t control_length;
	int flags;
};

static void add_part(struct remote *remote, void *base, size_t length)
{
	size_t room = SUPERVISOR_MESSAGE - remote->length;
	if (length > room)
		length = room;
	if (length == 0 || remote->count == SUPERVISOR_PARTS)
		return;
	remote->parts[remote->count++] = (struct iovec){.iov_base = base, .iov_len = length};
	remote->length += length;
}

static int read_message(const struct call *call, uint64_t from, struct remote *remote)
{
	struct msghdr header;
	struct iovec parts[SUPERVISOR_PARTS];
	int error = tracee_read(call, from, &header, sizeof(header));
	if (error < 0)
		return error;
	if (header.msg_iovlen > PARTS_MOST)
		return -EMSGSIZE;
	size_t count = header.msg_iovlen < SUPERVISOR_PARTS ? header.msg_iovlen : SUPERVISOR_PARTS;
	error = tracee_read(call, (uintptr_t)header.msg_iov, parts, count * sizeof(parts[0]));
	if (error < 0)
		return error;
	*remote = (struct remote){
		.name = (uintptr_t)header.msg_name,
		.name_length = header.msg_namelen,
		.control = (uintptr_t)header.msg_control,
		.control_length = header.msg_control == NULL ? 0 : header.msg_controllen,
	};
	for (size_t i = 0; i < count; i++)
		add_part(remote, parts[i].iov_base, parts[i].iov_len);
	return 0;
}

// --- sending ---

static int64_t wait_or(struct call *call, int flags, int option, int64_t wait)
{
	if ((flags & MSG_DONTWAIT) || !tracee_blocks(call))
		return -EAGAIN;
	if (!call->waited)
		call->deadline = tracee_deadline(call, option);
	return tracee_now() >= call->deadline ? -EAGAIN : wait;
}

static int64_t send_stream(struct supervisor *supervisor, struct call *call, size_t length, int flags)
{
	int64_t sent = sys_sendto(call->fd, supervisor->message, length, flags | MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);
	if (sent == -EPIPE && !(flags & MSG_NOSIGNAL))
		(void)syscall(SYS_pidfd_send_signal, call->process, SIGPIPE, NULL, 0);
	return sent;
}

static int64_t send_datagram(struct supervisor *supervisor, struct call *call, const struct remote *remote, int flags)
{
	struct sockaddr_storage address;
	struct iovec part = {.iov_base = supervisor->message, .iov_len = remote->length};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	if (remote->name != 0) {
		int error = tracee_address(call, remote->name, remote->name_length, &address);
		int64_t placed = error < 0 ? error : place_by_address(supervisor, call, &address);
		if (placed != 0)
			return placed;
		resolver_redirect(call->record, &address);
		message.msg_name = &address;
		message.msg_namelen = remote->name_length;
	}
	if (remote->control_length > SUPERVISOR_CONTROL)
		return -ENOBUFS;
	if (remote->control_length > 0) {
		int error = tracee_read(call, remote->control, supervisor->control, remote->control_length);
		if (error < 0)
			return error;
		message.msg_control = supervisor->control;
		message.msg_controllen = remote->control_length;
	}
	return datagram_send(call->fd, &call->record->handle, &message, flags | MSG_DONTWAIT);
}

static int64_t send_one(struct supervisor *supervisor, struct call *call, const struct remote *remote, int flags)
{
	const struct iovec here = {.iov_base = supervisor->message, .iov_len = remote->length};
	bool stream = call->record->handle.type == SOCK_STREAM;
	if (!record_is_ours(call->record) && (stream || remote->name == 0))
		return CALL_KERNEL;
	if (stream && remote->name == 0 && remote->control_length == 0)
		return CALL_KERNEL;
	if (remote->length > 0 &&
		process_vm_readv(call->thread, &here, 1, remote->parts, remote->count, 0) != (ssize_t)remote->length)
		return -EFAULT;
	if (!tracee_valid(supervisor, call))
		return CALL_SENT;
	int64_t sent =
		stream ? send_stream(supervisor, call, remote->length, flags) : send_datagram(supervisor, call, remote, flags);
	return sent == -EAGAIN ? wait_or(call, flags, SO_SNDTIMEO, CALL_WAIT_OUT) : sent;
}

int64_t call_sendto(struct supervisor *supervisor, struct call *call)
{
	struct remote remote = {.name = call->args[4], .name_length = (uint32_t)call->args[5]};
	add_part(&remote, (void *)(uintptr_t)call->args[1], call->args[2]);
	return send_one(supervisor, call, &remote, (int)call->args[3]);
}

int64_t call_sendmsg(struct supervisor *supervisor, struct call *call)
{
	struct remote remote;
	int error = read_message(call, call->args[1], &remote);
	return error < 0 ? error : send_one(supervisor, call, &remote, (int)call->args[2]);
}

// --- receiving ---

static int64_t receive_stream(struct supervisor *supervisor, struct call *call, const struct remote *remote, int flags,
	struct received *received)
{
	int64_t got = sys_recvfrom(call->fd, supervisor->message, remote->length, flags | MSG_DONTWAIT, NULL, NULL);
	received->name_length = 0; // as TCP has it
	return got == 0 && remote->length > 0 ? stream_ended(call->fd, &call->record->handle) : got;
}

static int64_t receive_datagram(struct supervisor *supervisor, struct call *call, const struct remote *remote,
	int flags, struct received *received)
{
	struct iovec part = {.iov_base = supervisor->message, .iov_len = remote->length};
	struct msghdr message = {
		.msg_name = &received->name,
		.msg_namelen = sizeof(received->name),
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = supervisor->control,
		.msg_controllen = remote->control_length < SUPERVISOR_CONTROL ? remote->control_length : SUPERVISOR_CONTROL,
	};
	int64_t got = datagram_receive(call->fd, &call->record->handle, &message, flags | MSG_DONTWAIT);
	if (got < 0)
		return got;
	received->name_length = message.msg_namelen;
	received->control_length = message.msg_controllen;
	received->flags = message.msg_flags;
	resolver_restore(call->record, &received->name);
	return got;
}

static int64_t receive_one(struct supervisor *supervisor, struct call *call, const struct remote *remote, int flags,
	struct received *received)
{
	bool stream = call->record->handle.type == SOCK_STREAM;
	memset(received, 0, sizeof(*received));
	if (!record_is_ours(call->record) || (stream && remote->name == 0))
		return CALL_KERNEL;
	if (!tracee_valid(supervisor, call))
		return CALL_SENT;
	int64_t got = stream ? receive_stream(supervisor, call, remote, flags, received)
						 : receive_datagram(supervisor, call, remote, flags, received);
	if (got == -EAGAIN && !(flags & MSG_ERRQUEUE))
		return wait_or(call, flags, SO_RCVTIMEO, CALL_WAIT_IN);
	if (got <= 0)
		return got;
	size_t length = (uint64_t)got < remote->length ? (size_t)got : remote->length;
	const struct iovec here = {.iov_base = supervisor->message, .iov_len = length};
	if (length > 0 && process_vm_writev(call->thread, &here, 1, remote->parts, remote->count, 0) != (ssize_t)length)
		return -EFAULT;
	return got;
}

int64_t call_recvfrom(struct supervisor *supervisor, struct call *call)
{
	struct remote remote = {.name = call->args[4]};
	struct received received;
	add_part(&remote, (void *)(uintptr_t)call->args[1], call->args[2]);
	int64_t got = receive_one(supervisor, call, &remote, (int)call->args[3], &received);
	if (got < 0)
		return got;
	int error = tracee_give_address(call, &received.name, received.name_length, call->args[4], call->args[5]);
	return error < 0 ? error : got;
}

// Write back what recvmsg(2) changes in the program's header.
static int give_header(const struct supervisor *supervisor, const struct call *call, uint64_t to,
	const struct remote *remote, const struct received *received)
{
	size_t name_length = remote->name_length < received->name_length ? remote->name_length : received->name_length;
	const socklen_t name_size = remote->name == 0 ? 0 : received->name_length;
	int error = tracee_write(call, remote->name, &received->name, remote->name == 0 ? 0 : name_length);
	if (error == 0)
		error = tracee_write(call, remote->control, supervisor->control, received->control_length);
	if (error == 0 && remote->name != 0)
		error = tracee_write(call, to + offsetof(struct msghdr, msg_namelen), &name_size, sizeof(name_size));
	if (error == 0)
		error = tracee_write(call, to + offsetof(struct msghdr, msg_controllen), &received->control_length,
			sizeof(received->control_length));
	return error < 0
		? error
		: tracee_write(call, to + offsetof(struct msghdr, msg_flags), &received->flags, sizeof(received->flags));
}

static int64_t receive_message(struct supervisor *supervisor, struct call *call, uint64_t at, int flags)
{
	struct remote remote;
	struct received received;
	int error = read_message(call, at, &remote);
	if (error < 0)
		return error;
	int64_t got = receive_one(supervisor, call, &remote, flags, &received);
	if (got < 0)
		return got;
	error = give_header(supervisor, call, at, &remote, &received);
	return error < 0 ? error : got;
}

int64_t call_recvmsg(struct supervisor *supervisor, struct call *call)
{
	return receive_message(supervisor, call, call->args[1], (int)call->args[2]);
}

// --- many at once ---

// Stops at the first that fails; that is told where it is the very first.
static int64_t each(struct supervisor *supervisor, struct call *call, bool sends)
{
	uint32_t wanted = (uint32_t)call->args[2] < MANY ? (uint32_t)call->args[2] : MANY;
	int flags = (int)call->args[3] & ~MSG_WAITFORONE;
	for (uint32_t i = 0; i < wanted; i++) {
		uint64_t at = call->args[1] + i * sizeof(struct mmsghdr);
		struct remote remote;
		int more = i == 0 ? 0 : MSG_DONTWAIT;
		int64_t done;
		if (sends) {
			int error = read_message(call, at, &remote);
			done = error < 0 ? error : send_one(supervisor, call, &remote, flags | more);
		} else {
			done = receive_message(supervisor, call, at, flags | more);
		}
		if (done < 0)
			return i == 0 ? done : i;
		const uint32_t length = (uint32_t)done;
		if (tracee_write(call, at + offsetof(struct mmsghdr, msg_len), &length, sizeof(length)) < 0)
			return i == 0 ? -EFAULT : (int64_t)i;
	}
	return wanted;
}

int64_t call_sendmmsg(struct supervisor *supervisor, struct call *call)
{
	return each(supervisor, call, true);
}

int64_t call_recvmmsg(struct supervisor *supervisor, struct call *call)
{
	return each(supervisor, call, false);
}
