// Bytes between an app's fd and TCP.
//
// The app's bytes are read straight into TCP's own blocks.  Its last byte stays in the queue of our
// end although TCP has it: the kernel tells ECONNRESET to an app whose peer closes with bytes
// unread, and an end of file otherwise, so our end has something unread until the peer's FIN was
// seen.  Small writes are only looked at (SO_PEEK_OFF remembers how far), and read when some have
// gathered; of a long queue all but the end is read at once.
//
// Connecting, the app's fd holds the library's filler, so that it is not writable; it is read when TCP
// is connected, but for its last byte.
#define _GNU_SOURCE
#include "server/internal.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum pulled { PULLED_SOME, PULLED_ALL, PULLED_BLOCKED, PULLED_END, PULLED_RESET };

// --- from the app to TCP ---

// Throw away bytes that TCP has; false: not all are there.
static bool discard(struct server *server, struct stream *stream, uint32_t bytes)
{
	uint8_t *scratch = server->records[0];
	while (bytes > 0) {
		size_t room = bytes < sizeof(server->records) ? bytes : sizeof(server->records);
		ssize_t got = recv(stream->fd, scratch, room, MSG_DONTWAIT);
		if (got <= 0)
			return false;
		bytes -= (uint32_t)got;
	}
	return true;
}

// The peer's bytes have ended: an end of file from now on, whatever comes.  Where the app has ended its side too
// nothing is left to be said; once both sides are shut down, a close could not be told from that either.
static void close_towards_app(struct server *server, uint32_t slot)
{
	struct stream *stream = stream_at(server, slot);
	if (stream->held > 0 && discard(server, stream, stream->held))
		stream->held = 0;
	if (stream->shut)
		stream_close(server, slot, false);
	else
		(void)shutdown(stream->fd, SHUT_WR);
}

// The filler: all but its last byte is read, which becomes the one that is held.  How long it is the app has said, and
// it may write as fast as we read.
static bool skip_filler(struct server *server, uint32_t slot)
{
	struct stream *stream = stream_at(server, slot);
	uint8_t byte;
	for (uint32_t taken = 0; stream->skip > 1;) {
		uint32_t before = stream->skip;
		uint32_t most = before - 1 < sizeof(server->records) ? before - 1 : (uint32_t)sizeof(server->records);
		ssize_t got = recv(stream->fd, server->records[0], most, MSG_DONTWAIT);
		if (got <= 0)
			return false;
		stream->skip = before - (uint32_t)got;
		taken += (uint32_t)got;
		if (taken >= STREAM_TURN) {
			stream_queue(server, slot, HOST_STREAM_WRITABLE);
			return false;
		}
	}
	if (stream->skip == 1) {
		if (recv(stream->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) != 1)
			return false;
		stream->skip = 0;
		stream->held = 1;
		if (stream->peer_closed)
			close_towards_app(server, slot);
	}
	return stream->state == STREAM_JOINED;
}

static enum pulled verdict(ssize_t got)
{
	if (got > 0)
		return PULLED_SOME;
	if (got == 0)
		return PULLED_END;
	if (errno == ECONNRESET)
		return PULLED_RESET; // the app left with bytes unread, as RFC 9293's ABORT
	return PULLED_ALL;
}

// Keep the one byte that has to be held, and no more.
static void release(struct server *server, struct stream *stream)
{
	stream->held_writes = 0;
	if (stream->held > 1 && discard(server, stream, stream->held - 1))
		stream->held = 1;
}

// Keep little in the app's queue: each write there costs it a buffer, and with too many of them it cannot write on.
// One look may have seen many writes of few bytes, which nothing tells; so what is left is looked at again soon.
static void trim(struct server *server, uint32_t slot, uint32_t got)
{
	struct stream *stream = stream_at(server, slot);
	uint32_t writes = stream->held_writes + 1 + got / STREAM_SMALL_WRITE;
	if (stream->held >= STREAM_HELD || writes >= STREAM_HELD_WRITES) {
		release(server, stream);
		return;
	}
	stream->held_writes = (uint8_t)writes;
	stream_retry(server, slot);
}

// Look at the next bytes, and leave them where they are.
static enum pulled take_little(struct server *server, uint32_t slot, uint32_t *bytes)
{
	struct stream *stream = stream_at(server, slot);
	struct iovec parts[STREAM_PARTS];
	int count = host_stream_reserve(server->host, slot, STREAM_PEEK, parts, STREAM_PARTS);
	if (count <= 0)
		return PULLED_BLOCKED;
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
	ssize_t got = recvmsg(stream->fd, &message, (stream->peer_closed ? 0 : MSG_PEEK) | MSG_DONTWAIT);
	enum pulled pulled = verdict(got);
	host_stream_commit(server->host, slot, got > 0 ? (uint32_t)got : 0, 0);
	if (pulled == PULLED_ALL)
		release(server, stream); // nothing new: the app waits, perhaps for room
	if (got <= 0)
		return pulled;
	size_t room = 0;
	for (int i = 0; i < count; i++)
		room += parts[i].iov_len;
	stream->bulk = got == STREAM_PEEK;
	*bytes += (uint32_t)got;
	if (!stream->peer_closed) {
		stream->held += (uint32_t)got;
		trim(server, slot, (uint32_t)got);
	}
	return (size_t)got < room && !stream->ending ? PULLED_ALL : PULLED_SOME;
}

// Read what is held together with all that waits but its last byte.
static enum pulled take_much(struct server *server, uint32_t slot, uint32_t most, uint32_t *bytes)
{
	struct stream *stream = stream_at(server, slot);
	struct iovec parts[1 + STREAM_PARTS];
	int waiting = 0;
	if (ioctl(stream->fd, FIONREAD, &waiting) < 0 || (uint32_t)waiting <= stream->held + STREAM_PEEK) {
		stream->bulk = false;
		return PULLED_SOME;
	}
	uint32_t fresh = (uint32_t)waiting - stream->held - 1;
	int count = host_stream_reserve(server->host, slot, fresh < most ? fresh : most, parts + 1, STREAM_PARTS);
	if (count <= 0)
		return PULLED_BLOCKED;
	parts[0] = (struct iovec){.iov_base = server->records[0], .iov_len = stream->held};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 1 + (size_t)count};
	ssize_t got = recvmsg(stream->fd, &message, MSG_DONTWAIT);
	enum pulled pulled = verdict(got);
	uint32_t taken = got > (ssize_t)stream->held ? (uint32_t)got - stream->held : 0;
	stream->held = got > 0 && taken == 0 ? stream->held - (uint32_t)got : got > 0 ? 0 : stream->held;
	host_stream_commit(server->host, slot, taken, 0);
	*bytes += taken;
	return pulled;
}

static bool hung_up(int fd)
{
	struct pollfd ask = {.fd = fd, .events = POLLRDHUP};
	return poll(&ask, 1, 0) > 0 && (ask.revents & (POLLHUP | POLLNVAL)) != 0;
}

// The app's bytes have ended.
static void pull_end(struct server *server, uint32_t slot)
{
	struct stream *stream = stream_at(server, slot);
	// Behind the peer's FIN the app's end is the end of all, be it shutdown or close.
	if (stream->peer_closed || hung_up(stream->fd)) {
		stream_close(server, slot, false);
		return;
	}
	if (!stream->shut)
		(void)host_shutdown(server->host, slot, SHUT_WR);
	stream->shut = true;
}

int stream_pull(struct server *server, uint32_t slot)
{
	struct stream *stream = stream_at(server, slot);
	enum pulled pulled = PULLED_SOME;
	uint32_t bytes = 0;
	if (!stream->connected) {
		if (hung_up(stream->fd))
			stream_close(server, slot, false);
		return 0;
	}
	if (quota_turn_over(server, stream->account)) {
		stream_queue(server, slot, HOST_STREAM_WRITABLE);
		return 0;
	}
	uint64_t start = quota_clock();
	if (!skip_filler(server, slot)) {
		quota_turn(server, stream->account, start);
		return 0;
	}
	if (!quota_may_send(server, stream->account, stream->byte_rate)) {
		stream_retry(server, slot);
		return 0;
	}
	stream->wants_room = false;
	while (pulled == PULLED_SOME && bytes < STREAM_TURN) {
		const struct tcp_socket *s = host_stream(server->host, slot);
		if (stream->shut)
			pulled = PULLED_END;
		else if (s == NULL || s->error != 0 || s->state == TCP_STATE_CLOSED)
			pulled = stream->ending && hung_up(stream->fd) ? PULLED_END : PULLED_ALL;
		else if (stream->bulk)
			pulled = take_much(server, slot, STREAM_TURN - bytes, &bytes);
		else
			pulled = take_little(server, slot, &bytes);
	}
	quota_sent(server, stream->account, stream->byte_rate, bytes);
	quota_turn(server, stream->account, start);
	if (pulled == PULLED_SOME)
		stream_queue(server, slot, HOST_STREAM_WRITABLE); // its turn is over, more is there
	else if (pulled == PULLED_BLOCKED)
		stream->wants_room = true;
	else if (pulled == PULLED_END)
		pull_end(server, slot);
	else if (pulled == PULLED_RESET)
		stream_close(server, slot, true);
	return (int)bytes;
}

// --- from TCP to the app ---

uint32_t server_deliver(struct server *server, uint32_t slot, const struct iovec *parts, int count)
{
	struct stream *stream = stream_at(server, slot);
	uint32_t all = 0;
	if (stream->state != STREAM_JOINED)
		return 0;
	for (int i = 0; i < count; i++)
		all += (uint32_t)parts[i].iov_len;
	struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)parts, .msg_iovlen = (size_t)count};
	ssize_t sent = sendmsg(stream->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0 && errno != EAGAIN && errno != ENOBUFS)
		return all; // the app reads no more
	if (sent < 0)
		sent = 0;
	if (sent > 0)
		server_tell(server, &stream->told);
	if ((uint32_t)sent < all) {
		stream->full = true;
		stream_watch_room(server, slot, true);
	}
	return (uint32_t)sent;
}

// --- events ---

void stream_run(struct server *server, uint32_t slot, uint32_t events)
{
	struct stream *stream = stream_at(server, slot);
	stream->connected |= (events & HOST_STREAM_CONNECTED) != 0;
	stream->peer_closed |= (events & HOST_STREAM_PEER_CLOSED) != 0;
	if (stream->waiter != 0 && (events & (HOST_STREAM_CONNECTED | HOST_STREAM_FAILED))) {
		stream_waited(server, slot);
		events &= ~(uint32_t)HOST_STREAM_CONNECTED; // the app has had no fd to write to
		if (stream->state == STREAM_NONE)
			return;
	}
	if (events & HOST_STREAM_FAILED) {
		stream_fail(server, slot);
		return;
	}
	if (stream->state == STREAM_LISTENING && (events & HOST_STREAM_ACCEPTABLE))
		stream_offer(server, slot);
	if (stream->state != STREAM_JOINED)
		return;
	// Before more is pulled: behind the peer's FIN what is read leaves the queue, so nothing may be held there any
	// more.  Where the filler is still to be skipped, that comes first.
	if ((events & HOST_STREAM_PEER_CLOSED) && stream->skip == 0)
		close_towards_app(server, slot);
	if (stream->state == STREAM_JOINED && (events & (HOST_STREAM_CONNECTED | HOST_STREAM_WRITABLE)))
		(void)stream_pull(server, slot);
}

int stream_event(struct server *server, uint32_t slot, uint32_t events)
{
	struct stream *stream = stream_at(server, slot);
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		stream->ending = true;
	if (events & EPOLLOUT) {
		if (!stream->full)
			stream_watch_room(server, slot, false); // it has kept up since
		stream->full = false;
		host_stream_resume(server->host, slot);
	}
	if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) == 0)
		return 0;
	server_hear(server, &stream->told);
	return stream_pull(server, slot);
}

int streams_poll(struct server *server)
{
	int handled = streams_accept(server);
	for (uint32_t i = 0; i < server->streams.used; i++) {
		struct stream *stream = &server->streams.at[i];
		if (stream->state != STREAM_JOINED)
			continue;
		struct pollfd ask = {.fd = stream->fd, .events = (short)(POLLIN | POLLRDHUP | (stream->full ? POLLOUT : 0))};
		if (poll(&ask, 1, 0) > 0)
			handled += stream_event(server, MAX_SOCKETS + i, (uint32_t)ask.revents);
	}
	return handled;
}
