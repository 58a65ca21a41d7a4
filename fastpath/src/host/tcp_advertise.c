// The window that goes into a header: RFC 9293 section 3.8.6, RFC 7323 sections 2.3 and 2.4.
//
// A window that was offered is never taken back; one that is scaled is rounded up to what the scale
// can say.  How much would be good to offer is a matter of tcp_window.c.
#include "host/tcp_internal.h"

static uint32_t round_up(uint32_t value, uint8_t scale)
{
	uint32_t unit = 1u << scale;
	return (value + unit - 1) & ~(unit - 1);
}

// The buffer fills up: the sender must learn of it, but need not be pushed any more.
static void note_shortage(const struct tcp *tcp, struct tcp_socket *s)
{
	uint32_t full = tcp_window_full(s);

	if (full > s->window_clamp)
		full = s->window_clamp;
	if (tcp_window_space(tcp, s) >= full / 2)
		return;
	s->quick_acks = 0;
	if (tcp_memory_pressure(tcp) && s->rcv_ssthresh > 4u * s->advertised_mss)
		s->rcv_ssthresh = 4u * s->advertised_mss;
}

uint32_t tcp_select_window(struct tcp *tcp, struct tcp_socket *s)
{
	uint32_t most = (uint32_t)UINT16_MAX << s->rcv_wscale, left = tcp_window_left(s);

	note_shortage(tcp, s);
	uint32_t window = tcp_window_offer(tcp, s);
	if (window < left)
		window = round_up(left, s->rcv_wscale);
	s->rcv_wnd = window < most ? window : most;
	s->rcv_wup = s->rcv_nxt;
	return s->rcv_wnd;
}

void tcp_initial_window(struct tcp *tcp, uint32_t space, uint32_t mss, bool scaling, uint32_t *window, uint32_t *clamp, uint8_t *wscale)
{
	uint32_t limit = *clamp != 0 ? *clamp : (uint32_t)UINT16_MAX << TCP_MAX_WSCALE;

	if (space > limit)
		space = limit;
	if (mss != 0 && space > mss)
		space -= space % mss;
	*window = space < UINT16_MAX ? space : UINT16_MAX;
	*wscale = 0;
	if (scaling) {
		// The scale cannot change later, so it is chosen for the largest buffer there may be.
		uint32_t largest = space > tcp->config.rmem_max ? space : tcp->config.rmem_max;
		if (largest > limit)
			largest = limit;
		while (*wscale < TCP_MAX_WSCALE && largest >> *wscale > UINT16_MAX)
			(*wscale)++;
	}
	*clamp = (uint32_t)UINT16_MAX << *wscale;
	if (*clamp > limit)
		*clamp = limit;
}
