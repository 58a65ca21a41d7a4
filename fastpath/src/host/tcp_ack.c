// An incoming ACK, from the sender's side: what it acknowledges leaves the queue, and the round trip, recovery and
// congestion control learn from it.
//
// RFC 9293 section 3.10.7.4 (fifth step), RFC 5961 section 5 (which ACKs may be believed), RFC 6298 (timing),
// RFC 6675, RFC 8985 and RFC 6937 through the files that tcp_ack.h names.
#include "host/tcp_ack.h"

// RFC 9293 section 3.10.7.4: WL1 and WL2 keep old segments from updating the window.  A larger window is taken
// whatever the order.
static void update_window(struct tcp *tcp, struct tcp_socket *s, struct ack_event *e)
{
	const struct tcp_arrival *a = e->arrival;
	uint32_t window = a->window << s->snd_wscale;

	if (a->flags & TCP_SYN) // never scaled; who handles the handshake takes it
		return;
	if (!seq_after(a->ack, s->snd_una) && !seq_after(a->seq, s->snd_wl1) &&
	    !(a->seq == s->snd_wl1 && (window > s->snd_wnd || window == 0)))
		return;
	e->window_changed = true;
	s->snd_wl1 = a->seq;
	s->snd_wnd = window;
	if (window > s->max_window) {
		s->max_window = window;
		if (s->pmtu != 0)
			tcp_sync_mss(tcp, s, s->pmtu);
	}
}

static void advance(struct tcp_socket *s, uint32_t ack)
{
	s->snd_una = ack;
}

// --- the records of what is acknowledged ---

struct cleaned {
	uint32_t acked;               // segments
	uint64_t first_ns;            // sending times of what was sent once and not SACKed before; 0: none
	uint64_t last_ns;
	uint32_t original_from;       // lowest of these
	bool whole;                   // no record was left in part
};

// All that is to be learned from a record, or the part of it, that is acknowledged now.
static void learn(struct tcp *tcp, struct tcp_socket *s, struct ack_event *e, const struct tcp_segment *segment, uint32_t count,
	struct cleaned *done)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	if (segment->flags & (SEGMENT_RETRANSMITTED | SEGMENT_EVER_RETRANSMITTED)) {
		e->retransmission_acked = true;
	} else if (!(segment->flags & SEGMENT_SACKED)) {
		done->last_ns = segment->sent_ns;
		if (done->first_ns == 0)
			done->first_ns = segment->sent_ns;
		if (seq_before(segment->seq, done->original_from))
			done->original_from = segment->seq;
		if (!seq_after(segment->end, f->high_seq))
			e->original_delivered = true;
	}
	if (!(segment->flags & SEGMENT_SACKED)) {
		sack_note_delivery(e, segment);
		if (tcp_sacks(s)) {
			s->delivered += count;
			rack_advance(tcp, s, segment);
		}
	}
	if (segment->flags & SEGMENT_SYN) {
		e->syn_acked = true;
		f->syn_queued = false;
		f->retrans_stamp_ms = 0;
	} else {
		e->data_acked = true;
	}
}

static void clean_up(struct tcp *tcp, struct tcp_socket *s, struct ack_event *e, struct cleaned *done)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	struct tcp_segment *segment;

	done->original_from = s->snd_una;
	done->whole = true;
	while ((segment = segment_at(tcp, f->segment_head)) != NULL && seq_before(segment->seq, s->snd_una)) {
		struct tcp_segment before = *segment;
		uint32_t count = before.count;
		if (seq_after(segment->end, s->snd_una)) {
			done->whole = false;
			segment->seq = s->snd_una;
			segment_recount(tcp, s, segment, segment->mss);
			count -= segment->count;
			if (count != 0)
				learn(tcp, s, e, &before, count, done);
			done->acked += count;
			break;
		}
		segment_drop(tcp, s, segment);
		learn(tcp, s, e, &before, count, done);
		done->acked += count;
	}
	e->reneged = segment != NULL && (segment->flags & SEGMENT_SACKED);
}

static int64_t since_us(const struct tcp *tcp, uint64_t then_ns)
{
	return (int64_t)((ack_age_ns(tcp, then_ns) + 999) / 1000);
}

// Karn's rule: nothing that was retransmitted gives a sample, unless by its timestamp (RFC 6298 section 3).
static void measure(struct tcp *tcp, struct tcp_socket *s, struct ack_event *e, const struct cleaned *done)
{
	const struct tcp_flight *f = tcp_flight(tcp, s);
	const struct tcp_segment *head = segment_at(tcp, f->segment_head);
	int64_t original_us = -1, sacked_us = -1, newest_us = -1;
	bool updated;

	if (done->first_ns != 0 && !e->retransmission_acked) {
		original_us = since_us(tcp, done->first_ns);
		newest_us = since_us(tcp, done->last_ns);
		e->delayed = done->acked == 1 && done->whole && e->prior_sacked == 0 && f->sacked_out == 0 &&
			s->snd_una - e->prior_una < s->mss && !e->ecn_echo;
	}
	if (e->first_sacked_ns != 0) {
		sacked_us = since_us(tcp, e->first_sacked_ns);
		newest_us = since_us(tcp, e->last_sacked_ns);
	}
	updated = rtt_take(tcp, s, e, original_us, sacked_us, &newest_us);
	// A SACK of what was sent after the head says that the path works: the head's timer begins anew.
	if (ack_acked(e) || (head != NULL && updated && sacked_us >= 0 && sacked_us > since_us(tcp, head->sent_ns)))
		e->rearm = true;
	if (tcp_congestion_of(s)->acked != NULL)
		tcp_congestion_of(s)->acked(tcp, s, done->acked, newest_us);
}

static void take_acknowledged(struct tcp *tcp, struct tcp_socket *s, struct ack_event *e)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	struct cleaned done = {.acked = 0};

	clean_up(tcp, s, e, &done);
	measure(tcp, s, e, &done);
	if (!ack_acked(e))
		return;
	queue_release(tcp, s, seq_after(s->snd_una, s->write_seq) ? s->write_seq : s->snd_una);
	if (f->probe_seq != f->probe_end && !seq_before(s->snd_una, f->probe_end))
		tcp_mtu_probe_done(tcp, s, true);
	if (!tcp_sacks(s)) {
		sack_emulate_progress(tcp, s, done.acked);
		// Without SACK nobody knows whether it was the original that arrived.
		if (e->retransmission_acked)
			e->original_delivered = false;
	} else if (seq_before(done.original_from, e->prior_high)) {
		sack_check_reordering(tcp, s, done.original_from);
	}
}

// --- what follows from it ---

// Nothing but progress in order, nothing to worry about?
static bool dubious(const struct tcp_socket *s, const struct ack_event *e)
{
	return ack_duplicate(e) || e->sacked || e->ecn_echo || e->dsack || s->recovery != TCP_RECOVERY_OPEN;
}

// Nothing is in flight: a window that opens, or not (RFC 9293 section 3.8.6.1).
static void probe_window(struct tcp *tcp, struct tcp_socket *s)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	uint32_t unsent = s->write_seq - s->snd_nxt;
	bool fin = f->fin_queued && !(s->flags & TCP_FIN_SENT);
	uint32_t next = unsent < s->mss ? unsent + fin : s->mss; // the FIN needs window too

	if ((int32_t)unsent < 0 || (unsent == 0 && !fin))
		return;
	if (!seq_after(s->snd_nxt + next, s->snd_una + s->snd_wnd)) {
		s->backoff = 0;
		f->probing_since_ms = 0;
		if (s->pending_timer == TCP_TIMER_PROBE0)
			timer_stop(tcp, s);
	} else {
		timer_arm(tcp, s, TCP_TIMER_PROBE0, tcp_now(tcp) + tcp_probe_delay(tcp, s));
	}
}

static void resend(struct tcp *tcp, struct tcp_socket *s, const struct ack_event *e)
{
	if (e->resend == RESEND_NOTHING || s->state == TCP_STATE_SYN_SENT)
		return;
	if (e->resend == RESEND_NEW) {
		tcp_output(tcp, s);
		if (seq_after(s->snd_nxt, tcp_flight(tcp, s)->high_seq))
			return;
		s->engine &= ~(uint32_t)TCP_FRTO;
	}
	tcp_retransmit_lost(tcp, s);
}

static void take_progress(struct tcp *tcp, struct tcp_socket *s, struct ack_event *e)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	uint32_t delivered = s->delivered, lost = f->lost;

	e->prior_sacked = f->sacked_out;
	e->prior_high = flight_high_sacked(s, f);
	e->original_from = s->snd_nxt;
	if (e->advanced)
		advance(s, e->arrival->ack);
	if (tcp_sacks(s) && e->arrival->options.sack_count != 0)
		sack_take(tcp, s, e);
	take_acknowledged(tcp, s, e);
	rack_adapt(tcp, s, e);
	probe_take(tcp, s, e);
	if (dubious(s, e)) {
		if (!e->advanced && ack_duplicate(e) && !e->dsack)
			e->duplicates = e->arrival->segments > 1 ? e->arrival->segments : 1;
		recovery_judge(tcp, s, e);
	}
	if (e->rearm)
		timer_rearm(tcp, s);
	congestion_control(tcp, s, e, s->delivered - delivered, f->lost - lost);
	resend(tcp, s, e);
}

// Nothing is in flight.  A D-SACK may still tell that the last retransmissions were needless.
static void take_idle(struct tcp *tcp, struct tcp_socket *s, struct ack_event *e)
{
	e->original_from = s->snd_nxt;
	if (e->advanced)
		advance(s, e->arrival->ack);
	if (tcp_sacks(s) && e->arrival->options.sack_count != 0)
		sack_take(tcp, s, e);
	if (e->dsack)
		recovery_judge(tcp, s, e);
	probe_window(tcp, s);
	probe_take(tcp, s, e);
}

// An ACK from below snd_una was overtaken; what it SACKs is still news.
static enum tcp_ack_result take_old(struct tcp *tcp, struct tcp_socket *s, struct ack_event *e)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	if (!tcp_sacks(s) || e->arrival->options.sack_count == 0 || f->packets_out == 0)
		return TCP_ACK_OLD;
	e->prior_high = flight_high_sacked(s, f);
	e->original_from = s->snd_nxt;
	sack_take(tcp, s, e);
	recovery_judge(tcp, s, e);
	resend(tcp, s, e);
	return TCP_ACK_OLD;
}

enum tcp_ack_result tcp_ack(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *arrival)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	struct ack_event event = {
		.arrival = arrival, .prior_una = s->snd_una,
		.carries_data = arrival->length != 0 || (arrival->flags & (TCP_SYN | TCP_FIN)),
		.ecn_echo = (arrival->flags & (TCP_ECE | TCP_SYN)) == TCP_ECE && (s->flags & TCP_ECN_OK)
	};

	if (seq_after(arrival->ack, s->snd_nxt))
		return TCP_ACK_INVALID;
	if (seq_before(arrival->ack, s->snd_una))
		return take_old(tcp, s, &event);
	event.advanced = arrival->ack != s->snd_una;
	if (event.advanced)
		s->retransmits = 0;
	update_window(tcp, s, &event);
	s->soft_error = 0;
	s->probes_out = 0;
	s->last_ack_received_ms = tcp_now_ms(tcp);
	if (s->flight == 0)
		return TCP_ACK_OK;
	if (f->packets_out != 0)
		take_progress(tcp, s, &event);
	else
		take_idle(tcp, s, &event);
	tcp_dirty(tcp, s);
	return TCP_ACK_OK;
}
