// What the fuzzer's bytes make of a peer: numbers are chosen near those that the connection has, so that inputs of a
// few bytes reach deep into its states.
#include "tcp_world.h"

enum { KIND_NOP = 1, KIND_MSS = 2, KIND_WSCALE = 3, KIND_SACK_PERMITTED = 4, KIND_SACK = 5, KIND_TIMESTAMP = 8 };

// Somebody whom the stack knows, in whatever record.
struct known {
	uint8_t local[16], remote[16];
	uint16_t local_port, remote_port;
	uint32_t rcv_nxt, snd_una, snd_nxt;
	uint32_t ts_recent, ts_offset;
	uint32_t key;
	uint32_t window;
	uint32_t echo;                // of a timestamp; 0: about now
	const struct tcp_socket *s;   // NULL: none
};

// --- who ---

static void known_socket(const struct world *w, const struct tcp_socket *s, struct known *known)
{
	memcpy(known->local, s->local, 16);
	memcpy(known->remote, s->remote, 16);
	known->local_port = s->local_port;
	known->remote_port = s->remote_port;
	known->rcv_nxt = s->rcv_nxt;
	known->snd_una = s->snd_una;
	known->snd_nxt = s->snd_nxt;
	known->ts_recent = s->ts_recent;
	known->ts_offset = s->ts_offset;
	known->key = tcp_auth_key(w->host->tcp, s, s->remote, 1);
	known->window = s->snd_wnd >> s->snd_wscale;
	known->s = s;
}

static void known_request(const struct tcp_request *request, struct known *known)
{
	memcpy(known->local, request->local, 16);
	memcpy(known->remote, request->remote, 16);
	known->local_port = request->local_port;
	known->remote_port = request->remote_port;
	known->rcv_nxt = request->irs + 1;
	known->snd_una = request->iss;
	known->snd_nxt = request->iss + 1;
	known->ts_recent = request->ts_recent;
	known->ts_offset = request->ts_offset;
	known->key = request->key;
	known->window = 20000;
}

static void known_timewait(const struct world *w, uint32_t number, struct known *known)
{
	const struct tcp_timewait *timewait = &w->host->tcp->timewaits[number];

	memcpy(known->local, timewait->local, 16);
	memcpy(known->remote, timewait->remote, 16);
	known->local_port = timewait->local_port;
	known->remote_port = timewait->remote_port;
	known->rcv_nxt = timewait->rcv_nxt;
	known->snd_una = known->snd_nxt = timewait->snd_nxt;
	known->ts_recent = timewait->ts_recent;
	known->key = w->host->tcp->timewait_more[number].key;
}

// Whoever was sent the last SYN-ACK, perhaps a cookie.
static void known_answer(const struct world *w, struct known *known)
{
	memcpy(known->local, w->answer.local, 16);
	memcpy(known->remote, w->answer.remote, 16);
	known->local_port = w->answer.local_port;
	known->remote_port = w->answer.remote_port;
	known->rcv_nxt = w->answer.ack;
	known->snd_una = w->answer.seq;
	known->snd_nxt = w->answer.seq + 1;
	known->echo = w->answer.stamp;
	known->ts_recent = 1;
	known->window = 30000;
}

// A stranger at a listener's port.
static void known_stranger(const struct world *w, uint8_t choice, struct known *known)
{
	bool sign = choice & 2;

	world_address(choice & 1, 0, known->local);
	world_address(choice & 1, sign && choice & 8 ? 2 : 1, known->remote);
	known->local_port = sign ? WORLD_SIGNED_PORT : choice & 4 ? WORLD_PORT : 81;
	known->remote_port = (uint16_t)(3000 + (choice >> 4));
	known->window = 30000;
	if (sign) {
		const struct tcp_socket *listener = host_stream(w->host, w->signed_listener);
		if (listener != NULL)
			known->key = tcp_auth_key(w->host->tcp, listener, known->remote, 1);
	}
}

static void choose(const struct world *w, struct input *in, struct known *known)
{
	const struct tcp *tcp = w->host->tcp;
	uint8_t choice = take8(in);
	uint32_t used = (uint32_t)w->state->tcp_used, requests = (uint32_t)w->state->tcp_requests_used;
	uint32_t waits = (uint32_t)w->state->tcp_timewaits_used, number = choice >> 2;

	memset(known, 0, sizeof(*known));
	if ((choice & 3) == 3 && (choice & 12) == 12 && w->answer.local_port != 0)
		known_answer(w, known);
	else if ((choice & 3) == 3)
		known_stranger(w, take8(in), known);
	else if ((choice & 3) == 2 && number % 2 == 0 && requests > 0 && tcp->requests[number / 2 % requests].state != 0)
		known_request(&tcp->requests[number / 2 % requests], known);
	else if ((choice & 3) == 2 && waits > 0 && tcp->timewaits[number / 2 % waits].state != 0)
		known_timewait(w, number / 2 % waits, known);
	else if (used > 0 && tcp->sockets[number % used].cookie != 0 && tcp->sockets[number % used].remote_port != 0)
		known_socket(w, &tcp->sockets[number % used], known);
	else
		known_stranger(w, choice, known);
}

// --- numbers ---

static uint32_t choose_seq(const struct world *w, const struct known *known, uint8_t choice, struct input *in)
{
	const struct tcp_socket *s = known->s;
	uint32_t right = 0, mss = s != NULL && s->mss != 0 ? s->mss : 1460;
	uint32_t edge = s != NULL ? s->rcv_wup + s->rcv_wnd : known->rcv_nxt + 20000;

	switch (choice & 15) {
	default: return known->rcv_nxt;
	case 5: return known->rcv_nxt - 1;
	case 6: return known->rcv_nxt + 1;
	case 7: return known->rcv_nxt + mss;
	case 8: return known->rcv_nxt + mss * (1 + take8(in) % 32);
	case 9: return known->rcv_nxt - take16(in);
	case 10: return edge - take8(in) % 4;
	case 11: return edge + 1;
	case 12: return s != NULL && tcp_range_right(w->host->tcp, s, &right) ? right - take8(in) : known->rcv_nxt + 100;
	case 13: return known->rcv_nxt + take16(in);
	case 14: return known->rcv_nxt + (1u << 31) - take8(in) % 3;
	case 15: return take32(in);
	}
}

// The end of one of the segments in flight.
static uint32_t segment_end(const struct world *w, const struct known *known, uint8_t number)
{
	const struct tcp *tcp = w->host->tcp;

	if (known->s == NULL)
		return known->snd_nxt;
	uint32_t at = tcp_flight(tcp, known->s)->segment_head;
	for (uint32_t i = 0; i < number && at != 0 && segment_at(tcp, at)->next != 0; i++)
		at = segment_at(tcp, at)->next;
	return at != 0 ? segment_at(tcp, at)->end : known->snd_nxt;
}

static uint32_t choose_ack(const struct world *w, const struct known *known, uint8_t choice, struct input *in)
{
	uint32_t mss = known->s != NULL && known->s->mss != 0 ? known->s->mss : 1460;

	switch (choice & 15) {
	default: return known->snd_nxt;
	case 3:
	case 4:
	case 5: return known->snd_una;
	case 6: return segment_end(w, known, take8(in) % 16);
	case 7: return known->snd_una + 1;
	case 8: return known->snd_una + mss * (1 + take8(in) % 16);
	case 9: return known->snd_una - 1;
	case 10: return known->snd_nxt + 1;
	case 11: return known->snd_una - (known->s != NULL ? known->s->max_window : 0) - take8(in) % 3 + 1;
	case 12: return known->snd_nxt - 1;
	case 13: return known->snd_una + take16(in);
	case 14: return known->snd_una + (1u << 31) - take8(in) % 3;
	case 15: return take32(in);
	}
}

// --- options ---

static void put(struct segment *segment, const uint8_t *bytes, uint32_t length)
{
	if (segment->option_length + length <= sizeof(segment->options)) {
		memcpy(segment->options + segment->option_length, bytes, length);
		segment->option_length += length;
	}
}

static void put_timestamp(const struct world *w, const struct known *known, uint8_t choice, struct input *in, struct segment *segment)
{
	uint8_t option[12] = {KIND_NOP, KIND_NOP, KIND_TIMESTAMP, 10};
	uint32_t now = (uint32_t)(w->now / TCP_MS) + known->ts_offset;

	store32(option + 4, choice & 1 ? known->ts_recent - 1 : choice & 2 ? known->ts_recent + take16(in) : known->ts_recent + 1);
	store32(option + 8, choice & 4 ? 0 : choice & 8 ? take32(in) : known->echo != 0 ? known->echo : now - take8(in) % 64);
	put(segment, option, sizeof(option));
}

static void put_sacks(const struct world *w, const struct known *known, struct input *in, struct segment *segment)
{
	uint8_t choice = take8(in), option[4 + 32] = {KIND_NOP, KIND_NOP, KIND_SACK};
	uint32_t count = 1 + choice % 4, room = ((uint32_t)sizeof(segment->options) - segment->option_length) / 8;

	if (room == 0)
		return;
	if (count > room - (segment->option_length == 0 ? 1u : 0u) && room > 1)
		count = room - 1;
	else if (room == 1)
		return;
	option[3] = (uint8_t)(2 + 8 * count);
	for (uint32_t i = 0; i < count; i++) {
		uint8_t from = take8(in), to = take8(in);
		uint32_t start = segment_end(w, known, from % 32), end = segment_end(w, known, (uint8_t)(from % 32 + 1 + to % 4));
		if (from & 32)
			start += (to >> 4) - 8u;
		if (from & 64)
			end += (to >> 4) - 8u;
		if (from & 128)
			start = known->snd_una - (to >> 2);
		store32(option + 4 + 8 * i, start);
		store32(option + 8 + 8 * i, end);
	}
	put(segment, option, 4 + 8 * count);
}

static void put_syn_options(struct input *in, struct segment *segment)
{
	uint8_t choice = take8(in);
	uint16_t mss = choice & 1 ? take16(in) : 1460;
	const uint8_t sizes[4] = {KIND_MSS, 4, (uint8_t)(mss >> 8), (uint8_t)mss};
	const uint8_t permitted[4] = {KIND_NOP, KIND_NOP, KIND_SACK_PERMITTED, 2};
	const uint8_t scale[4] = {KIND_NOP, KIND_WSCALE, 3, (uint8_t)(choice & 2 ? take8(in) : 7)};

	if (!(choice & 4))
		put(segment, sizes, 4);
	if (!(choice & 8))
		put(segment, permitted, 4);
	if (!(choice & 16))
		put(segment, scale, 4);
}

static void put_options(const struct world *w, const struct known *known, uint8_t choice, struct input *in, struct segment *segment)
{
	bool stamped = known->s != NULL ? known->s->flags & TCP_TIMESTAMPS : known->ts_recent != 0 || (segment->flags & TCP_SYN);

	if (segment->flags & TCP_SYN)
		put_syn_options(in, segment);
	if (stamped != !!(choice & 1))
		put_timestamp(w, known, choice & 2 ? take8(in) : 0, in, segment);
	if (choice & 4)
		put_sacks(w, known, in, segment);
	if (choice & 8) { // anything
		uint8_t bytes[8];
		for (uint32_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = take8(in);
		put(segment, bytes, sizeof(bytes));
	}
}

// --- a segment ---

static uint8_t choose_flags(uint8_t choice, struct input *in)
{
	static const uint8_t usual[] = {
		TCP_ACK, TCP_ACK, TCP_ACK, TCP_ACK, TCP_ACK | TCP_PSH, TCP_ACK | TCP_PSH, TCP_ACK | TCP_FIN, TCP_SYN, TCP_SYN | TCP_ACK, TCP_RST,
		TCP_RST | TCP_ACK, TCP_ACK | TCP_ECE, TCP_ACK | TCP_CWR, TCP_SYN | TCP_ECE | TCP_CWR, TCP_FIN,
	};
	choice &= 15;
	return choice < sizeof(usual) ? usual[choice] : take8(in);
}

static uint16_t choose_window(const struct known *known, uint8_t choice, struct input *in)
{
	switch (choice & 7) {
	default: return (uint16_t)(known->window < UINT16_MAX ? known->window : UINT16_MAX);
	case 4: return UINT16_MAX;
	case 5: return 0;
	case 6: return (uint16_t)(known->window / 2);
	case 7: return take16(in);
	}
}

static void choose_length(const struct known *known, uint8_t choice, struct input *in, struct segment *segment)
{
	uint16_t mss = known->s != NULL && known->s->mss != 0 ? known->s->mss : 1400;

	switch (choice & 7) {
	default: break;
	case 3: segment->length = 1; break;
	case 4: segment->length = mss; break;
	case 5: segment->length = take8(in); break;
	case 6: segment->length = take16(in) % mss; break;
	case 7:
		segment->length = take16(in);
		segment->gso_size = mss;
		break;
	}
}

void peer_segment(struct world *w, struct input *in)
{
	struct segment segment = {.ttl = 64};
	struct known known;

	choose(w, in, &known);
	uint8_t kind = take8(in), numbers = take8(in), sizes = take8(in);
	memcpy(segment.local, known.local, 16);
	memcpy(segment.remote, known.remote, 16);
	segment.local_port = known.local_port;
	segment.remote_port = known.remote_port;
	segment.flags = choose_flags(kind, in);
	segment.seq = choose_seq(w, &known, numbers, in);
	segment.ack = choose_ack(w, &known, numbers >> 4, in);
	segment.window = choose_window(&known, sizes, in);
	choose_length(&known, sizes >> 3, in, &segment);
	if (sizes & 64)
		segment.tos = take8(in) & 3;
	if (sizes & 128)
		segment.ttl = take8(in);
	segment.key = known.key;
	if (known.key != 0 && (kind & 128))
		segment.key = 0;
	put_options(w, &known, kind >> 4, in, &segment);
	world_send(w, &segment);
}

// --- ICMP ---

void peer_icmp(struct world *w, struct input *in)
{
	struct known known;

	choose(w, in, &known);
	bool four = address_mapped(known.remote);
	uint8_t type = take8(in), code = take8(in), bytes[120] = {0};
	uint32_t outer = four ? 20 : 40, quoted = outer + 8 + outer, length = quoted + 8;
	uint8_t *inner = bytes + outer + 8, *icmp = bytes + outer;

	icmp[0] = four ? (const uint8_t[]){3, 3, 3, 11, 12, 4, 3, 3}[type & 7] : (const uint8_t[]){1, 2, 3, 4, 2, 2, 1, 2}[type & 7];
	icmp[1] = (type & 7) < 2 && four ? 4 : code % 16;
	uint16_t mtu = take16(in);
	store16(icmp + 6, (uint16_t)(type & 8 ? mtu : 1280 + mtu % 256));
	uint8_t family, local[16], remote[16];
	address_unmap(AF_INET6, known.local, &family, local);
	address_unmap(AF_INET6, known.remote, &family, remote);
	if (four) {
		bytes[0] = inner[0] = 0x45;
		bytes[8] = inner[8] = 64;
		bytes[9] = IPPROTO_ICMP;
		inner[9] = IPPROTO_TCP;
		store16(bytes + 2, (uint16_t)length);
		store16(inner + 2, 1400);
		memcpy(bytes + 12, remote, 4);
		memcpy(bytes + 16, local, 4);
		memcpy(inner + 12, local, 4);
		memcpy(inner + 16, remote, 4);
	} else {
		bytes[0] = inner[0] = 0x60;
		bytes[7] = inner[7] = 64;
		bytes[6] = IPPROTO_ICMPV6;
		inner[6] = IPPROTO_TCP;
		store16(bytes + 4, (uint16_t)(length - 40));
		store16(inner + 4, 1400);
		memcpy(bytes + 8, remote, 16);
		memcpy(bytes + 24, local, 16);
		memcpy(inner + 8, local, 16);
		memcpy(inner + 24, remote, 16);
	}
	uint8_t *tcp = bytes + quoted;
	store16(tcp, known.local_port);
	store16(tcp + 2, known.remote_port);
	store32(tcp + 4, type & 16 ? take32(in) : type & 32 ? known.snd_nxt : known.snd_una);
	world_arrive(w, bytes, length, VIRTIO_NET_HDR_F_DATA_VALID, 0);
}

// --- time ---

void peer_time(struct world *w, struct input *in)
{
	static const uint64_t units_us[] = {1, 10, 100, 1000, 10000, 50000, 200000, 1000000, 3000000, 30000000};
	uint8_t choice = take8(in);
	uint64_t us = units_us[choice % 10] * (1 + take8(in) % 16);
	uint64_t deadline = host_deadline(w->host);

	if (choice >= 250) // what every timer fears
		us = (1ull << (31 + choice % 2)) * (choice & 4 ? 1000 : 1);
	for (uint32_t i = choice >= 225 && choice < 250 ? take8(in) % 40u : 0; i > 0 && host_deadline(w->host) != UINT64_MAX; i--)
		world_advance(w, host_deadline(w->host) - w->now, false);
	if (choice >= 100 && choice < 225 && deadline != UINT64_MAX && deadline > w->now)
		us = (deadline - w->now) / 1000 + 1;
	world_advance(w, us * 1000, choice & 1);
}
