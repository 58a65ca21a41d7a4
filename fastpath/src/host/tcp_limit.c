// What keeps a sender from sending more, and for how long (RFC 4898: SndLimTime): busy_time, rwnd_limited and
// sndbuf_limited of TCP_INFO.
//
//   nothing queued -> busy -> limited by the peer's window | by the send buffer
//
// One of them counts at a time; the record keeps whole milliseconds, the rest goes to what follows.
#include "host/tcp_internal.h"

static uint32_t *total_of(struct tcp_socket *s, enum tcp_limit limit)
{
	switch (limit) {
	case TCP_LIMIT_WINDOW:
		return &s->window_limited_ms;
	case TCP_LIMIT_BUFFER:
		return &s->buffer_limited_ms;
	default:
		return &s->busy_ms;
	}
}

static void change(struct tcp *tcp, struct tcp_socket *s, enum tcp_limit limit)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	if (f->limit == TCP_LIMIT_NONE) {
		f->limit_since = tcp_now(tcp);
	} else {
		uint64_t passed = (tcp_now(tcp) - f->limit_since) / TCP_MS;
		*total_of(s, f->limit) += (uint32_t)passed;
		f->limit_since += passed * TCP_MS;
	}
	f->limit = limit;
}

void limit_start(struct tcp *tcp, struct tcp_socket *s, enum tcp_limit limit)
{
	if (s->flight != 0 && limit > tcp_flight(tcp, s)->limit)
		change(tcp, s, limit);
}

void limit_stop(struct tcp *tcp, struct tcp_socket *s, enum tcp_limit limit)
{
	const struct tcp_flight *f = tcp_flight(tcp, s);
	if (f->limit == TCP_LIMIT_NONE)
		return;
	if (f->records == 0)
		change(tcp, s, TCP_LIMIT_NONE);
	else if (f->limit == limit && limit != TCP_LIMIT_BUSY)
		change(tcp, s, TCP_LIMIT_BUSY);
}

void limit_times(const struct tcp *tcp, const struct tcp_socket *s, uint64_t *busy_us, uint64_t *window_us, uint64_t *buffer_us)
{
	const struct tcp_flight *f = tcp_flight(tcp, s);
	uint64_t passed = f->limit == TCP_LIMIT_NONE ? 0 : (tcp_now(tcp) - f->limit_since) / TCP_MS;
	uint64_t window = s->window_limited_ms + (f->limit == TCP_LIMIT_WINDOW ? passed : 0);
	uint64_t buffer = s->buffer_limited_ms + (f->limit == TCP_LIMIT_BUFFER ? passed : 0);
	uint64_t busy = s->busy_ms + (f->limit == TCP_LIMIT_BUSY ? passed : 0);
	*busy_us = (busy + window + buffer) * 1000;
	*window_us = window * 1000;
	*buffer_us = buffer * 1000;
}
