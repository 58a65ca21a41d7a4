// What the files that work on one incoming ACK share; nobody else includes it.
//
//   tcp_ack -> sack_take (tcp_sack.c) -> clean up -> RTT (tcp_rtt.c) -> recovery_judge (tcp_recovery.c)
//           -> rack_mark_lost (tcp_rack.c) -> congestion_control (tcp_congestion.c) -> retransmissions
#ifndef HOST_TCP_ACK_H
#define HOST_TCP_ACK_H

#include "host/tcp_internal.h"

enum ack_resend { RESEND_NOTHING, RESEND_LOST, RESEND_NEW };

// What one ACK told us, found out step by step.
struct ack_event {
	const struct tcp_arrival *arrival;
	uint32_t prior_una;
	uint32_t prior_in_flight;
	uint32_t prior_sacked;        // segments
	uint32_t prior_high;          // end of the highest SACKed segment before this ACK
	uint32_t duplicates;          // duplicate ACKs that it stands for
	uint32_t original_from;       // lowest sequence number delivered out of order that was sent once only
	uint32_t dsack_segments;      // that arrived twice
	uint64_t first_sacked_ns;     // sending times of what was newly SACKed and sent once; 0: none
	uint64_t last_sacked_ns;
	uint64_t newest_sent_ns;      // of all that was newly delivered; newest_end breaks ties
	uint32_t newest_end;
	uint32_t newest_delivered;    // tcp_socket.delivered when that was sent; 0: unknown
	bool advanced;                // snd_una moved
	bool carries_data;
	bool window_changed;
	bool ecn_echo;
	bool data_acked;
	bool syn_acked;
	bool retransmission_acked;
	bool sacked;                  // something new was SACKed
	bool original_delivered;      // something below high_seq arrived that was sent once only
	bool dsack;
	bool dsack_of_probe;          // it is the tail probe that arrived twice
	bool reneged;                 // the receiver dropped what it had SACKed
	bool lost_again;              // a retransmission was lost
	bool delayed;                 // the receiver may have waited with this ACK
	bool rearm;                   // the retransmission timer starts again
	enum ack_resend resend;
};

static inline bool ack_acked(const struct ack_event *e)
{
	return e->data_acked || e->syn_acked;
}

// Neither data, nor a window, nor anything newly acknowledged: RFC 5681 section 2.
static inline bool ack_duplicate(const struct ack_event *e)
{
	return !e->carries_data && !e->window_changed && !ack_acked(e);
}

static inline bool tcp_sacks(const struct tcp_socket *s)
{
	return s->flags & TCP_SACK_OK;
}

static inline bool tcp_uses_rack(const struct tcp *tcp, const struct tcp_socket *s)
{
	return tcp->config.rack && tcp_sacks(s);
}

static inline uint32_t flight_high_sacked(const struct tcp_socket *s, const struct tcp_flight *f)
{
	return f->sacked_out == 0 || !tcp_sacks(s) ? s->snd_una : f->high_sacked;
}

// How long ago something left; what left in this moment may have a later time than now (tcp_departure).
static inline uint64_t ack_age_ns(const struct tcp *tcp, uint64_t sent_ns)
{
	return tcp_now(tcp) > sent_ns ? tcp_now(tcp) - sent_ns : 0;
}

// Was a segment sent after another?  Those of one moment go by sequence.
static inline bool sent_after(uint64_t at, uint64_t other_at, uint32_t end, uint32_t other_end)
{
	return at > other_at || (at == other_at && seq_after(end, other_end));
}

// --- tcp_rtt.c: RFC 6298, RFC 7323 section 4 ---
// `original_us`: of what was acknowledged in order, `sacked_us`: of what was SACKed, `newest_us`: of the one sent last;
// < 0: none.  *newest_us is taken from the timestamps where there was none.  True: the estimate changed.
bool rtt_take(struct tcp *tcp, struct tcp_socket *s, const struct ack_event *e, int64_t original_us, int64_t sacked_us, int64_t *newest_us);
uint32_t rtt_min(const struct tcp_socket *s);  // UINT32_MAX: unknown
// The first round trip; 0: unknown (RFC 6298 section 5.7).
void rtt_handshake(struct tcp *tcp, struct tcp_socket *s, uint32_t rtt_us);

// --- tcp_sack.c ---
// Tag what the SACK blocks of the ACK name (RFC 2018, RFC 2883).
void sack_take(struct tcp *tcp, struct tcp_socket *s, struct ack_event *e);
// Something from `low` on arrived behind what was sent later: remember how far (RFC 6675's DupThresh grows).
void sack_check_reordering(struct tcp *tcp, struct tcp_socket *s, uint32_t low);
// Without SACK: each duplicate ACK says that one segment left the network (RFC 5681 section 3.2).
void sack_emulate_duplicates(struct tcp *tcp, struct tcp_socket *s, uint32_t duplicates);
void sack_emulate_progress(struct tcp *tcp, struct tcp_socket *s, uint32_t acked);
bool sack_emulation_limit(struct tcp_flight *f);
void sack_note_delivery(struct ack_event *e, const struct tcp_segment *segment);

// --- tcp_rack.c ---
void loss_mark(struct tcp_flight *f, struct tcp_segment *segment);
void rack_advance(struct tcp *tcp, struct tcp_socket *s, const struct tcp_segment *segment);
void rack_adapt(struct tcp *tcp, struct tcp_socket *s, const struct ack_event *e);
// Could `segment` still be on its way at this moment, after `reorder_us` of grace?  How long, in ns; 0: it is lost.
uint64_t rack_wait_ns(const struct tcp *tcp, const struct tcp_flight *f, const struct tcp_segment *segment, uint32_t reorder_us);
// Mark what this ACK shows to be lost, by the method that the connection uses.
void loss_identify(struct tcp *tcp, struct tcp_socket *s, struct ack_event *e);
void probe_take(struct tcp *tcp, struct tcp_socket *s, const struct ack_event *e);

// --- tcp_recovery.c, tcp_undo.c ---
void recovery_judge(struct tcp *tcp, struct tcp_socket *s, struct ack_event *e);
void recovery_set(struct tcp *tcp, struct tcp_socket *s, enum tcp_recovery state);
void recovery_enter(struct tcp *tcp, struct tcp_socket *s, bool ecn_echo);
void recovery_keep_open(struct tcp *tcp, struct tcp_socket *s);
bool recovery_retransmitted(const struct tcp *tcp, const struct tcp_flight *f); // is a retransmission unacknowledged?
void reduction_begin(struct tcp *tcp, struct tcp_socket *s);
void reduction_step(struct tcp *tcp, struct tcp_socket *s, uint32_t delivered, bool safe);
void reduction_end(struct tcp *tcp, struct tcp_socket *s);
static inline bool reduction_runs(const struct tcp_socket *s)
{
	return s->recovery == TCP_RECOVERY_CWR || s->recovery == TCP_RECOVERY_FAST;
}
void undo_begin(struct tcp_socket *s, struct tcp_flight *f);
bool undo_late_original(const struct tcp_socket *s, const struct tcp_flight *f, const struct ack_event *e);
bool undo_possible(const struct tcp_socket *s, const struct tcp_flight *f, const struct ack_event *e);
void undo_reduction(struct tcp *tcp, struct tcp_socket *s, bool unmark);
bool undo_recovery(struct tcp *tcp, struct tcp_socket *s, const struct ack_event *e);
bool undo_partial(struct tcp *tcp, struct tcp_socket *s, const struct ack_event *e);
bool undo_dsack(struct tcp *tcp, struct tcp_socket *s);
bool undo_loss(struct tcp *tcp, struct tcp_socket *s, const struct ack_event *e, bool spurious);

// --- tcp_congestion.c ---
void congestion_control(struct tcp *tcp, struct tcp_socket *s, const struct ack_event *e, uint32_t delivered, uint32_t lost);
uint32_t congestion_ssthresh(const struct tcp_socket *s);
bool congestion_limited(const struct tcp *tcp, const struct tcp_socket *s);
uint32_t congestion_slow_start(struct tcp_socket *s, uint32_t acked); // returns what is left of `acked`
void congestion_additive(struct tcp_socket *s, uint32_t per_segment, uint32_t acked);
uint32_t congestion_undo(struct tcp *tcp, struct tcp_socket *s);
static inline bool congestion_slow_starts(const struct tcp_socket *s)
{
	return s->cwnd < s->ssthresh;
}
extern const struct tcp_congestion_ops tcp_cubic_ops;

#endif
