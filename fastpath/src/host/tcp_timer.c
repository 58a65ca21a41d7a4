// Deadlines of connections and half-open connections: a heap of four children a node, with one item
// for each socket or request, whatever timers it has.
//
//   retransmit_at, ack_at, keep_at of a socket --> the earliest --> its item --> tcp_tick
//
// An item moves up when its deadline becomes earlier, but stays where it is when that becomes later or
// goes away: an item that is reached too soon is put where it belongs then.  So the timers that each
// ACK pushes back cost nothing, and tcp_deadline may be too early, never too late.
#include "host/tcp_internal.h"

enum { CHILDREN = 4 };

static uint32_t *item_position(const struct tcp *tcp, uint32_t id)
{
	return id & TCP_HEAP_REQUEST ? &tcp->requests[id & ~TCP_HEAP_REQUEST].heap_position : &tcp->sockets[id].heap_position;
}

static void place_item(struct tcp *tcp, uint32_t at, struct tcp_heap_item item)
{
	tcp->heap[at] = item;
	*item_position(tcp, item.id) = at + 1;
}

static void move_up(struct tcp *tcp, uint32_t at, struct tcp_heap_item item)
{
	while (at > 0 && tcp->heap[(at - 1) / CHILDREN].at > item.at) {
		place_item(tcp, at, tcp->heap[(at - 1) / CHILDREN]);
		at = (at - 1) / CHILDREN;
	}
	place_item(tcp, at, item);
}

static void move_down(struct tcp *tcp, uint32_t at, struct tcp_heap_item item)
{
	for (uint32_t first; (first = at * CHILDREN + 1) < tcp->heap_count;) {
		uint32_t least = first;
		for (uint32_t child = first + 1; child < first + CHILDREN && child < tcp->heap_count; child++)
			if (tcp->heap[child].at < tcp->heap[least].at)
				least = child;
		if (tcp->heap[least].at >= item.at)
			break;
		place_item(tcp, at, tcp->heap[least]);
		at = least;
	}
	place_item(tcp, at, item);
}

static void remove_item(struct tcp *tcp, uint32_t *position)
{
	uint32_t at = *position - 1;

	if (*position == 0)
		return;
	*position = 0;
	struct tcp_heap_item last = tcp->heap[--tcp->heap_count];
	if (at == tcp->heap_count)
		return;
	if (at > 0 && tcp->heap[(at - 1) / CHILDREN].at > last.at)
		move_up(tcp, at, last);
	else
		move_down(tcp, at, last);
}

static void schedule(struct tcp *tcp, uint32_t id, uint64_t at)
{
	uint32_t position = *item_position(tcp, id);
	struct tcp_heap_item item = {.at = at, .id = id};

	if (position == 0)
		move_up(tcp, tcp->heap_count++, item);
	else if (at < tcp->heap[position - 1].at)
		move_up(tcp, position - 1, item);
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return b != 0 && b < a ? b : a;
}

static uint64_t socket_deadline(const struct tcp_socket *s)
{
	return earlier(earlier(earlier(UINT64_MAX, s->retransmit_at), s->ack_at), s->keep_at);
}

void timer_changed(struct tcp *tcp, struct tcp_socket *s)
{
	uint64_t at = socket_deadline(s);
	if (at != UINT64_MAX)
		schedule(tcp, tcp_index(tcp, s), at);
}

void timer_arm(struct tcp *tcp, struct tcp_socket *s, enum tcp_pending_timer what, uint64_t at)
{
	// Never in the present: a tick must come to an end.
	s->retransmit_at = at > tcp_now(tcp) ? at : tcp_now(tcp) + 1;
	s->pending_timer = (uint8_t)what;
	schedule(tcp, tcp_index(tcp, s), s->retransmit_at);
}

void timer_stop(struct tcp *tcp, struct tcp_socket *s)
{
	(void)tcp;
	s->retransmit_at = 0;
	s->pending_timer = TCP_TIMER_NONE;
}

void timer_off(struct tcp *tcp, struct tcp_socket *s)
{
	timer_stop(tcp, s);
	s->ack_at = 0;
	s->keep_at = 0;
	remove_item(tcp, &s->heap_position);
}

void timer_request(struct tcp *tcp, struct tcp_request *request, uint64_t at)
{
	request->deadline_ns = at;
	if (at == 0)
		remove_item(tcp, &request->heap_position);
	else
		schedule(tcp, (uint32_t)(request - tcp->requests) | TCP_HEAP_REQUEST, at);
}

uint64_t tcp_rto_ns(const struct tcp *tcp, const struct tcp_socket *s)
{
	uint64_t rto = s->rto_us != 0 ? s->rto_us : tcp->config.initial_rto_us, most = tcp->config.max_rto_us;

	for (uint32_t i = 0; i < s->backoff && rto < most; i++)
		rto *= 2;
	return (rto < most ? rto : most) * 1000;
}

int64_t tcp_rto_left(const struct tcp *tcp, const struct tcp_socket *s)
{
	const struct tcp_segment *head = segment_at(tcp, tcp_flight(tcp, s)->segment_head);
	uint64_t from = head != NULL ? head->sent_ns : tcp_now(tcp);

	return (int64_t)(from + tcp_rto_ns(tcp, s) - tcp_now(tcp));
}

void timer_rearm_rto(struct tcp *tcp, struct tcp_socket *s)
{
	if (tcp_flight(tcp, s)->packets_out == 0) {
		timer_stop(tcp, s);
		return;
	}
	int64_t left = (int64_t)tcp_rto_ns(tcp, s);
	if (s->pending_timer == TCP_TIMER_REORDER || s->pending_timer == TCP_TIMER_TLP)
		left = tcp_rto_left(tcp, s);
	timer_arm(tcp, s, TCP_TIMER_RTO, tcp_now(tcp) + (left > 0 ? (uint64_t)left : 1));
}

void timer_rearm(struct tcp *tcp, struct tcp_socket *s)
{
	if (!tcp_arm_tail_probe(tcp, s, true))
		timer_rearm_rto(tcp, s);
}

static bool still_open(const struct tcp_socket *s, uint64_t cookie)
{
	return s->cookie == cookie && s->state != TCP_STATE_CLOSED;
}

static void run_retransmit_timer(struct tcp *tcp, struct tcp_socket *s)
{
	uint64_t cookie = s->cookie;
	enum tcp_pending_timer what = s->pending_timer;

	s->retransmit_at = 0;
	switch (what) {
	case TCP_TIMER_RTO:
		s->pending_timer = TCP_TIMER_NONE;
		tcp_retransmit_timeout(tcp, s);
		break;
	case TCP_TIMER_PROBE0:
		s->pending_timer = TCP_TIMER_NONE;
		tcp_probe_timeout(tcp, s);
		break;
	case TCP_TIMER_TLP:
		tcp_send_tail_probe(tcp, s);
		break;
	case TCP_TIMER_REORDER:
		tcp_rack_timeout(tcp, s);
		break;
	case TCP_TIMER_NONE:
		break;
	}
	// What is in flight is never without a timer.
	if (still_open(s, cookie) && s->retransmit_at == 0)
		timer_rearm_rto(tcp, s);
}

static void run_socket(struct tcp *tcp, struct tcp_socket *s)
{
	uint64_t cookie = s->cookie, now = tcp_now(tcp);

	if (s->ack_at != 0 && s->ack_at <= now)
		tcp_ack_timeout(tcp, s);
	if (still_open(s, cookie) && s->retransmit_at != 0 && s->retransmit_at <= now)
		run_retransmit_timer(tcp, s);
	if (still_open(s, cookie) && s->keep_at != 0 && s->keep_at <= now)
		tcp_keep_timeout(tcp, s);
	if (still_open(s, cookie))
		timer_changed(tcp, s);
}

static void run_item(struct tcp *tcp, uint32_t id, uint64_t deadline)
{
	remove_item(tcp, item_position(tcp, id));
	if (deadline > tcp_now(tcp)) {
		if (deadline != UINT64_MAX)
			schedule(tcp, id, deadline);
	} else if (id & TCP_HEAP_REQUEST) {
		tcp_request_timeout(tcp, &tcp->requests[id & ~TCP_HEAP_REQUEST]);
	} else {
		run_socket(tcp, &tcp->sockets[id]);
	}
}

void tcp_tick(struct tcp *tcp)
{
	while (tcp->heap_count > 0 && tcp->heap[0].at <= tcp_now(tcp)) {
		uint32_t id = tcp->heap[0].id;
		uint64_t deadline = id & TCP_HEAP_REQUEST ? earlier(UINT64_MAX, tcp->requests[id & ~TCP_HEAP_REQUEST].deadline_ns)
			: socket_deadline(&tcp->sockets[id]);
		run_item(tcp, id, deadline);
	}
	tcp_timewait_tick(tcp);
}

uint64_t tcp_deadline(const struct tcp *tcp)
{
	uint64_t deadline = tcp->heap_count > 0 ? tcp->heap[0].at : UINT64_MAX;
	return earlier(deadline, tcp_timewait_deadline(tcp));
}
