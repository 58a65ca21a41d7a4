// Segments that arrive: whose they are, and what RFC 9293 section 3.10.7 does with them.
//
//   tcp_input -> connection | TIME-WAIT | request | listener | RST
//   tcp_arrive -> acceptable? -> tcp_ack -> the state machine -> tcp_receive
//
// RFC 9293 section 3.10.7, RFC 5961 (challenge ACKs), RFC 7323 section 5 (PAWS), RFC 5082 (minimum TTL),
// RFC 2525 section 2.17 (data for nobody).  Where Linux differs from the letter, Linux is followed: the last
// segment may reach beyond the window when nothing waits to be read.  Segments without the timestamp that was
// agreed on are taken.  Not supported: urgent data is not told to apps, its bytes stay in the stream.
#include "host/tcp_internal.h"

#include <errno.h>

enum { PAWS_DAYS = 24 }; // RFC 7323 section 5.5: an older timestamp proves nothing

// --- whose segment it is ---

static enum drop_reason authenticate(struct tcp *tcp, const struct tcp_socket *s, const struct tcp_arrival *a)
{
	if (s->keys == 0 && a->options.md5 == NULL && a->options.ao == NULL)
		return DROP_NONE;
	enum drop_reason reason = tcp_auth_check(tcp, tcp_auth_key(tcp, s, a->remote, a->in->flow.interface), a);
	if (reason != DROP_NONE)
		tcp_count(tcp, TCP_STAT_AUTH_FAILED);
	return reason;
}

// RFC 5082, RFC 2385: may this segment be looked at by its connection or listener?
static enum drop_reason admit(struct tcp *tcp, const struct tcp_socket *s, const struct tcp_arrival *a)
{
	if (a->in->ttl < s->min_ttl)
		return DROP_TCP_MIN_TTL;
	return authenticate(tcp, s, a);
}

static enum drop_reason request_input(struct tcp *tcp, struct tcp_request *request, struct tcp_arrival *a)
{
	if (a->in->ttl < tcp->sockets[request->listener - 1].min_ttl)
		return DROP_TCP_MIN_TTL;
	enum drop_reason reason = tcp_auth_check(tcp, request->key, a);
	if (reason != DROP_NONE) {
		tcp_count(tcp, TCP_STAT_AUTH_FAILED);
		return reason;
	}
	return tcp_request_input(tcp, request, a);
}

static enum drop_reason listener_input(struct tcp *tcp, struct tcp_arrival *a)
{
	const struct flow *flow = &a->in->flow;
	uint32_t hash = tcp_hash(tcp, a->local, flow->local_port, a->remote, flow->remote_port);
	struct tcp_socket *listener = tcp_find_listener(tcp, a->local, flow->local_port, flow->interface, hash);
	if (listener == NULL) {
		tcp_reset_arrival(tcp, a);
		return DROP_TCP_NO_CONNECTION;
	}
	enum drop_reason reason = admit(tcp, listener, a);
	return reason != DROP_NONE ? reason : tcp_listen_input(tcp, listener, a);
}

static enum drop_reason dispatch(struct tcp *tcp, struct tcp_arrival *a)
{
	const struct flow *flow = &a->in->flow;
	struct tcp_socket *s = tcp_find(tcp, a->local, flow->local_port, a->remote, flow->remote_port, flow->interface);
	if (s != NULL) {
		enum drop_reason reason = admit(tcp, s, a);
		return reason != DROP_NONE ? reason : tcp_arrive(tcp, s, a);
	}
	struct tcp_timewait *timewait = tcp_find_timewait(tcp, a->local, flow->local_port, a->remote, flow->remote_port);
	if (timewait != NULL) {
		enum drop_reason reason = tcp_timewait_input(tcp, timewait, a, &a->iss);
		if (reason != DROP_REASON_COUNT)
			return reason;
	}
	struct tcp_request *request = tcp_find_request(tcp, flow);
	return request != NULL ? request_input(tcp, request, a) : listener_input(tcp, a);
}

enum drop_reason tcp_input(struct host *host, struct inbound *in)
{
	struct tcp *tcp = host->tcp;
	struct tcp_arrival a;

	tcp_count(tcp, TCP_STAT_SEGMENTS_IN);
	// RFC 9293 section 3.9.2.3 (MUST-57): nothing that was sent to many.
	if (in->flow.multicast || in->flow.broadcast || in->packet->link_broadcast)
		return DROP_TCP_NO_CONNECTION;
	if (!tcp_parse(in, &a)) {
		tcp_count(tcp, TCP_STAT_BAD);
		return a.header == NULL ? DROP_TCP_MALFORMED : DROP_TCP_CHECKSUM;
	}
	return dispatch(tcp, &a);
}

// --- answers to what does not fit ---

// One in stray_interval_ms for each connection: two peers that contradict each other must not do it for ever.
static bool stray_limited(struct tcp *tcp, struct tcp_socket *s)
{
	uint32_t now = tcp_now_ms(tcp);
	if (s->last_oow_ack_ms != 0 && now - s->last_oow_ack_ms < tcp->config.stray_interval_ms)
		return true;
	s->last_oow_ack_ms = tcp_stamp(now);
	return false;
}

// RFC 5961 section 7, with a budget that is drawn anew each second: a fixed one would tell a stranger who
// counts the answers to his own connection about others (CVE-2016-5696).
static bool challenge_allowed(struct tcp *tcp)
{
	uint32_t limit = tcp->config.challenge_limit;
	if (limit >= INT32_MAX)
		return true;
	uint64_t second = tcp_now(tcp) / (1000 * TCP_MS) + 1; // 0: none was drawn yet
	if (tcp->challenge_second != second) {
		tcp->challenge_second = second;
		tcp->challenge_left = limit == 0 ? 0 : (limit + 1) / 2 + (uint32_t)(host_random(tcp->host) % limit);
	}
	if (tcp->challenge_left == 0)
		return false;
	tcp->challenge_left--;
	return true;
}

void tcp_challenge(struct tcp *tcp, struct tcp_socket *s)
{
	if (stray_limited(tcp, s) || !challenge_allowed(tcp))
		return;
	tcp_count(tcp, TCP_STAT_CHALLENGES);
	tcp_send_ack(tcp, s);
}

// RFC 9293 section 3.10.7.4: an unacceptable segment is answered by an ACK.  Data is always answered, the peer
// waits for it; a duplicate is told as such (RFC 2883).
static void answer_unacceptable(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *a)
{
	if ((a->length == 0 || (a->flags & TCP_SYN)) && stray_limited(tcp, s))
		return;
	if (a->end != a->seq && seq_before(a->seq, s->rcv_nxt))
		tcp_receive_duplicate(tcp, s, a->seq, seq_after(a->end, s->rcv_nxt) ? s->rcv_nxt : a->end);
	tcp_send_ack(tcp, s);
}

// --- is it acceptable? ---

static void timestamp_store(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *a)
{
	s->ts_recent = a->options.tsval;
	s->ts_recent_s = (uint32_t)(tcp_now(tcp) / (1000 * TCP_MS));
}

// RFC 7323 section 5.2, `slack` ms of reordering allowed; section 5.5: after 24 days ts_recent is void.
static bool timestamp_fresh(struct tcp *tcp, const struct tcp_socket *s, const struct tcp_arrival *a, int32_t slack)
{
	uint32_t now_s = (uint32_t)(tcp_now(tcp) / (1000 * TCP_MS));
	return (int32_t)(s->ts_recent - a->options.tsval) <= slack || s->ts_recent == 0 || now_s - s->ts_recent_s >= PAWS_DAYS * 86400u;
}

// A pure duplicate ACK that lost its order on the way is no wrapped segment: within an RTO it does no harm.
static bool disordered_ack(const struct tcp_socket *s, const struct tcp_arrival *a)
{
	return (a->flags & TCP_ACK) && a->seq == a->end && a->seq == s->rcv_nxt && a->ack == s->snd_una &&
		a->window << s->snd_wscale == s->snd_wnd && (int32_t)(s->ts_recent - a->options.tsval) <= (int32_t)(s->rto_us / 1000);
}

// RFC 9293 section 3.10.7.4, first step.  What begins inside the window may end beyond it, as long as the app is
// not behind.
static bool sequence_acceptable(const struct tcp *tcp, const struct tcp_socket *s, const struct tcp_arrival *a)
{
	uint32_t edge = s->rcv_nxt + tcp_window_left(s);
	if (seq_before(a->end, s->rcv_wup))
		return false;
	if (!seq_after(a->end, edge))
		return true;
	return !seq_after(a->seq, edge) && tcp_unread(tcp, s) == 0;
}

// RFC 5961 section 3.2, and two more that a peer in good faith may send: behind what we have SACKed, and again
// the number of its FIN.
static bool reset_believed(const struct tcp *tcp, const struct tcp_socket *s, const struct tcp_arrival *a)
{
	if (a->seq == s->rcv_nxt)
		return true;
	if (s->flags & TCP_FIN_RECEIVED)
		return a->seq == s->rcv_nxt - 1;
	uint32_t right;
	return (s->flags & TCP_SACK_OK) && tcp_range_right(tcp, s, &right) && a->seq == right;
}

void tcp_reset_received(struct tcp *tcp, struct tcp_socket *s)
{
	int error = ECONNRESET;
	if (s->state == TCP_STATE_SYN_SENT || s->state == TCP_STATE_SYN_RECEIVED)
		error = ECONNREFUSED;
	else if (s->state == TCP_STATE_CLOSE_WAIT)
		error = EPIPE;
	tcp_count(tcp, TCP_STAT_RESETS_RECEIVED);
	s->flags |= TCP_RESET_RECEIVED;
	if (s->state >= TCP_STATE_ESTABLISHED)
		tcp_deliver(tcp, s); // what came before the RST was sent before it
	tcp_fail(tcp, s, error);
}

static enum drop_reason reset_arrived(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *a, bool in_window)
{
	if (reset_believed(tcp, s, a))
		tcp_reset_received(tcp, s);
	else if (in_window)
		tcp_challenge(tcp, s);
	return DROP_TCP_RESET;
}

// Simultaneous open: the peer's SYN-ACK crossed ours (RFC 9293 section 3.5, figure 7).
static bool crossed_syn_ack(const struct tcp_socket *s, const struct tcp_arrival *a)
{
	return s->state == TCP_STATE_SYN_RECEIVED && (a->flags & TCP_ACK) && a->seq + 1 == s->rcv_nxt && a->end == s->rcv_nxt &&
		a->ack == s->snd_nxt;
}

// The first four steps of RFC 9293 section 3.10.7.4 and PAWS.  DROP_NONE: go on with the ACK.
static enum drop_reason check(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *a)
{
	bool reset = a->flags & TCP_RST;

	if (!(a->flags & (TCP_ACK | TCP_RST | TCP_SYN)))
		return DROP_TCP_STRAY;
	// RFC 7323 section 5.2: a RST need not pass PAWS.
	if ((s->flags & TCP_TIMESTAMPS) && a->options.has_timestamp && !reset && !timestamp_fresh(tcp, s, a, TCP_PAWS_WINDOW_MS) &&
	    !disordered_ack(s, a)) {
		tcp_count(tcp, TCP_STAT_PAWS);
		if (a->flags & TCP_SYN)
			tcp_challenge(tcp, s);
		else
			answer_unacceptable(tcp, s, a);
		return DROP_TCP_OLD_TIMESTAMP;
	}
	bool fits = sequence_acceptable(tcp, s, a);
	if (reset)
		return reset_arrived(tcp, s, a, fits);
	if (a->flags & TCP_SYN) { // RFC 5961 section 4.2
		if (fits && crossed_syn_ack(s, a))
			return DROP_NONE;
		tcp_challenge(tcp, s);
		return DROP_TCP_STRAY;
	}
	if (!fits) {
		answer_unacceptable(tcp, s, a);
		return DROP_TCP_STRAY;
	}
	return DROP_NONE;
}

// Header prediction: the next segment in order, or an ACK, of a connection where nothing else is going on.
static bool expected(const struct tcp_socket *s, const struct tcp_arrival *a)
{
	if ((a->flags & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK | TCP_URG)) != TCP_ACK || a->seq != s->rcv_nxt)
		return false;
	if (s->flags & TCP_TIMESTAMPS && (!a->options.has_timestamp || (int32_t)(a->options.tsval - s->ts_recent) < 0))
		return false;
	return a->length <= tcp_window_left(s);
}

// --- the ACK field ---

// RFC 7323 section 4.3: the timestamp to echo is that of the segment that the next ACK will cover first.
static void timestamp_update(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *a)
{
	if ((s->flags & TCP_TIMESTAMPS) && a->options.has_timestamp && !seq_after(a->seq, s->rcv_wup) && timestamp_fresh(tcp, s, a, 0))
		timestamp_store(tcp, s, a);
}

// RFC 9293 section 3.10.7.4: "if the ACK acks something not yet sent, then send an ACK".  An established
// connection lets it wait for the delayed ACK, as what it says is no news for a peer in good faith.
static void answer_unsent(struct tcp *tcp, struct tcp_socket *s)
{
	if (s->state != TCP_STATE_ESTABLISHED)
		tcp_challenge(tcp, s);
	else if (!stray_limited(tcp, s) && challenge_allowed(tcp))
		tcp_ack_later(tcp, s, TCP_DELACK_MIN);
}

static bool acknowledges_nothing_new(const struct tcp_socket *s, const struct tcp_arrival *a)
{
	return a->length > 0 && a->ack == s->snd_una && a->window << s->snd_wscale == s->snd_wnd && a->options.sack_count == 0 &&
		!(a->flags & TCP_ECE) && s->probes_out == 0;
}

static enum drop_reason acknowledge(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *a)
{
	if (acknowledges_nothing_new(s, a)) {
		timestamp_update(tcp, s, a);
		return DROP_NONE;
	}
	if (seq_after(a->ack, s->snd_nxt)) {
		answer_unsent(tcp, s);
		return DROP_TCP_STRAY;
	}
	if (seq_before(a->ack, s->snd_una - s->max_window)) { // RFC 5961 section 5.2
		tcp_challenge(tcp, s);
		return DROP_TCP_STRAY;
	}
	enum tcp_ack_result result = tcp_ack(tcp, s, a);
	if (result == TCP_ACK_INVALID)
		return DROP_TCP_STRAY;
	if (result == TCP_ACK_OK)
		timestamp_update(tcp, s, a);
	return DROP_NONE;
}

// --- closing ---

static uint64_t seconds(uint32_t count)
{
	return count * 1000 * TCP_MS;
}

// What the app has not taken yet stays in its closed socket.
void tcp_time_wait(struct tcp *tcp, struct tcp_socket *s)
{
	tcp_deliver(tcp, s);
	if (s->state != TCP_STATE_CLOSED)
		tcp_timewait_enter(tcp, s, TCP_STATE_TIME_WAIT, seconds(tcp->config.timewait_s));
}

// Our FIN is acknowledged, and nobody owns the connection.
static enum drop_reason orphan_half_closed(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *a)
{
	if (a->length > 0 && seq_after(a->seq + a->length, s->rcv_nxt)) { // as in take()
		tcp_reset_arrival(tcp, a);
		tcp_set_state(tcp, s, TCP_STATE_CLOSED);
		return DROP_TCP_CLOSED;
	}
	if (!(a->flags & TCP_FIN) || a->seq != s->rcv_nxt)
		tcp_orphan_wait(tcp, s);
	return DROP_NONE;
}

// RFC 9293 section 3.10.7.4, fifth step, where the ACK may cover our FIN.
static enum drop_reason own_fin_acknowledged(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *a)
{
	if (!(s->flags & TCP_FIN_SENT) || s->snd_una != s->write_seq + 1)
		return DROP_NONE;
	switch (s->state) {
	case TCP_STATE_FIN_WAIT_1:
		tcp_set_state(tcp, s, TCP_STATE_FIN_WAIT_2);
		return s->flags & TCP_ORPHAN ? orphan_half_closed(tcp, s, a) : DROP_NONE;
	case TCP_STATE_CLOSING:
		tcp_time_wait(tcp, s);
		return DROP_NONE;
	case TCP_STATE_LAST_ACK:
		tcp_set_state(tcp, s, TCP_STATE_CLOSED);
		return DROP_NONE;
	default:
		return DROP_NONE;
	}
}

// Steps seven and eight: bytes and FIN, in states where somebody may take them.
static enum drop_reason take(struct tcp *tcp, struct tcp_socket *s, struct tcp_arrival *a)
{
	switch (s->state) {
	case TCP_STATE_CLOSE_WAIT:
	case TCP_STATE_CLOSING:
	case TCP_STATE_LAST_ACK:
		if (!seq_before(a->seq, s->rcv_nxt))
			return DROP_TCP_STRAY; // beyond the peer's FIN there is nothing
		break;
	case TCP_STATE_FIN_WAIT_1:
	case TCP_STATE_FIN_WAIT_2:
		// RFC 2525 section 2.17, RFC 1122 section 4.2.2.13: the peer must learn that these bytes reach nobody.
		if ((s->flags & (TCP_RECEIVE_SHUT | TCP_ORPHAN)) && a->length > 0 && seq_after(a->seq + a->length, s->rcv_nxt)) {
			tcp_reset_arrival(tcp, a);
			tcp_fail(tcp, s, ECONNRESET);
			return DROP_TCP_CLOSED;
		}
		break;
	default:
		break;
	}
	return tcp_receive(tcp, s, a);
}

enum drop_reason tcp_arrive(struct tcp *tcp, struct tcp_socket *s, struct tcp_arrival *a)
{
	enum drop_reason reason = DROP_NONE;

	s->segments_in += a->segments;
	if (s->state == TCP_STATE_SYN_SENT)
		return tcp_arrive_syn_sent(tcp, s, a);
	if (!expected(s, a))
		reason = check(tcp, s, a);
	if (reason == DROP_NONE)
		reason = s->state == TCP_STATE_SYN_RECEIVED ? tcp_arrive_syn_received(tcp, s, a) : acknowledge(tcp, s, a);
	if (reason == DROP_NONE && s->state > TCP_STATE_ESTABLISHED)
		reason = own_fin_acknowledged(tcp, s, a);
	if (reason != DROP_NONE || s->state == TCP_STATE_CLOSED)
		return reason;
	tcp_dirty(tcp, s);
	return a->length == 0 && !(a->flags & TCP_FIN) ? DROP_NONE : take(tcp, s, a);
}
