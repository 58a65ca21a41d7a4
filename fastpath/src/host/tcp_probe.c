// Segments that ask for an answer: window probes (RFC 9293 section 3.8.6.1), keepalives (RFC 9293
// section 3.8.4), tail loss probes (RFC 8985 section 7).
#include "host/tcp_internal.h"

#define TAIL_PROBE_LEAST (5 * TCP_MS)

bool tcp_send_probe(struct tcp *tcp, struct tcp_socket *s)
{
	// One below snd_una: whatever the peer's window is, it is not acceptable and so must be answered
	// (RFC 9293 section 3.10.7.4).
	if (!tcp_transmit(tcp, s, s->snd_una - 1, 0, TCP_ACK, s->mss))
		return false;
	tcp_count(tcp, TCP_STAT_PROBES);
	return true;
}

bool tcp_send_window_probe(struct tcp *tcp, struct tcp_socket *s)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	uint32_t window = s->snd_una + s->snd_wnd - s->snd_nxt, length = tcp_unsent(s);
	bool fin = f->fin_queued && !(s->flags & TCP_FIN_SENT);
	uint16_t mss = tcp_current_mss(tcp, s);

	// A window that silly-window avoidance did not use up: what fits is the probe.
	if ((int32_t)window > 0 && (length > 0 || fin)) {
		uint32_t most = window < mss ? window : mss;
		fin = fin && length < window && length <= most;
		return tcp_send_new(tcp, s, length < most ? length : most, fin, true, mss);
	}
	return tcp_send_probe(tcp, s);
}

// RFC 8985 section 7.2.  `advancing`: an ACK has just moved snd_una, so that the RTO would begin now.
bool tcp_arm_tail_probe(struct tcp *tcp, struct tcp_socket *s, bool advancing)
{
	const struct tcp_flight *f = tcp_flight(tcp, s);
	uint64_t wait = (uint64_t)tcp->config.initial_rto_us * 1000;
	int64_t left = advancing ? (int64_t)tcp_rto_ns(tcp, s) : tcp_rto_left(tcp, s);

	if (!tcp->config.tail_loss_probe || f->packets_out == 0 || !(s->flags & TCP_SACK_OK) ||
	    (s->recovery != TCP_RECOVERY_OPEN && s->recovery != TCP_RECOVERY_CWR))
		return false;
	if (s->srtt_us != 0) // 2 * SRTT; a lone segment may meet a delayed ACK
		wait = (uint64_t)(s->srtt_us / 4) * 1000 + (f->packets_out == 1 ? (uint64_t)tcp->config.min_rto_us * 1000 : TAIL_PROBE_LEAST);
	if (left > 0 && (uint64_t)left < wait)
		wait = (uint64_t)left;
	timer_arm(tcp, s, TCP_TIMER_TLP, tcp_now(tcp) + wait);
	return true;
}

bool tcp_schedule_tail_probe(struct tcp *tcp, struct tcp_socket *s)
{
	return tcp_arm_tail_probe(tcp, s, false);
}

// The last segment again, if there is no new one: its last wire segment is enough.
static bool resend_last(struct tcp *tcp, struct tcp_socket *s)
{
	const struct tcp_flight *f = tcp_flight(tcp, s);
	struct tcp_segment *last = segment_at(tcp, f->segment_tail);

	if (last == NULL)
		return false;
	uint32_t before = (last->count - 1u) * last->mss;
	if (last->count > 1 && last->end - last->seq > before) {
		if (!segment_split(tcp, s, last, last->seq + before))
			return false;
		last = segment_at(tcp, f->segment_tail);
	}
	return tcp_resend(tcp, s, last, 1) == 0;
}

void tcp_send_tail_probe(struct tcp *tcp, struct tcp_socket *s)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	// Section 7.3: one probe at a time.
	if (f->tlp_high_seq == 0 && f->packets_out != 0) {
		bool fresh = tcp_send_one(tcp, s);
		if (fresh || resend_last(tcp, s)) {
			s->engine = fresh ? s->engine & ~(uint32_t)TCP_TLP_RETRANSMIT : s->engine | TCP_TLP_RETRANSMIT;
			f->tlp_high_seq = s->snd_nxt != 0 ? s->snd_nxt : 1;
			s->pending_timer = TCP_TIMER_NONE; // the RTO counts from now
			tcp_count(tcp, TCP_STAT_TAIL_PROBES);
		}
	}
	timer_rearm_rto(tcp, s);
}
