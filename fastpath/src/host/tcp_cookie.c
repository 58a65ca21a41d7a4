// SYN cookies: connections whose half-open state travels in sequence numbers (RFC 4987 section 3.6).
//
//   31                                  4 3     1  0
//   | keyed hash: four-tuple, IRS, low bits | MSS | t |      t: parity of the minute
//
// A cookie is accepted in the minute that it was made in and in the next one.  The peer's window
// scale, SACK and ECN have no room in it: they stand in the low bits of our timestamp, which the
// peer returns.  They are not covered by the hash: a peer that forges them harms itself.
#include "host/tcp_internal.h"

#include "base/siphash.h"

enum {
	COOKIE_PERIOD_S = 60,
	COOKIE_MSS_SHIFT = 1,
	COOKIE_LOW_BITS = 4,
	TIMESTAMP_SCALE = 0x0f,    // 15: no window scaling
	TIMESTAMP_SACK = 0x10,
	TIMESTAMP_ECN = 0x20,
	TIMESTAMP_BITS = 0x3f,
	INDEX_COUNT = 8
};

// What most peers say: Ethernet less tunnels, PPPoE, IPv6 and its minimum, jumbo frames.
static const uint16_t mss_table[INDEX_COUNT] = {256, 536, 1220, 1300, 1400, 1440, 1460, 8940};

static uint64_t cookie_minute(const struct tcp *tcp)
{
	return tcp_now(tcp) / (COOKIE_PERIOD_S * 1000000000ull);
}

static uint32_t cookie_hash(const struct tcp *tcp, const struct tcp_arrival *arrival, uint32_t irs, uint64_t minute, uint32_t low)
{
	struct {
		uint8_t local[16], remote[16];
		uint16_t local_port, remote_port;
		uint32_t irs;
		uint64_t minute;
		uint32_t low;
		char purpose[4];   // the key makes initial sequence numbers and offsets as well
	} input = {.irs = irs, .minute = minute, .low = low, .purpose = "cky"};
	_Static_assert(sizeof(input) == 56, "no padding may be hashed");

	memcpy(input.local, arrival->local, sizeof(input.local));
	memcpy(input.remote, arrival->remote, sizeof(input.remote));
	input.local_port = arrival_local_port(arrival);
	input.remote_port = arrival_remote_port(arrival);
	return (uint32_t)siphash24(&tcp->secret[2], &input, sizeof(input)) << COOKIE_LOW_BITS;
}

uint32_t tcp_cookie_make(struct tcp *tcp, const struct tcp_arrival *arrival, uint16_t *mss)
{
	uint64_t minute = cookie_minute(tcp);
	uint32_t index = INDEX_COUNT - 1;

	while (index > 0 && mss_table[index] > *mss)
		index--;
	*mss = mss_table[index];
	uint32_t low = index << COOKIE_MSS_SHIFT | (uint32_t)(minute & 1);
	tcp_count(tcp, TCP_STAT_COOKIES_SENT);
	return cookie_hash(tcp, arrival, arrival->seq, minute, low) | low;
}

uint16_t tcp_cookie_check(struct tcp *tcp, const struct tcp_arrival *arrival)
{
	uint32_t cookie = arrival->ack - 1, low = cookie & ((1u << COOKIE_LOW_BITS) - 1);
	uint64_t minute = cookie_minute(tcp);

	if ((minute & 1) != (low & 1))
		minute--;
	if ((cookie_hash(tcp, arrival, arrival->seq - 1, minute, low) | low) != cookie) {
		tcp_count(tcp, TCP_STAT_COOKIES_FAILED);
		return 0;
	}
	tcp_count(tcp, TCP_STAT_COOKIES_RECEIVED);
	return mss_table[low >> COOKIE_MSS_SHIFT];
}

uint32_t tcp_cookie_timestamp(const struct tcp *tcp, const struct tcp_arrival *arrival, uint32_t tsval)
{
	const struct tcp_options *options = &arrival->options;
	bool scales = options->has_wscale && tcp->config.window_scaling;
	uint32_t bits = !scales ? TIMESTAMP_SCALE : options->wscale < TCP_MAX_WSCALE ? options->wscale : TCP_MAX_WSCALE;

	if (options->sack_permitted && tcp->config.sack)
		bits |= TIMESTAMP_SACK;
	if ((arrival->flags & (TCP_ECE | TCP_CWR)) == (TCP_ECE | TCP_CWR) && tcp->config.ecn)
		bits |= TIMESTAMP_ECN;
	uint32_t coded = (tsval & ~(uint32_t)TIMESTAMP_BITS) | bits;
	// Never ahead of the clock: the connection's own timestamps must not run backwards (RFC 7323 section 4).
	return seq_after(coded, tsval) ? coded - (TIMESTAMP_BITS + 1) : coded;
}

bool tcp_cookie_options(const struct tcp *tcp, const struct tcp_arrival *arrival, struct tcp_options *options, bool *ecn)
{
	uint32_t coded = arrival->options.tsecr;

	*options = (struct tcp_options){0};
	*ecn = false;
	if (!arrival->options.has_timestamp)
		return true;
	options->has_timestamp = true;
	options->tsval = arrival->options.tsval;
	options->sack_permitted = coded & TIMESTAMP_SACK;
	options->wscale = coded & TIMESTAMP_SCALE;
	options->has_wscale = options->wscale != TIMESTAMP_SCALE;
	*ecn = coded & TIMESTAMP_ECN;
	// What is switched off was never offered.
	return tcp->config.timestamps && (!options->sack_permitted || tcp->config.sack) &&
		(!options->has_wscale || tcp->config.window_scaling) && (!*ecn || tcp->config.ecn);
}
