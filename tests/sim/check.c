// What must hold between any two events, looked up in the stack's own records.
#include "check.h"

#include <stdarg.h>
#include <stdio.h>

enum { HEAP_CHILDREN = 4 }; // of tcp_timer.c

struct tally {
	uint32_t packets, sacked, lost, retransmitted;
};

// What all sockets together hold.
struct holding {
	uint32_t blocks, segments, ranges, flights, keys, orphans;
};

__attribute__((format(printf, 2, 3))) static void fail(const struct check *check, const char *format, ...)
{
	char text[300];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	check->fail(check->user, text);
}

static void complain(const struct check *check, const struct tcp_socket *s, const char *what)
{
	const struct tcp_flight *f = tcp_flight(check->tcp, s);

	fail(check, "slot %u state %u recovery %u: %s (una %u nxt %u write %u iss %u; out %u sacked %u lost %u retrans %u; timer %u)",
		tcp_slot(check->tcp, s), s->state, s->recovery, what, s->snd_una - s->iss, s->snd_nxt - s->iss,
		s->write_seq - s->iss, s->iss, f->packets_out, f->sacked_out, f->lost_out, f->retrans_out, s->pending_timer);
}

// --- one connection ---

static struct tally count_segments(const struct check *check, const struct tcp_socket *s)
{
	const struct tcp *tcp = check->tcp;
	const struct tcp_flight *f = tcp_flight(tcp, s);
	struct tally tally = {0};
	uint32_t expected = 0, previous = 0;

	for (uint32_t at = f->segment_head; at != 0; previous = at, at = segment_at(tcp, at)->next) {
		const struct tcp_segment *segment = segment_at(tcp, at);
		if (at == f->segment_head ? seq_after(segment->seq, s->snd_una) || !seq_after(segment->end, s->snd_una) : segment->seq != expected)
			complain(check, s, "records of what is in flight do not join");
		if (segment->previous != previous || !seq_after(segment->end, segment->seq) || segment->count == 0)
			complain(check, s, "a broken record");
		if ((segment->flags & SEGMENT_SACKED) && (segment->flags & (SEGMENT_LOST | SEGMENT_RETRANSMITTED)))
			complain(check, s, "a record that is SACKed and lost");
		expected = segment->end;
		tally.packets += segment->count;
		tally.sacked += segment->flags & SEGMENT_SACKED ? segment->count : 0;
		tally.lost += segment->flags & SEGMENT_LOST ? segment->count : 0;
		tally.retransmitted += segment->flags & SEGMENT_RETRANSMITTED ? segment->count : 0;
	}
	if (f->segment_tail != previous)
		complain(check, s, "the last record is not the last");
	if (previous != 0 && expected != s->snd_nxt)
		complain(check, s, "records end before snd_nxt");
	return tally;
}

static void check_sending(const struct check *check, const struct tcp_socket *s)
{
	const struct tcp_flight *f = tcp_flight(check->tcp, s);
	uint32_t last = s->write_seq + !!(s->flags & TCP_FIN_SENT);
	struct tally tally = count_segments(check, s);

	if (seq_after(s->snd_una, s->snd_nxt) || seq_after(s->snd_nxt, last))
		complain(check, s, "snd_una <= snd_nxt <= write_seq does not hold");
	if (tcp_synchronized(s) && s->snd_nxt - s->snd_una > s->max_window + 1)
		complain(check, s, "more in flight than the peer ever allowed");
	if (tally.packets != f->packets_out || tally.lost != f->lost_out || tally.retransmitted != f->retrans_out)
		complain(check, s, "counters and records differ");
	if ((s->flags & TCP_SACK_OK) && tally.sacked != f->sacked_out)
		complain(check, s, "sacked_out and records differ");
	if (f->sacked_out + f->lost_out > f->packets_out)
		complain(check, s, "more SACKed and lost than in flight");
	if ((f->segment_head == 0) != (s->snd_una == s->snd_nxt))
		complain(check, s, "in flight without a record, or the reverse");
	if (tcp_synchronized(s) && (s->cwnd == 0 || s->mss == 0))
		complain(check, s, "a connection that may send nothing, ever");
}

// All blocks of the send queue are full but for the ends, or bytes are looked for in the wrong place.
static void check_queue(const struct check *check, const struct tcp_socket *s)
{
	const struct tcp *tcp = check->tcp;
	const struct tcp_flight *f = tcp_flight(tcp, s);
	uint32_t room = 0;

	for (uint32_t at = f->snd_block_head; at != 0; at = tcp->block_next[at - 1])
		room += TCP_BLOCK;
	uint32_t held = room == 0 ? 0 : room - f->snd_head_offset - ((uint32_t)TCP_BLOCK - f->snd_tail_used);
	if (held != s->write_seq - f->snd_data_seq)
		complain(check, s, "blocks and numbers of the send queue differ");
	if (f->rcv_queued + f->packets_bytes != s->rcv_nxt - !!(s->flags & TCP_FIN_RECEIVED) - s->copied_seq)
		complain(check, s, "blocks and numbers of the receive queue differ");
}

static void check_receiving(const struct check *check, const struct tcp_socket *s)
{
	const struct tcp *tcp = check->tcp;
	uint32_t next = s->rcv_nxt, previous = 0;

	if (s->state == TCP_STATE_SYN_SENT)
		return;
	if (seq_after(s->copied_seq, s->rcv_nxt) || seq_after(s->rcv_wup, s->rcv_nxt))
		complain(check, s, "copied_seq or rcv_wup is beyond rcv_nxt");
	for (uint32_t at = tcp_flight(tcp, s)->range_head; at != 0; previous = at, at = range_at(tcp, at)->next) {
		const struct tcp_range *range = range_at(tcp, at);
		if (seq_before(range->seq, next) && previous != 0)
			complain(check, s, "ranges beyond gaps overlap");
		if (previous == 0 && !seq_after(range->seq, next))
			complain(check, s, "a range that is in order");
		next = range->end;
	}
}

// Whatever waits for the peer must have a timer, or a lost segment stops the connection for ever.
static void check_timers(const struct check *check, const struct tcp_socket *s)
{
	const struct tcp_flight *f = tcp_flight(check->tcp, s);
	bool armed = s->retransmit_at != 0 && s->pending_timer != TCP_TIMER_NONE;

	if (f->packets_out > 0 && !armed)
		complain(check, s, "unacknowledged and no timer");
	if (f->packets_out == 0 && tcp_synchronized(s) && tcp_unsent(s) > 0 && !armed && !(s->flags & (TCP_CORK_SET | TCP_DIRTY)))
		complain(check, s, "unsent and no timer");
	if ((s->flags & TCP_ACK_PENDING) && s->ack_at == 0 && !(s->flags & TCP_DIRTY) && f->packets_out == 0)
		complain(check, s, "an ACK is due and no timer runs");
	bool timed = s->retransmit_at != 0 || s->ack_at != 0 || s->keep_at != 0;
	if (timed && s->heap_position == 0)
		complain(check, s, "a timer that is not in the heap");
}

// --- timers ---

static uint64_t item_time(const struct tcp *tcp, uint32_t id)
{
	if (id & TCP_HEAP_REQUEST)
		return tcp->requests[id & ~TCP_HEAP_REQUEST].deadline_ns;
	const struct tcp_socket *s = &tcp->sockets[id];
	uint64_t at = UINT64_MAX;
	if (s->retransmit_at != 0)
		at = s->retransmit_at;
	if (s->ack_at != 0 && s->ack_at < at)
		at = s->ack_at;
	return s->keep_at != 0 && s->keep_at < at ? s->keep_at : at;
}

static void check_heap(const struct check *check)
{
	const struct tcp *tcp = check->tcp;

	for (uint32_t i = 0; i < tcp->heap_count; i++) {
		const struct tcp_heap_item *item = &tcp->heap[i];
		uint32_t position = item->id & TCP_HEAP_REQUEST ? tcp->requests[item->id & ~TCP_HEAP_REQUEST].heap_position
			: tcp->sockets[item->id].heap_position;
		if (position != i + 1)
			fail(check, "heap item %u is not where its owner thinks", i);
		if (i > 0 && tcp->heap[(i - 1) / HEAP_CHILDREN].at > item->at)
			fail(check, "the heap has lost its order");
		if (item->at > item_time(tcp, item->id))
			fail(check, "a timer that would run too late");
	}
}

void check_connections(const struct check *check)
{
	static const struct tcp_flight zero;
	const struct tcp *tcp = check->tcp;

	if (tcp->flights != NULL && memcmp(&tcp->flights[0], &zero, sizeof(zero)) != 0)
		fail(check, "the flight of all idle connections was written to");
	for (uint64_t i = 0; i < tcp->host->state->tcp_used; i++) {
		const struct tcp_socket *s = &tcp->sockets[i];
		if (s->cookie == 0 || s->state == TCP_STATE_CLOSED || s->state == TCP_STATE_LISTEN)
			continue;
		check_sending(check, s);
		check_receiving(check, s);
		check_timers(check, s);
		if (s->flight != 0 && tcp_synchronized(s))
			check_queue(check, s);
	}
	check_heap(check);
}

// --- pools ---

static uint32_t free_blocks(const struct tcp *tcp)
{
	uint32_t count = 0;
	for (uint32_t at = tcp->block_free; at != 0; at = tcp->block_next[at - 1])
		count++;
	return count;
}

static uint32_t free_segments(const struct tcp *tcp)
{
	uint32_t count = 0;
	for (uint32_t at = tcp->segment_free; at != 0; at = tcp->segments[at - 1].next)
		count++;
	return count;
}

static uint32_t free_ranges(const struct tcp *tcp)
{
	uint32_t count = 0;
	for (uint32_t at = tcp->range_free; at != 0; at = tcp->ranges[at - 1].next)
		count++;
	return count;
}

static uint32_t free_flights(const struct tcp *tcp)
{
	uint32_t count = 0;
	for (uint32_t at = tcp->flight_free; at != 0; at = tcp->flights[at].free_next)
		count++;
	return count;
}

static uint32_t free_keys(const struct tcp *tcp)
{
	uint32_t count = 0;
	for (uint32_t at = tcp->key_free; at != 0; at = tcp->keys[at - 1].next)
		count++;
	return count;
}

// Blocks of a list, which must end in `tail`.
static uint32_t count_blocks(const struct check *check, const struct tcp_socket *s, uint32_t head, uint32_t tail)
{
	uint32_t count = 0, last = 0;

	for (uint32_t at = head; at != 0; last = at, at = check->tcp->block_next[at - 1])
		count++;
	if (last != tail)
		complain(check, s, "a list of blocks does not end where it should");
	return count;
}

static void count_flight(const struct check *check, const struct tcp_socket *s, struct holding *holding)
{
	const struct tcp *tcp = check->tcp;
	const struct tcp_flight *f = tcp_flight(tcp, s);

	if (s->flight == 0)
		return;
	holding->flights++;
	holding->blocks += count_blocks(check, s, f->snd_block_head, f->snd_block_tail);
	for (uint32_t at = f->snd_reserved_block; at != 0; at = tcp->block_next[at - 1])
		holding->blocks++;
	holding->blocks += count_blocks(check, s, f->rcv_block_head, f->rcv_block_tail);
	uint32_t segments = 0;
	for (uint32_t at = f->segment_head; at != 0; at = segment_at(tcp, at)->next)
		segments++;
	for (uint32_t at = f->unsent_head; at != 0; at = segment_at(tcp, at)->next)
		segments++;
	if (segments != f->records)
		complain(check, s, "the number of records is not what it should be");
	holding->segments += segments;
	uint32_t ranges = 0, bytes = 0;
	for (uint32_t at = f->range_head; at != 0; at = range_at(tcp, at)->next) {
		const struct tcp_range *range = range_at(tcp, at);
		holding->blocks += count_blocks(check, s, range->block_head, range->block_tail);
		bytes += range->end - range->seq;
		ranges++;
	}
	if (ranges != f->range_count || bytes != f->range_bytes)
		complain(check, s, "ranges and their counters differ");
	holding->ranges += ranges;
}

static void check_pools(const struct check *check, const struct holding *held)
{
	const struct tcp *tcp = check->tcp;
	const struct holding used = {
		.blocks = tcp->block_used - free_blocks(tcp), .segments = tcp->segment_used - free_segments(tcp),
		.ranges = tcp->range_used - free_ranges(tcp), .flights = tcp->flight_used - free_flights(tcp),
	};

	if (used.blocks != tcp->block_count)
		fail(check, "%u blocks in use, %u counted", used.blocks, tcp->block_count);
	if (used.blocks != held->blocks || used.segments != held->segments || used.ranges != held->ranges || used.flights != held->flights)
		fail(check, "in use and held: %u and %u blocks, %u and %u segments, %u and %u ranges, %u and %u flights", used.blocks, held->blocks,
			used.segments, held->segments, used.ranges, held->ranges, used.flights, held->flights);
	if (tcp->orphans != held->orphans)
		fail(check, "%u orphans, %u counted", held->orphans, tcp->orphans);
}

// --- lists and hashes ---

static void check_listener(const struct check *check, const struct tcp_socket *s)
{
	const struct tcp *tcp = check->tcp;
	const struct tcp_listener_state *queue = &s->role.listener;
	uint32_t children = 0, last = 0, requests = 0, young = 0, number = tcp_index(tcp, s) + 1;

	for (uint32_t at = queue->accept_head; at != 0; last = at, at = tcp->sockets[at - 1].accept_next) {
		const struct tcp_socket *child = &tcp->sockets[at - 1];
		if (child->cookie == 0 || child->parent != number || !(child->engine & TCP_IN_ACCEPT_QUEUE))
			complain(check, child, "not a child on an accept queue");
		children++;
	}
	if (children != queue->accept_count || last != queue->accept_tail)
		complain(check, s, "the accept queue is miscounted");
	for (uint32_t at = tcp->request_oldest; at != 0; at = tcp->requests[at - 1].next) {
		requests += tcp->requests[at - 1].listener == number;
		young += tcp->requests[at - 1].listener == number && tcp->requests[at - 1].timeouts == 0;
	}
	if (requests != queue->requests || young != queue->young)
		fail(check, "slot %u: %u requests, %u counted; %u young, %u counted", tcp_slot(tcp, s), requests, queue->requests, young, queue->young);
}

static void check_found(const struct check *check, const struct tcp_socket *s)
{
	const struct tcp *tcp = check->tcp;
	uint32_t number = tcp_index(tcp, s) + 1, at;

	if (s->state == TCP_STATE_LISTEN) {
		for (at = tcp->listeners[s->local_port]; at != 0 && at != number; at = tcp->sockets[at - 1].hash_next)
			continue;
	} else {
		uint32_t hash = tcp_hash(tcp, s->local, s->local_port, s->remote, s->remote_port);
		for (at = tcp->connections[hash % TCP_HASH]; at != 0 && at != number; at = tcp->sockets[at - 1].hash_next)
			continue;
	}
	if (at != number)
		complain(check, s, "not found in its hash");
}

static void check_bound(const struct check *check, const struct tcp_socket *s)
{
	const struct tcp *tcp = check->tcp;
	uint32_t number = tcp_index(tcp, s) + 1, at = tcp->bound[s->local_port];

	for (uint32_t previous = 0; at != 0 && at != number; previous = at, at = tcp->sockets[at - 1].bind_next)
		if (tcp->sockets[at - 1].bind_previous != previous)
			complain(check, s, "a broken chain of a port");
	if (at != number)
		complain(check, s, "bound, and not in the chain of its port");
}

static void check_requests(const struct check *check)
{
	const struct tcp *tcp = check->tcp;
	uint32_t count = 0, previous = 0;

	for (uint32_t at = tcp->request_oldest; at != 0; previous = at, at = tcp->requests[at - 1].next) {
		const struct tcp_request *request = &tcp->requests[at - 1];
		const struct tcp_socket *listener = &tcp->sockets[request->listener - 1];
		if (request->state == 0 || request->previous != previous)
			fail(check, "the list of requests is broken");
		if (listener->cookie == 0 || listener->state != TCP_STATE_LISTEN)
			fail(check, "a request without its listener");
		if (request->deadline_ns == 0 || request->heap_position == 0)
			fail(check, "a request without a timer");
		count++;
	}
	if (count != tcp->request_count || previous != tcp->request_newest)
		fail(check, "%u requests, %u counted", count, tcp->request_count);
}

static void check_timewaits(const struct check *check)
{
	static const struct tcp_timewait_more none;
	const struct tcp *tcp = check->tcp;
	uint32_t count = 0, listed = 0;

	for (uint64_t i = 0; i < tcp->host->state->tcp_timewaits_used; i++) {
		const struct tcp_timewait *t = &tcp->timewaits[i];
		count += t->state != 0;
		if (t->state != 0 && tcp_find_timewait(tcp, t->local, t->local_port, t->remote, t->remote_port) == NULL)
			fail(check, "a record of TIME-WAIT is not found");
		if (!(t->flags & TCP_TIMEWAIT_MORE) && memcmp(&tcp->timewait_more[i], &none, sizeof(none)) != 0)
			fail(check, "a record of TIME-WAIT left something to the next one");
	}
	for (uint32_t i = 0; i < TCP_WHEEL; i++) {
		uint32_t previous = 0;
		for (uint32_t at = tcp->timewait_wheel[i]; at != 0; at = tcp->timewaits[at - 1].next) {
			if (tcp->timewaits[at - 1].previous != previous)
				fail(check, "a list of TIME-WAIT has another way back");
			previous = at;
			listed++;
		}
	}
	if (count != tcp->timewait_count || listed != count)
		fail(check, "%u in TIME-WAIT, %u counted, %u listed", count, tcp->timewait_count, listed);
}

static void check_keys(const struct check *check)
{
	const struct tcp *tcp = check->tcp;
	uint32_t references = 0, held = 0;

	for (uint32_t i = 0; i < tcp->key_used; i++)
		references += tcp->keys[i].references;
	for (uint64_t i = 0; i < tcp->host->state->tcp_used; i++)
		if (tcp->sockets[i].cookie != 0)
			for (uint32_t at = tcp->sockets[i].keys; at != 0; at = tcp->keys[at - 1].next)
				held++;
	for (uint32_t at = tcp->request_oldest; at != 0; at = tcp->requests[at - 1].next)
		held += tcp->requests[at - 1].key != 0;
	for (uint64_t i = 0; i < tcp->host->state->tcp_timewaits_used; i++)
		held += tcp->timewaits[i].state != 0 && tcp->timewait_more[i].key != 0;
	if (references != held)
		fail(check, "keys are referred to %u times, but count %u", held, references);
}

void check_records(const struct check *check)
{
	const struct tcp *tcp = check->tcp;
	struct holding held = {0};

	if (tcp->heap == NULL)
		return;
	for (uint64_t i = 0; i < tcp->host->state->tcp_used; i++) {
		const struct tcp_socket *s = &tcp->sockets[i];
		if (s->cookie == 0)
			continue;
		count_flight(check, s, &held);
		held.orphans += !!(s->flags & TCP_ORPHAN);
		if (s->state != TCP_STATE_CLOSED)
			check_found(check, s);
		if (s->flags & TCP_BOUND)
			check_bound(check, s);
		if (s->state == TCP_STATE_LISTEN)
			check_listener(check, s);
	}
	check_pools(check, &held);
	check_requests(check);
	check_timewaits(check);
	check_keys(check);
}

void check_released(const struct check *check)
{
	const struct tcp *tcp = check->tcp;
	uint32_t sockets = 0;

	for (uint64_t i = 0; i < tcp->host->state->tcp_used; i++)
		sockets += tcp->sockets[i].cookie != 0;
	uint32_t segments = tcp->segment_used - free_segments(tcp), ranges = tcp->range_used - free_ranges(tcp);
	uint32_t flights = tcp->flight_used - free_flights(tcp), keys = tcp->key_used - free_keys(tcp);
	if (tcp->block_count != 0 || segments != 0 || ranges != 0 || sockets != 0 || tcp->heap_count != 0 || tcp->request_count != 0 ||
	    tcp->timewait_count != 0 || flights != 0 || keys != 0 || tcp->orphans != 0)
		fail(check, "still held: %u blocks, %u segments, %u ranges, %u sockets, %u timers, %u requests, %u in TIME-WAIT, "
			"%u flights, %u keys, %u orphans", tcp->block_count, segments, ranges, sockets, tcp->heap_count, tcp->request_count,
			tcp->timewait_count, flights, keys, tcp->orphans);
}
