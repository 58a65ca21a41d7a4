// When a connection acknowledges what it has received (RFC 9293 section 3.8.6.3, RFC 5681 section 4.2).
//
// Every second full segment at the latest, out-of-order ones at once.  As Linux does: the first segments and
// those after a pause are each acknowledged at once, for the peer is in slow start (quick_acks counts down);
// then an ACK may wait for ack_timeout_us, which follows the time between segments, 40 to 200 ms; in an
// interactive session (TCP_PINGPONG) it waits for the answer that will carry it.
#include "host/tcp_internal.h"

enum { ATO_MIN_US = 40000, ATO_LARGEST_US = 500000, SMALLEST_PEER_MSS = 88, DEFAULT_PEER_MSS = 536 };

static void raise_quick_acks(struct tcp_socket *s, uint32_t most)
{
	uint32_t half_window = s->received_mss == 0 ? 0 : s->rcv_wnd / (2u * s->received_mss);
	uint32_t count = half_window == 0 ? 2 : half_window;
	if (count > most)
		count = most;
	if (count > s->quick_acks)
		s->quick_acks = (uint8_t)count;
}

void tcp_quickack(struct tcp *tcp, struct tcp_socket *s, uint32_t segments)
{
	(void)tcp;
	raise_quick_acks(s, segments < UINT8_MAX ? segments : UINT8_MAX);
	s->engine &= ~(uint32_t)TCP_PINGPONG;
	s->ack_timeout_us = ATO_MIN_US;
}

void tcp_ack_sent(struct tcp *tcp, struct tcp_socket *s, uint32_t segments)
{
	(void)segments; // each of them carries the same ACK
	if ((s->flags & TCP_ACK_PENDING) && s->quick_acks > 0) {
		s->quick_acks--;
		if (s->quick_acks == 0)
			s->ack_timeout_us = ATO_MIN_US;
	}
	s->flags &= ~(uint32_t)(TCP_ACK_PENDING | TCP_ACK_NOW);
	s->engine &= ~(uint32_t)(TCP_SMALL_RECEIVED | TCP_SMALLS_RECEIVED);
	s->ack_at = 0;
	if (s->flight != 0) {
		struct tcp_flight *f = tcp_flight(tcp, s);
		f->duplicate_start = f->duplicate_end; // RFC 2883 section 4: told once
	}
}

void tcp_ack_later(struct tcp *tcp, struct tcp_socket *s, uint64_t delay)
{
	uint64_t at = tcp_now(tcp) + delay;
	s->flags |= TCP_ACK_PENDING;
	if (s->ack_at != 0 && s->ack_at <= at)
		return;
	s->ack_at = at;
	timer_changed(tcp, s);
}

// The size of the peer's segments.  Full ones tell it; of shorter ones, two of the same size in a row do, if they
// are as long as they would be in the middle of a stream (not pushed, or longer than the default).
void tcp_ack_measure(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *a)
{
	(void)tcp;
	uint32_t unit = a->segments > 1 ? a->in->packet->vnet.gso_size : a->length;
	uint16_t last = s->last_segment_size;
	uint32_t options = s->flags & TCP_TIMESTAMPS ? 12 : 0;
	uint32_t most = s->advertised_mss > options ? s->advertised_mss - options : DEFAULT_PEER_MSS;

	s->last_segment_size = 0;
	if (unit >= s->received_mss) {
		s->received_mss = (uint16_t)(unit < most ? unit : most);
		if (a->flags & TCP_PSH)
			s->engine |= TCP_SMALL_RECEIVED;
		return;
	}
	uint32_t whole = unit + a->header_length;
	bool middle = whole >= DEFAULT_PEER_MSS + TCP_HEADER ||
		(whole >= SMALLEST_PEER_MSS + TCP_HEADER && !(a->flags & (TCP_FIN | TCP_URG | TCP_SYN | TCP_PSH)));
	if (middle && whole > TCP_HEADER + options) {
		s->last_segment_size = (uint16_t)(whole - TCP_HEADER - options);
		if (s->last_segment_size == last) {
			s->received_mss = last;
			return;
		}
	}
	if (s->engine & TCP_SMALL_RECEIVED)
		s->engine |= TCP_SMALLS_RECEIVED;
	s->engine |= TCP_SMALL_RECEIVED;
}

void tcp_ack_estimate(struct tcp *tcp, struct tcp_socket *s)
{
	uint32_t now = tcp_now_ms(tcp);
	uint32_t pause_ms = now - s->last_received_ms;
	uint32_t pause = pause_ms < UINT32_MAX / 1000 ? pause_ms * 1000 : UINT32_MAX;
	uint32_t ato = s->ack_timeout_us;

	if (ato == 0) {
		raise_quick_acks(s, TCP_MAX_QUICKACKS);
		s->ack_timeout_us = ATO_MIN_US;
	} else if (pause <= ATO_MIN_US / 2) {
		s->ack_timeout_us = ato / 2 + ATO_MIN_US / 2;
	} else if (pause < ato) {
		ato = ato / 2 + pause;
		s->ack_timeout_us = s->rto_us != 0 && ato > s->rto_us ? s->rto_us : ato;
	} else if (pause > s->rto_us) {
		raise_quick_acks(s, TCP_MAX_QUICKACKS); // the peer may have fallen back to slow start
	}
	s->last_received_ms = now;
}

static uint64_t delay_ns(const struct tcp_socket *s)
{
	uint32_t ato = s->ack_timeout_us;

	if (ato > ATO_MIN_US) {
		uint32_t most = (s->engine & (TCP_PINGPONG | TCP_SMALL_RECEIVED)) ? (uint32_t)(TCP_DELACK_MAX / 1000) : ATO_LARGEST_US;
		uint32_t rtt = s->srtt_us >> 3;
		if (s->srtt_us != 0 && rtt < most)
			most = rtt > ATO_MIN_US ? rtt : ATO_MIN_US;
		if (ato > most)
			ato = most;
	}
	uint64_t delay = (uint64_t)ato * 1000;
	return delay < TCP_DELACK_MAX ? delay : TCP_DELACK_MAX;
}

static bool due_now(const struct tcp *tcp, const struct tcp_socket *s)
{
	if ((s->flags & TCP_ACK_NOW) || (s->quick_acks > 0 && !(s->engine & TCP_PINGPONG)))
		return true;
	if (s->flight != 0 && tcp_flight(tcp, s)->range_head != 0)
		return true;
	// More than a full segment; where the window cannot move on, the app's next read will send the ACK.
	return s->rcv_nxt - s->rcv_wup > s->received_mss && (tcp_unread(tcp, s) == 0 || tcp_window_offer(tcp, s) >= s->rcv_wnd);
}

void tcp_ack_decide(struct tcp *tcp, struct tcp_socket *s)
{
	if (!(s->flags & TCP_ACK_PENDING))
		return;
	uint64_t delay = delay_ns(s);
	bool soon = s->ack_at != 0 && s->ack_at <= tcp_now(tcp) + delay / 4;
	if (due_now(tcp, s) || soon) {
		s->flags |= TCP_ACK_NOW;
	} else if (delay == 0) { // no data came yet: there is nothing that an answer could be to
		s->engine &= ~(uint32_t)TCP_PINGPONG;
		s->ack_timeout_us = ATO_MIN_US;
		s->flags |= TCP_ACK_NOW;
	} else {
		tcp_ack_later(tcp, s, delay);
	}
}
