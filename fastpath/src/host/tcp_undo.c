// Taking back what a recovery did, where it turns out that nothing was lost.
//
// Detection by timestamps (Eifel, RFC 3522) and by D-SACK (RFC 3708); the response is RFC 4015's in effect: the
// window and ssthresh of before.
#include "host/tcp_ack.h"

enum { REORDER_PERSIST = 16 };

void undo_begin(struct tcp_socket *s, struct tcp_flight *f)
{
	f->undo_marker = s->snd_una;
	// Retransmissions that are still on their way may be answered by D-SACKs too, a tail probe as well.
	f->undo_retrans = (int32_t)f->retrans_out;
	if (f->tlp_high_seq != 0 && (s->engine & TCP_TLP_RETRANSMIT))
		f->undo_retrans++;
	if (f->undo_retrans == 0)
		f->undo_retrans = -1; // nothing retransmitted yet: 0 would mean that all of it was needless
}

// The ACK echoes a timestamp of before the first retransmission: the original arrived (RFC 3522 section 3.2).
bool undo_late_original(const struct tcp_socket *s, const struct tcp_flight *f, const struct ack_event *e)
{
	const struct tcp_options *options = &e->arrival->options;

	return f->retrans_stamp_ms != 0 && (s->flags & TCP_TIMESTAMPS) && options->has_timestamp && options->tsecr != 0 &&
		seq_before(options->tsecr - s->ts_offset, f->retrans_stamp_ms);
}

bool undo_possible(const struct tcp_socket *s, const struct tcp_flight *f, const struct ack_event *e)
{
	return f->undo_marker != 0 && (f->undo_retrans == 0 || undo_late_original(s, f, e));
}

void undo_reduction(struct tcp *tcp, struct tcp_socket *s, bool unmark)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	if (unmark) {
		for (struct tcp_segment *segment = segment_at(tcp, f->segment_head); segment != NULL; segment = segment_at(tcp, segment->next))
			segment->flags &= (uint8_t)~SEGMENT_LOST;
		f->lost_out = 0;
	}
	if (f->prior_ssthresh != 0) {
		s->cwnd = tcp_congestion_of(s)->undo(tcp, s);
		if (f->prior_ssthresh > s->ssthresh) {
			s->ssthresh = f->prior_ssthresh;
			s->flags &= ~(uint32_t)TCP_ECN_CWR;
		}
	}
	f->undo_marker = 0;
	s->engine |= TCP_RACK_ADVANCED; // look at all of it again
}

// Without SACK the state stays until something above high_seq is acknowledged: else late duplicate ACKs would
// look like a new loss (RFC 6582 section 4.1).
static bool must_hold(const struct tcp *tcp, const struct tcp_socket *s, struct tcp_flight *f)
{
	if (tcp_sacks(s) || s->snd_una != f->high_seq)
		return false;
	if (!recovery_retransmitted(tcp, f))
		f->retrans_stamp_ms = 0;
	return true;
}

// Everything up to high_seq is acknowledged.  True: the state stays.
bool undo_recovery(struct tcp *tcp, struct tcp_socket *s, const struct ack_event *e)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	if (undo_possible(s, f, e)) {
		undo_reduction(tcp, s, false);
		tcp_count(tcp, TCP_STAT_UNDONE);
	} else if (s->rack_reo_persist != 0) {
		s->rack_reo_persist--;
	}
	if (must_hold(tcp, s, f))
		return true;
	recovery_set(tcp, s, TCP_RECOVERY_OPEN);
	return false;
}

// A part was acknowledged, by originals.  True: what was retransmitted must be heard of first.
bool undo_partial(struct tcp *tcp, struct tcp_socket *s, const struct ack_event *e)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	if (f->undo_marker == 0 || !undo_late_original(s, f, e))
		return false;
	sack_check_reordering(tcp, s, e->prior_una);
	if (f->retrans_out != 0)
		return true;
	if (!recovery_retransmitted(tcp, f))
		f->retrans_stamp_ms = 0;
	undo_reduction(tcp, s, true);
	tcp_count(tcp, TCP_STAT_UNDONE);
	recovery_keep_open(tcp, s);
	return false;
}

// All that was retransmitted arrived twice (RFC 3708).
bool undo_dsack(struct tcp *tcp, struct tcp_socket *s)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	if (f->undo_marker == 0 || f->undo_retrans != 0)
		return false;
	s->rack_reo_persist = s->rack_reo_persist < REORDER_PERSIST ? (uint8_t)(s->rack_reo_persist + 1) : REORDER_PERSIST;
	undo_reduction(tcp, s, false);
	tcp_count(tcp, TCP_STAT_UNDONE);
	return true;
}

bool undo_loss(struct tcp *tcp, struct tcp_socket *s, const struct ack_event *e, bool spurious)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	if (!spurious && !undo_possible(s, f, e))
		return false;
	undo_reduction(tcp, s, true);
	tcp_count(tcp, TCP_STAT_UNDONE);
	s->retransmits = 0;
	if (must_hold(tcp, s, f))
		return true;
	if (spurious || tcp_sacks(s))
		recovery_set(tcp, s, TCP_RECOVERY_OPEN);
	return true;
}
