// The sender's recovery: states as TCP_INFO tells them, and how the window shrinks in them.
//
//   OPEN <-> DISORDER            something arrived out of order, nothing is known to be lost
//   CWR                          the window shrinks without a loss: ECN (RFC 3168 section 6.1.2), a tail probe
//   FAST                         fast recovery: RFC 6675, RFC 6582, with PRR (RFC 6937)
//   LOSS                         after a time-out: slow start again, F-RTO (RFC 5682)
//
// CWR, FAST and LOSS end when high_seq, which was snd_nxt when they began, is acknowledged.
#include "host/tcp_ack.h"

enum { RENEGE_MIN_NS = 10000000 };

void recovery_set(struct tcp *tcp, struct tcp_socket *s, enum tcp_recovery state)
{
	const struct tcp_congestion_ops *ops = tcp_congestion_of(s);

	if (ops->state != NULL)
		ops->state(tcp, s, state);
	s->recovery = (uint8_t)state;
}

bool recovery_retransmitted(const struct tcp *tcp, const struct tcp_flight *f)
{
	const struct tcp_segment *head = segment_at(tcp, f->segment_head);

	return f->retrans_out != 0 || (head != NULL && (head->flags & SEGMENT_EVER_RETRANSMITTED));
}

// --- proportional rate reduction (RFC 6937) ---

void reduction_begin(struct tcp *tcp, struct tcp_socket *s)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	f->high_seq = s->snd_nxt;
	f->tlp_high_seq = 0;
	f->prior_cwnd = s->cwnd;
	f->prr_delivered = 0;
	f->prr_out = 0;
	s->cwnd_count = 0;
	s->ssthresh = tcp_congestion_of(s)->ssthresh(tcp, s);
	if (s->flags & TCP_ECN_OK)
		s->flags |= TCP_ECN_CWR;
}

// Above ssthresh the window shrinks in proportion to what is delivered; below, it may grow by as much as that, and
// by one more where an ACK shows progress and no further loss (`safe`).
void reduction_step(struct tcp *tcp, struct tcp_socket *s, uint32_t delivered, bool safe)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	uint32_t in_flight = tcp_in_flight(f);
	int64_t room = (int64_t)s->ssthresh - in_flight;
	int64_t send;

	if (delivered == 0 || f->prior_cwnd == 0)
		return;
	f->prr_delivered += delivered;
	if (room < 0) {
		uint64_t share = (uint64_t)s->ssthresh * f->prr_delivered + f->prior_cwnd - 1;
		send = (int64_t)(share / f->prior_cwnd) - f->prr_out;
	} else {
		send = (int64_t)f->prr_delivered - f->prr_out;
		if (send < (int64_t)delivered)
			send = delivered;
		send += safe;
		if (send > room)
			send = room;
	}
	// The first retransmission goes out at once; without SACK that of each partial ACK (RFC 6582 section 3.2, step 3).
	int64_t least = f->prr_out == 0 || (!tcp_sacks(s) && f->lost_out > f->retrans_out);
	if (send < least)
		send = least;
	s->cwnd = in_flight + (uint32_t)send;
	if (s->cwnd == 0)
		s->cwnd = 1;
}

void reduction_end(struct tcp *tcp, struct tcp_socket *s)
{
	if (s->ssthresh < TCP_INFINITE_SSTHRESH && (s->recovery == TCP_RECOVERY_CWR || tcp_flight(tcp, s)->undo_marker != 0))
		s->cwnd = s->ssthresh;
}

// --- entering ---

void tcp_enter_cwr(struct tcp *tcp, struct tcp_socket *s)
{
	struct tcp_flight *f;

	if (s->flight == 0)
		return;
	f = tcp_flight(tcp, s);
	f->prior_ssthresh = 0;
	if (s->recovery >= TCP_RECOVERY_CWR)
		return;
	f->undo_marker = 0;
	reduction_begin(tcp, s);
	recovery_set(tcp, s, TCP_RECOVERY_CWR);
}

void recovery_enter(struct tcp *tcp, struct tcp_socket *s, bool ecn_echo)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	tcp_count(tcp, TCP_STAT_FAST_RECOVERIES);
	f->prior_ssthresh = 0;
	undo_begin(s, f);
	if (!reduction_runs(s)) {
		if (!ecn_echo)
			f->prior_ssthresh = congestion_ssthresh(s);
		reduction_begin(tcp, s);
	}
	recovery_set(tcp, s, TCP_RECOVERY_FAST);
}

// After a time-out all is lost that RACK does not know to be younger than a round trip.  A head that is SACKed
// was thrown away by the receiver (RFC 2018 section 8): then nothing of what was SACKed counts.
static void mark_all(struct tcp *tcp, struct tcp_socket *s, struct tcp_flight *f)
{
	struct tcp_segment *head = segment_at(tcp, f->segment_head);
	bool reneged = head != NULL && (head->flags & SEGMENT_SACKED);

	if (reneged || !tcp_sacks(s))
		f->sacked_out = 0;
	for (struct tcp_segment *segment = head; segment != NULL; segment = segment_at(tcp, segment->next)) {
		if (reneged)
			segment->flags &= (uint8_t)~SEGMENT_SACKED;
		else if (tcp_uses_rack(tcp, s) && segment != head && rack_wait_ns(tcp, f, segment, 0) > 0)
			continue;
		loss_mark(f, segment);
	}
}

void tcp_enter_loss(struct tcp *tcp, struct tcp_socket *s)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	bool fresh = s->recovery < TCP_RECOVERY_FAST;

	if (s->flight == 0)
		return;
	mark_all(tcp, s, f);
	if (s->recovery <= TCP_RECOVERY_DISORDER || !seq_after(f->high_seq, s->snd_una) ||
	    (s->recovery == TCP_RECOVERY_LOSS && s->retransmits == 0)) {
		f->prior_ssthresh = congestion_ssthresh(s);
		f->prior_cwnd = s->cwnd;
		s->ssthresh = tcp_congestion_of(s)->ssthresh(tcp, s);
		undo_begin(s, f);
	}
	s->cwnd = tcp_in_flight(f) + 1;
	s->cwnd_count = 0;
	// Duplicate ACKs came and did not suffice: the path reorders less than was thought.
	if (s->recovery <= TCP_RECOVERY_DISORDER && f->sacked_out >= tcp->config.reordering && s->reordering > tcp->config.reordering)
		s->reordering = tcp->config.reordering;
	recovery_set(tcp, s, TCP_RECOVERY_LOSS);
	f->high_seq = s->snd_nxt;
	f->tlp_high_seq = 0;
	if (s->flags & TCP_ECN_OK)
		s->flags |= TCP_ECN_CWR;
	s->engine &= ~(uint32_t)TCP_FRTO;
	if (tcp->config.frto && (fresh || s->retransmits != 0) && f->probe_seq == f->probe_end)
		s->engine |= TCP_FRTO;
}

// The path takes less than was sent: what is too long is sent again, and the window in segments stays, which is less
// in bytes (RFC 1191 section 6.4).
void tcp_simple_retransmit(struct tcp *tcp, struct tcp_socket *s)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	uint32_t lost = f->lost_out;
	uint16_t mss = tcp_current_mss(tcp, s);

	if (s->flight == 0 || f->segment_head == 0)
		return;
	for (struct tcp_segment *segment = segment_at(tcp, f->segment_head); segment != NULL; segment = segment_at(tcp, segment->next)) {
		uint32_t length = segment->end - segment->seq;
		if (segment->flags & (SEGMENT_SACKED | SEGMENT_SYN) || (segment->mss < length ? segment->mss : length) <= mss)
			continue;
		segment_recount(tcp, s, segment, mss);
		loss_mark(f, segment);
	}
	if (f->lost_out == lost)
		return;
	if (!tcp_sacks(s))
		(void)sack_emulation_limit(f);
	if (s->recovery != TCP_RECOVERY_LOSS) {
		f->high_seq = s->snd_nxt;
		s->ssthresh = congestion_ssthresh(s);
		f->prior_ssthresh = 0;
		f->undo_marker = 0;
		recovery_set(tcp, s, TCP_RECOVERY_LOSS);
	}
	tcp_retransmit_lost(tcp, s);
}

// --- one ACK ---

void recovery_keep_open(struct tcp *tcp, struct tcp_socket *s)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	enum tcp_recovery state = TCP_RECOVERY_OPEN;

	if (f->sacked_out + f->lost_out != 0 || recovery_retransmitted(tcp, f))
		state = TCP_RECOVERY_DISORDER;
	if (s->recovery == state)
		return;
	recovery_set(tcp, s, state);
	f->high_seq = s->snd_nxt;
}

static void open_or_cwr(struct tcp *tcp, struct tcp_socket *s, const struct ack_event *e)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	if (!recovery_retransmitted(tcp, f))
		f->retrans_stamp_ms = 0;
	if (e->ecn_echo)
		tcp_enter_cwr(tcp, s);
	if (s->recovery != TCP_RECOVERY_CWR)
		recovery_keep_open(tcp, s);
}

// Is what ended up to high_seq acknowledged?  True: nothing else is to be done.
static bool leave(struct tcp *tcp, struct tcp_socket *s, const struct ack_event *e)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	if (s->recovery == TCP_RECOVERY_OPEN) {
		f->retrans_stamp_ms = 0;
	} else if (!seq_before(s->snd_una, f->high_seq)) {
		// The segment that carries CWR begins at high_seq: CWR lasts until something above arrived.
		if (s->recovery == TCP_RECOVERY_CWR && s->snd_una != f->high_seq) {
			reduction_end(tcp, s);
			recovery_set(tcp, s, TCP_RECOVERY_OPEN);
		} else if (s->recovery == TCP_RECOVERY_FAST) {
			if (!tcp_sacks(s))
				f->sacked_out = 0;
			if (undo_recovery(tcp, s, e))
				return true;
			reduction_end(tcp, s);
		}
	}
	return false;
}

// F-RTO (RFC 5682 section 3.1, and with SACK section 3.2).  True: decided, nothing of the usual recovery follows.
static bool frto(struct tcp *tcp, struct tcp_socket *s, struct ack_event *e, bool recovered)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	if (e->original_delivered && undo_loss(tcp, s, e, true))
		return true;
	if (seq_after(s->snd_nxt, f->high_seq)) {
		if (e->sacked || e->duplicates != 0)
			s->engine &= ~(uint32_t)TCP_FRTO;
	} else if (e->advanced && !recovered) {
		f->high_seq = s->snd_nxt;
		if (seq_after(s->write_seq, s->snd_nxt) && seq_after(s->snd_una + s->snd_wnd, s->snd_nxt)) {
			e->resend = RESEND_NEW;
			return true;
		}
		s->engine &= ~(uint32_t)TCP_FRTO;
	}
	return false;
}

static void judge_loss(struct tcp *tcp, struct tcp_socket *s, struct ack_event *e)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	bool recovered = !seq_before(s->snd_una, f->high_seq);

	if (e->advanced && undo_loss(tcp, s, e, false))
		return;
	if ((s->engine & TCP_FRTO) && frto(tcp, s, e, recovered))
		return;
	if (recovered) {
		(void)undo_recovery(tcp, s, e);
		return;
	}
	if (!tcp_sacks(s)) {
		if (seq_after(s->snd_nxt, f->high_seq) && e->duplicates != 0)
			sack_emulate_duplicates(tcp, s, e->duplicates);
		else if (e->advanced)
			f->sacked_out = 0;
	}
	e->resend = RESEND_LOST;
}

// True: a loss is evident, recovery begins.
static bool time_to_recover(const struct tcp *tcp, const struct tcp_socket *s, const struct tcp_flight *f)
{
	return f->lost_out != 0 || (!tcp_uses_rack(tcp, s) && f->sacked_out >= s->reordering);
}

// In OPEN, DISORDER and CWR, and when LOSS has ended or went wrong again.
static void judge_other(struct tcp *tcp, struct tcp_socket *s, struct ack_event *e)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	if (!tcp_sacks(s)) {
		if (e->advanced)
			f->sacked_out = 0;
		sack_emulate_duplicates(tcp, s, e->duplicates);
	}
	if (s->recovery <= TCP_RECOVERY_DISORDER)
		(void)undo_dsack(tcp, s);
	loss_identify(tcp, s, e);
	if (!time_to_recover(tcp, s, f)) {
		open_or_cwr(tcp, s, e);
		return;
	}
	// A probe for a larger path MTU that is lost alone says nothing about congestion (RFC 4821 section 7.5).
	if (s->recovery < TCP_RECOVERY_CWR && f->probe_seq != f->probe_end && s->snd_una == f->probe_seq) {
		tcp_mtu_probe_done(tcp, s, false);
		tcp_simple_retransmit(tcp, s);
		return;
	}
	recovery_enter(tcp, s, e->ecn_echo);
	e->resend = RESEND_LOST;
}

static void judge_fast(struct tcp *tcp, struct tcp_socket *s, struct ack_event *e)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	if (!e->advanced) {
		if (!tcp_sacks(s))
			sack_emulate_duplicates(tcp, s, e->duplicates);
	} else if (undo_partial(tcp, s, e)) {
		return;
	}
	if (undo_dsack(tcp, s))
		open_or_cwr(tcp, s, e);
	loss_identify(tcp, s, e);
	if (s->recovery != TCP_RECOVERY_FAST) {
		if (!time_to_recover(tcp, s, f)) {
			open_or_cwr(tcp, s, e);
			return;
		}
		recovery_enter(tcp, s, e->ecn_echo);
	}
	e->resend = RESEND_LOST;
}

// The receiver gave up what it had SACKed: it gets a little time to make up its mind, then all is sent again.
static bool judge_reneging(struct tcp *tcp, struct tcp_socket *s, struct ack_event *e)
{
	if (!e->reneged || !e->advanced)
		return false;
	uint64_t wait = (uint64_t)(s->srtt_us >> 4) * 1000;
	timer_arm(tcp, s, TCP_TIMER_RTO, tcp_now(tcp) + (wait > RENEGE_MIN_NS ? wait : RENEGE_MIN_NS));
	e->rearm = false;
	return true;
}

// An ACK that is not plain progress in OPEN.
void recovery_judge(struct tcp *tcp, struct tcp_socket *s, struct ack_event *e)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	if (f->packets_out == 0)
		f->sacked_out = 0;
	if (e->ecn_echo)
		f->prior_ssthresh = 0; // congestion is certain: nothing may be taken back
	if (judge_reneging(tcp, s, e) || leave(tcp, s, e))
		return;
	if (s->recovery == TCP_RECOVERY_FAST) {
		judge_fast(tcp, s, e);
		return;
	}
	if (s->recovery == TCP_RECOVERY_LOSS) {
		judge_loss(tcp, s, e);
		loss_identify(tcp, s, e);
		if (s->recovery != TCP_RECOVERY_OPEN && !e->lost_again)
			return;
	}
	judge_other(tcp, s, e);
}
