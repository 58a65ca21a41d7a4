// Congestion control: what all algorithms share, and NewReno (RFC 5681, RFC 6582).
//
// Windows are in segments.  A window grows only while it limits what is sent (RFC 7661 in spirit, RFC 9438
// section 4.2).  Slow start counts delivered segments, not ACKs (RFC 3465), without that RFC's limit: ACKs are
// merged on the way in.
#include <errno.h>
#include "host/tcp_ack.h"

uint32_t congestion_ssthresh(const struct tcp_socket *s)
{
	uint32_t most = (s->cwnd >> 1) + (s->cwnd >> 2);

	return reduction_runs(s) || s->ssthresh > most ? s->ssthresh : most;
}

bool congestion_limited(const struct tcp *tcp, const struct tcp_socket *s)
{
	if (s->engine & TCP_CWND_LIMITED)
		return true;
	return congestion_slow_starts(s) && s->cwnd < 2 * tcp_flight(tcp, s)->max_packets_out;
}

uint32_t congestion_slow_start(struct tcp_socket *s, uint32_t acked)
{
	uint32_t room = s->ssthresh - s->cwnd;
	uint32_t growth = acked < room ? acked : room;

	s->cwnd += growth;
	return acked - growth;
}

// One more segment of window for each `per_segment` delivered.
void congestion_additive(struct tcp_socket *s, uint32_t per_segment, uint32_t acked)
{
	if (s->cwnd_count >= per_segment) { // it was larger before
		s->cwnd_count = 0;
		s->cwnd++;
	}
	s->cwnd_count += acked;
	if (s->cwnd_count >= per_segment) {
		s->cwnd += s->cwnd_count / per_segment;
		s->cwnd_count %= per_segment;
	}
}

uint32_t congestion_undo(struct tcp *tcp, struct tcp_socket *s)
{
	uint32_t prior = tcp_flight(tcp, s)->prior_cwnd;

	return s->cwnd > prior ? s->cwnd : prior;
}

static uint32_t reno_ssthresh(struct tcp *tcp, struct tcp_socket *s)
{
	(void)tcp;
	return s->cwnd >> 1 > 2 ? s->cwnd >> 1 : 2;
}

static void reno_avoid(struct tcp *tcp, struct tcp_socket *s, uint32_t acked)
{
	if (!congestion_limited(tcp, s))
		return;
	if (congestion_slow_starts(s)) {
		acked = congestion_slow_start(s, acked);
		if (acked == 0)
			return;
	}
	congestion_additive(s, s->cwnd, acked);
}

static const struct tcp_congestion_ops reno_ops = {
	.name = "reno", .ssthresh = reno_ssthresh, .avoid = reno_avoid, .undo = congestion_undo
};

static const struct tcp_congestion_ops *const algorithms[] = {[TCP_CUBIC] = &tcp_cubic_ops, [TCP_RENO] = &reno_ops};

enum { ALGORITHMS = sizeof(algorithms) / sizeof(algorithms[0]) };

const struct tcp_congestion_ops *tcp_congestion_of(const struct tcp_socket *s)
{
	return algorithms[s->congestion < ALGORITHMS ? s->congestion : TCP_RENO];
}

int tcp_congestion_named(const char *name, uint32_t length)
{
	for (int i = 0; i < ALGORITHMS; i++)
		if (strnlen(name, length) == strlen(algorithms[i]->name) && memcmp(name, algorithms[i]->name, strlen(algorithms[i]->name)) == 0)
			return i;
	return -ENOENT;
}

void congestion_control(struct tcp *tcp, struct tcp_socket *s, const struct ack_event *e, uint32_t delivered, uint32_t lost)
{
	if (reduction_runs(s)) {
		reduction_step(tcp, s, delivered, s->recovery == TCP_RECOVERY_FAST && e->advanced && lost == 0);
		return;
	}
	// Where the path reorders, SACKed data is progress too.
	if (s->reordering > tcp->config.reordering ? ack_acked(e) || e->sacked : e->data_acked)
		tcp_congestion_of(s)->avoid(tcp, s, delivered);
}

void tcp_congestion_start(struct tcp *tcp, struct tcp_socket *s, uint32_t rtt_us)
{
	const struct tcp_congestion_ops *ops = tcp_congestion_of(s);

	rtt_handshake(tcp, s, rtt_us);
	// More than one lost SYN: the path is in trouble (RFC 5681 section 3.1, with the one that RFC 6298 excuses).
	s->cwnd = s->total_retrans > 1 ? 1 : tcp->config.initial_cwnd;
	s->cwnd_count = 0;
	s->ssthresh = TCP_INFINITE_SSTHRESH;
	s->reordering = tcp->config.reordering;
	s->reordering_seen = 0;
	s->rack_reo_steps = 1;
	s->rack_reo_persist = 0;
	s->recovery = TCP_RECOVERY_OPEN;
	memset(&s->role.cubic, 0, sizeof(s->role.cubic));
	if (ops->init != NULL)
		ops->init(tcp, s);
}

// RFC 5681 section 4.1, decayed by half for each RTO of silence (RFC 2861 in part).
void tcp_restart_window(struct tcp *tcp, struct tcp_socket *s)
{
	uint32_t rto_ms = s->rto_us / 1000 != 0 ? s->rto_us / 1000 : 1;
	uint32_t idle_ms = tcp_now_ms(tcp) - s->last_sent_ms;
	uint32_t floor = tcp->config.initial_cwnd < s->cwnd ? tcp->config.initial_cwnd : s->cwnd;

	s->ssthresh = congestion_ssthresh(s);
	for (; idle_ms > rto_ms && s->cwnd > floor; idle_ms -= rto_ms)
		s->cwnd >>= 1;
	if (s->cwnd < floor)
		s->cwnd = floor;
}
