// Sending again what was sent: one record, or what recovery marked as lost.
// RFC 9293 section 3.8.1, RFC 6675 section 5, RFC 6937, RFC 3168 section 6.1.1.1.
//
// A record is cut where cwnd, the peer's window or a smaller MSS ask for it; a small one takes in the
// small ones behind it, since one segment is lost less often than several.
#include "host/tcp_internal.h"

#include <errno.h>

static uint32_t payload_length(const struct tcp_segment *segment)
{
	return segment->end - segment->seq - !!(segment->flags & SEGMENT_SYN) - !!(segment->flags & SEGMENT_FIN);
}

// May `next` become a part of `segment`?  The receiver has it already where it was SACKed.
static bool may_join(const struct tcp_segment *segment, const struct tcp_segment *next)
{
	return !segment->end_of_record && next->count == 1 && !(next->flags & (SEGMENT_SACKED | SEGMENT_SYN)) &&
		!((segment->flags ^ next->flags) & SEGMENT_LOST && next->flags & SEGMENT_RETRANSMITTED);
}

static void join_following(struct tcp *tcp, struct tcp_socket *s, struct tcp_segment *segment, uint32_t room, uint16_t mss)
{
	struct tcp_flight *flight = tcp_flight(tcp, s);

	if (segment->count != 1 || (segment->flags & (SEGMENT_SYN | SEGMENT_FIN)) || flight->probe_seq != flight->probe_end)
		return;
	for (struct tcp_segment *next; (next = segment_at(tcp, segment->next)) != NULL;) {
		uint32_t end = next->end;
		if (!may_join(segment, next) || payload_length(segment) + payload_length(next) > room ||
		    seq_after(end, s->snd_una + s->snd_wnd))
			return;
		segment->flags |= next->flags & (SEGMENT_FIN | SEGMENT_PUSH | SEGMENT_EVER_RETRANSMITTED);
		segment->end_of_record = next->end_of_record;
		segment_drop(tcp, s, next);
		segment->end = end;
		segment_recount(tcp, s, segment, mss);
		// Duplicate ACKs are counted in segments, of which there is one less now.
		if (!(s->flags & TCP_SACK_OK) && flight->sacked_out > 0)
			flight->sacked_out--;
	}
}

// Make the record one packet that may be sent now; 0 or a negated errno.
static int fit_record(struct tcp *tcp, struct tcp_socket *s, struct tcp_segment *segment, uint32_t segments, uint16_t mss)
{
	uint32_t window = s->snd_una + s->snd_wnd - segment->seq;

	if ((int32_t)window <= 0) {
		// The peer took its window back.  What lies at its edge is a window probe (RFC 9293 section 3.8.6.1).
		if (segment->seq != s->snd_una)
			return -EAGAIN;
		window = mss;
	}
	uint32_t most = (uint32_t)TCP_MAX_PAYLOAD / mss, length;
	if (segments > most)
		segments = most > 0 ? most : 1;
	length = mss * segments;
	if (length > window)
		length = window >= mss ? window - window % mss : window;
	if (payload_length(segment) > length)
		return segment_split(tcp, s, segment, segment->seq + length) ? 0 : -ENOMEM;
	if (segment->mss != mss && payload_length(segment) > 0)
		segment_recount(tcp, s, segment, mss);
	join_following(tcp, s, segment, window < mss ? window : mss, mss);
	return 0;
}

static uint8_t header_flags(const struct tcp *tcp, struct tcp_socket *s, const struct tcp_segment *segment)
{
	uint8_t flags = (uint8_t)((segment->flags & SEGMENT_PUSH ? TCP_PSH : 0) | (segment->flags & SEGMENT_FIN ? TCP_FIN : 0));

	if (!(segment->flags & SEGMENT_SYN))
		return flags | TCP_ACK;
	if (s->state != TCP_STATE_SYN_SENT)
		return TCP_SYN | TCP_ACK;
	if (tcp->config.ecn_fallback)
		s->engine |= TCP_NO_ECN_RETRY;
	return (uint8_t)(TCP_SYN | (tcp->config.ecn == 1 && !(s->engine & TCP_NO_ECN_RETRY) ? TCP_ECE | TCP_CWR : 0));
}

// Part of it was acknowledged: only the rest is sent.
static struct tcp_segment *trim_record(struct tcp *tcp, struct tcp_socket *s, struct tcp_segment *segment)
{
	if (!seq_before(segment->seq, s->snd_una) || !seq_before(s->snd_una, segment->end))
		return segment;
	if (!segment_split(tcp, s, segment, s->snd_una))
		return NULL;
	struct tcp_segment *rest = segment_at(tcp, segment->next);
	segment_drop(tcp, s, segment);
	return rest;
}

static int send_record(struct tcp *tcp, struct tcp_socket *s, struct tcp_segment *segment, uint32_t segments)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	uint16_t mss = tcp_current_mss(tcp, s);

	if (!(segment->flags & SEGMENT_SYN)) {
		int error = fit_record(tcp, s, segment, tcp_signs(s) ? 1 : segments, mss);
		if (error < 0)
			return error;
	}
	f->probe_seq = f->probe_end; // a retransmission spoils what the loss of a probe would say (RFC 4821 section 7.6)
	uint32_t length = payload_length(segment);
	s->total_retrans += segment->count;
	tcp->statistics[TCP_STAT_RETRANSMITTED] += segment->count;
	bool sent = tcp_transmit(tcp, s, segment->seq, length, header_flags(tcp, s, segment), mss);
	if (s->state == TCP_STATE_CLOSED) // the peer is in this VR, and its RST is here already
		return -ECONNRESET;
	// Even where it did not leave: an ACK that comes now says nothing about the round trip.
	segment->flags |= SEGMENT_EVER_RETRANSMITTED;
	if (!sent)
		return -ENOBUFS;
	s->bytes_retrans += length;
	segment->sent_ns = tcp_departure(tcp, f);
	segment->delivered = s->delivered;
	if (segment->transmissions < UINT8_MAX)
		segment->transmissions++;
	return 0;
}

int tcp_resend(struct tcp *tcp, struct tcp_socket *s, struct tcp_segment *segment, uint32_t segments)
{
	segment = trim_record(tcp, s, segment);
	return segment == NULL ? -ENOMEM : send_record(tcp, s, segment, segments);
}

int tcp_retransmit(struct tcp *tcp, struct tcp_socket *s, struct tcp_segment *segment, uint32_t segments)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	segment = trim_record(tcp, s, segment);
	if (segment == NULL)
		return -ENOMEM;
	int error = send_record(tcp, s, segment, segments);
	if (error == -ECONNRESET)
		return error;
	if (error == 0 && !(segment->flags & SEGMENT_RETRANSMITTED)) {
		segment->flags |= SEGMENT_RETRANSMITTED;
		f->retrans_out += segment->count;
	}
	if (f->retrans_stamp_ms == 0)
		f->retrans_stamp_ms = tcp_stamp(tcp_now_ms(tcp));
	if (f->undo_retrans < 0)
		f->undo_retrans = 0;
	f->undo_retrans += segment->count;
	return error;
}

void tcp_retransmit_lost(struct tcp *tcp, struct tcp_socket *s)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	bool rearm = false;

	if (f->packets_out == 0)
		return;
	uint32_t most = tcp_burst_segments(tcp, s, tcp_current_mss(tcp, s));
	for (uint32_t at = f->segment_head; at != 0 && f->retrans_out < f->lost_out; at = segment_at(tcp, at)->next) {
		struct tcp_segment *segment = segment_at(tcp, at);
		uint32_t in_flight = tcp_in_flight(f);
		if (in_flight >= s->cwnd)
			break;
		if (!(segment->flags & SEGMENT_LOST) || (segment->flags & (SEGMENT_SACKED | SEGMENT_RETRANSMITTED)))
			continue;
		bool head = at == f->segment_head;
		segment = trim_record(tcp, s, segment);
		if (segment == NULL)
			break;
		at = (uint32_t)(segment - tcp->segments) + 1;
		uint32_t room = s->cwnd - in_flight;
		if (tcp_retransmit(tcp, s, segment, room < most ? room : most) < 0)
			break;
		if (s->recovery == TCP_RECOVERY_CWR || s->recovery == TCP_RECOVERY_FAST)
			f->prr_out += segment->count;
		rearm |= head && s->pending_timer != TCP_TIMER_REORDER;
	}
	if (rearm && s->flight != 0)
		timer_arm(tcp, s, TCP_TIMER_RTO, tcp_now(tcp) + tcp_rto_ns(tcp, s));
}
