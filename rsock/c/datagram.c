// Datagram and raw sockets: records on an AF_UNIX SEQPACKET fd.
//
// Unconnected sockets have struct rsock_datagram before each payload, both ways.  Connected ones carry bare payloads,
// so that read(2) and write(2) are the kernel's own; there a record of no bytes tells of a pending error or, without
// one, of an empty datagram.
//
// What differs from a kernel socket: a datagram that the router refuses is an error of the next receive call, not of
// the send call; what was received before connecting comes behind what comes at that moment, and what is larger than a
// request (12 KiB) is lost, as is all of it when a socket is disconnected; read(2) and write(2) on an unconnected socket
// show the header.
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/uio.h>
#include "sys.h"

enum {
	PARTS = 1024,                // UIO_MAXIOV of the kernel
	LARGEST = 0xffff,
	SAVED = 16,                  // errors that wait for MSG_ERRQUEUE, of all sockets of the process
	SAVED_PAYLOAD = 576,         // of what was sent, as much as is kept
	SEND_FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL | MSG_EOR,
	RECEIVE_FLAGS = MSG_DONTWAIT | MSG_PEEK | MSG_TRUNC | MSG_WAITALL | MSG_CMSG_CLOEXEC
};

// --- errors that were met by a receive call and are asked for by MSG_ERRQUEUE later ---

struct saved {
	uint64_t file;               // SO_COOKIE of the socket; 0: free
	struct rsock_datagram header;
	uint32_t length;
	uint8_t payload[SAVED_PAYLOAD];
};

static struct saved saved[SAVED];
static unsigned int saved_next;
static bool saved_busy;          // a lock that nobody waits for: an error more or less may be lost

static bool saved_enter(void)
{
	return !__atomic_exchange_n(&saved_busy, true, __ATOMIC_ACQUIRE);
}

static void saved_leave(void)
{
	__atomic_store_n(&saved_busy, false, __ATOMIC_RELEASE);
}

static void save_error(const struct handle *handle, const struct rsock_datagram *header, const struct iovec *parts,
	size_t count, size_t length)
{
	if (!saved_enter())
		return;
	struct saved *place = &saved[saved_next++ % SAVED];
	*place = (struct saved){.file = handle->file, .header = *header};
	for (size_t i = 0; i < count && place->length < SAVED_PAYLOAD && length > 0; i++) {
		size_t part = parts[i].iov_len < length ? parts[i].iov_len : length;
		size_t room = SAVED_PAYLOAD - place->length;
		if (part > 0)
			memcpy(place->payload + place->length, parts[i].iov_base, part < room ? part : room);
		place->length += (uint32_t)(part < room ? part : room);
		length -= part;
	}
	saved_leave();
}

static bool saved_error(const struct handle *handle, struct saved *found)
{
	bool any = false;
	if (!saved_enter())
		return false;
	for (unsigned int i = 0; i < SAVED && !any; i++) {
		struct saved *place = &saved[(saved_next + i) % SAVED]; // the oldest first
		any = place->file == handle->file;
		if (any) {
			*found = *place;
			place->file = 0;
		}
	}
	saved_leave();
	return any;
}

// --- connecting ---

// Drop what was received before: it has the other form.
static void discard(int fd)
{
	char byte;
	struct pollfd ask = {.fd = fd, .events = POLLIN};
	while (sys_poll(&ask, 1, 0) > 0 && !(ask.revents & (POLLHUP | POLLERR)) &&
		sys_recvfrom(fd, &byte, 1, MSG_DONTWAIT, NULL, NULL) >= 0)
		;
}

// Have what was received before, up to the mark, come again in the new form.
static void give_back(int fd, const struct handle *handle)
{
	struct {
		struct rsock_datagram header;
		uint8_t payload[CLIENT_BODY];
	} record;
	for (;;) {
		ssize_t got = sys_recvfrom(fd, &record, sizeof(record), MSG_DONTWAIT | MSG_TRUNC, NULL, NULL);
		if (got < (ssize_t)sizeof(record.header) || (record.header.flags & RSOCK_DATAGRAM_MARK))
			return;
		if (got <= (ssize_t)sizeof(record) && !(record.header.flags & RSOCK_DATAGRAM_ERROR))
			(void)handle_call(
				handle, RSOCK_OP_BACK, record.payload, (uint32_t)((size_t)got - sizeof(record.header)), NULL);
	}
}

// The records of the fd have another form from here on.
static void change_form(int fd, const struct handle *handle, const struct answer *answer)
{
	struct rsock_kept kept;
	if (answer->length < sizeof(struct rsock_name) + sizeof(kept)) {
		discard(fd);
		return;
	}
	memcpy(&kept, answer->body + sizeof(struct rsock_name), sizeof(kept));
	if (kept.marked != 0)
		give_back(fd, handle);
}

int datagram_connect(int fd, struct handle *handle, const struct sockaddr *address, socklen_t length)
{
	struct {
		struct rsock_name name;
		struct rsock_kept kept;
	} __attribute__((packed)) asked = {.name.family = AF_UNSPEC};
	struct rsock_name name;
	struct answer answer;
	int error = 0;
	if (address == NULL || length < sizeof(address->sa_family))
		return -EINVAL;
	bool ends = address->sa_family == AF_UNSPEC, bare = handle->flags & HANDLE_CONNECTED;
	if (!ends)
		error = address_to_wire(handle->domain, address, length, &name);
	if (error == 0 && !ends)
		asked.name = name;
	if (error == 0)
		error = handle_call(handle, RSOCK_OP_CONNECT, &asked, ends || bare ? sizeof(asked.name) : sizeof(asked), &answer);
	if (error < 0)
		return error;
	if (answer.length < sizeof(name))
		return -EPROTO;
	if (ends == bare)
		change_form(fd, handle, &answer);
	memcpy(&name, answer.body, sizeof(name));
	handle->flags = (uint16_t)(ends ? handle->flags & ~HANDLE_CONNECTED : handle->flags | HANDLE_CONNECTED);
	handle->remote_port = name.remote_port;
	handle->remote_interface = name.remote_interface;
	memcpy(handle->remote, name.remote_address, sizeof(handle->remote));
	handle_put(fd, handle);
	return 0;
}

static socklen_t peer_of(const struct handle *handle, struct sockaddr_storage *address)
{
	struct rsock_name name = {
		.remote_family = handle->domain,
		.remote_port = handle->remote_port,
		.remote_interface = handle->remote_interface,
	};
	memcpy(name.remote_address, handle->remote, sizeof(name.remote_address));
	return address_of_remote(&name, address);
}

int datagram_name(const struct handle *handle, bool remote, struct sockaddr *address, socklen_t *length)
{
	struct sockaddr_storage found;
	struct rsock_name name;
	socklen_t size;
	if (remote) {
		if (!(handle->flags & HANDLE_CONNECTED))
			return -ENOTCONN;
		size = peer_of(handle, &found);
	} else {
		int error = client_name(handle, &name);
		if (error < 0)
			return error;
		size = address_of_local(&name, &found);
	}
	address_give(&found, size, address, length);
	return 0;
}

// --- sending ---

static ssize_t total(const struct iovec *parts, size_t count)
{
	size_t sum = 0;
	for (size_t i = 0; i < count; i++) {
		if (parts[i].iov_len > LARGEST - sum)
			return -EMSGSIZE;
		sum += parts[i].iov_len;
	}
	return (ssize_t)sum;
}

static ssize_t gone(ssize_t error)
{
	return error == -EPIPE || error == -ECONNRESET || error == -ENOTCONN ? -ENETDOWN : error;
}

static ssize_t send_bare(int fd, const struct handle *handle, const struct msghdr *message, int flags)
{
	struct msghdr record = {.msg_iov = message->msg_iov, .msg_iovlen = message->msg_iovlen};
	if (message->msg_name != NULL) {
		struct rsock_name name;
		int error = address_to_wire(handle->domain, message->msg_name, message->msg_namelen, &name);
		if (error < 0)
			return error;
		if (name.port != handle->remote_port || memcmp(name.address, handle->remote, sizeof(name.address)) != 0)
			return -EISCONN;
	}
	return gone(sys_sendmsg(fd, &record, (flags & SEND_FLAGS) | MSG_NOSIGNAL));
}

ssize_t datagram_send(int fd, const struct handle *handle, const struct msghdr *message, int flags)
{
	struct rsock_datagram header;
	struct iovec parts[PARTS];
	if (message->msg_iovlen >= PARTS)
		return -EMSGSIZE;
	ssize_t length = total(message->msg_iov, message->msg_iovlen);
	if (length < 0)
		return length;
	if (flags & MSG_OOB)
		return -EOPNOTSUPP;
	if (handle->flags & HANDLE_CONNECTED)
		return send_bare(fd, handle, message, flags);
	if (message->msg_name == NULL)
		return -EDESTADDRREQ;
	int error = address_to_header(handle->domain, message->msg_name, message->msg_namelen, &header);
	if (error == 0)
		error = ancillary_to_send(message, &header);
	if (error < 0)
		return error;
	parts[0] = (struct iovec){.iov_base = &header, .iov_len = sizeof(header)};
	if (message->msg_iovlen > 0)
		memcpy(parts + 1, message->msg_iov, message->msg_iovlen * sizeof(parts[0]));
	struct msghdr record = {.msg_iov = parts, .msg_iovlen = message->msg_iovlen + 1};
	ssize_t sent = gone(sys_sendmsg(fd, &record, (flags & SEND_FLAGS) | MSG_NOSIGNAL));
	return sent < 0 ? sent : length;
}

// --- receiving ---

static void give_sender(const struct handle *handle, const struct rsock_datagram *header, struct msghdr *message)
{
	struct sockaddr_storage sender;
	socklen_t size = header != NULL ? address_of_header(handle->domain, header, &sender) : peer_of(handle, &sender);
	if (message->msg_name != NULL)
		address_give(&sender, size, message->msg_name, &message->msg_namelen);
	else
		message->msg_namelen = 0;
}

static ssize_t receive_bare(int fd, const struct handle *handle, struct msghdr *message, int flags)
{
	struct msghdr record = {.msg_iov = message->msg_iov, .msg_iovlen = message->msg_iovlen};
	ssize_t got = gone(sys_recvmsg(fd, &record, flags & RECEIVE_FLAGS));
	if (got < 0)
		return got;
	if (got == 0 && !(record.msg_flags & MSG_TRUNC)) {
		int error = 0;
		socklen_t length = sizeof(error);
		struct pollfd ask = {.fd = fd};
		int failed = option_get(fd, handle, SOL_SOCKET, SO_ERROR, &error, &length);
		if (failed < 0 || error != 0)
			return failed < 0 ? failed : -error;
		if (sys_poll(&ask, 1, 0) > 0 && (ask.revents & POLLHUP))
			return -ENETDOWN;
	}
	message->msg_flags = record.msg_flags & MSG_TRUNC;
	message->msg_controllen = 0;
	give_sender(handle, NULL, message);
	return got;
}

// Read one record; the bytes of its payload, or a negated errno.
static ssize_t read_record(
	int fd, const struct msghdr *message, int flags, struct rsock_datagram *header, int *out_flags)
{
	struct iovec parts[PARTS];
	if (message->msg_iovlen >= PARTS)
		return -EMSGSIZE;
	parts[0] = (struct iovec){.iov_base = header, .iov_len = sizeof(*header)};
	if (message->msg_iovlen > 0)
		memcpy(parts + 1, message->msg_iov, message->msg_iovlen * sizeof(parts[0]));
	struct msghdr record = {.msg_iov = parts, .msg_iovlen = message->msg_iovlen + 1};
	ssize_t got = gone(sys_recvmsg(fd, &record, flags & RECEIVE_FLAGS));
	if (got < 0)
		return got;
	if (got == 0)
		return -ENETDOWN;
	if (got < (ssize_t)sizeof(*header) || header->version != RSOCK_VERSION)
		return -EPROTO;
	*out_flags = record.msg_flags & MSG_TRUNC;
	return got - (ssize_t)sizeof(*header);
}

static ssize_t receive_error(int fd, const struct handle *handle, struct msghdr *message)
{
	struct saved found;
	struct msghdr nothing = {0};
	struct pollfd ask = {.fd = fd, .events = POLLIN};
	int cut = 0;
	if (handle->flags & HANDLE_CONNECTED)
		return -EAGAIN;
	if (!saved_error(handle, &found)) {
		struct iovec part = {.iov_base = found.payload, .iov_len = sizeof(found.payload)};
		if (sys_poll(&ask, 1, 0) <= 0 || read_record(fd, &nothing, MSG_PEEK | MSG_DONTWAIT, &found.header, &cut) < 0 ||
		    !(found.header.flags & RSOCK_DATAGRAM_ERROR))
			return -EAGAIN;
		struct msghdr whole = {.msg_iov = &part, .msg_iovlen = 1};
		ssize_t got = read_record(fd, &whole, MSG_DONTWAIT, &found.header, &cut);
		if (got < 0)
			return got;
		found.length = (uint32_t)got;
	}
	size_t given = 0;
	for (size_t i = 0; i < message->msg_iovlen && given < found.length; i++) {
		size_t part =
			message->msg_iov[i].iov_len < found.length - given ? message->msg_iov[i].iov_len : found.length - given;
		if (part > 0)
			memcpy(message->msg_iov[i].iov_base, found.payload + given, part);
		given += part;
	}
	message->msg_flags = given < found.length ? MSG_TRUNC : 0;
	give_sender(handle, &found.header, message);
	ancillary_error(handle, &found.header, message);
	return (ssize_t)given;
}

ssize_t datagram_receive(int fd, struct handle *handle, struct msghdr *message, int flags)
{
	struct rsock_datagram header;
	int cut = 0;
	if (flags & MSG_OOB)
		return -EOPNOTSUPP;
	if (flags & MSG_ERRQUEUE)
		return receive_error(fd, handle, message);
	if (handle->flags & HANDLE_CONNECTED)
		return receive_bare(fd, handle, message, flags);
	if (message->msg_control != NULL && !(handle->flags & HANDLE_WANTS_KNOWN))
		ancillary_learn(fd, handle);
	ssize_t got = read_record(fd, message, flags, &header, &cut);
	if (got < 0)
		return got;
	if (header.flags & RSOCK_DATAGRAM_ERROR) {
		struct msghdr nothing = {0};
		struct rsock_datagram again;
		if (flags & MSG_PEEK)
			(void)read_record(fd, &nothing, MSG_DONTWAIT, &again, &cut);
		if (handle->wants & (WANT_ERROR | WANT_ERROR6))
			save_error(handle, &header, message->msg_iov, message->msg_iovlen, (size_t)got);
		return header.error > 0 && header.error < 4096 ? -(ssize_t)header.error : -EPROTO;
	}
	message->msg_flags = cut;
	give_sender(handle, &header, message);
	ancillary_received(handle, &header, message);
	return got;
}
