// The receive window: how much the peer may send, and a buffer that follows what the app takes.
//
// RFC 9293 section 3.8.6, RFC 7323 section 2.  Half of rcvbuf is offered as window, as Linux does, so that
// settings mean the same here.  The buffer grows (dynamic right-sizing: Fisk, Feng, 2001) to twice what the app
// took in the last round trip, and by as much again as that has grown; unless the app has set it.
#include "host/tcp_internal.h"

enum { SMALLEST_PEER_MSS = 88, DEFAULT_PEER_MSS = 536, INITIAL_SEGMENTS = 10, CUSHION_SEGMENTS = 16, GROWING_SEGMENT = 128 };

static uint32_t smaller(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

// The largest payload that we ask the peer for, options taken off.
static uint32_t segment_size(const struct tcp_socket *s)
{
	uint32_t options = s->flags & TCP_TIMESTAMPS ? 12 : 0;
	return s->advertised_mss > options + SMALLEST_PEER_MSS ? s->advertised_mss - options : DEFAULT_PEER_MSS;
}

uint32_t tcp_window_full(const struct tcp_socket *s)
{
	return s->rcvbuf / 2;
}

uint32_t tcp_window_space(const struct tcp *tcp, const struct tcp_socket *s)
{
	uint32_t full = tcp_window_full(s);
	uint32_t used = tcp_unread(tcp, s) + tcp_flight(tcp, s)->range_bytes;
	return used < full ? full - used : 0;
}

uint32_t tcp_window_left(const struct tcp_socket *s)
{
	uint32_t left = s->rcv_wup + s->rcv_wnd - s->rcv_nxt;
	return (int32_t)left > 0 ? left : 0;
}

// Without scaling, whole segments are offered; what was offered stays until there is one more.
static uint32_t unscaled(const struct tcp_socket *s, uint32_t space, uint32_t full, uint32_t mss)
{
	uint32_t window = s->rcv_wnd;
	if (window > space || window + mss <= space)
		return space - space % mss;
	if (mss == full && space > window + full / 2)
		return space;
	return window;
}

uint32_t tcp_window_offer(const struct tcp *tcp, const struct tcp_socket *s)
{
	uint32_t space = tcp_window_space(tcp, s);
	uint32_t allowed = tcp_window_full(s);
	uint32_t full = smaller(s->window_clamp, allowed);
	uint32_t mss = smaller(s->received_mss != 0 ? s->received_mss : DEFAULT_PEER_MSS, full);
	uint32_t unit = 1u << s->rcv_wscale;

	if (mss == 0)
		return 0;
	if (space < full / 2) {
		space -= space % unit;
		// Less than a segment, or a sliver of the buffer: better nothing (RFC 9293 section 3.8.6.2.2).
		if (space < allowed / 16 || space < mss)
			return 0;
	}
	space = smaller(space, s->rcv_ssthresh);
	if (s->rcv_wscale == 0)
		return unscaled(s, space, full, mss);
	return (space + unit - 1) & ~(unit - 1); // rounded down, less than a unit would be none
}

void tcp_window_start(struct tcp *tcp, struct tcp_socket *s)
{
	uint32_t full = tcp_window_full(s);
	uint32_t mss = segment_size(s);

	if (s->window_clamp == 0 || s->window_clamp > full)
		s->window_clamp = full;
	// Room for one segment always stays, beside what is offered.
	if (s->window_clamp > 2 * mss && s->window_clamp + mss > full)
		s->window_clamp = full > 3 * mss ? full - mss : 2 * mss;
	s->rcv_ssthresh = smaller(s->rcv_ssthresh != 0 ? s->rcv_ssthresh : s->rcv_wnd, s->window_clamp);
	s->rcv_space = smaller(smaller(s->rcv_ssthresh, s->rcv_wnd), INITIAL_SEGMENTS * mss);
	s->rcv_space_seq = s->copied_seq;
	s->rcv_space_us = tcp_now_us(tcp);
	uint32_t guess = smaller(smaller(mss, s->rcv_wnd / 2), DEFAULT_PEER_MSS);
	if (s->mss != 0)
		guess = smaller(guess, s->mss);
	s->received_mss = (uint16_t)(guess > SMALLEST_PEER_MSS ? guess : SMALLEST_PEER_MSS);
}

// Timestamps give a mean; the time that a window takes gives a bound from above, the lowest counts.
static void round_trip(struct tcp_socket *s, uint32_t sample, bool bound)
{
	if (s->rcv_rtt_us == 0 || (bound && sample < s->rcv_rtt_us))
		s->rcv_rtt_us = sample;
	else if (!bound)
		s->rcv_rtt_us += (uint32_t)(((int64_t)sample - s->rcv_rtt_us) / 8);
	if (s->rcv_rtt_us == 0)
		s->rcv_rtt_us = 1;
}

static void measure_by_window(struct tcp *tcp, struct tcp_socket *s)
{
	uint32_t now = tcp_now_us(tcp);
	if (s->rcv_rtt_start_us != 0) {
		if (seq_before(s->rcv_nxt, s->rcv_rtt_seq))
			return;
		round_trip(s, now - s->rcv_rtt_start_us, true);
	}
	s->rcv_rtt_seq = s->rcv_nxt + s->rcv_wnd;
	s->rcv_rtt_start_us = tcp_stamp(now);
}

static void measure_by_timestamp(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *a)
{
	if (!(s->flags & TCP_TIMESTAMPS) || !a->options.has_timestamp || a->options.tsecr == 0 || a->options.tsecr == s->ts_echo)
		return;
	s->ts_echo = a->options.tsecr;
	uint32_t age = tcp_now_ms(tcp) + s->ts_offset - a->options.tsecr;
	if (a->length >= s->received_mss && age < UINT32_MAX / 2000)
		round_trip(s, age == 0 ? 1000 : age * 1000, false);
}

static void grow_window(struct tcp *tcp, struct tcp_socket *s, uint32_t length)
{
	uint32_t most = smaller(s->window_clamp, tcp_window_space(tcp, s));
	if (most <= s->rcv_ssthresh || tcp_memory_pressure(tcp))
		return;
	uint32_t step = 2 * (length > segment_size(s) ? length : segment_size(s));
	s->rcv_ssthresh += smaller(most - s->rcv_ssthresh, step);
	s->quick_acks |= 1; // the peer should hear of it
}

void tcp_window_received(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *a)
{
	measure_by_window(tcp, s);
	measure_by_timestamp(tcp, s, a);
	if (a->length >= GROWING_SEGMENT)
		grow_window(tcp, s, a->length);
}

static void grow_buffer(const struct tcp *tcp, struct tcp_socket *s, uint32_t taken)
{
	// Twice: losses are repaired within one more round trip.  The growth of the last one counts twice more, as
	// this window holds for the next.
	uint64_t window = 2ull * taken + CUSHION_SEGMENTS * segment_size(s);
	if (s->rcv_space != 0)
		window += 2 * (window * (taken - s->rcv_space) / s->rcv_space);
	uint64_t buffer = 2 * window < tcp->config.rmem_max ? 2 * window : tcp->config.rmem_max;
	if (buffer <= s->rcvbuf)
		return;
	s->rcvbuf = (uint32_t)buffer;
	s->window_clamp = smaller(tcp_window_full(s), (uint32_t)UINT16_MAX << s->rcv_wscale);
}

void tcp_window_taken(struct tcp *tcp, struct tcp_socket *s)
{
	uint32_t now = tcp_now_us(tcp);
	if (s->rcv_rtt_us == 0 || now - s->rcv_space_us < s->rcv_rtt_us)
		return;
	uint32_t taken = s->copied_seq - s->rcv_space_seq;
	if (taken > s->rcv_space) {
		if (tcp->config.moderate_rcvbuf && !(s->flags & TCP_RCVBUF_LOCKED) && !tcp_memory_pressure(tcp))
			grow_buffer(tcp, s, taken);
		s->rcv_space = taken;
	}
	s->rcv_space_seq = s->copied_seq;
	s->rcv_space_us = now;
}
