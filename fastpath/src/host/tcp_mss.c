// How large segments may be: the peer's MSS (RFC 9293 section 3.7.1, RFC 6691), the path MTU (RFC 1191,
// RFC 8201), and the search for it with segments of our own (RFC 4821 section 7), which goes on
// where a router drops large packets without a word.
//
//   struct tcp_socket    probe_mss     size known to get through; 0: nothing is being searched
//                        probe_high    no larger size is tried; 0: what MTU and peer allow
//   struct tcp_flight    probe_seq..probe_end   the probe that is in flight
// Sizes in the search are payload plus options.
#include "host/tcp_internal.h"

#include "wire/ip4.h"
#include "wire/ip6.h"

enum {
	DEFAULT_MSS = 536,        // RFC 9293 section 3.7.1
	LEAST_DATAGRAM = 68,      // RFC 791: every link takes it
	PROBE_RESOLUTION = 8,     // bytes; a finer search is not worth its probes
	PROBE_CWND = 11           // segments: losing one must be repaired by duplicate ACKs
};

static uint32_t header_bytes(const struct tcp_socket *s)
{
	return (s->wire_family == 6 ? IP6_HEADER : IP4_HEADER) + TCP_HEADER;
}

// Options of every data segment; SACK blocks come and go.
static uint32_t fixed_options(const struct tcp *tcp, const struct tcp_socket *s)
{
	uint32_t bytes = s->flags & TCP_TIMESTAMPS ? 12 : 0;
	if (s->keys != 0)
		bytes += tcp_auth_bytes(tcp, tcp_auth_key(tcp, s, s->remote, s->interface));
	return bytes;
}

// Payload and options that fit.
static uint32_t size_for(const struct tcp *tcp, const struct tcp_socket *s, uint32_t mtu)
{
	uint32_t size = mtu > header_bytes(s) ? mtu - header_bytes(s) : 0;
	uint32_t clamp = s->mss_clamp != 0 ? s->mss_clamp : DEFAULT_MSS;

	if (size > clamp)
		size = clamp;
	return size > tcp->config.min_send_mss ? size : tcp->config.min_send_mss;
}

static bool searching(const struct tcp *tcp, const struct tcp_socket *s)
{
	return s->probe_mss != 0 && tcp->config.mtu_probing != 0;
}

// Half of the largest window that the peer ever offered: RFC 9293 section 3.8.6.2.1, condition (3).
uint32_t tcp_half_window(const struct tcp_socket *s, uint32_t bytes)
{
	uint32_t half = s->max_window > DEFAULT_MSS ? s->max_window / 2 : s->max_window;
	uint32_t least = LEAST_DATAGRAM - TCP_HEADER - (s->flags & TCP_TIMESTAMPS ? 12 : 0);

	if (half == 0 || bytes <= half)
		return bytes;
	return half > least ? half : least;
}

void tcp_sync_mss(struct tcp *tcp, struct tcp_socket *s, uint32_t pmtu)
{
	uint32_t options = fixed_options(tcp, s);
	uint32_t size = size_for(tcp, s, pmtu);
	uint32_t mss = size > options ? size - options : 1;

	if (s->probe_high > size)
		s->probe_high = (uint16_t)size;
	mss = tcp_half_window(s, mss);
	if (searching(tcp, s) && s->probe_mss > options && mss > s->probe_mss - options)
		mss = s->probe_mss - options;
	s->pmtu = (uint16_t)(pmtu < UINT16_MAX ? pmtu : UINT16_MAX);
	s->mss = (uint16_t)mss;
}

// What the route and the routers on it say now.
static uint32_t path_mtu(struct tcp *tcp, const struct tcp_socket *s)
{
	struct host *host = tcp->host;
	uint8_t destination[16] = {0};
	bool four = s->wire_family == 4;

	memcpy(destination, four ? s->remote + 12 : s->remote, four ? 4 : 16);
	uint32_t mtu = host->ops.path_mtu(host->ops.user, s->wire_family, destination, s->interface);
	if (mtu == 0 || s->pmtu_discover == IP_PMTUDISC_PROBE || s->pmtu_discover == IP_PMTUDISC_INTERFACE)
		return mtu;
	return path_mtu_clamp(host, s->wire_family, destination, mtu);
}

void tcp_refresh_mtu(struct tcp *tcp, struct tcp_socket *s)
{
	uint32_t mtu = path_mtu(tcp, s);

	if (mtu == 0 && s->mss != 0)
		return;
	if (mtu == 0)
		mtu = DEFAULT_MSS + header_bytes(s);
	if (mtu > UINT16_MAX)
		mtu = UINT16_MAX;
	if (mtu != s->pmtu || s->mss == 0)
		tcp_sync_mss(tcp, s, mtu);
}

uint16_t tcp_current_mss(struct tcp *tcp, struct tcp_socket *s)
{
	if (s->mss == 0)
		tcp_refresh_mtu(tcp, s);
	uint32_t fixed = fixed_options(tcp, s), now = tcp_option_bytes(tcp, s, TCP_ACK);
	uint32_t more = now > fixed ? now - fixed : 0;
	return (uint16_t)(s->mss > more ? s->mss - more : 1);
}

uint32_t tcp_mtu_probe_size(struct tcp *tcp, struct tcp_socket *s)
{
	const struct tcp_flight *f = tcp_flight(tcp, s);
	if (s->probe_mss == 0 && tcp->config.mtu_probing == 2)
		s->probe_mss = (uint16_t)tcp->config.base_mss;
	if (!searching(tcp, s) || f->probe_seq != f->probe_end || s->recovery != TCP_RECOVERY_OPEN)
		return 0;
	if (s->cwnd < PROBE_CWND || f->range_count != 0 || s->keys != 0)
		return 0;
	uint32_t high = size_for(tcp, s, path_mtu(tcp, s));
	if (s->probe_high != 0 && s->probe_high < high)
		high = s->probe_high;
	if (high < s->probe_mss + (uint32_t)PROBE_RESOLUTION)
		return 0;
	return (high + s->probe_mss) / 2 - fixed_options(tcp, s);
}

void tcp_mtu_probe_done(struct tcp *tcp, struct tcp_socket *s, bool arrived)
{
	struct tcp_flight *f = tcp_flight(tcp, s);
	uint32_t size = f->probe_end - f->probe_seq + fixed_options(tcp, s), before = s->mss;

	if (f->probe_seq == f->probe_end)
		return;
	f->probe_seq = f->probe_end;
	if (!arrived) {
		s->probe_high = (uint16_t)(size - 1);
		return;
	}
	s->probe_mss = (uint16_t)size;
	tcp_sync_mss(tcp, s, s->pmtu);
	// As many bytes as before, in larger segments.
	uint32_t cwnd = (uint32_t)((uint64_t)s->cwnd * before / s->mss);
	s->cwnd = cwnd > 0 ? cwnd : 1;
	s->cwnd_count = 0;
}
