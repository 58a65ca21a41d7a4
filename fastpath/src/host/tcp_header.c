// TCP segments as bytes: received ones are checked and taken apart, sent ones put together.
// RFC 9293 section 3.1 and 3.2, RFC 7323 section 3, RFC 2018 section 3, RFC 2385, RFC 3168 section 6.1.
//
//   tcp_parse:     bytes -> struct tcp_arrival
//   tcp_transmit:  connection -> options -> struct tcp_emission -> tcp_build -> payload -> tcp_emit
//
// A segment longer than the MSS is a super-segment: one packet, whose virtio header tells the
// driver, or forwarding, where to cut it.  Checksums are always left to whoever sends the packet.
// Options come in the order of Linux, because a stack is told by it; a malformed option ends the
// options but does not condemn the segment.  Not supported: urgent data is not sent.
#include "host/tcp_internal.h"

#include "base/cksum.h"
#include "wire/ip4.h"
#include "wire/ip6.h"

enum tcp_option_kind {
	KIND_END = 0, KIND_NOP = 1, KIND_MSS = 2, KIND_WSCALE = 3, KIND_SACK_PERMITTED = 4,
	KIND_SACK = 5, KIND_TIMESTAMP = 8, KIND_MD5 = 19, KIND_AO = 29
};

enum { ECN_MASK = 3, ECN_ECT0 = 2, ECN_CE = 3, OPTION_SPACE = 40, SACK_BLOCK = 8, LEND_BYTES = 2048 };

// --- received ---

static void parse_sacks(const uint8_t *at, uint32_t length, struct tcp_options *options)
{
	if (length < 2 + SACK_BLOCK || (length - 2) % SACK_BLOCK != 0)
		return;
	options->sack_count = (uint8_t)((length - 2) / SACK_BLOCK);
	if (options->sack_count > TCP_SACK_BLOCKS)
		options->sack_count = TCP_SACK_BLOCKS;
	for (uint32_t i = 0; i < options->sack_count; i++) {
		options->sacks[i].start = load32(at + 2 + i * SACK_BLOCK);
		options->sacks[i].end = load32(at + 6 + i * SACK_BLOCK);
	}
}

static void parse_syn_option(const uint8_t *at, uint32_t length, struct tcp_options *options)
{
	if (at[0] == KIND_MSS && length == 4 && load16(at + 2) != 0) {
		options->has_mss = true;
		options->mss = load16(at + 2);
	} else if (at[0] == KIND_WSCALE && length == 3) {
		options->has_wscale = true;
		options->wscale = at[2] > TCP_MAX_WSCALE ? TCP_MAX_WSCALE : at[2]; // RFC 7323 section 2.3
	} else if (at[0] == KIND_SACK_PERMITTED && length == 2) {
		options->sack_permitted = true;
	}
}

static void parse_option(const uint8_t *at, uint32_t length, bool syn, struct tcp_options *options)
{
	switch (at[0]) {
	case KIND_SACK:
		parse_sacks(at, length, options);
		break;
	case KIND_TIMESTAMP:
		if (length == 10) {
			options->has_timestamp = true;
			options->tsval = load32(at + 2);
			options->tsecr = load32(at + 6);
		}
		break;
	case KIND_MD5:
		if (length == 18)
			options->md5 = at + 2;
		break;
	case KIND_AO:
		if (length >= 4)
			options->ao = at;
		break;
	default:
		if (syn)
			parse_syn_option(at, length, options);
	}
}

static void parse_options(const uint8_t *at, uint32_t left, bool syn, struct tcp_options *options)
{
	while (left > 0 && at[0] != KIND_END) {
		uint32_t length = 1;
		if (at[0] != KIND_NOP) {
			if (left < 2 || at[1] < 2 || at[1] > left)
				return;
			length = at[1];
			parse_option(at, length, syn, options);
		}
		at += length;
		left -= length;
	}
}

bool tcp_parse(struct inbound *in, struct tcp_arrival *arrival)
{
	const uint8_t *header = in->ip + in->transport;
	uint32_t available = in->length - in->transport;
	uint32_t header_length = tcp_header_length(header, available);
	uint32_t unit = in->packet->vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE ? 0 : in->packet->vnet.gso_size;

	memset(arrival, 0, sizeof(*arrival));
	if (header_length == 0)
		return false;
	arrival->header = header;
	if (!in->verified && transport_checksum(in->flow.family, in->flow.remote, in->flow.local, IPPROTO_TCP, header, available) != 0)
		return false;
	in->flow.remote_port = load16(header);
	in->flow.local_port = load16(header + 2);
	arrival->in = in;
	arrival->header_length = header_length;
	arrival->seq = load32(header + 4);
	arrival->ack = load32(header + 8);
	arrival->flags = header[13];
	arrival->window = load16(header + 14);
	arrival->congestion_experienced = (in->tos & ECN_MASK) == ECN_CE;
	arrival->payload = header + header_length;
	arrival->length = available - header_length;
	arrival->end = arrival->seq + arrival->length + !!(arrival->flags & TCP_SYN) + !!(arrival->flags & TCP_FIN);
	arrival->segments = unit != 0 && arrival->length > unit ? (arrival->length + unit - 1) / unit : 1;
	memcpy(arrival->local, in->flow.local6, sizeof(arrival->local));
	memcpy(arrival->remote, in->flow.remote6, sizeof(arrival->remote));
	parse_options(header + TCP_HEADER, header_length - TCP_HEADER, arrival->flags & TCP_SYN, &arrival->options);
	return true;
}

// --- options to be sent ---

void tcp_put_timestamp(struct tcp_emission *emission, bool sack_permitted, uint32_t tsval, uint32_t tsecr)
{
	uint8_t *at = emission->options + emission->option_length;
	at[0] = sack_permitted ? KIND_SACK_PERMITTED : KIND_NOP;
	at[1] = sack_permitted ? 2 : KIND_NOP;
	at[2] = KIND_TIMESTAMP;
	at[3] = 10;
	store32(at + 4, tsval);
	store32(at + 8, tsecr);
	emission->option_length += 12;
}

static void put_word(struct tcp_emission *emission, uint8_t a, uint8_t b, uint8_t c, uint8_t d)
{
	uint8_t *at = emission->options + emission->option_length;
	at[0] = a;
	at[1] = b;
	at[2] = c;
	at[3] = d;
	emission->option_length += 4;
}

void tcp_put_signature(const struct tcp *tcp, struct tcp_emission *emission, uint32_t key)
{
	emission->key = key;
	emission->signature_at = emission->option_length;
	emission->option_length += tcp_auth_bytes(tcp, key);
}

void tcp_put_syn_options(struct tcp_emission *emission, const struct tcp_syn_options *syn)
{
	put_word(emission, KIND_MSS, 4, (uint8_t)(syn->mss >> 8), (uint8_t)syn->mss);
	if (syn->timestamp)
		tcp_put_timestamp(emission, syn->sack, syn->tsval, syn->tsecr);
	else if (syn->sack)
		put_word(emission, KIND_NOP, KIND_NOP, KIND_SACK_PERMITTED, 2);
	if (syn->scaling)
		put_word(emission, KIND_NOP, KIND_WSCALE, 3, syn->wscale);
}

static void put_sacks(const struct tcp *tcp, const struct tcp_socket *s, struct tcp_emission *emission)
{
	struct tcp_sack_block blocks[TCP_SACK_BLOCKS];
	uint32_t left = OPTION_SPACE - emission->option_length;
	int count = left < 4 + SACK_BLOCK ? 0 : (int)((left - 4) / SACK_BLOCK);

	if (s->flight == 0 || !(s->flags & TCP_SACK_OK) || count == 0)
		return;
	count = tcp_sack_blocks(tcp, s, count < TCP_SACK_BLOCKS ? count : TCP_SACK_BLOCKS, blocks);
	if (count <= 0)
		return;
	put_word(emission, KIND_NOP, KIND_NOP, KIND_SACK, (uint8_t)(2 + count * SACK_BLOCK));
	for (int i = 0; i < count; i++) {
		store32(emission->options + emission->option_length, blocks[i].start);
		store32(emission->options + emission->option_length + 4, blocks[i].end);
		emission->option_length += SACK_BLOCK;
	}
}

// Our own SYN asks for what is configured, a SYN-ACK grants what both sides said.  Timestamps and
// SACK blocks leave no room for a digest, so a signed connection does not ask for timestamps.
static void put_connection_syn(const struct tcp *tcp, const struct tcp_socket *s, struct tcp_emission *emission)
{
	bool asking = s->state == TCP_STATE_SYN_SENT;
	const struct host_config *config = &tcp->config;
	struct tcp_syn_options syn = {
		.mss = s->user_mss != 0 && s->user_mss < s->advertised_mss ? s->user_mss : s->advertised_mss,
		.sack = asking ? config->sack : s->flags & TCP_SACK_OK,
		.timestamp = asking ? config->timestamps != 0 && emission->key == 0 : s->flags & TCP_TIMESTAMPS,
		.scaling = asking ? config->window_scaling : s->flags & TCP_WINDOW_SCALING,
		.wscale = s->rcv_wscale,
		.tsval = tcp_now_ms(tcp) + s->ts_offset,
		.tsecr = s->ts_recent,
	};
	tcp_put_syn_options(emission, &syn);
}

static void put_options(const struct tcp *tcp, const struct tcp_socket *s, uint8_t flags, struct tcp_emission *emission)
{
	emission->option_length = 0;
	emission->key = 0;
	if (s->keys != 0) {
		uint32_t key = tcp_auth_key(tcp, s, s->remote, s->interface);
		if (key != 0)
			tcp_put_signature(tcp, emission, key);
	}
	if (flags & TCP_SYN) {
		put_connection_syn(tcp, s, emission);
		return;
	}
	if (s->flags & TCP_TIMESTAMPS)
		tcp_put_timestamp(emission, false, tcp_now_ms(tcp) + s->ts_offset, s->ts_recent);
	put_sacks(tcp, s, emission);
}

uint32_t tcp_option_bytes(const struct tcp *tcp, const struct tcp_socket *s, uint8_t flags)
{
	struct tcp_emission emission;
	put_options(tcp, s, flags, &emission);
	return emission.option_length;
}

// --- packets ---

// Addresses inside TCP are the mapped form; the four bytes of IPv4 are its last.
static const uint8_t *wire_address(const struct tcp_emission *emission, const uint8_t *mapped)
{
	return emission->family == FAMILY_IPV4 ? mapped + 12 : mapped;
}

static void write_ip4(const struct tcp_emission *emission, uint8_t *ip, uint32_t length)
{
	memset(ip, 0, IP4_HEADER);
	ip[0] = 0x45;
	ip[1] = emission->tos;
	store16(ip + 2, (uint16_t)(IP4_HEADER + length));
	store16(ip + 4, emission->id);
	store16(ip + 6, emission->dont_fragment ? IP4_DF : 0);
	ip[8] = emission->ttl;
	ip[9] = IPPROTO_TCP;
	memcpy(ip + 12, wire_address(emission, emission->local), 4);
	memcpy(ip + 16, wire_address(emission, emission->remote), 4);
	uint16_t sum = cksum(ip, IP4_HEADER);
	memcpy(ip + 10, &sum, 2);
}

static void write_ip6(const struct tcp_emission *emission, uint8_t *ip, uint32_t length)
{
	memset(ip, 0, IP6_HEADER);
	store16(ip, (uint16_t)(0x6000u | (uint32_t)emission->tos << 4));
	store16(ip + 4, (uint16_t)length);
	ip[6] = IPPROTO_TCP;
	ip[7] = emission->ttl;
	memcpy(ip + 8, emission->local, 16);
	memcpy(ip + 24, emission->remote, 16);
}

static void write_tcp(const struct tcp_emission *emission, uint8_t *header, uint32_t header_length, uint32_t length)
{
	const uint8_t *local = wire_address(emission, emission->local), *remote = wire_address(emission, emission->remote);
	uint64_t sum = emission->family == FAMILY_IPV4 ? cksum_pseudo4(local, remote, IPPROTO_TCP, length)
		: cksum_pseudo6(local, remote, IPPROTO_TCP, length);
	uint16_t pseudo = cksum_fold(sum);

	store16(header, emission->local_port);
	store16(header + 2, emission->remote_port);
	store32(header + 4, emission->seq);
	store32(header + 8, emission->ack);
	header[12] = (uint8_t)(header_length / 4 << 4);
	header[13] = emission->flags;
	store16(header + 14, emission->window);
	memcpy(header + TCP_CHECKSUM, &pseudo, 2);
	store16(header + 18, 0);
	memcpy(header + TCP_HEADER, emission->options, emission->option_length);
}

static void describe_offload(const struct tcp_emission *emission, struct packet *packet, uint32_t transport, uint32_t headers)
{
	packet->vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	packet->vnet.csum_start = (uint16_t)transport;
	packet->vnet.csum_offset = TCP_CHECKSUM;
	packet->vnet.hdr_len = (uint16_t)headers;
	if (emission->length <= emission->mss)
		return;
	packet->vnet.gso_size = emission->mss;
	packet->vnet.gso_type = emission->family == FAMILY_IPV4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
	if (emission->flags & TCP_CWR)
		packet->vnet.gso_type |= VIRTIO_NET_HDR_GSO_ECN;
}

struct packet *tcp_build(struct tcp *tcp, const struct tcp_emission *emission, uint8_t **payload)
{
	uint32_t transport = emission->family == FAMILY_IPV4 ? IP4_HEADER : IP6_HEADER;
	uint32_t header_length = TCP_HEADER + emission->option_length;
	uint32_t length = header_length + emission->length;
	struct packet *packet = outbound_blank(tcp->host, emission->family, transport + length);

	if (packet == NULL)
		return NULL;
	uint8_t *ip = packet_data(packet);
	if (emission->family == FAMILY_IPV4)
		write_ip4(emission, ip, length);
	else
		write_ip6(emission, ip, length);
	write_tcp(emission, ip + transport, header_length, length);
	describe_offload(emission, packet, transport, transport + header_length);
	*payload = ip + transport + header_length;
	return packet;
}

bool tcp_emit(struct tcp *tcp, const struct tcp_emission *emission, struct packet *packet)
{
	struct host *host = tcp->host;
	uint32_t header_length = TCP_HEADER + emission->option_length;

	if (emission->key != 0) {
		uint8_t *header = packet_data(packet) + (emission->family == FAMILY_IPV4 ? IP4_HEADER : IP6_HEADER);
		tcp_auth_sign(tcp, emission->key, emission->family, emission->local, emission->remote, header, header_length,
			TCP_HEADER + emission->signature_at, header + header_length, emission->length);
	}
	uint32_t segments = emission->length > emission->mss ? (emission->length + emission->mss - 1u) / emission->mss : 1;
	enum drop_reason reason = host->ops.output(host->ops.user, emission->interface, emission->family, packet);
	if (reason != DROP_NONE) {
		host->ops.packet_put(host->ops.user, packet);
		host_drop(host, reason);
		return false;
	}
	tcp->statistics[TCP_STAT_SEGMENTS_OUT] += segments;
	return true;
}

// --- segments of a connection ---

static bool wants_df(const struct tcp *tcp, const struct tcp_socket *s)
{
	if (tcp->config.tcp_pmtu_disabled)
		return false;
	return s->pmtu_discover == IP_PMTUDISC_WANT || s->pmtu_discover == IP_PMTUDISC_DO || s->pmtu_discover == IP_PMTUDISC_PROBE;
}

// RFC 3168 section 6.1: only new data is sent as ECN-capable (sections 6.1.4, 6.1.5 exclude pure ACKs
// and retransmissions), and CWR goes with the first of it.
static void mark_ecn(const struct tcp_socket *s, struct tcp_emission *emission)
{
	if (!(s->flags & TCP_ECN_OK) || (emission->flags & (TCP_SYN | TCP_RST)))
		return;
	if (emission->length > 0 && !seq_before(emission->seq, s->snd_nxt)) {
		emission->tos |= ECN_ECT0;
		if (s->flags & TCP_ECN_CWR)
			emission->flags |= TCP_CWR;
	}
	if (s->flags & TCP_ECN_ECHO)
		emission->flags |= TCP_ECE;
}

static void describe(struct tcp *tcp, struct tcp_socket *s, struct tcp_emission *emission)
{
	emission->local = s->local;
	emission->remote = s->remote;
	emission->local_port = s->local_port;
	emission->remote_port = s->remote_port;
	emission->interface = s->interface;
	emission->family = s->wire_family;
	emission->ttl = s->ttl != 0 ? s->ttl : DEFAULT_TTL;
	emission->tos = s->tos & (uint8_t)~ECN_MASK;
	emission->dont_fragment = wants_df(tcp, s);
	// RFC 6864: it must be unique only where somebody may fragment the packet.
	emission->id = emission->dont_fragment ? (uint16_t)(s->iss + s->segments_out) : (uint16_t)host_random(tcp->host);
	emission->ack = emission->flags & TCP_ACK ? s->rcv_nxt : 0;
	if (emission->flags & TCP_SYN) {
		emission->window = (uint16_t)(s->rcv_wnd > UINT16_MAX ? UINT16_MAX : s->rcv_wnd); // RFC 7323 section 2.2: not scaled
		return;
	}
	uint32_t window = tcp_select_window(tcp, s) >> s->rcv_wscale;
	emission->window = (uint16_t)(window > UINT16_MAX ? UINT16_MAX : window);
}

// What sending data changes, apart from the sequence numbers.
static void note_data_sent(struct tcp *tcp, struct tcp_socket *s, const struct tcp_emission *emission)
{
	const struct tcp_congestion_ops *congestion = tcp_congestion_of(s);
	uint32_t now_ms = tcp_now_ms(tcp);

	if (tcp_in_flight(tcp_flight(tcp, s)) == 0 && s->last_sent_ms != 0 && congestion->idle != NULL)
		congestion->idle(tcp, s, (uint64_t)(now_ms - s->last_sent_ms) * TCP_MS);
	s->last_sent_ms = now_ms;
	// An answer to something that came in lately: the app is interactive, its ACKs can wait for more of these.
	if ((uint64_t)(now_ms - s->last_received_ms) * 1000 < s->ack_timeout_us)
		s->engine |= TCP_PINGPONG;
	s->bytes_sent += emission->length;
	if (emission->flags & TCP_CWR)
		s->flags &= ~(uint32_t)TCP_ECN_CWR;
}

_Static_assert((uint32_t)LEND_BYTES >= (uint32_t)PACKET_ROOM, "an ordinary buffer has no room for parts");

// May the packet point to the bytes in our queue?  It pays for large ones; a digest is made over bytes in one piece.
static bool lends(const struct tcp *tcp, const struct tcp_emission *emission)
{
	return tcp->host->ops.takes_parts && emission->key == 0 && emission->length >= LEND_BYTES;
}

bool tcp_transmit(struct tcp *tcp, struct tcp_socket *s, uint32_t seq, uint32_t length, uint8_t flags, uint16_t mss)
{
	struct tcp_emission emission = {.seq = seq, .length = length, .flags = flags, .mss = mss};
	uint8_t *payload;

	if (length > mss)
		emission.flags |= TCP_PSH; // a receiver that merges segments need not wait for more of them

	put_options(tcp, s, flags, &emission);
	describe(tcp, s, &emission);
	mark_ecn(s, &emission);
	struct packet *packet = tcp_build(tcp, &emission, &payload);
	if (packet == NULL)
		return false;
	if (lends(tcp, &emission)) {
		packet->length -= length;
		queue_lend(tcp, s, seq, length, packet);
	} else if (length > 0) {
		queue_copy(tcp, s, seq, payload, length);
	}
	if (!tcp_emit(tcp, &emission, packet))
		return false;
	uint32_t segments = length > mss ? (length + mss - 1u) / mss : 1;
	s->segments_out += segments;
	if (length > 0)
		note_data_sent(tcp, s, &emission);
	if (flags & TCP_ACK)
		tcp_ack_sent(tcp, s, segments);
	return true;
}
