// Reading, writing and polling of a connection, with the results of Linux's recv(2), send(2), poll(2).
//
// Not supported: out-of-band data.  RFC 6093 section 6 advises against it: urgent bytes stay in line,
// MSG_OOB sends ordinary ones.
#include "host/tcp_internal.h"

#include <errno.h>
#include <sys/socket.h>

static int take_error(struct tcp_socket *s)
{
	int error = s->error;
	s->error = 0;
	return -error;
}

int tcp_read(struct tcp *tcp, struct tcp_socket *s, uint8_t *buffer, uint32_t length, int flags)
{
	if (s->state == TCP_STATE_LISTEN)
		return -ENOTCONN;
	if (length > INT32_MAX)
		length = INT32_MAX;
	if (s->flight != 0 && tcp_unread(tcp, s) > 0) {
		uint32_t bytes = tcp_receive_read(tcp, s, buffer, length, flags & MSG_PEEK);
		if (!(flags & MSG_PEEK))
			tcp_dirty(tcp, s); // its flight may go back
		return (int)bytes;
	}
	if (length == 0 || (s->flags & TCP_FIN_RECEIVED))
		return 0;
	if (s->error != 0)
		return take_error(s);
	if (s->flags & TCP_RECEIVE_SHUT)
		return 0;
	return s->state == TCP_STATE_CLOSED ? -ENOTCONN : -EAGAIN;
}

// May the app write now?
static int writable(struct tcp_socket *s)
{
	if (s->error != 0)
		return take_error(s);
	if ((s->flags & TCP_SEND_SHUT) || s->state == TCP_STATE_CLOSED || s->state == TCP_STATE_LISTEN)
		return -EPIPE;
	if (s->state == TCP_STATE_SYN_SENT || s->state == TCP_STATE_SYN_RECEIVED) {
		s->engine |= TCP_WRITE_BLOCKED;
		return -EAGAIN;
	}
	return 0;
}

// The end of a write: `flags` say how it is to be cut, and whether it may wait for more.
static void written(struct tcp *tcp, struct tcp_socket *s, int flags, bool whole)
{
	if (s->flight == 0)
		return;
	bool more = (flags & MSG_MORE) && whole;
	tcp_flight(tcp, s)->more = more;
	// A long run without a push would leave the peer's app waiting.
	unsent_mark(tcp, s, !more || unsent_overdue(tcp, s), (flags & MSG_EOR) && whole);
	tcp_dirty(tcp, s);
}

int tcp_write(struct tcp *tcp, struct tcp_socket *s, const uint8_t *data, uint32_t length, int flags)
{
	int error = writable(s);
	if (error < 0)
		return error;
	if (length > INT32_MAX)
		length = INT32_MAX;
	uint32_t done = 0;
	while (done < length) {
		uint32_t bytes = queue_write(tcp, s, data + done, length - done);
		if (bytes == 0 || !unsent_extend(tcp, s, bytes))
			break;
		done += bytes;
		if (done < length && unsent_full(tcp, s))
			tcp_output_full(tcp, s);
		if (s->state == TCP_STATE_CLOSED) // the peer is in this VR, and has reset it meanwhile
			return done > 0 ? (int)done : writable(s);
	}
	if (done < length)
		s->engine |= TCP_WRITE_BLOCKED;
	if (done == 0)
		return length == 0 ? 0 : -EAGAIN;
	written(tcp, s, flags, done == length);
	return (int)done;
}

int tcp_reserve(struct tcp *tcp, struct tcp_socket *s, uint32_t most, struct iovec *parts, int count)
{
	int error = writable(s);
	if (error < 0)
		return error == -EAGAIN ? 0 : error;
	int used = queue_reserve(tcp, s, most, parts, count);
	if (used == 0)
		s->engine |= TCP_WRITE_BLOCKED;
	return used;
}

void tcp_commit(struct tcp *tcp, struct tcp_socket *s, uint32_t bytes, int flags)
{
	uint32_t done = queue_commit(tcp, s, bytes);
	if (done == 0) {
		tcp_flight_release(tcp, s);
	} else if (unsent_extend(tcp, s, done)) {
		written(tcp, s, flags, true);
	} else { // the last record went to somebody else since tcp_reserve: these bytes can never be sent
		tcp_count(tcp, TCP_STAT_MEMORY_PRESSURE);
		tcp_send_reset(tcp, s);
		tcp_fail(tcp, s, ENOBUFS);
	}
}

void tcp_status(const struct tcp *tcp, const struct tcp_socket *s, struct host_stream_status *status)
{
	memset(status, 0, sizeof(*status));
	if (s->state == TCP_STATE_LISTEN) {
		status->readable = s->role.listener.accept_head != 0;
		return;
	}
	const struct tcp_flight *f = tcp_flight(tcp, s);
	bool handshake = s->state == TCP_STATE_SYN_SENT || s->state == TCP_STATE_SYN_RECEIVED;
	status->unread = tcp_unread(tcp, s);
	if (s->state != TCP_STATE_CLOSED && !handshake) {
		uint32_t end = s->write_seq + (s->flight != 0 && f->fin_queued);
		status->unacknowledged = end - s->snd_una;
		status->unsent = seq_before(s->snd_nxt, s->write_seq) ? s->write_seq - s->snd_nxt : 0;
	}
	status->peer_closed = (s->flags & (TCP_FIN_RECEIVED | TCP_RECEIVE_SHUT)) != 0;
	status->hung_up = s->state == TCP_STATE_CLOSED || (status->peer_closed && (s->flags & TCP_SEND_SHUT));
	status->readable = status->unread > 0 || status->peer_closed || s->error != 0;
	status->writable = !handshake && (s->error != 0 || (s->flags & TCP_SEND_SHUT) || queue_writable(tcp, s));
}
