// Connections that a listener's handshake brought forth: what they inherit, what the handshake
// settled, and the accept queue (RFC 9293 section 3.10.7.4, fifth check).
#include "host/tcp_internal.h"

bool tcp_accept_full(struct tcp *tcp, struct tcp_socket *listener)
{
	struct tcp_listener_state *queue = &listener->role.listener;

	if (queue->accept_count <= queue->backlog)
		return false;
	queue->overflows++;
	tcp_count(tcp, TCP_STAT_LISTEN_OVERFLOWS);
	return true;
}

static void inherit(const struct tcp_socket *listener, struct tcp_socket *child)
{
	const uint32_t options = TCP_REUSE_ADDRESS | TCP_REUSE_PORT | TCP_V6ONLY | TCP_NODELAY_SET | TCP_CORK_SET | TCP_QUICKACK_SET |
		TCP_KEEPALIVE_SET | TCP_LINGER_SET | TCP_SNDBUF_LOCKED | TCP_RCVBUF_LOCKED | TCP_RECV_ERRORS;

	child->uid = listener->uid;
	child->gid = listener->gid;
	child->pid = listener->pid;
	child->rights = listener->rights;
	memcpy(child->app, listener->app, sizeof(child->app));
	child->flags |= listener->flags & options;
	child->ttl = listener->ttl;
	child->tos = listener->tos;
	child->min_ttl = listener->min_ttl;
	child->pmtu_discover = listener->pmtu_discover;
	child->congestion = listener->congestion;
	child->user_mss = listener->user_mss;
	child->sndbuf = listener->sndbuf;
	child->rcvbuf = listener->rcvbuf;
	child->syn_retries = listener->syn_retries;
	child->keep_idle_s = listener->keep_idle_s;
	child->keep_interval_s = listener->keep_interval_s;
	child->keep_count = listener->keep_count;
	child->user_timeout_ms = listener->user_timeout_ms;
	child->linger_s = listener->linger_s;
	child->linger2_s = listener->linger2_s;
	child->low_water = listener->low_water;
}

// What the handshake settled.
static void set_sequences(const struct tcp *tcp, const struct tcp_request *request, const struct tcp_arrival *arrival,
	struct tcp_socket *child)
{
	child->iss = request->iss;
	child->snd_una = child->snd_nxt = child->write_seq = request->iss + 1;
	child->irs = request->irs;
	child->rcv_nxt = child->rcv_wup = child->copied_seq = request->irs + 1;
	child->snd_wl1 = arrival->seq;
	child->snd_wscale = request->wscale_received;
	child->rcv_wscale = request->wscale_sent;
	child->snd_wnd = child->max_window = arrival->window << request->wscale_received;
	child->rcv_wnd = child->rcv_ssthresh = request->window;
	child->window_clamp = request->window_clamp;
	child->mss_clamp = request->mss;
	child->ts_recent = request->ts_recent;
	child->ts_recent_s = (uint32_t)(tcp_now(tcp) / 1000000000);
	child->ts_offset = request->ts_offset;
	if (request->options & TCP_REQUEST_TIMESTAMPS)
		child->flags |= TCP_TIMESTAMPS;
	if (request->options & TCP_REQUEST_SACK)
		child->flags |= TCP_SACK_OK;
	if (request->options & TCP_REQUEST_WSCALE)
		child->flags |= TCP_WINDOW_SCALING;
	if (request->options & TCP_REQUEST_ECN)
		child->flags |= TCP_ECN_OK;
	child->delivered = 1; // our SYN
	child->segments_in = 1;
	child->total_retrans = request->retransmits;
	child->last_sent_ms = child->last_received_ms = child->last_ack_received_ms = tcp_now_ms(tcp);
}

// How long ago the SYN-ACK was sent whose timestamp the peer echoes, in ms; false: it does not say.
static bool echoed_age(const struct tcp *tcp, const struct tcp_request *request, const struct tcp_arrival *arrival, uint32_t *age)
{
	*age = tcp_now_ms(tcp) + request->ts_offset - arrival->options.tsecr;
	return (request->options & TCP_REQUEST_TIMESTAMPS) && arrival->options.has_timestamp && arrival->options.tsecr != 0 &&
		*age < UINT32_MAX / 2000;
}

// The first round trip in us: of the SYN-ACK, or by the echoed timestamp where it was sent more
// than once (RFC 6298 section 3, RFC 7323 section 4); 0: unknown.
static uint32_t handshake_rtt(const struct tcp *tcp, const struct tcp_request *request, const struct tcp_arrival *arrival)
{
	uint32_t age, rtt = tcp_now_us(tcp) - request->ts_sent;

	if (request->options & TCP_REQUEST_COOKIE)
		return 0;
	if (request->retransmits > 0) {
		if (!echoed_age(tcp, request, arrival, &age))
			return 0;
		rtt = age * 1000;
	}
	return rtt != 0 ? rtt : 1;
}

// Did the path lose SYN-ACKs (RFC 5681 section 3.1: one segment to begin with)?  Not where the peer asked for
// the repetitions, nor where its ACK tells that it answers the first one (RFC 3522).
static bool handshake_lost(const struct tcp *tcp, const struct tcp_request *request, const struct tcp_arrival *arrival)
{
	uint32_t age;

	if (request->timeouts == 0)
		return false;
	return !echoed_age(tcp, request, arrival, &age) || age + 1 < (tcp_now_us(tcp) - request->ts_sent) / 1000;
}

static void enqueue(const struct tcp *tcp, struct tcp_socket *listener, struct tcp_socket *child)
{
	struct tcp_listener_state *queue = &listener->role.listener;
	uint32_t number = tcp_index(tcp, child) + 1;

	child->parent = tcp_index(tcp, listener) + 1;
	child->engine |= TCP_IN_ACCEPT_QUEUE;
	child->accept_next = 0;
	*(queue->accept_tail != 0 ? &tcp->sockets[queue->accept_tail - 1].accept_next : &queue->accept_head) = number;
	queue->accept_tail = number;
	queue->accept_count++;
}

struct tcp_socket *tcp_child_new(struct tcp *tcp, struct tcp_socket *listener, const struct tcp_request *request,
	const struct tcp_arrival *arrival)
{
	struct tcp_socket *child = tcp_accept_full(tcp, listener) ? NULL : tcp_socket_new(tcp, listener->family);
	if (child == NULL)
		return NULL;
	memcpy(child->local, request->local, sizeof(child->local));
	memcpy(child->remote, request->remote, sizeof(child->remote));
	child->local_port = request->local_port;
	child->remote_port = request->remote_port;
	child->interface = request->interface;
	child->wire_family = request->wire_family;
	inherit(listener, child);
	tcp_auth_inherit(tcp, listener, child);
	set_sequences(tcp, request, arrival, child);
	if ((request->key != 0 && child->keys == 0) || tcp_route(tcp, child) < 0) {
		tcp_socket_free(tcp, child);
		return NULL;
	}
	tcp_sync_mss(tcp, child, child->pmtu);
	tcp_window_start(tcp, child);
	queue_grow(tcp, child);
	tcp_congestion_start(tcp, child, handshake_rtt(tcp, request, arrival));
	if (!handshake_lost(tcp, request, arrival))
		child->cwnd = tcp->config.initial_cwnd;
	tcp_set_state(tcp, child, TCP_STATE_ESTABLISHED);
	tcp_count(tcp, TCP_STAT_PASSIVE_OPENS);
	if (child->flags & TCP_KEEPALIVE_SET)
		tcp_keepalive_set(tcp, child, true);
	enqueue(tcp, listener, child);
	return child;
}

void tcp_child_begin(struct tcp *tcp, struct tcp_socket *listener, struct tcp_socket *child, struct tcp_arrival *arrival)
{
	if (arrival->flags & TCP_SYN) // the peer's, sent again with it; older bytes are cut off like any others
		arrival->seq++;
	arrival->flags &= (uint8_t)~TCP_SYN;
	if (arrival->seq != arrival->end)
		tcp_arrive(tcp, child, arrival);
	tcp_notify(tcp, listener, HOST_STREAM_ACCEPTABLE);
}
