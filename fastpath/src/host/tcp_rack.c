// What is lost: RACK-TLP (RFC 8985), and where that is off or SACK is missing RFC 6675 and NewReno (RFC 6582).
//
// RACK: a segment is lost when one that was sent later has arrived, and a round trip and a grace for reordering
// have passed since it was sent.  The records are kept by sequence, not by time; originals were sent in that order, so
// that a walk may end at the first original that was sent after what arrived last.
#include "host/tcp_ack.h"

enum {
	TIMER_GRAIN = 2000000,        // ns: a timer for less is of no use
	REORDER_PERSIST = 16          // recoveries that a widened window lasts (RFC 8985 section 6.2, step 4)
};

void loss_mark(struct tcp_flight *f, struct tcp_segment *segment)
{
	if (segment->flags & SEGMENT_SACKED)
		return;
	if (!(segment->flags & SEGMENT_LOST)) {
		segment->flags |= SEGMENT_LOST;
		f->lost_out += segment->count;
		f->lost += segment->count;
	} else if (segment->flags & SEGMENT_RETRANSMITTED) {
		segment->flags &= (uint8_t)~SEGMENT_RETRANSMITTED;
		f->retrans_out -= segment->count;
		f->lost += segment->count;
	}
}

// RFC 8985 section 6.2, step 2.  What was retransmitted less than a minimal round trip ago was delivered by an
// earlier copy, which tells nothing about the time it took.
void rack_advance(struct tcp *tcp, struct tcp_socket *s, const struct tcp_segment *segment)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	uint64_t rtt_ns = ack_age_ns(tcp, segment->sent_ns);

	if (rtt_ns / 1000 < rtt_min(s) && (segment->flags & (SEGMENT_RETRANSMITTED | SEGMENT_EVER_RETRANSMITTED)))
		return;
	s->engine |= TCP_RACK_ADVANCED;
	f->rack_rtt_ns = rtt_ns;
	if (sent_after(segment->sent_ns, f->rack_sent_ns, segment->end, f->rack_end_seq)) {
		f->rack_sent_ns = segment->sent_ns;
		f->rack_end_seq = segment->end;
	}
}

// RFC 8985 section 6.2, step 4: each round trip with a D-SACK widens the window by a quarter of the
// minimal round trip.
void rack_adapt(struct tcp *tcp, struct tcp_socket *s, const struct ack_event *e)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	if (e->newest_delivered == 0)
		return;
	if (seq_before(e->newest_delivered, f->rack_delivered))
		s->engine &= ~(uint32_t)TCP_DSACK_SEEN;
	if (s->engine & TCP_DSACK_SEEN) {
		s->engine &= ~(uint32_t)TCP_DSACK_SEEN;
		if (s->rack_reo_steps == 0)
			s->rack_reo_steps = 1;
		if (s->rack_reo_steps != UINT8_MAX)
			s->rack_reo_steps++;
		f->rack_delivered = s->delivered;
		s->rack_reo_persist = REORDER_PERSIST;
	} else if (s->rack_reo_persist == 0) {
		s->rack_reo_steps = 1;
	}
}

static uint32_t reorder_window(const struct tcp_socket *s, const struct tcp_flight *f)
{
	if (s->reordering_seen == 0 && (s->recovery >= TCP_RECOVERY_FAST || f->sacked_out >= s->reordering))
		return 0;
	uint64_t window = (uint64_t)(rtt_min(s) >> 2) * (s->rack_reo_steps != 0 ? s->rack_reo_steps : 1);
	return window < s->srtt_us >> 3 ? (uint32_t)window : s->srtt_us >> 3;
}

uint64_t rack_wait_ns(const struct tcp *tcp, const struct tcp_flight *f, const struct tcp_segment *segment, uint32_t reorder_us)
{
	uint64_t elapsed = ack_age_ns(tcp, segment->sent_ns);
	uint64_t allowed = f->rack_rtt_ns + (uint64_t)reorder_us * 1000;

	return allowed > elapsed ? allowed - elapsed : 0;
}

// RFC 8985 section 6.2, step 5.  Returns how long to wait for the last doubtful one, ns; 0: there is none.
static uint64_t detect(struct tcp *tcp, struct tcp_socket *s)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	uint32_t window = reorder_window(s, f);
	uint64_t longest = 0;

	for (struct tcp_segment *segment = segment_at(tcp, f->segment_head); segment != NULL; segment = segment_at(tcp, segment->next)) {
		if (segment->flags & SEGMENT_SACKED)
			continue;
		if (!sent_after(f->rack_sent_ns, segment->sent_ns, f->rack_end_seq, segment->end)) {
			if (!(segment->flags & SEGMENT_EVER_RETRANSMITTED))
				break;
			continue;
		}
		if ((segment->flags & SEGMENT_LOST) && !(segment->flags & SEGMENT_RETRANSMITTED))
			continue;
		uint64_t wait = rack_wait_ns(tcp, f, segment, window);
		if (wait == 0)
			loss_mark(f, segment);
		else if (wait > longest)
			longest = wait;
	}
	return longest;
}

static void rack_identify(struct tcp *tcp, struct tcp_socket *s, struct ack_event *e)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	uint32_t retransmitted = f->retrans_out;

	if (s->engine & TCP_RACK_ADVANCED) {
		s->engine &= ~(uint32_t)TCP_RACK_ADVANCED;
		uint64_t wait = detect(tcp, s);
		if (wait != 0) {
			uint64_t most = tcp_rto_ns(tcp, s); // it stands in for the RTO: a round trip over a leap of the clock must not put that off
			timer_arm(tcp, s, TCP_TIMER_REORDER, tcp_now(tcp) + (wait + TIMER_GRAIN < most ? wait + TIMER_GRAIN : most));
			e->rearm = false;
		}
	}
	if (retransmitted > f->retrans_out)
		e->lost_again = true;
}

// RFC 6675 section 4, IsLost(): DupThresh segments above it have arrived.
static void count_identify(struct tcp *tcp, struct tcp_socket *s, struct tcp_flight *f)
{
	uint32_t above = f->sacked_out;

	for (struct tcp_segment *segment = segment_at(tcp, f->segment_head); segment != NULL && above >= s->reordering;
	     segment = segment_at(tcp, segment->next)) {
		if (segment->flags & SEGMENT_SACKED)
			above -= segment->count;
		else if (!(segment->flags & SEGMENT_LOST))
			loss_mark(f, segment);
	}
}

// RFC 6582 section 3.2: the first segment, by DupThresh duplicates or a partial ACK.
static void newreno_identify(struct tcp *tcp, struct tcp_socket *s, struct tcp_flight *f, bool advanced)
{
	struct tcp_segment *head = segment_at(tcp, f->segment_head);

	if (head == NULL || (head->flags & SEGMENT_LOST))
		return;
	if (!(s->recovery < TCP_RECOVERY_FAST && f->sacked_out >= s->reordering) && !(s->recovery == TCP_RECOVERY_FAST && advanced))
		return;
	if (head->count > 1 && head->mss != 0 && head->end - head->seq > head->mss &&
	    !segment_split(tcp, s, head, head->seq + head->mss))
		return;
	loss_mark(f, head);
}

void loss_identify(struct tcp *tcp, struct tcp_socket *s, struct ack_event *e)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	if (f->segment_head == 0)
		return;
	if (!tcp_sacks(s))
		newreno_identify(tcp, s, f, e->advanced);
	else if (tcp_uses_rack(tcp, s))
		rack_identify(tcp, s, e);
	else
		count_identify(tcp, s, f);
}

void tcp_rack_timeout(struct tcp *tcp, struct tcp_socket *s)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	uint32_t in_flight = tcp_in_flight(f);

	if (s->flight == 0)
		return;
	(void)detect(tcp, s);
	if (tcp_in_flight(f) != in_flight) {
		if (s->recovery != TCP_RECOVERY_FAST) {
			recovery_enter(tcp, s, false);
			reduction_step(tcp, s, 1, false);
		}
		tcp_retransmit_lost(tcp, s);
	}
	if (s->pending_timer != TCP_TIMER_RTO)
		timer_rearm(tcp, s);
}

// RFC 8985 section 7.4.2: was the loss that a tail probe repaired noticed?
void probe_take(struct tcp *tcp, struct tcp_socket *s, const struct ack_event *e)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	uint32_t ack = e->arrival->ack;

	if (f->tlp_high_seq == 0 || seq_before(ack, f->tlp_high_seq))
		return;
	if (!(s->engine & TCP_TLP_RETRANSMIT) || e->dsack_of_probe) {
		f->tlp_high_seq = 0; // new data was the probe, or both copies arrived
	} else if (seq_after(ack, f->tlp_high_seq)) {
		reduction_begin(tcp, s);
		recovery_set(tcp, s, TCP_RECOVERY_CWR);
		reduction_end(tcp, s);
		recovery_keep_open(tcp, s);
	} else if (!e->advanced && !e->sacked && ack_duplicate(e)) {
		f->tlp_high_seq = 0;
	}
}
