// Connections that only wait for stray segments: TIME-WAIT, and FIN-WAIT-2 of those that nobody
// owns any more (RFC 9293 section 3.6.1, RFC 1337, RFC 6191).
//
// A record of 60 bytes takes the connection's place; with its share of the hash that is less than 64 where
// there are 10,000.  Records end by a wheel of TCP_WHEEL lists, so that making, ending and removing one costs
// the same however many there are; the table being full, the one that would end first makes room.  What
// few of them need (struct tcp_timewait_more) stands beside them.
#include "host/tcp_internal.h"

enum { TIMEWAIT_FLAG_BITS = 4, ISS_DISTANCE = 65535 + 2 };

#define WHEEL_NS (TCP_WHEEL_MS * TCP_MS)

_Static_assert((int)MAX_TCP_TIMEWAITS <= UINT16_MAX, "a link has 16 bits");
_Static_assert(TCP_WHEEL * TCP_WHEEL_MS == UINT16_MAX + 1, "ends_ms wraps with the wheel");

static struct tcp_timewait *record_at(const struct tcp *tcp, uint32_t record)
{
	return &tcp->timewaits[record - 1];
}

static uint16_t record_number(const struct tcp *tcp, const struct tcp_timewait *timewait)
{
	return (uint16_t)(timewait - tcp->timewaits + 1);
}

static uint16_t *head_of(const struct tcp *tcp, const uint8_t *local, uint16_t local_port, const uint8_t *remote,
	uint16_t remote_port)
{
	return &tcp->timewait_heads[tcp_hash(tcp, local, local_port, remote, remote_port) % TCP_TIMEWAIT_HASH];
}

static uint16_t *head_of_record(const struct tcp *tcp, const struct tcp_timewait *timewait)
{
	return head_of(tcp, timewait->local, timewait->local_port, timewait->remote, timewait->remote_port);
}

// --- what stands beside a record ---

static struct tcp_timewait_more more_of(const struct tcp *tcp, const struct tcp_timewait *timewait)
{
	if (!(timewait->flags & TCP_TIMEWAIT_MORE))
		return (struct tcp_timewait_more){0};
	return tcp->timewait_more[timewait - tcp->timewaits];
}

static void more_set(struct tcp *tcp, struct tcp_timewait *timewait, const struct tcp_timewait_more *more)
{
	static const struct tcp_timewait_more none;

	if (!(timewait->flags & TCP_TIMEWAIT_MORE) && memcmp(more, &none, sizeof(none)) == 0)
		return;
	timewait->flags |= TCP_TIMEWAIT_MORE;
	tcp->timewait_more[timewait - tcp->timewaits] = *more;
}

// --- the wheel ---

static uint32_t wheel_list(const struct tcp_timewait *timewait)
{
	return (timewait->ends_ms + TCP_WHEEL_MS - 1u) / TCP_WHEEL_MS % TCP_WHEEL;
}

static void wheel_insert(struct tcp *tcp, struct tcp_timewait *timewait)
{
	uint32_t list = wheel_list(timewait);

	timewait->next = tcp->timewait_wheel[list];
	timewait->previous = 0;
	if (timewait->next != 0)
		record_at(tcp, timewait->next)->previous = record_number(tcp, timewait);
	tcp->timewait_wheel[list] = record_number(tcp, timewait);
	tcp->timewait_occupied[list / 64] |= 1ull << list % 64;
}

static void wheel_remove(struct tcp *tcp, struct tcp_timewait *timewait)
{
	uint32_t list = wheel_list(timewait);

	if (timewait->next != 0)
		record_at(tcp, timewait->next)->previous = timewait->previous;
	if (timewait->previous != 0)
		record_at(tcp, timewait->previous)->next = timewait->next;
	else
		tcp->timewait_wheel[list] = timewait->next;
	if (tcp->timewait_wheel[list] == 0)
		tcp->timewait_occupied[list / 64] &= ~(1ull << list % 64);
}

// The first list from `tick` on that is not empty, as its tick; there is one.
static uint64_t wheel_next(const struct tcp *tcp, uint64_t tick)
{
	for (;;) {
		uint64_t bits = tcp->timewait_occupied[tick % TCP_WHEEL / 64] >> tick % 64;
		if (bits != 0)
			return tick + (uint64_t)__builtin_ctzll(bits);
		tick = (tick / 64 + 1) * 64;
	}
}

static void set_end(struct tcp *tcp, struct tcp_timewait *timewait, uint64_t life_ns)
{
	struct tcp_timewait_more more = more_of(tcp, timewait);
	// At least the next millisecond: what ends now would be met when the wheel has gone round.
	uint64_t ends = tcp_now(tcp) / TCP_MS + life_ns / TCP_MS + 1;
	uint64_t tick = (ends + TCP_WHEEL_MS - 1) / TCP_WHEEL_MS;

	timewait->ends_ms = (uint16_t)ends;
	more.turns = (uint32_t)((tick - tcp->timewait_tick - 1) / TCP_WHEEL);
	more_set(tcp, timewait, &more);
}

// All bits of the time it ends, ms: the wheel comes to each list within its next turn.
static uint64_t end_of(const struct tcp *tcp, const struct tcp_timewait *timewait)
{
	uint64_t first = tcp->timewait_tick + 1;
	uint64_t tick = first + (wheel_list(timewait) - first) % TCP_WHEEL;

	tick += (uint64_t)more_of(tcp, timewait).turns * TCP_WHEEL;
	return tick * TCP_WHEEL_MS - (0u - timewait->ends_ms) % TCP_WHEEL_MS;
}

static void restart(struct tcp *tcp, struct tcp_timewait *timewait)
{
	wheel_remove(tcp, timewait);
	set_end(tcp, timewait, tcp->config.timewait_s * 1000 * TCP_MS);
	wheel_insert(tcp, timewait);
}

void tcp_timewait_remove(struct tcp *tcp, struct tcp_timewait *timewait)
{
	uint16_t number = record_number(tcp, timewait), *at = head_of_record(tcp, timewait);

	while (*at != number)
		at = &record_at(tcp, *at)->hash_next;
	*at = timewait->hash_next;
	wheel_remove(tcp, timewait);
	tcp_auth_put(tcp, more_of(tcp, timewait).key);
	more_set(tcp, timewait, &(struct tcp_timewait_more){0});
	timewait->state = timewait->flags = 0;
	timewait->hash_next = tcp->timewait_free;
	tcp->timewait_free = number;
	tcp->timewait_count--;
}

void tcp_timewait_tick(struct tcp *tcp)
{
	uint64_t now = tcp_now(tcp) / WHEEL_NS;

	while (tcp->timewait_count > 0) {
		uint64_t tick = wheel_next(tcp, tcp->timewait_tick + 1);
		if (tick > now)
			break;
		tcp->timewait_tick = tick;
		uint32_t next = tcp->timewait_wheel[tick % TCP_WHEEL];
		while (next != 0) {
			struct tcp_timewait *timewait = record_at(tcp, next);
			struct tcp_timewait_more more = more_of(tcp, timewait);
			next = timewait->next;
			if (more.turns-- > 0)
				more_set(tcp, timewait, &more);
			else
				tcp_timewait_remove(tcp, timewait);
		}
	}
	tcp->timewait_tick = now;
}

uint64_t tcp_timewait_deadline(const struct tcp *tcp)
{
	return tcp->timewait_count == 0 ? UINT64_MAX : wheel_next(tcp, tcp->timewait_tick + 1) * WHEEL_NS;
}

// --- making and finding records ---

static struct tcp_timewait *record_new(struct tcp *tcp)
{
	uint64_t *used = &tcp->host->state->tcp_timewaits_used;

	tcp_timewait_tick(tcp); // the wheel stands where the clock does: no life of 65 s or less goes round it
	if (tcp->timewait_free == 0 && *used >= MAX_TCP_TIMEWAITS)
		tcp_timewait_remove(tcp, record_at(tcp, tcp->timewait_wheel[wheel_next(tcp, tcp->timewait_tick + 1) % TCP_WHEEL]));
	uint16_t number = tcp->timewait_free;
	if (number != 0)
		tcp->timewait_free = record_at(tcp, number)->hash_next;
	else {
		number = (uint16_t)(*used + 1);
		__atomic_store_n(used, number, __ATOMIC_RELEASE);
	}
	tcp->timewait_count++;
	return record_at(tcp, number);
}

// The rest of the window that the peer may still use, as its header would say it.
static uint16_t window_left(const struct tcp_socket *s)
{
	uint32_t left = s->rcv_wup + s->rcv_wnd - s->rcv_nxt;

	left = (int32_t)left < 0 ? 0 : left >> s->rcv_wscale;
	return (uint16_t)(left < UINT16_MAX ? left : UINT16_MAX);
}

void tcp_timewait_enter(struct tcp *tcp, struct tcp_socket *s, enum tcp_state state, uint64_t life_ns)
{
	struct tcp_timewait *timewait = record_new(tcp);
	const struct tcp_timewait_more more = {.tos = s->tos, .key = tcp_auth_key(tcp, s, s->remote, s->interface)};

	memcpy(timewait->local, s->local, sizeof(timewait->local));
	memcpy(timewait->remote, s->remote, sizeof(timewait->remote));
	timewait->local_port = s->local_port;
	timewait->remote_port = s->remote_port;
	timewait->rcv_nxt = s->rcv_nxt;
	timewait->snd_nxt = s->snd_nxt;
	timewait->ts_recent = s->ts_recent;
	timewait->window = window_left(s);
	timewait->flags = (uint8_t)(s->rcv_wscale << TIMEWAIT_FLAG_BITS | (s->flags & TCP_TIMESTAMPS ? TCP_TIMEWAIT_TIMESTAMPS : 0) |
		(s->wire_family == FAMILY_IPV6 ? TCP_TIMEWAIT_IPV6 : 0));
	timewait->state = (uint8_t)state;
	more_set(tcp, timewait, &more);
	tcp_auth_hold(tcp, more.key);
	uint16_t *head = head_of_record(tcp, timewait);
	timewait->hash_next = *head;
	*head = record_number(tcp, timewait);
	set_end(tcp, timewait, life_ns);
	wheel_insert(tcp, timewait);
	tcp_set_state(tcp, s, TCP_STATE_CLOSED);
}

struct tcp_timewait *tcp_find_timewait(const struct tcp *tcp, const uint8_t *local, uint16_t local_port, const uint8_t *remote,
	uint16_t remote_port)
{
	uint32_t at = *head_of(tcp, local, local_port, remote, remote_port);

	for (; at != 0; at = record_at(tcp, at)->hash_next) {
		struct tcp_timewait *timewait = record_at(tcp, at);
		if (timewait->remote_port == remote_port && timewait->local_port == local_port &&
		    address_equal(timewait->remote, remote) && address_equal(timewait->local, local))
			return timewait;
	}
	return NULL;
}

bool tcp_timewait_reuse(struct tcp *tcp, const struct tcp_socket *s)
{
	struct tcp_timewait *timewait = tcp_find_timewait(tcp, s->local, s->local_port, s->remote, s->remote_port);
	if (timewait == NULL)
		return true;
	// RFC 6191 section 2, seen from the active side: timestamps of the new connection are newer than all of the old one's.
	uint64_t life_ms = tcp->config.timewait_s * 1000ull;
	if (!tcp->config.timewait_reuse || !tcp->config.timestamps || timewait->state != TCP_STATE_TIME_WAIT ||
	    !(timewait->flags & TCP_TIMEWAIT_TIMESTAMPS) || tcp_now(tcp) / TCP_MS + life_ms <= end_of(tcp, timewait) + 1000)
		return false;
	tcp_timewait_remove(tcp, timewait);
	return true;
}

// --- what arrives ---

static void answer(struct tcp *tcp, const struct tcp_timewait *timewait, const struct tcp_arrival *arrival, uint8_t flags)
{
	const struct tcp_timewait_more more = more_of(tcp, timewait);
	struct tcp_reply reply = {
		.seq = timewait->snd_nxt, .ack = timewait->rcv_nxt, .flags = flags, .window = timewait->window,
		.tos = more.tos, .key = more.key,
	};

	if (flags & TCP_RST) { // RFC 9293 section 3.10.7.1
		bool acknowledges = arrival->flags & TCP_ACK;
		reply.seq = acknowledges ? arrival->ack : 0;
		reply.flags = acknowledges ? TCP_RST : TCP_RST | TCP_ACK;
		reply.ack = acknowledges ? 0 : arrival->end;
		reply.window = 0;
	} else if (timewait->flags & TCP_TIMEWAIT_TIMESTAMPS) {
		uint32_t offset = tcp->config.timestamps == 1 ? tcp_timestamp_offset(tcp, timewait->local, timewait->remote) : 0;
		reply.timestamp = true;
		reply.tsval = tcp_now_ms(tcp) + offset;
		reply.tsecr = timewait->ts_recent;
	}
	tcp_reply(tcp, arrival, &reply);
}

// RFC 5961 section 7: an ACK for what does not fit, but not for each of a stream of them.
static enum drop_reason answer_stray(struct tcp *tcp, struct tcp_timewait *timewait, const struct tcp_arrival *arrival)
{
	struct tcp_timewait_more more = more_of(tcp, timewait);
	uint32_t now = tcp_now_ms(tcp);

	if (!more.answered || now - more.answered_ms >= tcp->config.stray_interval_ms) {
		more.answered = true;
		more.answered_ms = now;
		more_set(tcp, timewait, &more);
		answer(tcp, timewait, arrival, TCP_ACK);
	}
	return DROP_TCP_STRAY;
}

static void take_timestamp(struct tcp_timewait *timewait, const struct tcp_arrival *arrival)
{
	if (arrival->options.has_timestamp)
		timewait->ts_recent = arrival->options.tsval;
}

// RFC 9293 section 3.10.7.4, first step.
static bool in_window(const struct tcp_timewait *timewait, const struct tcp_arrival *arrival)
{
	uint32_t last = timewait->rcv_nxt + ((uint32_t)timewait->window << (timewait->flags >> TIMEWAIT_FLAG_BITS));

	return arrival->seq == timewait->rcv_nxt ||
		(seq_after(arrival->end, timewait->rcv_nxt) && seq_before(arrival->seq, last));
}

// Our FIN was acknowledged, the peer's is still to come; nobody would read what came before it.
static enum drop_reason half_closed_input(struct tcp *tcp, struct tcp_timewait *timewait, struct tcp_arrival *arrival, bool old)
{
	if (old || !in_window(timewait, arrival))
		return arrival->flags & TCP_RST ? DROP_TCP_STRAY : answer_stray(tcp, timewait, arrival);
	if (arrival->flags & TCP_RST) {
		if (arrival->seq != timewait->rcv_nxt) // RFC 5961 section 3.2
			return answer_stray(tcp, timewait, arrival);
		tcp_timewait_remove(tcp, timewait);
		return DROP_TCP_RESET;
	}
	if (arrival->flags & TCP_SYN) // RFC 5961 section 4.2
		return answer_stray(tcp, timewait, arrival);
	if (arrival->end == arrival->seq || !seq_after(arrival->end, timewait->rcv_nxt))
		return DROP_NONE;
	if (!(arrival->flags & TCP_FIN) || arrival->end != timewait->rcv_nxt + 1) { // RFC 1122 section 4.2.2.13
		answer(tcp, timewait, arrival, TCP_RST);
		tcp_timewait_remove(tcp, timewait);
		return DROP_TCP_CLOSED;
	}
	timewait->state = TCP_STATE_TIME_WAIT;
	timewait->rcv_nxt = arrival->end;
	take_timestamp(timewait, arrival);
	restart(tcp, timewait);
	answer(tcp, timewait, arrival, TCP_ACK);
	return DROP_NONE;
}

// RFC 1122 section 4.2.2.13, RFC 6191 section 2.
static bool reopens(const struct tcp_timewait *timewait, const struct tcp_arrival *arrival)
{
	if ((arrival->flags & (TCP_SYN | TCP_RST | TCP_ACK | TCP_FIN)) != TCP_SYN)
		return false;
	if (seq_after(arrival->seq, timewait->rcv_nxt))
		return true;
	return (timewait->flags & TCP_TIMEWAIT_TIMESTAMPS) && arrival->options.has_timestamp &&
		seq_after(arrival->options.tsval, timewait->ts_recent);
}

static enum drop_reason waiting_input(struct tcp *tcp, struct tcp_timewait *timewait, struct tcp_arrival *arrival, bool old, uint32_t *iss)
{
	bool bare = arrival->seq == arrival->end;

	if (!old && arrival->seq == timewait->rcv_nxt && (arrival->flags & TCP_RST)) {
		if (!tcp->config.rfc1337) // RFC 1337 section 3, fix F1: assassination may be forbidden
			tcp_timewait_remove(tcp, timewait);
		return DROP_TCP_RESET;
	}
	if (!old && arrival->seq == timewait->rcv_nxt && bare) {
		take_timestamp(timewait, arrival);
		restart(tcp, timewait);
		return DROP_NONE;
	}
	if (!old && reopens(timewait, arrival) &&
	    tcp_find_listener(tcp, arrival->local, timewait->local_port, arrival->in->flow.interface, 0) != NULL) {
		*iss = timewait->snd_nxt + ISS_DISTANCE; // beyond all that the old connection could have sent
		if (*iss == 0)
			*iss = 1;
		tcp_timewait_remove(tcp, timewait);
		return DROP_REASON_COUNT;
	}
	if (arrival->flags & TCP_RST) // RFC 5961 section 3.2
		return in_window(timewait, arrival) ? answer_stray(tcp, timewait, arrival) : DROP_TCP_STRAY;
	// Not for a lone SYN: that may be a new connection whose number happens to be lower.
	if (old || (arrival->flags & TCP_ACK))
		restart(tcp, timewait);
	return answer_stray(tcp, timewait, arrival);
}

enum drop_reason tcp_timewait_input(struct tcp *tcp, struct tcp_timewait *timewait, struct tcp_arrival *arrival, uint32_t *iss)
{
	enum drop_reason reason = tcp_auth_check(tcp, more_of(tcp, timewait).key, arrival);
	if (reason != DROP_NONE) {
		tcp_count(tcp, TCP_STAT_AUTH_FAILED);
		return reason;
	}
	if (!(arrival->flags & (TCP_ACK | TCP_RST | TCP_SYN)))
		return DROP_TCP_STRAY;
	// PAWS (RFC 7323 section 5.3); a RST need not carry timestamps (section 5.2).
	bool old = (timewait->flags & TCP_TIMEWAIT_TIMESTAMPS) && arrival->options.has_timestamp && !(arrival->flags & TCP_RST) &&
		seq_before(arrival->options.tsval, timewait->ts_recent);
	if (old)
		tcp_count(tcp, TCP_STAT_PAWS);
	return timewait->state == TCP_STATE_FIN_WAIT_2 ? half_closed_input(tcp, timewait, arrival, old)
		: waiting_input(tcp, timewait, arrival, old, iss);
}
