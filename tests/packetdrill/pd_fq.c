// The fair queue of Linux (tc-fq(8)) as far as one connection sees it: data leaves at the connection's pacing rate,
// cwnd per round trip times 2 in slow start and 1.2 after it; the first ten segments leave at once.
#include "pd_so.h"

#include <netinet/in.h>
#include "base/bytes.h"

enum { UNPACED_SEGMENTS = 10, SLOW_START_PERCENT = 200, AVOIDANCE_PERCENT = 120 };

static const struct tcp_socket *find(const struct pd_world *w, uint16_t local_port, uint16_t remote_port, uint64_t *number)
{
	for (uint64_t i = 0; i < w->state->tcp_used && i < PD_PACED; i++) {
		const struct tcp_socket *s = &w->state->tcp[i];
		*number = i;
		if (s->cookie != 0 && s->local_port == local_port && s->remote_port == remote_port)
			return s;
	}
	return NULL;
}

// Bytes a second.
static uint64_t rate_of(const struct tcp_socket *s)
{
	uint64_t percent = s->cwnd < s->ssthresh / 2 ? SLOW_START_PERCENT : AVOIDANCE_PERCENT;
	return (uint64_t)s->mss * s->cwnd * 8000000 / s->srtt_us * percent / 100;
}

uint64_t pd_departure(struct pd_world *w, const uint8_t *ip, uint32_t length)
{
	uint32_t at = ip[0] >> 4 == 4 ? (ip[0] & 0x0fu) * 4 : 40;
	uint32_t headers = at + (uint32_t)(ip[at + 12] >> 4) * 4;
	uint64_t number;
	const struct tcp_socket *s = find(w, load16(ip + at), load16(ip + at + 2), &number);
	if (s == NULL || s->srtt_us == 0 || s->mss == 0 || rate_of(s) == 0 || length <= headers)
		return w->now;
	uint64_t *next = &w->paced_at[number], before = *next;
	uint64_t departure = before > w->now ? before : w->now;
	*next = departure;
	if (s->bytes_sent >= (uint64_t)UNPACED_SEGMENTS * s->mss) {
		// A sender that was idle has up to half a packet's time to its credit.
		uint64_t busy = length * PD_S / rate_of(s), credit = departure - before;
		*next += busy - (credit < busy / 2 ? credit : busy / 2);
	}
	return departure;
}
