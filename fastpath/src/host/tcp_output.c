// Sending: what may go out now, in which pieces, with which flags.
//
//   tcp_output -> probe for a larger MTU -> segments of new data while cwnd, the peer's window,
//                 Nagle and cork let them -> tail probe or window probe -> an ACK nobody carried
//
// RFC 9293 sections 3.7.4 (Nagle) and 3.8.6.2.1 (silly windows), RFC 5681, RFC 7661 (a window that
// was not used is not grown), RFC 3168 section 6.1.1.  A super-segment is one record of the flight;
// its size follows the sending rate, so that a slow flow is not sent in bursts.
// Nagle's rule is Minshall's form: a small segment waits only for an earlier small one.
#include "host/tcp_internal.h"

#include <errno.h>

enum {
	BURST_LOG = 10,           // a packet carries about a millisecond of the rate
	BURST_RTT_LOG = 9,        // and more where the round trip is a few of these 512 us
	BURST_BYTES = 65536,
	SLOW_START_PERCENT = 200, // the rate is this share of cwnd per round trip
	AVOIDANCE_PERCENT = 120
};

enum push {
	PUSH_NORMAL,
	PUSH_FULL_PIECE,          // one packet: the app is still writing
	PUSH_TAIL_PROBE           // one segment, whatever cwnd says
};

// One call of write_queue.
struct burst {
	uint16_t mss;
	uint32_t most;            // segments of one packet
	enum push push;
	bool fin;                 // a FIN follows the last byte
	bool held;                // MSG_MORE: the last write is not complete
	bool cwnd_limited;
	bool window_limited;      // by the peer's
	uint32_t sent;            // segments
};

static bool fin_pending(const struct tcp_socket *s, const struct tcp_flight *f)
{
	return f->fin_queued && !(s->flags & TCP_FIN_SENT);
}

static bool can_send_data(const struct tcp_socket *s)
{
	return s->state == TCP_STATE_ESTABLISHED || s->state == TCP_STATE_CLOSE_WAIT || s->state == TCP_STATE_FIN_WAIT_1 ||
		s->state == TCP_STATE_CLOSING || s->state == TCP_STATE_LAST_ACK;
}

// Room in the peer's window; it may have been shrunk (RFC 9293 section 3.8.6).
static uint32_t send_window(const struct tcp_socket *s)
{
	uint32_t room = s->snd_una + s->snd_wnd - s->snd_nxt;
	return (int32_t)room > 0 ? room : 0;
}

uint32_t tcp_burst_segments(const struct tcp *tcp, const struct tcp_socket *s, uint16_t mss)
{
	uint32_t window = s->cwnd > tcp_flight(tcp, s)->packets_out ? s->cwnd : tcp_flight(tcp, s)->packets_out;
	uint64_t bytes = BURST_BYTES;

	if (tcp_signs(s))
		return 1;
	if (s->srtt_us != 0) {
		uint32_t percent = s->cwnd < s->ssthresh / 2 ? SLOW_START_PERCENT : AVOIDANCE_PERCENT;
		uint64_t rate = (uint64_t)s->mss * window * 8 * 1000000 / s->srtt_us * percent / 100;
		bytes = rate >> BURST_LOG;
		if (s->min_rtt_us != 0 && s->min_rtt_us >> BURST_RTT_LOG < 16)
			bytes += (uint64_t)BURST_BYTES >> (s->min_rtt_us >> BURST_RTT_LOG);
	}
	if (bytes > TCP_MAX_PAYLOAD)
		bytes = TCP_MAX_PAYLOAD;
	uint32_t segments = (uint32_t)bytes / mss;
	if (segments < tcp->config.min_tso_segments)
		segments = tcp->config.min_tso_segments;
	if (segments > (uint32_t)TCP_MAX_PAYLOAD / mss)
		segments = (uint32_t)TCP_MAX_PAYLOAD / mss;
	return segments > 0 ? segments : 1;
}

// Segments that cwnd still lets out; half of it at a time, so that there are two packets to be acknowledged.
static uint32_t cwnd_quota(const struct tcp_socket *s, const struct tcp_flight *f)
{
	uint32_t in_flight = tcp_in_flight(f), half = s->cwnd > 1 ? s->cwnd / 2 : 1;

	if (in_flight >= s->cwnd)
		return 0;
	return half < s->cwnd - in_flight ? half : s->cwnd - in_flight;
}

// Must a segment that is not full wait (RFC 9293 section 3.7.4)?
static bool nagle_holds(const struct tcp_socket *s, const struct tcp_flight *f, const struct burst *burst)
{
	if (burst->fin || f->push || burst->push == PUSH_TAIL_PROBE)
		return false;
	if ((s->flags & TCP_CORK_SET) || burst->held)
		return true;
	return !(s->flags & TCP_NODELAY_SET) && f->packets_out != 0 && seq_after(f->snd_sml, s->snd_una) &&
		!seq_after(f->snd_sml, s->snd_nxt);
}

// Wait for more ACKs, and send a larger packet then?  Only where the next ACK is near (half a round trip at most, and a
// millisecond: whoever is late at a full queue finds the place of his packets taken), and the window is not a large part
// of what it can be.
static bool defers(const struct tcp *tcp, const struct tcp_socket *s, const struct tcp_flight *f, struct burst *burst,
	const struct tcp_segment *piece)
{
	uint32_t left = piece->end - s->snd_nxt;
	const struct tcp_segment *head = segment_at(tcp, f->segment_head), *tail = segment_at(tcp, f->segment_tail);
	uint64_t cwnd_bytes = (uint64_t)(s->cwnd - tcp_in_flight(f)) * s->mss, all = (uint64_t)s->cwnd * s->mss;
	uint64_t window = send_window(s), limit = window < cwnd_bytes ? window : cwnd_bytes;
	uint64_t srtt_ns = (uint64_t)s->srtt_us * 1000 / 8;

	if (tcp->config.tso_win_divisor == 0 || s->recovery >= TCP_RECOVERY_FAST || head == NULL)
		return false;
	if (tail->sent_ns + TCP_MS < tcp_now(tcp) || limit >= (uint64_t)burst->most * s->mss)
		return false;
	if (piece->next != 0 && limit >= left)
		return false;
	if (limit >= (all < s->snd_wnd ? all : s->snd_wnd) / tcp->config.tso_win_divisor)
		return false;
	if ((int64_t)(head->sent_ns + srtt_ns - tcp_now(tcp)) > (int64_t)(srtt_ns / 2 < TCP_MS ? srtt_ns / 2 : TCP_MS))
		return false;
	if (limit > left)
		return !burst->fin && !piece->end_of_record;
	*(cwnd_bytes < window ? &burst->cwnd_limited : &burst->window_limited) = true;
	return true;
}

// Bytes of the next segment; 0 with *fin: the FIN alone; 0 without it: nothing may go now.
static uint32_t next_segment(const struct tcp *tcp, const struct tcp_socket *s, const struct tcp_flight *f, struct burst *burst,
	uint32_t quota, bool *fin)
{
	const struct tcp_segment *piece = segment_at(tcp, f->unsent_head);
	uint32_t left = piece == NULL ? 0 : piece->end - s->snd_nxt, window = send_window(s), mss = burst->mss, most = quota * mss;
	bool last = piece == NULL || piece->next == 0;

	*fin = false;
	if (left <= mss) {
		if (left > window || (left == 0 && window == 0)) {
			burst->window_limited = true;
			return 0;
		}
		if (last && left < mss && nagle_holds(s, f, burst))
			return 0;
		*fin = last && burst->fin && left < window;
		return left;
	}
	burst->window_limited = window < mss;
	if (window < mss || (burst->push == PUSH_NORMAL && burst->most > 1 && defers(tcp, s, f, burst, piece)))
		return 0;
	uint32_t length = left < window ? left : window;
	if (length >= most)
		return most;
	if (length % mss != 0 && (last || length < left) && nagle_holds(s, f, burst))
		return length - length % mss;
	*fin = last && burst->fin && length == left && left < window;
	return length;
}

static void note_first_sent(const struct tcp *tcp, const struct tcp_socket *s, struct tcp_segment *segment)
{
	segment->sent_ns = tcp_departure(tcp, tcp_flight(tcp, s));
	segment->first_sent_ms = tcp_now_ms(tcp);
	segment->delivered = s->delivered;
	segment->transmissions = 1;
}

bool tcp_send_new(struct tcp *tcp, struct tcp_socket *s, uint32_t length, bool fin, bool push, uint16_t mss)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	uint32_t before = f->packets_out, seq = s->snd_nxt, end = seq + length + fin;
	bool end_of_record;

	unsent_look(tcp, f, seq + length, &push, &end_of_record);
	uint8_t flags = (uint8_t)(TCP_ACK | (push ? TCP_PSH : 0) | (fin ? TCP_FIN : 0));
	if (!segments_left(tcp) || !tcp_transmit(tcp, s, seq, length, flags, mss))
		return false;
	if (s->state == TCP_STATE_CLOSED) // the peer is in this VR, and its RST is here already
		return false;
	struct tcp_segment *segment = segment_append(tcp, s, seq, end, (uint8_t)((push ? SEGMENT_PUSH : 0) | (fin ? SEGMENT_FIN : 0)));
	if (segment == NULL)
		return false;
	if (segment->mss != mss)
		segment_recount(tcp, s, segment, mss);
	note_first_sent(tcp, s, segment);
	s->snd_nxt = end;
	segment->end_of_record = end_of_record;
	unsent_pass(tcp, f, seq + length);
	if (s->pending_timer == TCP_TIMER_PROBE0)
		s->backoff = 0; // it counted window probes
	f->probing_since_ms = 0;
	if (fin)
		s->flags |= TCP_FIN_SENT;
	if (length < (uint32_t)segment->count * mss)
		f->snd_sml = end;
	if (before == 0 || s->pending_timer == TCP_TIMER_TLP)
		timer_rearm_rto(tcp, s);
	return true;
}

// RFC 4821 section 7.2: one larger segment, with enough behind it that its loss is noticed at once.
static bool send_mtu_probe(struct tcp *tcp, struct tcp_socket *s, struct burst *burst)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	uint32_t size = tcp_mtu_probe_size(tcp, s), needed = size + (s->reordering + 1) * s->mss;

	if (size <= burst->mss || tcp_unsent(s) < needed || send_window(s) < needed || tcp_in_flight(f) + 2 > s->cwnd)
		return false;
	if (!tcp_send_new(tcp, s, size, false, false, (uint16_t)size))
		return false;
	f->probe_end = s->snd_nxt;
	f->probe_seq = s->snd_nxt - size;
	s->cwnd--; // it counts as two
	burst->sent++;
	return true;
}

static void note_cwnd_use(struct tcp *tcp, struct tcp_socket *s, bool limited)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	if (!seq_before(s->snd_una, f->cwnd_used_seq) || limited ||
	    (!(s->engine & TCP_CWND_LIMITED) && f->packets_out > f->max_packets_out)) {
		s->engine = limited ? s->engine | TCP_CWND_LIMITED : s->engine & ~(uint32_t)TCP_CWND_LIMITED;
		f->max_packets_out = f->packets_out;
		f->cwnd_used_seq = s->snd_nxt;
	}
	if (!(s->engine & TCP_CWND_LIMITED) && tcp_unsent(s) == 0 && (s->engine & TCP_WRITE_BLOCKED))
		limit_start(tcp, s, TCP_LIMIT_BUFFER);
}

// True where something waits, and nothing in flight will bring an ACK that lets it out.
static bool write_queue(struct tcp *tcp, struct tcp_socket *s, struct burst *burst)
{
	struct tcp_flight *f = tcp_flight(tcp, s);

	if (burst->push == PUSH_NORMAL)
		send_mtu_probe(tcp, s, burst);
	while (tcp_unsent(s) > 0 || fin_pending(s, f)) {
		uint32_t quota = cwnd_quota(s, f), before = f->packets_out;
		bool fin;
		if (quota == 0 && burst->fin && tcp_unsent(s) <= burst->mss)
			quota = 1; // the end of it all need not wait for cwnd
		if (quota == 0 && burst->push != PUSH_TAIL_PROBE) {
			burst->cwnd_limited = true;
			break;
		}
		if (burst->push == PUSH_TAIL_PROBE)
			quota = 1;
		uint32_t length = next_segment(tcp, s, f, burst, quota < burst->most ? quota : burst->most, &fin);
		if ((length == 0 && !fin) || !tcp_send_new(tcp, s, length, fin, false, burst->mss))
			break;
		burst->sent += f->packets_out - before;
		if (burst->push != PUSH_NORMAL)
			break;
	}
	if (s->flight == 0) // closed meanwhile
		return false;
	if (burst->window_limited)
		limit_start(tcp, s, TCP_LIMIT_WINDOW);
	else
		limit_stop(tcp, s, TCP_LIMIT_WINDOW);
	burst->cwnd_limited |= tcp_in_flight(f) >= s->cwnd;
	if (burst->sent > 0 || burst->cwnd_limited)
		note_cwnd_use(tcp, s, burst->cwnd_limited);
	if (burst->sent == 0)
		return f->packets_out == 0 && (tcp_unsent(s) > 0 || fin_pending(s, f));
	if (s->recovery == TCP_RECOVERY_CWR || s->recovery == TCP_RECOVERY_FAST)
		f->prr_out += burst->sent;
	if (burst->push != PUSH_TAIL_PROBE)
		tcp_schedule_tail_probe(tcp, s);
	return false;
}

static void begin_burst(struct tcp *tcp, struct tcp_socket *s, struct burst *burst)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	uint32_t half;

	burst->mss = tcp_current_mss(tcp, s);
	burst->most = tcp_burst_segments(tcp, s, burst->mss);
	half = tcp_half_window(s, TCP_MAX_PAYLOAD) / burst->mss;
	if (burst->most > half)
		burst->most = half > 0 ? half : 1;
	burst->fin = fin_pending(s, f);
	burst->held = f->more;
}

static void send_data(struct tcp *tcp, struct tcp_socket *s)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	struct burst burst = {.push = PUSH_NORMAL};
	bool first = f->packets_out == 0;

	if (!can_send_data(s) || (tcp_unsent(s) == 0 && !fin_pending(s, f)))
		return;
	if (first && tcp->config.slow_start_after_idle && s->last_sent_ms != 0 &&
	    (uint64_t)(tcp_now_ms(tcp) - s->last_sent_ms) * TCP_MS > tcp_rto_ns(tcp, s))
		tcp_restart_window(tcp, s);
	begin_burst(tcp, s, &burst);
	bool stuck = write_queue(tcp, s, &burst);
	// A route is looked up once for a flight, for the next one; what changes under way comes as an ICMP error.
	if (first && s->flight != 0)
		tcp_refresh_mtu(tcp, s);
	if (stuck && s->pending_timer == TCP_TIMER_NONE)
		timer_arm(tcp, s, TCP_TIMER_PROBE0, tcp_now(tcp) + tcp_probe_delay(tcp, s));
}

bool tcp_send_one(struct tcp *tcp, struct tcp_socket *s)
{
	struct burst burst = {.push = PUSH_TAIL_PROBE};

	if (s->flight == 0 || !can_send_data(s))
		return false;
	begin_burst(tcp, s, &burst);
	write_queue(tcp, s, &burst);
	return burst.sent > 0;
}

// A writer waits: let the buffer grow where it limits the sender, and tell the app of room.
static void check_space(struct tcp *tcp, struct tcp_socket *s)
{
	if (!(s->engine & TCP_WRITE_BLOCKED) || !can_send_data(s))
		return;
	if (tcp_in_flight(tcp_flight(tcp, s)) < s->cwnd)
		queue_grow(tcp, s);
	queue_wake_writer(tcp, s);
	if (!(s->engine & TCP_WRITE_BLOCKED))
		limit_stop(tcp, s, TCP_LIMIT_BUFFER);
}

void tcp_output_full(struct tcp *tcp, struct tcp_socket *s)
{
	const struct tcp_flight *f = tcp_flight(tcp, s);
	struct burst burst = {.push = PUSH_FULL_PIECE};

	if (!can_send_data(s))
		return;
	if (unsent_overdue(tcp, s)) {
		unsent_mark(tcp, s, true, false);
		send_data(tcp, s);
	} else if (f->unsent_head == f->unsent_tail) {
		begin_burst(tcp, s, &burst);
		burst.held = false;
		write_queue(tcp, s, &burst);
	}
}

void tcp_output(struct tcp *tcp, struct tcp_socket *s)
{
	if (s->flight != 0)
		send_data(tcp, s);
	check_space(tcp, s);
	if (s->flight != 0) {
		// MSG_MORE holds data back until the next event only: an ACK, another write, or the probe timer.
		tcp_flight(tcp, s)->more = false;
		tcp_flight(tcp, s)->push = false;
	}
	if ((s->flags & TCP_ACK_NOW) && s->state > TCP_STATE_SYN_SENT)
		tcp_send_ack(tcp, s);
}

// What a segment without data begins with: snd_nxt, unless the peer took back so much of its window
// that it would not look at it.
static uint32_t bare_sequence(const struct tcp_socket *s)
{
	uint32_t edge = s->snd_una + s->snd_wnd;

	if (!seq_before(edge, s->snd_nxt) || ((s->flags & TCP_WINDOW_SCALING) && s->snd_nxt - edge < 1u << s->rcv_wscale))
		return s->snd_nxt;
	return edge;
}

void tcp_send_ack(struct tcp *tcp, struct tcp_socket *s)
{
	if (s->state <= TCP_STATE_SYN_SENT)
		return;
	if (tcp_transmit(tcp, s, bare_sequence(s), 0, TCP_ACK, s->mss))
		return;
	// No buffer: the delayed ACK tries again.
	s->flags = (s->flags & ~(uint32_t)TCP_ACK_NOW) | TCP_ACK_PENDING;
	s->ack_at = tcp_now(tcp) + TCP_DELACK_MAX;
	timer_changed(tcp, s);
}

void tcp_send_reset(struct tcp *tcp, struct tcp_socket *s)
{
	if (tcp_transmit(tcp, s, bare_sequence(s), 0, TCP_RST | TCP_ACK, s->mss))
		tcp_count(tcp, TCP_STAT_RESETS_SENT);
}

void tcp_queue_fin(struct tcp *tcp, struct tcp_socket *s)
{
	struct tcp_flight *f = tcp_flight_hold(tcp, s);

	if (f == NULL) { // an end that cannot even be queued is an abort
		tcp_send_reset(tcp, s);
		tcp_fail(tcp, s, ENOBUFS);
		return;
	}
	f->fin_queued = true;
	tcp_dirty(tcp, s);
}

static uint8_t syn_flags(const struct tcp *tcp, const struct tcp_socket *s)
{
	// RFC 3168 section 6.1.1; section 6.1.1.1 for doing without it after a loss.
	bool ecn = tcp->config.ecn == 1 && !(s->engine & TCP_NO_ECN_RETRY);
	return (uint8_t)(TCP_SYN | (ecn ? TCP_ECE | TCP_CWR : 0));
}

void tcp_send_syn(struct tcp *tcp, struct tcp_socket *s)
{
	struct tcp_flight *f = tcp_flight_hold(tcp, s);

	if (f == NULL)
		return;
	if (f->syn_queued) {
		(void)tcp_resend(tcp, s, segment_at(tcp, f->segment_head), 1);
		return;
	}
	struct tcp_segment *segment = segment_append(tcp, s, s->iss, s->iss + 1, SEGMENT_SYN);
	if (segment == NULL)
		return;
	note_first_sent(tcp, s, segment);
	f->syn_queued = true;
	f->retrans_stamp_ms = tcp_stamp(tcp_now_ms(tcp));
	s->snd_una = s->iss;
	s->snd_nxt = s->iss + 1;
	s->write_seq = s->snd_nxt;
	tcp_initial_window(tcp, tcp_window_full(s), s->advertised_mss, tcp->config.window_scaling, &s->rcv_wnd, &s->window_clamp,
		&s->rcv_wscale);
	s->rcv_ssthresh = s->rcv_wnd;
	timer_arm(tcp, s, TCP_TIMER_RTO, tcp_now(tcp) + tcp_rto_ns(tcp, s));
	(void)tcp_transmit(tcp, s, s->iss, 0, syn_flags(tcp, s), s->mss);
}
