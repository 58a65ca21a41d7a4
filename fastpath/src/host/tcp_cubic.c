// CUBIC (RFC 9438) with HyStart++ (RFC 9406), or with a plain delay test instead of that.
//
//   W(t) = C * (t - K)^3 + W_max,   K = cube root of (W_max - cwnd) / C
//
// Windows are in segments, time is in ms since the epoch began, all of it integers: C = 4 / 10^10 per ms^3.  As the
// kernel does: beta is 717/1024, t looks one minimal round trip ahead, the window grows by at most one segment for
// two delivered ones (RFC 9438 section 4.2: 1.5 times in a round trip), and alpha stays what it is in section 4.3.
#include "host/tcp_ack.h"

enum {
	BETA = 717, BETA_SCALE = 1024,
	C_NUMERATOR = 4,
	LONGEST_MS = 1000000,         // its cube times 4 fits in 64 bits
	RECALCULATE_MS = 31,          // while the window stays as it is
	UNKNOWN_COUNT = 20,           // before the first loss: a twentieth at least
	FEWEST_ACKS = 2
};

#define C_DENOMINATOR 10000000000ull

// RFC 9406 section 4.3; the plain test starts at a window that can overrun something.
enum {
	HYSTART_MIN_THRESHOLD_US = 4000, HYSTART_MAX_THRESHOLD_US = 16000, HYSTART_SAMPLES = 8,
	HYSTART_GROWTH_DIVISOR = 4, HYSTART_ROUNDS = 5, HYSTART_ONCE_CWND = 16,
	HYSTART_QUIET_MS = 1000       // the delay right after a recovery says nothing
};

// Newton's method from above; the result is rounded down.
static uint32_t cube_root(uint64_t value)
{
	uint64_t root = 1ull << ((66 - (value != 0 ? (uint32_t)__builtin_clzll(value) : 63)) / 3);

	for (;;) {
		uint64_t next = (2 * root + value / (root * root)) / 3;
		if (next >= root)
			return (uint32_t)root;
		root = next;
	}
}

static uint32_t time_to_origin(uint32_t segments)
{
	return cube_root((uint64_t)segments * (C_DENOMINATOR / C_NUMERATOR));
}

static void begin_epoch(struct tcp_cubic_state *c, uint32_t cwnd, uint32_t acked, uint32_t now_ms)
{
	c->epoch_start_ms = tcp_stamp(now_ms);
	c->ack_count = acked;
	c->tcp_cwnd = cwnd;
	c->k_ms = c->last_max_cwnd > cwnd ? time_to_origin(c->last_max_cwnd - cwnd) : 0;
	c->origin_point = c->last_max_cwnd > cwnd ? c->last_max_cwnd : cwnd;
}

static uint64_t window_at(const struct tcp_cubic_state *c, uint64_t t_ms)
{
	uint64_t distance = t_ms < c->k_ms ? c->k_ms - t_ms : t_ms - c->k_ms;

	if (distance > LONGEST_MS)
		distance = LONGEST_MS;
	uint64_t difference = distance * distance * distance * C_NUMERATOR / C_DENOMINATOR;
	if (t_ms >= c->k_ms)
		return c->origin_point + difference;
	return c->origin_point > difference ? c->origin_point - difference : 0;
}

// RFC 9438 section 4.3: where Reno would be that has the same share; no slower than that.
static void keep_up_with_reno(struct tcp_cubic_state *c, uint32_t cwnd)
{
	uint32_t per_segment = (uint32_t)((uint64_t)cwnd * (BETA_SCALE + BETA) / (3 * (BETA_SCALE - BETA)));

	if (per_segment != 0 && c->ack_count > per_segment) {
		c->tcp_cwnd += c->ack_count / per_segment;
		c->ack_count %= per_segment;
	}
	if (c->tcp_cwnd > cwnd && c->count > cwnd / (c->tcp_cwnd - cwnd))
		c->count = cwnd / (c->tcp_cwnd - cwnd);
}

static void update(struct tcp_cubic_state *c, uint32_t cwnd, uint32_t acked, uint32_t now_ms)
{
	c->ack_count += acked;
	if (c->epoch_start_ms != 0 && c->last_cwnd == cwnd && now_ms - c->last_time_ms <= RECALCULATE_MS)
		return;
	if (c->epoch_start_ms == 0 || c->last_time_ms != now_ms) {
		c->last_cwnd = cwnd;
		c->last_time_ms = now_ms;
		if (c->epoch_start_ms == 0)
			begin_epoch(c, cwnd, acked, now_ms);
		uint64_t target = window_at(c, (uint64_t)(now_ms - c->epoch_start_ms) + c->delay_min_us / 1000);
		c->count = target > cwnd ? (uint32_t)(cwnd / (target - cwnd)) : 100 * cwnd;
		if (c->last_max_cwnd == 0 && c->count > UNKNOWN_COUNT)
			c->count = UNKNOWN_COUNT;
	}
	keep_up_with_reno(c, cwnd);
	if (c->count < FEWEST_ACKS)
		c->count = FEWEST_ACKS;
}

// --- the end of slow start ---

static void leave_slow_start(struct tcp_socket *s)
{
	struct tcp_cubic_state *c = &s->role.cubic;

	c->found = 1;
	c->css_baseline_us = 0;
	s->ssthresh = s->cwnd;
}

static uint32_t threshold(uint32_t rtt_us)
{
	uint32_t eighth = rtt_us / 8;

	if (eighth < HYSTART_MIN_THRESHOLD_US)
		return HYSTART_MIN_THRESHOLD_US;
	return eighth < HYSTART_MAX_THRESHOLD_US ? eighth : HYSTART_MAX_THRESHOLD_US;
}

// A round ends when what was snd_nxt at its beginning is acknowledged.
static bool round_over(struct tcp_socket *s)
{
	struct tcp_cubic_state *c = &s->role.cubic;

	if (c->round_min_rtt_us != 0 && !seq_after(s->snd_una, c->round_end))
		return false;
	c->round_end = s->snd_nxt;
	c->previous_min_rtt_us = c->round_min_rtt_us;
	c->round_min_rtt_us = UINT32_MAX;
	c->samples = 0;
	return true;
}

static void hystart_once(struct tcp_socket *s, uint32_t rtt_us)
{
	struct tcp_cubic_state *c = &s->role.cubic;

	if (s->cwnd < HYSTART_ONCE_CWND)
		return;
	(void)round_over(s);
	if (rtt_us < c->round_min_rtt_us)
		c->round_min_rtt_us = rtt_us;
	if (c->samples < HYSTART_SAMPLES)
		c->samples++;
	else if (c->round_min_rtt_us > c->delay_min_us + threshold(c->delay_min_us))
		leave_slow_start(s);
}

// RFC 9406 section 4.2: slow start, conservative slow start, and back where the delay was a passing one.
static void hystart_plus(struct tcp_socket *s, uint32_t rtt_us)
{
	struct tcp_cubic_state *c = &s->role.cubic;

	if (round_over(s) && c->css_baseline_us != 0 && ++c->css_rounds >= HYSTART_ROUNDS) {
		leave_slow_start(s);
		return;
	}
	if (rtt_us < c->round_min_rtt_us)
		c->round_min_rtt_us = rtt_us;
	if (c->samples < HYSTART_SAMPLES)
		c->samples++;
	if (c->samples < HYSTART_SAMPLES)
		return;
	if (c->css_baseline_us != 0) {
		if (c->round_min_rtt_us < c->css_baseline_us)
			c->css_baseline_us = 0;
	} else if (c->previous_min_rtt_us != 0 && c->previous_min_rtt_us != UINT32_MAX &&
		   c->round_min_rtt_us >= c->previous_min_rtt_us + threshold(c->previous_min_rtt_us)) {
		c->css_baseline_us = c->round_min_rtt_us;
		c->css_rounds = 0;
		s->cwnd_count = 0;
	}
}

// --- the algorithm as others call it ---

static void cubic_acked(struct tcp *tcp, struct tcp_socket *s, uint32_t acked, int64_t rtt_us)
{
	struct tcp_cubic_state *c = &s->role.cubic;
	uint32_t rtt = rtt_us > 0 ? (uint32_t)rtt_us : 1;

	(void)acked;
	if (rtt_us < 0 || rtt_us >= UINT32_MAX ||
	    (c->epoch_start_ms != 0 && (int32_t)(tcp_now_ms(tcp) - c->epoch_start_ms) < HYSTART_QUIET_MS))
		return;
	if (c->delay_min_us == 0 || c->delay_min_us > rtt)
		c->delay_min_us = rtt;
	if (c->found || !congestion_slow_starts(s))
		return;
	if (tcp->config.hystart == HOST_HYSTART_ONCE)
		hystart_once(s, rtt);
	else if (tcp->config.hystart == HOST_HYSTART_PLUS && s->ssthresh == TCP_INFINITE_SSTHRESH) // section 4.3: the first one only
		hystart_plus(s, rtt);
}

static void cubic_avoid(struct tcp *tcp, struct tcp_socket *s, uint32_t acked)
{
	struct tcp_cubic_state *c = &s->role.cubic;

	if (!congestion_limited(tcp, s))
		return;
	if (congestion_slow_starts(s) && c->css_baseline_us != 0) {
		congestion_additive(s, HYSTART_GROWTH_DIVISOR, acked);
		return;
	}
	if (congestion_slow_starts(s)) {
		acked = congestion_slow_start(s, acked);
		if (acked == 0)
			return;
	}
	bool known = c->count != 0; // else this ACK only finds the pace
	update(c, s->cwnd, acked, tcp_now_ms(tcp));
	if (known)
		congestion_additive(s, c->count, acked);
}

// RFC 9438 sections 4.6 and 4.7: a flow that has to give way lets go of more.
static uint32_t cubic_ssthresh(struct tcp *tcp, struct tcp_socket *s)
{
	struct tcp_cubic_state *c = &s->role.cubic;
	uint32_t reduced = (uint32_t)((uint64_t)s->cwnd * BETA / BETA_SCALE);

	(void)tcp;
	c->epoch_start_ms = 0;
	c->css_baseline_us = 0;
	c->last_max_cwnd = s->cwnd < c->last_max_cwnd ? (uint32_t)((uint64_t)s->cwnd * (BETA_SCALE + BETA) / (2 * BETA_SCALE)) : s->cwnd;
	return reduced > 2 ? reduced : 2;
}

static void cubic_state(struct tcp *tcp, struct tcp_socket *s, enum tcp_recovery state)
{
	(void)tcp;
	if (state == TCP_RECOVERY_LOSS)
		memset(&s->role.cubic, 0, sizeof(s->role.cubic));
}

// Time that passed in silence does not count (RFC 9438 section 5.8), and after an RTO of it the pace is found anew.
static void cubic_idle(struct tcp *tcp, struct tcp_socket *s, uint64_t idle_ns)
{
	struct tcp_cubic_state *c = &s->role.cubic;
	uint32_t now_ms = tcp_now_ms(tcp);

	if (idle_ns > tcp_rto_ns(tcp, s)) {
		c->count = 0;
		s->cwnd_count = 0;
	}
	if (c->epoch_start_ms == 0 || idle_ns == 0)
		return;
	uint64_t age = now_ms - c->epoch_start_ms, idle_ms = idle_ns / TCP_MS;
	c->epoch_start_ms = tcp_stamp(now_ms - (uint32_t)(idle_ms < age ? age - idle_ms : 0));
}

const struct tcp_congestion_ops tcp_cubic_ops = {
	.name = "cubic", .ssthresh = cubic_ssthresh, .avoid = cubic_avoid, .undo = congestion_undo, .acked = cubic_acked,
	.state = cubic_state, .idle = cubic_idle
};
