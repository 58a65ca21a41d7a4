// The TCP of one VR: its instance, its slots, the states of connections, and the list of those
// that have something to do at the end of a batch.
//
// A slot is given out from the free list, or is the first one that was never used; freeing one
// only ends its cookie, and the list of tcp_flush gives it back: whoever still holds the record
// while a segment is processed finds it CLOSED.
#include "host/tcp_internal.h"

#include <stdlib.h>

enum { FLUSH_ROUNDS = 8, ATTACH_BUDGET = 256 };

static void slot_free(struct tcp *tcp, struct tcp_socket *s)
{
	s->hash_next = tcp->socket_free;
	tcp->socket_free = tcp_index(tcp, s) + 1;
}

struct tcp *tcp_new(struct host *host)
{
	struct tcp *tcp = calloc(1, sizeof(*tcp));
	if (tcp == NULL)
		return NULL;
	tcp->host = host;
	tcp->sockets = host->state->tcp;
	tcp->requests = host->state->tcp_requests;
	tcp->timewaits = host->state->tcp_timewaits;
	host_config_default(&tcp->config);
	tcp->connections = calloc(TCP_HASH, sizeof(uint32_t));
	tcp->bound = calloc(TCP_PORT_HASH, sizeof(uint32_t));
	tcp->listeners = calloc(TCP_PORT_HASH, sizeof(uint32_t));
	tcp->request_heads = calloc(TCP_HASH, sizeof(uint32_t));
	tcp->timewait_heads = calloc(TCP_TIMEWAIT_HASH, sizeof(*tcp->timewait_heads));
	tcp->timewait_more = calloc(MAX_TCP_TIMEWAITS, sizeof(*tcp->timewait_more));
	if (tcp->connections == NULL || tcp->bound == NULL || tcp->listeners == NULL || tcp->request_heads == NULL ||
	    tcp->timewait_heads == NULL || tcp->timewait_more == NULL) {
		tcp_free(tcp);
		return NULL;
	}
	for (int i = 0; i < 4; i++)
		tcp->secret[i] = host_random(host);
	return tcp;
}

void tcp_free(struct tcp *tcp)
{
	if (tcp == NULL)
		return;
	// Packets that were kept by reference belong to the pool of others.
	if (tcp->flights != NULL)
		for (uint64_t i = 0; i < tcp->host->state->tcp_used; i++)
			if (i >= tcp->attach_left && tcp->sockets[i].cookie != 0)
				queue_purge(tcp, &tcp->sockets[i]);
	memory_close(tcp);
	free(tcp->connections);
	free(tcp->bound);
	free(tcp->listeners);
	free(tcp->request_heads);
	free(tcp->timewait_heads);
	free(tcp->timewait_more);
	free(tcp);
}

void tcp_count(struct tcp *tcp, enum tcp_statistic statistic)
{
	tcp->statistics[statistic]++;
}

// --- taking over ---

static bool attach_resets(const struct tcp_socket *s)
{
	return s->cookie != 0 && s->state >= TCP_STATE_SYN_RECEIVED && s->state < TCP_STATE_TIME_WAIT &&
		(s->wire_family == FAMILY_IPV4 || s->wire_family == FAMILY_IPV6) && s->local_port != 0;
}

// Listeners, and sockets that are not connected, live on.
static bool attach_keeps(const struct tcp_socket *s)
{
	return s->cookie != 0 && (s->state == TCP_STATE_LISTEN || s->state == TCP_STATE_CLOSED) &&
		!(s->flags & TCP_ORPHAN) && !(s->engine & TCP_IN_ACCEPT_QUEUE) && (s->family == AF_INET || s->family == AF_INET6);
}

static void attach_keep(struct tcp *tcp, struct tcp_socket *s)
{
	s->flags &= ~(uint32_t)(TCP_BOUND | TCP_DIRTY | TCP_ACK_PENDING | TCP_ACK_NOW);
	s->hash_next = s->bind_next = s->bind_previous = s->dirty_next = s->parent = s->accept_next = 0;
	s->flight = s->heap_position = 0;
	s->retransmit_at = s->ack_at = s->keep_at = 0;
	s->pending_timer = TCP_TIMER_NONE;
	if (s->local_port != 0)
		tcp_bound_add(tcp, s);
	if (s->state != TCP_STATE_LISTEN)
		return;
	s->role.listener = (struct tcp_listener_state){.backlog = s->role.listener.backlog};
	tcp_hash_add(tcp, s);
}

void tcp_attach(struct tcp *tcp)
{
	struct state_segment *state = tcp->host->state;
	uint64_t requests = state->tcp_requests_used < MAX_TCP_REQUESTS ? state->tcp_requests_used : MAX_TCP_REQUESTS;
	uint64_t timewaits = state->tcp_timewaits_used < MAX_TCP_TIMEWAITS ? state->tcp_timewaits_used : MAX_TCP_TIMEWAITS;
	memset(state->tcp_requests, 0, requests * sizeof(state->tcp_requests[0]));
	memset(state->tcp_timewaits, 0, timewaits * sizeof(state->tcp_timewaits[0]));
	state->tcp_requests_used = state->tcp_timewaits_used = 0;
	if (state->tcp_used > MAX_TCP_SOCKETS)
		state->tcp_used = MAX_TCP_SOCKETS;
	tcp->attach_left = (uint32_t)state->tcp_used;
	if (tcp->attach_left == 0)
		return;
	bool whole = memory_open(tcp);
	if (whole)
		tcp_auth_attach(tcp);
	for (uint32_t i = 0; i < tcp->attach_left; i++) {
		struct tcp_socket *s = &tcp->sockets[i];
		// Without its keys (RFC 2385) a listener would take anybody.
		if (whole && attach_keeps(s) && tcp_auth_adopt(tcp, s))
			attach_keep(tcp, s);
		else
			s->flags = TCP_ORPHAN;
	}
	if (whole)
		tcp_auth_attached(tcp);
}

// The bytes in the queues of a predecessor's connections died with it: their peers must not wait for them.
static void attach_reset(struct tcp *tcp)
{
	for (int budget = 0; budget < ATTACH_BUDGET && tcp->attach_left > 0; budget++) {
		struct tcp_socket *s = &tcp->sockets[--tcp->attach_left];
		if (!(s->flags & TCP_ORPHAN))
			continue;
		if (attach_resets(s)) {
			const struct tcp_reply reset = {.seq = s->snd_nxt, .ack = s->rcv_nxt, .flags = TCP_RST | TCP_ACK};
			tcp_reply_to(tcp, s->local, s->local_port, s->remote, s->remote_port, s->interface, &reset);
		}
		memset(s, 0, sizeof(*s));
		slot_free(tcp, s);
	}
}

// --- slots ---

static uint32_t slot_new(struct tcp *tcp)
{
	uint64_t *used = &tcp->host->state->tcp_used;
	uint32_t number = tcp->socket_free;
	if (number != 0) {
		tcp->socket_free = tcp->sockets[number - 1].hash_next;
	} else if (*used < MAX_TCP_SOCKETS) {
		number = (uint32_t)*used + 1;
		__atomic_store_n(used, number, __ATOMIC_RELEASE);
	}
	return number;
}

struct tcp_socket *tcp_socket_new(struct tcp *tcp, uint16_t family)
{
	const struct host_config *config = &tcp->config;
	uint32_t number = memory_open(tcp) ? slot_new(tcp) : 0;
	if (number == 0)
		return NULL;
	struct tcp_socket *s = &tcp->sockets[number - 1];
	memset(s, 0, sizeof(*s));
	s->family = family;
	s->created_s = (uint32_t)(tcp_now(tcp) / (1000 * TCP_MS));
	s->sndbuf = config->wmem_default;
	s->rcvbuf = config->rmem_default;
	s->congestion = config->congestion;
	s->pmtu_discover = config->tcp_pmtu_disabled ? IP_PMTUDISC_DONT : IP_PMTUDISC_WANT;
	s->ssthresh = TCP_INFINITE_SSTHRESH;
	s->cwnd = config->initial_cwnd;
	s->reordering = config->reordering;
	s->rto_us = config->initial_rto_us;
	s->mdev_us = config->initial_rto_us;
	s->min_rtt_us = UINT32_MAX;
	s->rack_reo_steps = 1;
	uint64_t cookie = host_random(tcp->host);
	__atomic_store_n(&s->cookie, cookie != 0 ? cookie : 1, __ATOMIC_RELEASE);
	return s;
}

void tcp_socket_free(struct tcp *tcp, struct tcp_socket *s)
{
	if (s->cookie == 0)
		return;
	if (s->state != TCP_STATE_CLOSED)
		tcp_hash_remove(tcp, s);
	if (s->flags & TCP_ORPHAN)
		tcp->orphans--;
	timer_off(tcp, s);
	tcp_unbind(tcp, s);
	tcp_auth_release(tcp, s);
	s->state = TCP_STATE_CLOSED;
	queue_purge(tcp, s);
	// While it is listed, tcp_flush gives it back: the caller may still look at it.
	uint32_t next = s->dirty_next;
	bool listed = s->flags & TCP_DIRTY;
	__atomic_store_n(&s->cookie, 0, __ATOMIC_RELEASE);
	memset(s, 0, sizeof(*s));
	s->dirty_next = next;
	s->flags = listed ? TCP_DIRTY : 0;
	tcp_dirty(tcp, s);
}

// --- states ---

static void enter_closed(struct tcp *tcp, struct tcp_socket *s, enum tcp_state before, uint32_t events)
{
	timer_off(tcp, s);
	if (!(s->flags & TCP_PORT_LOCKED))
		tcp_unbind(tcp, s);
	// As after a refused connect the socket may be used again, what was a connection has ended for both directions.
	if (before == TCP_STATE_SYN_SENT || before == TCP_STATE_LISTEN)
		s->flags &= ~(uint32_t)(TCP_SEND_SHUT | TCP_RECEIVE_SHUT);
	else
		s->flags |= TCP_SEND_SHUT | TCP_RECEIVE_SHUT;
	s->flags &= ~(uint32_t)(TCP_ACK_NOW | TCP_ACK_PENDING);
	if (s->flags & TCP_ORPHAN) {
		tcp_socket_free(tcp, s);
		return;
	}
	// The app may still read what arrived in order.
	queue_purge_output(tcp, s);
	tcp_dirty(tcp, s);
	tcp_notify(tcp, s, events | HOST_STREAM_CLOSED);
}

static void change_state(struct tcp *tcp, struct tcp_socket *s, enum tcp_state state, uint32_t events)
{
	enum tcp_state before = s->state;
	if (before == state)
		return;
	bool listed = before != TCP_STATE_CLOSED;
	if (listed && (state == TCP_STATE_CLOSED || before == TCP_STATE_LISTEN)) {
		tcp_hash_remove(tcp, s);
		listed = false;
	}
	s->state = (uint8_t)state;
	if (state == TCP_STATE_CLOSED) {
		enter_closed(tcp, s, before, events);
		return;
	}
	if (!listed)
		tcp_hash_add(tcp, s);
	if (s->local_port != 0 && !(s->flags & TCP_BOUND)) // a listener's child
		tcp_bound_add(tcp, s);
}

void tcp_set_state(struct tcp *tcp, struct tcp_socket *s, enum tcp_state state)
{
	change_state(tcp, s, state, 0);
}

void tcp_fail(struct tcp *tcp, struct tcp_socket *s, int error)
{
	s->error = (int16_t)error;
	s->soft_error = 0;
	tcp_count(tcp, TCP_STAT_FAILED);
	change_state(tcp, s, TCP_STATE_CLOSED, HOST_STREAM_FAILED);
}

void tcp_notify(struct tcp *tcp, struct tcp_socket *s, uint32_t events)
{
	// Nobody owns it any more, or not yet.
	if ((s->flags & TCP_ORPHAN) || (s->engine & TCP_IN_ACCEPT_QUEUE) || s->cookie == 0)
		return;
	if (tcp->host->ops.stream != NULL)
		tcp->host->ops.stream(tcp->host->ops.user, tcp_slot(tcp, s), events);
}

// --- the end of a batch ---

void tcp_dirty(struct tcp *tcp, struct tcp_socket *s)
{
	if (s->flags & TCP_DIRTY)
		return;
	uint32_t number = tcp_index(tcp, s) + 1;
	s->flags |= TCP_DIRTY;
	s->dirty_next = 0;
	*(tcp->dirty_tail != 0 ? &tcp->sockets[tcp->dirty_tail - 1].dirty_next : &tcp->dirty_head) = number;
	tcp->dirty_tail = number;
}

static void flush_socket(struct tcp *tcp, struct tcp_socket *s)
{
	if (s->cookie == 0) {
		slot_free(tcp, s);
		return;
	}
	if (s->state == TCP_STATE_LISTEN)
		return;
	if (!(s->flags & TCP_ORPHAN) && !(s->engine & TCP_IN_ACCEPT_QUEUE))
		tcp_deliver(tcp, s);
	else if (s->flight != 0)
		(void)tcp_receive_settle(tcp, s);
	if (s->cookie != 0 && s->state != TCP_STATE_CLOSED)
		tcp_output(tcp, s);
	if (s->cookie != 0)
		tcp_flight_release(tcp, s);
}

// Those that become dirty meanwhile have their turn as well, but a connection of the VR with itself
// does not hold up the others: what is left goes on in the next iteration.
void tcp_flush(struct tcp *tcp)
{
	if (tcp->flushing)
		return;
	tcp->flushing = true;
	if (tcp->attach_ready)
		attach_reset(tcp);
	for (int round = 0; round < FLUSH_ROUNDS && tcp->dirty_head != 0; round++) {
		uint32_t at = tcp->dirty_head;
		tcp->dirty_head = tcp->dirty_tail = 0;
		while (at != 0) {
			struct tcp_socket *s = &tcp->sockets[at - 1];
			at = s->dirty_next;
			s->dirty_next = 0;
			s->flags &= ~(uint32_t)TCP_DIRTY;
			flush_socket(tcp, s);
		}
	}
	tcp->flushing = false;
}
