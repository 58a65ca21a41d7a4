// Listeners and connections in SYN-RECEIVED (RFC 9293 sections 3.10.7.2 and 3.10.7.4, RFC 4987).
//
//   SYN --> struct tcp_request, SYN-ACK --> ACK --> child in ESTABLISHED, on the accept queue
//       \-> cookie, SYN-ACK ------------> ACK -/
//
// The work for a SYN does not depend on how many connections are half open: a listener's queue and
// the table of all requests are bounded, beyond them SYNs are answered by cookies or not at all.
// The semantics of the queues are those of Linux: a backlog of n takes n + 1 connections, and a
// handshake that finds no room there stays half open and is repeated.
// Not supported: Fast Open (RFC 7413).
#include "host/tcp_internal.h"

enum {
	COOKIE_LIFE_MS = 120 * 1000, // two periods of tcp_cookie.c
	DEFAULT_MSS4 = 536,          // RFC 9293 section 3.7.1
	DEFAULT_MSS6 = 1220,
	TIMESTAMP_BYTES = 12,
	MIN_RETRIES = 2              // however many are half open
};

static struct tcp_request *request_at(const struct tcp *tcp, uint32_t request)
{
	return &tcp->requests[request - 1];
}

static uint32_t request_number(const struct tcp *tcp, const struct tcp_request *request)
{
	return (uint32_t)(request - tcp->requests) + 1;
}

static struct tcp_socket *listener_of(const struct tcp *tcp, const struct tcp_request *request)
{
	return &tcp->sockets[request->listener - 1];
}

static uint32_t *head_of(const struct tcp *tcp, const struct tcp_request *request)
{
	uint32_t hash = tcp_hash(tcp, request->local, request->local_port, request->remote, request->remote_port);
	return &tcp->request_heads[hash % TCP_HASH];
}

// --- the table of requests ---

void tcp_request_drop(struct tcp *tcp, struct tcp_request *request)
{
	struct tcp_listener_state *queue = &listener_of(tcp, request)->role.listener;
	uint32_t number = request_number(tcp, request), *at = head_of(tcp, request);

	timer_request(tcp, request, 0);
	while (*at != number)
		at = &request_at(tcp, *at)->hash_next;
	*at = request->hash_next;
	*(request->previous != 0 ? &request_at(tcp, request->previous)->next : &tcp->request_oldest) = request->next;
	*(request->next != 0 ? &request_at(tcp, request->next)->previous : &tcp->request_newest) = request->previous;
	queue->requests--;
	queue->young -= request->timeouts == 0;
	tcp_auth_put(tcp, request->key);
	request->state = 0;
	request->hash_next = tcp->request_free;
	tcp->request_free = number;
	tcp->request_count--;
}

// A place in the table for what `draft` says; the oldest one makes room where there is none.
static struct tcp_request *request_add(struct tcp *tcp, const struct tcp_request *draft)
{
	uint64_t *used = &tcp->host->state->tcp_requests_used;

	if (tcp->request_free == 0 && *used >= MAX_TCP_REQUESTS)
		tcp_request_drop(tcp, request_at(tcp, tcp->request_oldest));
	uint32_t number = tcp->request_free;
	if (number != 0)
		tcp->request_free = request_at(tcp, number)->hash_next;
	else {
		number = (uint32_t)*used + 1;
		__atomic_store_n(used, number, __ATOMIC_RELEASE);
	}
	struct tcp_request *request = request_at(tcp, number);
	*request = *draft;
	uint32_t *head = head_of(tcp, request);
	request->hash_next = *head;
	*head = number;
	request->previous = tcp->request_newest;
	*(tcp->request_newest != 0 ? &request_at(tcp, tcp->request_newest)->next : &tcp->request_oldest) = number;
	tcp->request_newest = number;
	tcp->request_count++;
	listener_of(tcp, request)->role.listener.requests++;
	listener_of(tcp, request)->role.listener.young++;
	tcp_auth_hold(tcp, request->key);
	return request;
}

struct tcp_request *tcp_find_request(const struct tcp *tcp, const struct flow *flow)
{
	uint32_t hash = tcp_hash(tcp, flow->local6, flow->local_port, flow->remote6, flow->remote_port);

	for (uint32_t at = tcp->request_heads[hash % TCP_HASH]; at != 0; at = request_at(tcp, at)->hash_next) {
		struct tcp_request *request = request_at(tcp, at);
		if (request->remote_port == flow->remote_port && request->local_port == flow->local_port &&
		    (request->interface == 0 || request->interface == flow->interface) &&
		    address_equal(request->remote, flow->remote6) && address_equal(request->local, flow->local6))
			return request;
	}
	return NULL;
}

// --- answers ---

// The MSS that we offer (RFC 9293 section 3.7.1, RFC 6691); 0: there is no route back.
static uint16_t offered_mss(const struct tcp *tcp, const struct tcp_socket *listener, const struct tcp_request *request)
{
	bool four = request->wire_family == FAMILY_IPV4;
	uint8_t destination[16] = {0};

	memcpy(destination, request->remote + (four ? 12 : 0), four ? 4 : 16);
	uint32_t mtu = tcp->host->ops.path_mtu(tcp->host->ops.user, request->wire_family, destination, request->interface);
	uint32_t headers = (four ? 20 : 40) + TCP_HEADER;
	if (mtu <= headers)
		return 0;
	uint32_t mss = mtu - headers < UINT16_MAX ? mtu - headers : UINT16_MAX;
	return (uint16_t)(listener->user_mss != 0 && listener->user_mss < mss ? listener->user_mss : mss);
}

static struct tcp_reply request_reply(const struct tcp *tcp, const struct tcp_socket *listener, const struct tcp_request *request)
{
	return (struct tcp_reply){
		.seq = request->iss, .ack = request->irs + 1, .window = request->window, .tos = listener->tos, .ttl = listener->ttl,
		.timestamp = request->options & TCP_REQUEST_TIMESTAMPS, .tsval = tcp_now_ms(tcp) + request->ts_offset,
		.tsecr = request->ts_recent, .key = request->key,
	};
}

static struct tcp_reply syn_ack(const struct tcp *tcp, const struct tcp_socket *listener, const struct tcp_request *request)
{
	struct tcp_reply reply = request_reply(tcp, listener, request);

	reply.flags = TCP_SYN | TCP_ACK | (request->options & TCP_REQUEST_ECN ? TCP_ECE : 0); // RFC 3168 section 6.1.1
	reply.window = reply.window < UINT16_MAX ? reply.window : UINT16_MAX; // never scaled (RFC 7323 section 2.2)
	reply.mss = offered_mss(tcp, listener, request);
	reply.sack = request->options & TCP_REQUEST_SACK;
	reply.wscale_present = request->options & TCP_REQUEST_WSCALE;
	reply.wscale = request->wscale_sent;
	return reply;
}

static void send_syn_ack(struct tcp *tcp, struct tcp_request *request)
{
	struct tcp_reply reply = syn_ack(tcp, listener_of(tcp, request), request);

	if (reply.mss != 0)
		tcp_reply_to(tcp, request->local, request->local_port, request->remote, request->remote_port, request->interface, &reply);
}

static void repeat_syn_ack(struct tcp *tcp, struct tcp_request *request)
{
	send_syn_ack(tcp, request);
	if (request->retransmits < UINT8_MAX)
		request->retransmits++;
	tcp_count(tcp, TCP_STAT_RETRANSMITTED);
}

// RFC 5961 section 7: not more often than every stray_interval_ms.
static bool may_answer(const struct tcp *tcp, struct tcp_request *request)
{
	uint32_t now = tcp_now_ms(tcp);

	if ((request->options & TCP_REQUEST_ANSWERED) && now - request->answered_ms < tcp->config.stray_interval_ms)
		return false;
	request->options |= TCP_REQUEST_ANSWERED;
	request->answered_ms = now;
	return true;
}

static void challenge(struct tcp *tcp, struct tcp_request *request, const struct tcp_arrival *arrival)
{
	if (!may_answer(tcp, request))
		return;
	struct tcp_reply reply = request_reply(tcp, listener_of(tcp, request), request);
	reply.seq++;
	reply.flags = TCP_ACK;
	reply.window >>= request->wscale_sent;
	tcp_count(tcp, TCP_STAT_CHALLENGES);
	tcp_reply(tcp, arrival, &reply);
}

// --- timers ---

static uint64_t request_timeout(const struct tcp *tcp, const struct tcp_request *request)
{
	uint64_t timeout = tcp->config.initial_rto_us * 1000ull, most = tcp->config.max_rto_us * 1000ull;

	timeout <<= request->timeouts < 16 ? request->timeouts : 16;
	return timeout < most ? timeout : most;
}

static void arm(struct tcp *tcp, struct tcp_request *request)
{
	timer_request(tcp, request, tcp_now(tcp) + request_timeout(tcp, request));
}

// TCP_DEFER_ACCEPT counts seconds; what is counted here are the timeouts that begin in them.
static uint32_t defer_timeouts(const struct tcp *tcp, const struct tcp_socket *listener)
{
	if (!(listener->flags & TCP_DEFER_ACCEPT_SET))
		return 0;
	uint64_t wanted = listener->defer_accept_s * 1000000ull, timeout = tcp->config.initial_rto_us, passed = timeout;
	uint32_t count = 1;
	while (wanted > passed && count < UINT8_MAX && timeout > 0) {
		timeout = timeout * 2 < tcp->config.max_rto_us ? timeout * 2 : tcp->config.max_rto_us;
		passed += timeout;
		count++;
	}
	return count;
}

// Many old half-open connections get fewer repetitions each: of those that answer at all, nearly
// all do so early.
static uint32_t most_timeouts(const struct tcp *tcp, const struct tcp_socket *listener)
{
	const struct tcp_listener_state *queue = &listener->role.listener;
	uint32_t most = listener->syn_retries != 0 ? listener->syn_retries : tcp->config.synack_retries;
	uint64_t young = 2ull * queue->young;

	if (2ull * queue->requests <= (queue->backlog > 8 ? queue->backlog : 8))
		return most;
	for (; most > MIN_RETRIES && queue->requests >= young; young *= 2)
		most--;
	return most;
}

void tcp_request_timeout(struct tcp *tcp, struct tcp_request *request)
{
	const struct tcp_socket *listener = listener_of(tcp, request);
	uint32_t most = most_timeouts(tcp, listener), defer = defer_timeouts(tcp, listener);
	bool expired = request->timeouts >= most, repeat = true;

	if (defer != 0) {
		bool acknowledged = request->options & TCP_REQUEST_ACKED;
		expired = expired && (!acknowledged || request->timeouts >= defer);
		repeat = !acknowledged || request->timeouts + 1u >= defer;
	}
	if (expired) {
		tcp_count(tcp, TCP_STAT_TIMEOUTS);
		tcp_request_drop(tcp, request);
		return;
	}
	if (repeat)
		repeat_syn_ack(tcp, request);
	if (request->timeouts == 0)
		listener_of(tcp, request)->role.listener.young--;
	if (request->timeouts < UINT8_MAX)
		request->timeouts++;
	arm(tcp, request);
}

// --- segments for a request ---

// RFC 9293 section 3.10.7.4, first check, with the window of the SYN-ACK.
static bool acceptable(const struct tcp_request *request, const struct tcp_arrival *arrival)
{
	uint32_t first = request->irs + 1, last = first + request->window;

	return arrival->seq == first || (seq_after(arrival->end, first) && seq_before(arrival->seq, last)) ||
		(arrival->seq == last && arrival->seq == arrival->end);
}

static enum drop_reason request_complete(struct tcp *tcp, struct tcp_socket *listener, struct tcp_request *request,
	struct tcp_arrival *arrival)
{
	if (request->timeouts < defer_timeouts(tcp, listener) && arrival->end == request->irs + 1) {
		request->options |= TCP_REQUEST_ACKED; // a bare ACK: TCP_DEFER_ACCEPT waits for data
		return DROP_NONE;
	}
	struct tcp_socket *child = tcp_child_new(tcp, listener, request, arrival);
	if (child != NULL) {
		tcp_request_drop(tcp, request);
		tcp_child_begin(tcp, listener, child, arrival);
		return DROP_NONE;
	}
	request->options |= TCP_REQUEST_ACKED;
	if (tcp->config.abort_on_overflow) {
		tcp_reset_arrival(tcp, arrival);
		tcp_request_drop(tcp, request);
	}
	return DROP_TCP_LISTEN_FULL;
}

enum drop_reason tcp_request_input(struct tcp *tcp, struct tcp_request *request, struct tcp_arrival *arrival)
{
	struct tcp_socket *listener = listener_of(tcp, request);
	uint8_t flags = arrival->flags & (TCP_SYN | TCP_ACK | TCP_RST);

	bool stamped = (request->options & TCP_REQUEST_TIMESTAMPS) && arrival->options.has_timestamp;
	bool old = stamped && !(flags & TCP_RST) && seq_before(arrival->options.tsval, request->ts_recent);
	if (flags == TCP_SYN && arrival->seq == request->irs && !old) {
		if (may_answer(tcp, request)) {
			repeat_syn_ack(tcp, request);
			arm(tcp, request);
		}
		return DROP_NONE;
	}
	if ((flags & (TCP_ACK | TCP_RST)) == TCP_ACK && arrival->ack != request->iss + 1) {
		tcp_reset_arrival(tcp, arrival);
		return DROP_TCP_STRAY;
	}
	if (old || !acceptable(request, arrival)) {
		if (!(flags & TCP_RST))
			challenge(tcp, request, arrival);
		return old ? DROP_TCP_OLD_TIMESTAMP : DROP_TCP_STRAY;
	}
	if (stamped && !(flags & TCP_RST) && !seq_after(arrival->seq, request->irs + 1))
		request->ts_recent = arrival->options.tsval;
	if (flags & TCP_RST) {
		if (arrival->seq != request->irs + 1) { // RFC 5961 section 3.2
			challenge(tcp, request, arrival);
			return DROP_TCP_STRAY;
		}
		tcp_request_drop(tcp, request);
		return DROP_TCP_RESET;
	}
	if ((flags & TCP_SYN) && arrival->seq != request->irs) { // another SYN: back to LISTEN
		tcp_reset_arrival(tcp, arrival);
		tcp_request_drop(tcp, request);
		return DROP_TCP_STRAY;
	}
	return flags & TCP_ACK ? request_complete(tcp, listener, request, arrival) : DROP_TCP_STRAY;
}

// --- segments for a listener ---

// What both SYNs and cookies know: the path.
static struct tcp_request draft_path(const struct tcp *tcp, const struct tcp_socket *listener, const struct tcp_arrival *arrival,
	uint32_t key)
{
	const struct flow *flow = &arrival->in->flow;
	struct tcp_request draft = {
		.local_port = arrival_local_port(arrival), .remote_port = arrival_remote_port(arrival), .interface = listener->interface,
		.state = TCP_STATE_SYN_RECEIVED, .wire_family = flow->family, .listener = tcp_index(tcp, listener) + 1,
		.ts_sent = tcp_now_us(tcp), .key = key,
	};

	memcpy(draft.local, arrival->local, sizeof(draft.local));
	memcpy(draft.remote, arrival->remote, sizeof(draft.remote));
	if (draft.interface == 0 && address_link_local(flow->family, flow->remote))
		draft.interface = flow->interface;
	if (tcp->config.timestamps == 1)
		draft.ts_offset = tcp_timestamp_offset(tcp, draft.local, draft.remote);
	return draft;
}

// A digest and timestamps leave no room for SACK blocks, which are worth more (as in Linux).
static bool takes_timestamps(const struct tcp *tcp, const struct tcp_options *options, uint32_t key)
{
	return options->has_timestamp && tcp->config.timestamps && !(key != 0 && options->sack_permitted && tcp->config.sack);
}

// The options that the peer offered and we agree to, and the window that follows from them.
static void draft_options(struct tcp *tcp, const struct tcp_socket *listener, const struct tcp_options *options, bool ecn, uint16_t mss,
	struct tcp_request *draft)
{
	if (takes_timestamps(tcp, options, draft->key)) {
		draft->options |= TCP_REQUEST_TIMESTAMPS;
		draft->ts_recent = options->tsval;
	}
	if (options->sack_permitted && tcp->config.sack)
		draft->options |= TCP_REQUEST_SACK;
	if (options->has_wscale && tcp->config.window_scaling) {
		draft->options |= TCP_REQUEST_WSCALE;
		draft->wscale_received = options->wscale < TCP_MAX_WSCALE ? options->wscale : TCP_MAX_WSCALE;
	}
	if (ecn && tcp->config.ecn)
		draft->options |= TCP_REQUEST_ECN;
	uint32_t taken = draft->options & TCP_REQUEST_TIMESTAMPS ? TIMESTAMP_BYTES : 0;
	draft->window_clamp = listener->window_clamp;
	tcp_initial_window(tcp, tcp_window_full(listener), mss > taken ? mss - taken : 1, draft->options & TCP_REQUEST_WSCALE,
		&draft->window, &draft->window_clamp, &draft->wscale_sent);
}

static uint16_t peer_mss(const struct tcp_socket *listener, const struct tcp_arrival *arrival)
{
	uint16_t otherwise = arrival->in->flow.family == FAMILY_IPV4 ? DEFAULT_MSS4 : DEFAULT_MSS6;
	uint16_t mss = arrival->options.has_mss && arrival->options.mss != 0 ? arrival->options.mss : otherwise;

	return listener->user_mss != 0 && listener->user_mss < mss ? listener->user_mss : mss;
}

static void send_cookie(struct tcp *tcp, struct tcp_socket *listener, const struct tcp_arrival *arrival, struct tcp_request *draft)
{
	struct tcp_listener_state *queue = &listener->role.listener;

	draft->iss = tcp_cookie_make(tcp, arrival, &draft->mss);
	struct tcp_reply reply = syn_ack(tcp, listener, draft);
	reply.tsval = tcp_cookie_timestamp(tcp, arrival, reply.tsval);
	queue->cookies_sent += queue->cookies_sent < UINT32_MAX;
	queue->cookies_ms = tcp_now_ms(tcp);
	tcp_reply(tcp, arrival, &reply);
}

static bool half_open_full(const struct tcp *tcp, const struct tcp_socket *listener)
{
	const struct tcp_listener_state *queue = &listener->role.listener;

	return queue->requests > queue->backlog || queue->requests >= tcp->config.max_backlog;
}

static enum drop_reason syn_input(struct tcp *tcp, struct tcp_socket *listener, const struct tcp_arrival *arrival, uint32_t key)
{
	bool full = half_open_full(tcp, listener), cookies = tcp->config.syn_cookies != 0;
	// Of a listener with keys only peers that have shown theirs are worth an answer that leaves no trace.
	bool trusted = listener->keys == 0 || key != 0;
	bool cookie = arrival->iss == 0 && trusted &&
		(tcp->config.syn_cookies == 2 || (cookies && (full || tcp->request_count >= MAX_TCP_REQUESTS)));

	if (full && !cookie && arrival->iss == 0) {
		tcp_count(tcp, TCP_STAT_LISTEN_OVERFLOWS);
		return DROP_TCP_LISTEN_FULL;
	}
	if (tcp_accept_full(tcp, listener))
		return DROP_TCP_LISTEN_FULL;
	struct tcp_request draft = draft_path(tcp, listener, arrival, key);
	uint16_t offered = offered_mss(tcp, listener, &draft);
	if (offered == 0)
		return DROP_NO_ROUTE;
	// RFC 3168 section 6.1.1.1: a SYN is not ECN-capable itself.
	bool ecn = (arrival->flags & (TCP_ECE | TCP_CWR)) == (TCP_ECE | TCP_CWR) && (arrival->in->tos & 3) == 0;
	struct tcp_options options = arrival->options;
	if (cookie && !takes_timestamps(tcp, &options, key)) {
		options = (struct tcp_options){0}; // nothing will tell us of them when the ACK comes
		ecn = false;
	}
	draft.irs = arrival->seq;
	draft.mss = peer_mss(listener, arrival);
	draft_options(tcp, listener, &options, ecn, offered, &draft);
	if (cookie) {
		send_cookie(tcp, listener, arrival, &draft);
		return DROP_NONE;
	}
	draft.iss = arrival->iss != 0 ? arrival->iss
		: tcp_initial_sequence(tcp, draft.local, draft.local_port, draft.remote, draft.remote_port);
	struct tcp_request *request = request_add(tcp, &draft);
	send_syn_ack(tcp, request);
	arm(tcp, request);
	return DROP_NONE;
}

// An ACK without a request: of a cookie, or of nothing that we know.
static enum drop_reason ack_input(struct tcp *tcp, struct tcp_socket *listener, struct tcp_arrival *arrival, uint32_t key)
{
	const struct tcp_listener_state *queue = &listener->role.listener;
	bool expected = tcp->config.syn_cookies != 0 && queue->cookies_sent != 0 &&
		tcp_now_ms(tcp) - queue->cookies_ms <= COOKIE_LIFE_MS && (listener->keys == 0 || key != 0);
	uint16_t mss = expected && !(arrival->flags & TCP_SYN) ? tcp_cookie_check(tcp, arrival) : 0;
	struct tcp_options options;
	bool ecn;

	if (mss == 0 || !tcp_cookie_options(tcp, arrival, &options, &ecn)) {
		tcp_reset_arrival(tcp, arrival);
		return DROP_TCP_NO_CONNECTION;
	}
	struct tcp_request draft = draft_path(tcp, listener, arrival, key);
	draft.iss = arrival->ack - 1;
	draft.irs = arrival->seq - 1;
	draft.mss = listener->user_mss != 0 && listener->user_mss < mss ? listener->user_mss : mss;
	draft.options = TCP_REQUEST_COOKIE;
	draft_options(tcp, listener, &options, ecn, offered_mss(tcp, listener, &draft), &draft);
	struct tcp_socket *child = tcp_child_new(tcp, listener, &draft, arrival);
	if (child == NULL)
		return DROP_TCP_LISTEN_FULL;
	tcp_child_begin(tcp, listener, child, arrival);
	return DROP_NONE;
}

enum drop_reason tcp_listen_input(struct tcp *tcp, struct tcp_socket *listener, struct tcp_arrival *arrival)
{
	uint32_t key = tcp_auth_key(tcp, listener, arrival->remote, arrival->in->flow.interface);
	if (arrival->flags & TCP_RST)
		return DROP_TCP_RESET;
	if (arrival->flags & TCP_ACK)
		return ack_input(tcp, listener, arrival, key);
	if ((arrival->flags & (TCP_SYN | TCP_FIN)) != TCP_SYN)
		return DROP_TCP_STRAY;
	return syn_input(tcp, listener, arrival, key);
}

void tcp_listen_close(struct tcp *tcp, struct tcp_socket *listener)
{
	struct tcp_listener_state *queue = &listener->role.listener;
	uint32_t number = tcp_index(tcp, listener) + 1;

	for (uint32_t at = tcp->request_oldest; at != 0 && queue->requests > 0;) {
		struct tcp_request *request = request_at(tcp, at);
		at = request->next;
		if (request->listener == number)
			tcp_request_drop(tcp, request);
	}
	while (queue->accept_head != 0) {
		struct tcp_socket *child = &tcp->sockets[queue->accept_head - 1];
		queue->accept_head = child->accept_next;
		child->accept_next = 0;
		child->parent = 0;
		child->engine &= ~(uint32_t)TCP_IN_ACCEPT_QUEUE;
		tcp_abort(tcp, child);
	}
	queue->accept_tail = 0;
	queue->accept_count = 0;
}
