// What happens when a timer of a connection runs out: RFC 6298 section 5, RFC 9293 sections 3.8.3 (when
// to give up), 3.8.4 (keepalive), 3.8.6.1 (window probes) and 3.8.6.3 (delayed ACKs), RFC 5482.
//
// A connection is given up by time, not by count: after as long as `retries2` retransmissions take
// that begin at the smallest RTO, so that a peer behind a slow path has no more attempts than others.
#include "host/tcp_internal.h"

#include <errno.h>

// Where a packet could not leave, the next attempt need not wait for the back-off.
#define RESOURCE_INTERVAL (500 * TCP_MS)
#define SECOND (1000 * TCP_MS)

enum { ORPHAN_RETRIES = 8 };

static void give_up(struct tcp *tcp, struct tcp_socket *s)
{
	tcp_fail(tcp, s, s->soft_error != 0 ? s->soft_error : ETIMEDOUT);
}

static uint64_t user_timeout(const struct tcp_socket *s)
{
	return (uint64_t)s->user_timeout_ms * TCP_MS;
}

static uint64_t since_ms(const struct tcp *tcp, uint32_t then_ms)
{
	return (uint64_t)(tcp_now_ms(tcp) - then_ms) * TCP_MS;
}

// The time that `retries` retransmissions take: the RTO doubles each time until it reaches its limit.
static uint64_t model_timeout(const struct tcp *tcp, uint32_t retries, uint64_t rto_us)
{
	uint64_t total = 0, most = tcp->config.max_rto_us;

	for (uint32_t i = 0; i <= retries; i++) {
		total += rto_us < most ? rto_us : most;
		rto_us = rto_us < most ? rto_us * 2 : most;
	}
	return total * 1000;
}

static bool timed_out(const struct tcp *tcp, const struct tcp_socket *s, uint32_t retries, uint64_t limit)
{
	bool syn = s->state == TCP_STATE_SYN_SENT || s->state == TCP_STATE_SYN_RECEIVED;

	if (s->retransmits == 0)
		return false;
	if (limit == 0)
		limit = model_timeout(tcp, retries, syn ? tcp->config.initial_rto_us : tcp->config.min_rto_us);
	return since_ms(tcp, tcp_flight(tcp, s)->retrans_stamp_ms) >= limit;
}

static bool orphan(const struct tcp_socket *s)
{
	return s->flags & TCP_ORPHAN;
}

// An app that is gone cannot decide when to give up.  `alive`: the timer has not reached its limit yet.
static uint32_t orphan_retries(const struct tcp *tcp, const struct tcp_socket *s, bool alive)
{
	uint32_t retries = tcp->config.orphan_retries;

	if (s->soft_error != 0 && !alive)
		return 0;
	return retries == 0 && alive ? ORPHAN_RETRIES : retries;
}

// True where the orphan is gone.
static bool shed_orphan(struct tcp *tcp, struct tcp_socket *s, bool reset)
{
	if (tcp->orphans <= tcp->config.max_orphans && !tcp_memory_pressure(tcp))
		return false;
	if (reset)
		tcp_send_reset(tcp, s);
	tcp_count(tcp, TCP_STAT_MEMORY_PRESSURE);
	tcp_fail(tcp, s, ECONNABORTED);
	return true;
}

// --- retransmission ---

// True where the connection was given up.
static bool check_patience(struct tcp *tcp, struct tcp_socket *s)
{
	const struct host_config *config = &tcp->config;
	uint32_t retries = config->retries2;
	bool expired = false;

	if (s->state == TCP_STATE_SYN_SENT || s->state == TCP_STATE_SYN_RECEIVED) {
		retries = s->syn_retries != 0 ? s->syn_retries : config->syn_retries;
		expired = s->retransmits >= retries + (s->state == TCP_STATE_SYN_SENT ? config->linear_syn_timeouts : 0u);
	} else {
		if (timed_out(tcp, s, config->retries1, 0))
			tcp_mtu_black_hole(tcp, s);
		if (orphan(s)) {
			bool alive = tcp_rto_ns(tcp, s) < (uint64_t)config->max_rto_us * 1000;
			retries = orphan_retries(tcp, s, alive);
			if (shed_orphan(tcp, s, alive || !timed_out(tcp, s, retries, 0)))
				return true;
		}
	}
	if (!expired && (s->state != TCP_STATE_SYN_SENT || s->user_timeout_ms != 0))
		expired = timed_out(tcp, s, retries, user_timeout(s));
	if (expired)
		give_up(tcp, s);
	return expired;
}

// The peer shrank its window to nothing over what is in flight: this is a window probe, and a peer that
// answers may go on so for ever.  True where it has not answered for too long.
static bool shrunk_window_expired(const struct tcp *tcp, const struct tcp_socket *s)
{
	uint64_t limit = user_timeout(s) != 0 ? user_timeout(s) : 2 * (uint64_t)tcp->config.max_rto_us * 1000;
	uint32_t began_ms = tcp_flight(tcp, s)->retrans_stamp_ms;

	return began_ms != 0 && since_ms(tcp, began_ms) > limit && since_ms(tcp, s->last_ack_received_ms) > limit;
}

static uint64_t rto_within_user_timeout(const struct tcp *tcp, const struct tcp_socket *s)
{
	uint64_t rto = tcp_rto_ns(tcp, s), elapsed = since_ms(tcp, tcp_flight(tcp, s)->retrans_stamp_ms);

	if (s->user_timeout_ms == 0)
		return rto;
	if (elapsed >= user_timeout(s))
		return TCP_MS;
	return rto < user_timeout(s) - elapsed ? rto : user_timeout(s) - elapsed;
}

static void back_off(const struct tcp *tcp, struct tcp_socket *s)
{
	bool linear = s->state == TCP_STATE_SYN_SENT && s->retransmits <= tcp->config.linear_syn_timeouts;

	if (!linear && s->backoff < 32)
		s->backoff++;
}

void tcp_retransmit_timeout(struct tcp *tcp, struct tcp_socket *s)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	bool closed = s->snd_wnd == 0 && !orphan(s) && s->state >= TCP_STATE_ESTABLISHED;

	if (f->packets_out == 0 || f->segment_head == 0)
		return;
	if (closed && shrunk_window_expired(tcp, s)) {
		give_up(tcp, s);
		return;
	}
	if (!closed && check_patience(tcp, s))
		return;
	tcp_count(tcp, TCP_STAT_TIMEOUTS);
	tcp_enter_loss(tcp, s);
	if (!closed && s->retransmits < UINT8_MAX)
		s->retransmits++;
	int error = tcp_retransmit(tcp, s, segment_at(tcp, f->segment_head), 1);
	if (s->state == TCP_STATE_CLOSED) // by a RST out of this VR
		return;
	if (error == -ENOBUFS && !closed) {
		timer_arm(tcp, s, TCP_TIMER_RTO, tcp_now(tcp) + RESOURCE_INTERVAL);
		return;
	}
	back_off(tcp, s);
	timer_arm(tcp, s, TCP_TIMER_RTO, tcp_now(tcp) + rto_within_user_timeout(tcp, s));
}

// --- window probes ---

uint64_t tcp_probe_delay(const struct tcp *tcp, const struct tcp_socket *s)
{
	uint64_t delay = tcp_rto_ns(tcp, s), least = ((uint64_t)tcp->config.min_rto_us * 1000) << (s->backoff < 16 ? s->backoff : 16);
	uint64_t most = (uint64_t)tcp->config.max_rto_us * 1000;

	if (delay < least)
		delay = least;
	return delay < most ? delay : most;
}

static void stop_probing(struct tcp_socket *s)
{
	s->probes_out = 0;
	s->backoff = 0;
}

// True where the connection was given up.
static bool check_probe_patience(struct tcp *tcp, struct tcp_socket *s)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	uint32_t most = tcp->config.retries2;

	if (f->probing_since_ms == 0)
		f->probing_since_ms = tcp_stamp(tcp_now_ms(tcp));
	else if (s->user_timeout_ms != 0 && since_ms(tcp, f->probing_since_ms) >= user_timeout(s))
		most = 0;
	if (most != 0 && orphan(s)) {
		bool alive = tcp_probe_delay(tcp, s) < (uint64_t)tcp->config.max_rto_us * 1000;
		most = orphan_retries(tcp, s, alive);
		if (!alive && s->backoff >= most)
			most = 0;
		else if (shed_orphan(tcp, s, true))
			return true;
	}
	if (s->probes_out < most)
		return false;
	give_up(tcp, s);
	return true;
}

void tcp_probe_timeout(struct tcp *tcp, struct tcp_socket *s)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	bool waiting = s->flight != 0 && (tcp_unsent(s) > 0 || (f->fin_queued && !(s->flags & TCP_FIN_SENT)));

	if (f->packets_out != 0 || !waiting) {
		s->probes_out = 0;
		if (s->flight != 0)
			f->probing_since_ms = 0;
		return;
	}
	if (check_probe_patience(tcp, s))
		return;
	bool sent = tcp_send_window_probe(tcp, s);
	if (s->state == TCP_STATE_CLOSED)
		return;
	if (f->packets_out != 0) {
		stop_probing(s);
		f->probing_since_ms = 0;
		return;
	}
	if (s->probes_out < UINT8_MAX)
		s->probes_out++;
	if (sent && s->backoff < tcp->config.retries2)
		s->backoff++;
	uint64_t delay = sent ? tcp_probe_delay(tcp, s) : RESOURCE_INTERVAL;
	if (s->user_timeout_ms != 0) {
		uint64_t elapsed = since_ms(tcp, f->probing_since_ms);
		uint64_t left = elapsed < user_timeout(s) ? user_timeout(s) - elapsed : TCP_MS;
		delay = delay < left ? delay : left;
	}
	timer_arm(tcp, s, TCP_TIMER_PROBE0, tcp_now(tcp) + delay);
}

// --- delayed ACK ---

void tcp_ack_timeout(struct tcp *tcp, struct tcp_socket *s)
{
	s->ack_at = 0;
	if (!(s->flags & (TCP_ACK_PENDING | TCP_ACK_NOW)) || s->state <= TCP_STATE_SYN_SENT)
		return;
	if (s->engine & TCP_PINGPONG) {
		// No answer came that could have carried it: the session is not interactive after all.
		s->engine &= ~(uint32_t)TCP_PINGPONG;
		s->ack_timeout_us = (uint32_t)(TCP_DELACK_MIN / 1000);
	} else {
		uint64_t rto_us = tcp_rto_ns(tcp, s) / 1000, longer = (uint64_t)s->ack_timeout_us * 2;
		s->ack_timeout_us = (uint32_t)(longer < rto_us ? longer : rto_us);
	}
	tcp_send_ack(tcp, s);
}

// --- keepalive, and the end of FIN-WAIT-2 ---

static uint64_t keep_idle(const struct tcp *tcp, const struct tcp_socket *s)
{
	return (s->keep_idle_s != 0 ? s->keep_idle_s : tcp->config.keep_idle_s) * SECOND;
}

static uint64_t keep_interval(const struct tcp *tcp, const struct tcp_socket *s)
{
	return (s->keep_interval_s != 0 ? s->keep_interval_s : tcp->config.keep_interval_s) * SECOND;
}

// Since anything was heard from the peer.
static uint64_t silent_for(const struct tcp *tcp, const struct tcp_socket *s)
{
	uint64_t data = since_ms(tcp, s->last_received_ms), ack = since_ms(tcp, s->last_ack_received_ms);
	return data < ack ? data : ack;
}

void tcp_keepalive_set(struct tcp *tcp, struct tcp_socket *s, bool on)
{
	s->flags = on ? s->flags | TCP_KEEPALIVE_SET : s->flags & ~(uint32_t)TCP_KEEPALIVE_SET;
	if (s->state < TCP_STATE_SYN_RECEIVED || (s->state == TCP_STATE_FIN_WAIT_2 && orphan(s)))
		return;
	s->keep_at = 0;
	if (!on)
		return;
	uint64_t idle = keep_idle(tcp, s), silent = silent_for(tcp, s);
	s->keep_at = tcp_now(tcp) + (silent < idle ? idle - silent : 1);
	timer_changed(tcp, s);
}

// An orphan that the peer does not close: the rest of its life is a compact record's, or a RST ends it.
static void end_fin_wait_2(struct tcp *tcp, struct tcp_socket *s)
{
	uint32_t life = s->linger2_s > 0 ? (uint32_t)s->linger2_s : tcp->config.fin_timeout_s;

	if (s->linger2_s >= 0 && life > tcp->config.timewait_s) {
		tcp_timewait_enter(tcp, s, TCP_STATE_FIN_WAIT_2, (life - tcp->config.timewait_s) * SECOND);
		return;
	}
	tcp_send_reset(tcp, s);
	tcp_fail(tcp, s, ECONNABORTED);
}

static bool keep_expired(const struct tcp *tcp, const struct tcp_socket *s, uint64_t silent)
{
	if (s->user_timeout_ms != 0)
		return silent >= user_timeout(s) && s->probes_out > 0;
	return s->probes_out >= (s->keep_count != 0 ? s->keep_count : tcp->config.keep_count);
}

void tcp_keep_timeout(struct tcp *tcp, struct tcp_socket *s)
{
	const struct tcp_flight *f = tcp_flight(tcp, s);
	uint64_t wait = keep_idle(tcp, s), silent = silent_for(tcp, s);

	s->keep_at = 0;
	if (s->state == TCP_STATE_FIN_WAIT_2 && orphan(s)) {
		end_fin_wait_2(tcp, s);
		return;
	}
	if (!(s->flags & TCP_KEEPALIVE_SET) || s->state <= TCP_STATE_SYN_SENT)
		return;
	// With data under way other timers find out whether the peer is there.
	if (f->packets_out == 0 && (s->flight == 0 || tcp_unsent(s) == 0)) {
		if (silent < wait) {
			wait -= silent;
		} else if (keep_expired(tcp, s, silent)) {
			tcp_send_reset(tcp, s);
			give_up(tcp, s);
			return;
		} else if (tcp_send_probe(tcp, s)) {
			s->probes_out++;
			wait = keep_interval(tcp, s);
		} else {
			wait = RESOURCE_INTERVAL;
		}
	}
	if (s->state == TCP_STATE_CLOSED)
		return;
	s->keep_at = tcp_now(tcp) + wait;
	timer_changed(tcp, s);
}
