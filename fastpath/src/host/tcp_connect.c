// The handshake as the side that connects sees it: SYN-SENT, and SYN-RECEIVED after crossed SYNs.
//
// RFC 9293 sections 3.5 and 3.10.7.3, RFC 7323 section 2.2, RFC 2018 section 2, RFC 3168 section 6.1.1.
// Not supported: data on a SYN (RFC 7413); it is not acknowledged, so that the peer sends it again.
#include "host/tcp_internal.h"

enum { DEFAULT_MSS4 = 536, DEFAULT_MSS6 = 1220, SMALLEST_MSS = 48 }; // RFC 9293 section 3.7.1

// Options of the peer's SYN: what both sides said is agreed on.
static void agree(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *a)
{
	const struct tcp_options *o = &a->options;
	const struct host_config *config = &tcp->config;

	s->flags &= ~(uint32_t)(TCP_SACK_OK | TCP_TIMESTAMPS | TCP_WINDOW_SCALING);
	if (o->sack_permitted && config->sack)
		s->flags |= TCP_SACK_OK;
	if (o->has_wscale && config->window_scaling) {
		s->flags |= TCP_WINDOW_SCALING;
		s->snd_wscale = o->wscale;
	} else {
		s->snd_wscale = 0;
		s->rcv_wscale = 0;
		if (s->window_clamp > UINT16_MAX)
			s->window_clamp = UINT16_MAX;
	}
	if (o->has_timestamp && config->timestamps != 0 && tcp_auth_key(tcp, s, s->remote, s->interface) == 0) {
		s->flags |= TCP_TIMESTAMPS;
		s->ts_recent = o->tsval;
		s->ts_recent_s = (uint32_t)(tcp_now(tcp) / (1000 * TCP_MS));
	}
	uint16_t mss = o->has_mss ? o->mss : s->wire_family == FAMILY_IPV4 ? DEFAULT_MSS4 : DEFAULT_MSS6;
	if (s->user_mss != 0 && s->user_mss < mss)
		mss = s->user_mss;
	s->mss_clamp = mss < SMALLEST_MSS ? SMALLEST_MSS : mss;
}

static void synchronize(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *a)
{
	s->irs = a->seq;
	s->rcv_nxt = a->seq + 1;
	s->rcv_wup = s->rcv_nxt;
	s->copied_seq = s->rcv_nxt;
	s->snd_wl1 = a->seq;
	s->last_received_ms = tcp_now_ms(tcp);
	agree(tcp, s, a);
}

// The window of a SYN is never scaled (RFC 7323 section 2.2).
static void take_window(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *a)
{
	s->snd_wnd = a->window;
	if (s->max_window < s->snd_wnd)
		s->max_window = s->snd_wnd;
	tcp_sync_mss(tcp, s, s->pmtu);
	tcp_window_start(tcp, s);
	queue_grow(tcp, s);
}

static void established(struct tcp *tcp, struct tcp_socket *s)
{
	tcp_congestion_start(tcp, s, 0);
	tcp_set_state(tcp, s, TCP_STATE_ESTABLISHED);
	tcp_keepalive_set(tcp, s, s->flags & TCP_KEEPALIVE_SET);
	tcp_notify(tcp, s, HOST_STREAM_CONNECTED | HOST_STREAM_WRITABLE);
	if (s->flags & TCP_SEND_SHUT) { // closed in SYN-RECEIVED: the FIN had to wait (RFC 9293 section 3.10.4)
		tcp_set_state(tcp, s, TCP_STATE_FIN_WAIT_1);
		tcp_queue_fin(tcp, s);
	}
	tcp_dirty(tcp, s);
}

static enum drop_reason syn_ack(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *a)
{
	// RFC 3168 section 6.1.1: ECE without CWR agrees; both are a peer that reflects what it does not know.
	bool asked = tcp->config.ecn == 1 && !(s->engine & TCP_NO_ECN_RETRY);
	s->flags &= ~(uint32_t)TCP_ECN_OK;
	if (asked && (a->flags & (TCP_ECE | TCP_CWR)) == TCP_ECE)
		s->flags |= TCP_ECN_OK;
	synchronize(tcp, s, a);
	(void)tcp_ack(tcp, s, a);
	take_window(tcp, s, a);
	established(tcp, s);
	if (s->engine & TCP_PINGPONG) {
		// The app said that its first bytes follow: they carry the ACK.
		tcp_quickack(tcp, s, TCP_MAX_QUICKACKS);
		tcp_ack_later(tcp, s, TCP_DELACK_MAX);
	} else {
		s->flags |= TCP_ACK_PENDING | TCP_ACK_NOW;
	}
	return DROP_NONE;
}

// Crossed SYNs (RFC 9293 section 3.5, figure 7); they agree on no ECN.
static enum drop_reason crossed_syn(struct tcp *tcp, struct tcp_socket *s, const struct tcp_arrival *a)
{
	s->flags &= ~(uint32_t)TCP_ECN_OK;
	synchronize(tcp, s, a);
	take_window(tcp, s, a);
	tcp_set_state(tcp, s, TCP_STATE_SYN_RECEIVED);
	tcp_send_syn(tcp, s);
	return DROP_NONE;
}

// PAWS for a SYN-ACK: does it echo a timestamp that one of our SYNs carried?
static bool echoes_ours(const struct tcp *tcp, const struct tcp_socket *s, const struct tcp_arrival *a)
{
	const struct tcp_flight *f = tcp_flight(tcp, s);
	const struct tcp_segment *syn = segment_at(tcp, f->segment_head);
	if (!a->options.has_timestamp || a->options.tsecr == 0 || tcp->config.timestamps == 0 || syn == NULL)
		return true;
	return seq_between(a->options.tsecr, syn->first_sent_ms + s->ts_offset, tcp_now_ms(tcp) + s->ts_offset);
}

enum drop_reason tcp_arrive_syn_sent(struct tcp *tcp, struct tcp_socket *s, struct tcp_arrival *a)
{
	bool ack = a->flags & TCP_ACK;

	if (ack && (!seq_after(a->ack, s->iss) || seq_after(a->ack, s->snd_nxt) || !echoes_ours(tcp, s, a))) {
		tcp_reset_arrival(tcp, a);
		return DROP_TCP_STRAY;
	}
	if (a->flags & TCP_RST) {
		if (ack)
			tcp_reset_received(tcp, s);
		return DROP_TCP_RESET;
	}
	if (!(a->flags & TCP_SYN))
		return DROP_TCP_STRAY;
	return ack ? syn_ack(tcp, s, a) : crossed_syn(tcp, s, a);
}

enum drop_reason tcp_arrive_syn_received(struct tcp *tcp, struct tcp_socket *s, struct tcp_arrival *a)
{
	if (!(a->flags & TCP_ACK))
		return DROP_TCP_STRAY;
	if (!seq_after(a->ack, s->snd_una) || seq_after(a->ack, s->snd_nxt)) {
		tcp_reset_arrival(tcp, a);
		return DROP_TCP_STRAY;
	}
	if (tcp_ack(tcp, s, a) == TCP_ACK_INVALID)
		return DROP_TCP_STRAY;
	s->snd_wl1 = a->seq;
	if (!(a->flags & TCP_SYN))
		s->snd_wnd = a->window << s->snd_wscale;
	if (s->max_window < s->snd_wnd)
		s->max_window = s->snd_wnd;
	established(tcp, s);
	if (a->flags & TCP_SYN) // the peer's SYN-ACK: it waits for this ACK, and its SYN must not count as data
		s->flags |= TCP_ACK_PENDING | TCP_ACK_NOW;
	return DROP_NONE;
}
