// The socket calls of TCP: bind, connect, listen, accept, shutdown, close (RFC 9293 section 3.10.1 to
// 3.10.6), with the errors of Linux.  Reading and writing stand in tcp_io.c.
//
// An app's addresses are plain for AF_INET and mapped or not for AF_INET6; inside TCP they are
// mapped always, and all zero is any address.
#include "host/tcp_internal.h"

#include <errno.h>
#include <sys/socket.h>

// The mapped form of an app's address.
static int take_address(const struct tcp_socket *s, const uint8_t *address, uint8_t *family, uint8_t *plain, uint8_t *mapped)
{
	if (!address_unmap(s->family, address, family, plain))
		return -EAFNOSUPPORT;
	memset(mapped, 0, 16);
	if (*family == FAMILY_IPV4 && (s->family == AF_INET6 || load32(plain) != 0))
		address_map(FAMILY_IPV4, plain, mapped);
	else if (*family == FAMILY_IPV6)
		memcpy(mapped, plain, 16);
	return 0;
}

static int bindable(const struct tcp *tcp, const struct tcp_socket *s, uint8_t family, const uint8_t *plain, uint16_t *interface)
{
	const struct tables_view *tables = tcp->host->tables;
	if (s->family == AF_INET6 && family == FAMILY_IPV4 && (s->flags & TCP_V6ONLY))
		return -EINVAL;
	if (family == FAMILY_IPV4 ? load32(plain) == 0 : address_any(plain))
		return 0;
	if (address_multicast(family, plain) || (family == FAMILY_IPV4 && load32(plain) == INADDR_BROADCAST))
		return -EADDRNOTAVAIL;
	if (!address_link_local(family, plain)) {
		*interface = 0; // a scope means nothing for a global address
	} else if (*interface == 0) {
		*interface = s->interface;
		if (*interface == 0)
			return -EINVAL;
	}
	if (view_address(tables, family, plain, *interface) != NULL || (s->engine & TCP_FREE_BIND))
		return 0;
	return -EADDRNOTAVAIL;
}

int tcp_bind(struct tcp *tcp, struct tcp_socket *s, const uint8_t *address, uint16_t port, uint16_t interface)
{
	uint8_t family, plain[16], mapped[16], before[16];
	uint16_t pinned = s->interface;
	int error = take_address(s, address, &family, plain, mapped);
	if (error == 0)
		error = bindable(tcp, s, family, plain, &interface);
	if (error < 0)
		return error;
	if (s->state != TCP_STATE_CLOSED || s->local_port != 0 || (s->flags & TCP_ADDRESS_LOCKED))
		return -EINVAL;
	if (interface != 0 && s->interface != 0 && s->interface != interface)
		return -EINVAL;
	memcpy(before, s->local, sizeof(before));
	memcpy(s->local, mapped, sizeof(s->local));
	if (interface != 0)
		s->interface = interface;
	if (port != 0 || !(s->engine & TCP_LATE_PORT)) {
		error = tcp_bind_port(tcp, s, port);
		if (error < 0) {
			memcpy(s->local, before, sizeof(before));
			s->interface = pinned;
			return error;
		}
	}
	if (!address_any(mapped))
		s->flags |= TCP_ADDRESS_LOCKED;
	if (port != 0)
		s->flags |= TCP_PORT_LOCKED;
	return 0;
}

// --- connect ---

static int destination(const struct tcp_socket *s, uint8_t family, const uint8_t *plain)
{
	if (s->family == AF_INET6 && family == FAMILY_IPV4 && (s->flags & TCP_V6ONLY))
		return -ENETUNREACH;
	if (family == FAMILY_IPV4 ? load32(plain) == 0 : address_any(plain))
		return -ECONNREFUSED;
	if (address_multicast(family, plain) || (family == FAMILY_IPV4 && load32(plain) == INADDR_BROADCAST))
		return -ENETUNREACH;
	return 0;
}

// What an earlier connection left: everything of it goes, what the app has set stays.
static void forget_connection(struct tcp *tcp, struct tcp_socket *s)
{
	const struct host_config *config = &tcp->config;
	queue_purge(tcp, s);
	memset(s->remote, 0, sizeof(s->remote));
	s->remote_port = 0;
	if (!(s->flags & TCP_ADDRESS_LOCKED))
		memset(s->local, 0, sizeof(s->local));
	if (!(s->engine & TCP_PINNED) && !(s->flags & TCP_ADDRESS_LOCKED))
		s->interface = 0;
	s->flags &= TCP_BOUND | TCP_PORT_LOCKED | TCP_ADDRESS_LOCKED | TCP_REUSE_ADDRESS | TCP_REUSE_PORT | TCP_V6ONLY | TCP_NODELAY_SET |
		TCP_CORK_SET | TCP_QUICKACK_SET | TCP_KEEPALIVE_SET | TCP_LINGER_SET | TCP_SNDBUF_LOCKED | TCP_RCVBUF_LOCKED |
		TCP_RECV_ERRORS | TCP_DEFER_ACCEPT_SET | TCP_DIRTY;
	s->engine &= TCP_AUTOBOUND | TCP_LATE_PORT | TCP_OOB_INLINE | TCP_PINNED | TCP_FREE_BIND | TCP_PINGPONG;
	if (s->received_mss != 0) // it was established: the limit is what that handshake left, and would limit the next scale
		s->window_clamp = 0;
	// Between these two members lies all that belongs to a connection.
	memset(&s->iss, 0, offsetof(struct tcp_socket, snd_wscale) - offsetof(struct tcp_socket, iss));
	s->snd_wscale = s->rcv_wscale = 0;
	s->mss = s->mss_clamp = s->advertised_mss = s->received_mss = 0;
	s->rcv_ssthresh = s->rcv_space = s->rcv_rtt_us = s->rcv_rtt_start_us = 0;
	s->srtt_us = s->mdev_max_us = s->rttvar_us = 0;
	s->rto_us = s->mdev_us = config->initial_rto_us;
	s->min_rtt_us = UINT32_MAX;
	s->cwnd = config->initial_cwnd;
	s->cwnd_count = s->delivered = 0;
	s->ssthresh = TCP_INFINITE_SSTHRESH;
	s->reordering = config->reordering;
	s->rack_reo_steps = 1;
	s->rack_reo_persist = s->reordering_seen = 0;
	s->recovery = TCP_RECOVERY_OPEN;
	s->backoff = s->retransmits = s->probes_out = 0;
	s->ts_recent = s->ts_recent_s = s->ts_echo = 0;
	s->probe_mss = s->probe_high = s->last_segment_size = s->pmtu = 0;
	s->quick_acks = 0;
	s->ack_timeout_us = s->last_sent_ms = s->last_oow_ack_ms = 0;
	s->bytes_sent = s->bytes_received = s->bytes_retrans = 0;
	s->segments_out = s->segments_in = s->total_retrans = s->ooo_packets = s->dsack_dups = 0;
	s->busy_ms = s->window_limited_ms = s->buffer_limited_ms = 0;
	s->soft_error = 0;
	memset(&s->role, 0, sizeof(s->role));
}

static int begin(struct tcp *tcp, struct tcp_socket *s, uint16_t port)
{
	s->remote_port = port;
	int error = tcp_route(tcp, s);
	if (error == 0)
		error = tcp_connect_port(tcp, s);
	if (error < 0)
		return error;
	if (s->iss == 0) // not the successor of one in TIME-WAIT
		s->iss = tcp_initial_sequence(tcp, s->local, s->local_port, s->remote, s->remote_port);
	s->snd_una = s->snd_nxt = s->iss;
	s->write_seq = s->iss + 1;
	s->ts_offset = tcp_timestamp_offset(tcp, s->local, s->remote);
	tcp_set_state(tcp, s, TCP_STATE_SYN_SENT);
	tcp_count(tcp, TCP_STAT_ACTIVE_OPENS);
	tcp_send_syn(tcp, s);
	if (s->flight == 0) {
		tcp_set_state(tcp, s, TCP_STATE_CLOSED);
		return -ENOBUFS;
	}
	return -EINPROGRESS;
}

int tcp_connect(struct tcp *tcp, struct tcp_socket *s, const uint8_t *address, uint16_t port, uint16_t interface)
{
	uint8_t family, plain[16], mapped[16];
	if (s->state == TCP_STATE_SYN_SENT || s->state == TCP_STATE_SYN_RECEIVED)
		return -EALREADY;
	if (s->state != TCP_STATE_CLOSED)
		return -EISCONN;
	int error = take_address(s, address, &family, plain, mapped);
	if (error == 0)
		error = destination(s, family, plain);
	if (error < 0)
		return error;
	forget_connection(tcp, s);
	s->error = 0;
	if (address_link_local(family, plain) && interface != 0) {
		if (s->interface != 0 && s->interface != interface)
			return -EINVAL;
		s->interface = interface;
	}
	memcpy(s->remote, mapped, sizeof(s->remote));
	error = begin(tcp, s, port);
	if (error < 0 && error != -EINPROGRESS)
		forget_connection(tcp, s);
	return error;
}

// Does the peer believe that the connection goes on (RFC 9293 section 3.10.5)?
static bool needs_reset(const struct tcp_socket *s)
{
	switch (s->state) {
	case TCP_STATE_SYN_RECEIVED:
	case TCP_STATE_ESTABLISHED:
	case TCP_STATE_FIN_WAIT_1:
	case TCP_STATE_FIN_WAIT_2:
	case TCP_STATE_CLOSE_WAIT:
		return true;
	case TCP_STATE_CLOSING:
	case TCP_STATE_LAST_ACK: // it would wait for bytes that will not come
		return !(s->flags & TCP_FIN_SENT);
	default:
		return false;
	}
}

int tcp_disconnect(struct tcp *tcp, struct tcp_socket *s)
{
	if (s->state == TCP_STATE_LISTEN)
		tcp_listen_close(tcp, s);
	if (needs_reset(s))
		tcp_send_reset(tcp, s);
	if (s->state != TCP_STATE_CLOSED)
		tcp_set_state(tcp, s, TCP_STATE_CLOSED);
	if (s->cookie == 0)
		return 0;
	forget_connection(tcp, s);
	s->error = 0;
	return 0;
}

// --- listen, accept ---

int tcp_listen(struct tcp *tcp, struct tcp_socket *s, int backlog)
{
	uint32_t wanted = (uint32_t)backlog < tcp->config.somaxconn ? (uint32_t)backlog : tcp->config.somaxconn;
	if (s->state == TCP_STATE_LISTEN) {
		s->role.listener.backlog = wanted;
		return 0;
	}
	if (s->state != TCP_STATE_CLOSED)
		return -EINVAL;
	forget_connection(tcp, s);
	int error = 0;
	if (s->local_port == 0)
		error = tcp_bind_port(tcp, s, 0);
	else if (tcp_port_taken(tcp, s, s->local_port, false)) // somebody who shared the port listens by now
		error = -EADDRINUSE;
	if (error < 0)
		return error;
	s->role.listener.backlog = wanted;
	tcp_set_state(tcp, s, TCP_STATE_LISTEN);
	return 0;
}

int tcp_accept(struct tcp *tcp, struct tcp_socket *s, uint32_t *child_slot)
{
	struct tcp_listener_state *queue = &s->role.listener;
	if (s->state != TCP_STATE_LISTEN)
		return -EINVAL;
	if (queue->accept_head == 0)
		return -EAGAIN;
	struct tcp_socket *child = &tcp->sockets[queue->accept_head - 1];
	queue->accept_head = child->accept_next;
	if (queue->accept_head == 0)
		queue->accept_tail = 0;
	queue->accept_count--;
	child->accept_next = 0;
	child->parent = 0;
	child->engine &= ~(uint32_t)TCP_IN_ACCEPT_QUEUE;
	*child_slot = tcp_slot(tcp, child);
	tcp_dirty(tcp, child); // what came in before has an owner now
	return 0;
}

// --- the end ---

// Our side is done: a FIN follows what is queued (RFC 9293 section 3.10.4).
static void finish(struct tcp *tcp, struct tcp_socket *s)
{
	s->flags |= TCP_SEND_SHUT;
	if (s->state == TCP_STATE_ESTABLISHED) // before that, the end of the handshake takes care
		tcp_set_state(tcp, s, TCP_STATE_FIN_WAIT_1);
	else if (s->state == TCP_STATE_CLOSE_WAIT)
		tcp_set_state(tcp, s, TCP_STATE_LAST_ACK);
	else
		return;
	tcp_queue_fin(tcp, s);
}

int tcp_shutdown(struct tcp *tcp, struct tcp_socket *s, int how)
{
	if (how != SHUT_RD && how != SHUT_WR && how != SHUT_RDWR)
		return -EINVAL;
	if (s->state == TCP_STATE_CLOSED)
		return -ENOTCONN;
	if (s->state == TCP_STATE_LISTEN)
		return how == SHUT_WR ? 0 : tcp_disconnect(tcp, s);
	if (s->state == TCP_STATE_SYN_SENT)
		return tcp_disconnect(tcp, s);
	if (how != SHUT_WR)
		s->flags |= TCP_RECEIVE_SHUT;
	if (how != SHUT_RD)
		finish(tcp, s);
	return 0;
}

// Nobody will wait for the end: how long may it take (RFC 9293 section 3.6.1)?
void tcp_orphan_wait(struct tcp *tcp, struct tcp_socket *s)
{
	if (s->linger2_s < 0) {
		tcp_send_reset(tcp, s);
		tcp_set_state(tcp, s, TCP_STATE_CLOSED);
		return;
	}
	uint64_t second = 1000 * TCP_MS;
	uint64_t life = (s->linger2_s > 0 ? (uint64_t)s->linger2_s : tcp->config.fin_timeout_s) * second;
	uint64_t least = (uint64_t)s->rto_us * 1000 * 7 / 2;
	if (life < least)
		life = least;
	if (life <= tcp->config.timewait_s * second) {
		tcp_timewait_enter(tcp, s, TCP_STATE_FIN_WAIT_2, life);
		return;
	}
	s->keep_at = tcp_now(tcp) + life - tcp->config.timewait_s * second;
	timer_changed(tcp, s);
}

static void orphan(struct tcp *tcp, struct tcp_socket *s)
{
	if (s->state == TCP_STATE_CLOSED) {
		tcp_socket_free(tcp, s);
		return;
	}
	s->flags |= TCP_ORPHAN | TCP_SEND_SHUT | TCP_RECEIVE_SHUT;
	tcp->orphans++;
	if (tcp->orphans > tcp->config.max_orphans || tcp_memory_pressure(tcp)) {
		tcp_count(tcp, TCP_STAT_MEMORY_PRESSURE);
		tcp_send_reset(tcp, s);
		tcp_set_state(tcp, s, TCP_STATE_CLOSED);
	} else if (s->state == TCP_STATE_FIN_WAIT_2) {
		tcp_orphan_wait(tcp, s);
	}
}

void tcp_close(struct tcp *tcp, struct tcp_socket *s)
{
	if (s->state == TCP_STATE_LISTEN) {
		tcp_listen_close(tcp, s);
		tcp_socket_free(tcp, s);
		return;
	}
	// RFC 2525 section 2.17: the peer must learn that what it sent was never read.
	bool lost = s->state != TCP_STATE_CLOSED && tcp_unread(tcp, s) > 0;
	bool hard = (s->flags & TCP_LINGER_SET) && s->linger_s == 0;
	if (lost || hard || s->state == TCP_STATE_SYN_SENT || s->state == TCP_STATE_CLOSED) {
		tcp_abort(tcp, s);
		return;
	}
	finish(tcp, s);
	if (s->cookie != 0)
		orphan(tcp, s);
}

void tcp_abort(struct tcp *tcp, struct tcp_socket *s)
{
	if (s->state == TCP_STATE_LISTEN)
		tcp_listen_close(tcp, s);
	if (needs_reset(s))
		tcp_send_reset(tcp, s);
	tcp_socket_free(tcp, s);
}
