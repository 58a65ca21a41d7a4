// Round trips and the retransmission time-out: RFC 6298, with timestamps RFC 7323 section 4.
//
// Where a window holds many samples, RFC 6298's gains would forget too fast (RFC 7323 appendix G): the variation
// that counts is the largest mean deviation of one round trip, and it decays once a round trip only.
#include "host/tcp_ack.h"

enum {
	SAMPLE_MAX_US = 1 << 28,      // keeps srtt times 8 in 32 bits
	MIN_WINDOW_MS = 300 * 1000,   // the path may have become longer: the minimum is valid that long
	FALLBACK_RTO_US = 3000000     // RFC 6298 section 5.7
};

uint32_t rtt_min(const struct tcp_socket *s)
{
	return s->min_rtt_us == 0 ? UINT32_MAX : s->min_rtt_us;
}

static void take_min(const struct tcp *tcp, struct tcp_socket *s, uint32_t rtt_us, bool delayed)
{
	if (delayed && rtt_us > rtt_min(s))
		return;
	if (rtt_us <= rtt_min(s) || tcp_now_ms(tcp) - s->min_rtt_ms > MIN_WINDOW_MS) {
		s->min_rtt_us = rtt_us != 0 ? rtt_us : 1;
		s->min_rtt_ms = tcp_now_ms(tcp);
	}
}

static void first_sample(const struct tcp *tcp, struct tcp_socket *s, uint32_t rtt_us)
{
	s->srtt_us = rtt_us * 8;
	s->mdev_us = rtt_us * 2;
	s->rttvar_us = s->mdev_us > tcp->config.min_rto_us ? s->mdev_us : tcp->config.min_rto_us;
	s->mdev_max_us = s->rttvar_us;
	s->rtt_seq = s->snd_nxt;
}

static void later_sample(const struct tcp *tcp, struct tcp_socket *s, uint32_t rtt_us)
{
	int64_t error = (int64_t)rtt_us - (s->srtt_us >> 3);
	int64_t deviation;

	s->srtt_us = (uint32_t)((int64_t)s->srtt_us + error);
	if (error < 0) {
		// A round trip that shrinks suddenly is no reason to wait longer: an eighth of the gain.
		deviation = -error - (int64_t)(s->mdev_us >> 2);
		if (deviation > 0)
			deviation >>= 3;
	} else {
		deviation = error - (int64_t)(s->mdev_us >> 2);
	}
	s->mdev_us = (uint32_t)((int64_t)s->mdev_us + deviation);
	if (s->mdev_us > s->mdev_max_us) {
		s->mdev_max_us = s->mdev_us;
		if (s->mdev_max_us > s->rttvar_us)
			s->rttvar_us = s->mdev_max_us;
	}
	if (seq_after(s->snd_una, s->rtt_seq)) {
		if (s->mdev_max_us < s->rttvar_us)
			s->rttvar_us -= (s->rttvar_us - s->mdev_max_us) >> 2;
		s->rtt_seq = s->snd_nxt;
		s->mdev_max_us = tcp->config.min_rto_us;
	}
}

void tcp_rtt_sample(struct tcp *tcp, struct tcp_socket *s, uint32_t rtt_us)
{
	if (rtt_us > SAMPLE_MAX_US)
		rtt_us = SAMPLE_MAX_US;
	if (s->srtt_us == 0)
		first_sample(tcp, s, rtt_us);
	else
		later_sample(tcp, s, rtt_us);
	if (s->srtt_us == 0)
		s->srtt_us = 1;
	s->rto_us = (s->srtt_us >> 3) + s->rttvar_us;
	if (s->rto_us > tcp->config.max_rto_us)
		s->rto_us = tcp->config.max_rto_us;
	s->backoff = 0;
}

// RTTM (RFC 7323 section 4.1): -1 where the echo tells nothing.
static int64_t echoed_us(const struct tcp *tcp, const struct tcp_socket *s, const struct tcp_options *options)
{
	if (!(s->flags & TCP_TIMESTAMPS) || !options->has_timestamp || options->tsecr == 0)
		return -1;
	uint32_t age_ms = tcp_now_ms(tcp) + s->ts_offset - options->tsecr;
	if (age_ms >= INT32_MAX / 1000)
		return -1;
	return (int64_t)(age_ms != 0 ? age_ms : 1) * 1000;
}

bool rtt_take(struct tcp *tcp, struct tcp_socket *s, const struct ack_event *e, int64_t original_us, int64_t sacked_us, int64_t *newest_us)
{
	if (original_us < 0)
		original_us = sacked_us;
	if (original_us < 0 && ack_acked(e)) {
		original_us = echoed_us(tcp, s, &e->arrival->options);
		*newest_us = original_us;
	}
	if (original_us < 0)
		return false;
	if (*newest_us >= 0)
		take_min(tcp, s, *newest_us < SAMPLE_MAX_US ? (uint32_t)*newest_us : SAMPLE_MAX_US, e->delayed);
	tcp_rtt_sample(tcp, s, original_us < SAMPLE_MAX_US ? (uint32_t)original_us : SAMPLE_MAX_US);
	return true;
}

void rtt_handshake(struct tcp *tcp, struct tcp_socket *s, uint32_t rtt_us)
{
	if (s->srtt_us == 0 && rtt_us != 0) {
		take_min(tcp, s, rtt_us, false);
		tcp_rtt_sample(tcp, s, rtt_us);
	}
	if (s->srtt_us == 0) {
		s->rttvar_us = s->mdev_us = s->mdev_max_us = FALLBACK_RTO_US;
		s->rto_us = FALLBACK_RTO_US;
	}
	s->backoff = 0;
}
