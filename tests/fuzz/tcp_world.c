// The stack and the apps of the TCP fuzzers; see tcp_world.h.
#include "tcp_world.h"

#include <linux/tcp.h>
#include <sanitizer/asan_interface.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "../sim/check.h"
#include "../sim/publish.h"

enum { MEMORY_BLOCKS = 192, LOOPS = 4, FLUSHES = 2000, DRAIN_TICKS = 100000, ADVANCE_TICKS = 400, KEY = 'k' };

#define SECOND 1000000000ull
#define DRAIN_MOST (6 * 3600 * SECOND)

// --- what the bytes of both directions are ---

static uint8_t pattern(uint32_t seq)
{
	return (uint8_t)(seq ^ seq >> 8 ^ seq >> 17);
}

static void fill(uint8_t *bytes, uint32_t length, uint32_t seq)
{
	for (uint32_t i = 0; i < length; i++)
		bytes[i] = pattern(seq + i);
}

__attribute__((noreturn)) static void broken(void *user, const char *what)
{
	(void)user;
	fprintf(stderr, "broken: %s\n", what);
	abort();
}

static void compare(const uint8_t *bytes, uint32_t length, uint32_t seq, const char *what)
{
	for (uint32_t i = 0; i < length; i++)
		if (bytes[i] != pattern(seq + i))
			broken(NULL, what);
}

// --- operations ---

static struct packet *packet_take(void *user, uint32_t room)
{
	struct world *w = user;
	struct packet *packet = w->no_packets ? NULL : calloc(1, sizeof(*packet));

	if (packet == NULL)
		return NULL;
	packet->room = PACKET_HEADROOM + room;
	packet->buffer = malloc(packet->room);
	packet->offset = PACKET_HEADROOM;
	w->packets++;
	return packet;
}

static void packet_give(void *user, struct packet *packet)
{
	struct world *w = user;

	w->packets--;
	free(packet->buffer);
	free(packet);
}

static uint32_t timestamp_of(const uint8_t *tcp)
{
	for (uint32_t at = TCP_HEADER; at + 10 <= (tcp[12] >> 4) * 4u && tcp[at] != 0; at += tcp[at] == 1 ? 1 : tcp[at + 1])
		if (tcp[at] == 8)
			return load32(tcp + at + 2);
	return 0;
}

// What leaves must be well-formed, no larger than allowed, and carry the app's bytes.
static void inspect(struct world *w, uint8_t family, struct packet *packet)
{
	const uint8_t *ip = packet_data(packet), *tcp = ip + (family == FAMILY_IPV4 ? 20 : 40);
	uint32_t header = (uint32_t)(tcp - ip) + (tcp[12] >> 4) * 4u;
	bool super = packet->vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE;
	uint8_t local[16], remote[16];

	if (ip[family == FAMILY_IPV4 ? 9 : 6] != IPPROTO_TCP)
		return;
	if (packet->length < header || tcp[12] >> 4 < 5)
		broken(w, "a header that is longer than its packet");
	if (super ? packet->vnet.gso_size == 0 || packet->vnet.gso_size + header > w->mtu : packet->length > w->mtu)
		broken(w, "a packet larger than the path takes");
	if (super && packet->length - header <= packet->vnet.gso_size)
		broken(w, "a super-segment of one segment");
	address_map(family, ip + (family == FAMILY_IPV4 ? 12 : 8), local);
	address_map(family, ip + (family == FAMILY_IPV4 ? 16 : 24), remote);
	if ((tcp[13] & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK)) {
		w->answer = (struct answer){
			.local_port = load16(tcp), .remote_port = load16(tcp + 2), .seq = load32(tcp + 4), .ack = load32(tcp + 8), .stamp = timestamp_of(tcp),
		};
		memcpy(w->answer.local, local, 16);
		memcpy(w->answer.remote, remote, 16);
	}
	if (w->verify && !(tcp[13] & TCP_RST) && tcp_find(w->host->tcp, local, load16(tcp), remote, load16(tcp + 2), 0) != NULL)
		compare(ip + header, packet->length - header, load32(tcp + 4) + !!(tcp[13] & TCP_SYN), "other bytes are sent than were written");
}

static enum drop_reason output(void *user, uint16_t interface, uint8_t family, struct packet *packet)
{
	struct world *w = user;
	bool four = family == FAMILY_IPV4;

	(void)interface;
	if (packet_data(packet)[0] >> 4 != family)
		broken(w, "a packet of another family");
	if (w->no_route)
		return DROP_NO_ROUTE;
	inspect(w, family, packet);
	if (memcmp(packet_data(packet) + (four ? 16 : 24), w->addresses[!four].address, four ? 4 : 16) != 0) {
		packet_give(w, packet);
		return DROP_NONE;
	}
	// As in a forwarder, what is for ourselves comes back before this call returns.
	if (w->depth >= LOOPS)
		return DROP_LOOP;
	w->depth++;
	enum drop_reason reason = host_input(w->host, packet, w->now);
	w->depth--;
	return reason;
}

static bool source(void *user, uint8_t family, const uint8_t *destination, uint16_t interface, uint8_t *out, uint16_t *egress)
{
	struct world *w = user;

	(void)destination;
	(void)interface;
	memcpy(out, w->addresses[family == FAMILY_IPV6].address, 16);
	*egress = 1;
	return !w->no_route;
}

static uint32_t path_mtu(void *user, uint8_t family, const uint8_t *destination, uint16_t interface)
{
	struct world *w = user;

	(void)family;
	(void)destination;
	(void)interface;
	return w->no_route ? 0 : w->mtu;
}

static void unreachable(void *user, struct packet *packet, uint8_t code)
{
	(void)user;
	(void)packet;
	(void)code;
}

static bool upcall(void *user, uint32_t slot, const void *header, const uint8_t *payload, uint32_t length)
{
	(void)slot;
	(void)header;
	(void)payload;
	(void)length;
	broken(user, "a datagram");
}

static void error(void *user, uint32_t slot, int number)
{
	(void)slot;
	(void)number;
	broken(user, "an error of a datagram socket");
}

static uint32_t deliver(void *user, uint32_t slot, const struct iovec *parts, int count)
{
	struct world *w = user;
	const struct tcp_socket *s = host_stream(w->host, slot);
	uint32_t total = 0;

	if (s == NULL)
		broken(w, "bytes for nobody");
	for (int i = 0; i < count; i++) {
		if (w->verify)
			compare(parts[i].iov_base, (uint32_t)parts[i].iov_len, s->copied_seq + total, "other bytes are delivered than arrived");
		total += (uint32_t)parts[i].iov_len;
	}
	if (total == 0)
		broken(w, "nothing to deliver");
	return total < w->appetite ? total : w->appetite;
}

static void stream(void *user, uint32_t slot, uint32_t events)
{
	struct world *w = user;

	if (host_stream(w->host, slot) == NULL || events == 0)
		broken(w, "an event for nobody");
}

// --- the stack, once and again ---

// As made: restored after each input.
static struct {
	struct world world;
	struct host host;
	struct tcp tcp;
} pristine;
static struct world world;

static void addresses_set(struct world *w)
{
	for (uint8_t i = 0; i < 2; i++) {
		uint8_t family, mapped[16];
		struct address_entry *entry = &w->addresses[i];
		world_address(i != 0, 0, mapped);
		address_unmap(AF_INET6, mapped, &family, entry->address);
		entry->family = family;
		entry->length = i == 0 ? 24 : 64;
		entry->interface = 1;
	}
}

static void make(struct world *w)
{
	const struct host_ops ops = {
		.output = output, .source = source, .path_mtu = path_mtu, .unreachable = unreachable, .upcall = upcall, .error = error,
		.deliver = deliver, .stream = stream, .packet_get = packet_take, .packet_put = packet_give, .user = w,
	};
	struct host_config config;

	// Mostly never touched: mapped as in a forwarder.
	w->state = mmap(NULL, sizeof(*w->state), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (w->state == MAP_FAILED)
		abort();
	addresses_set(w);
	(void)publish_tables(w->addresses, (uint16_t)w->mtu, &w->tables);
	w->host = host_new(w->state, &w->tables, &ops);
	if (w->host == NULL)
		abort();
	host_config_default(&config);
	config.memory_blocks = MEMORY_BLOCKS;
	host_configure(w->host, &config);
	if (!memory_open(w->host->tcp))
		abort();
	pristine.world = *w;
	pristine.host = *w->host;
	pristine.tcp = *w->host->tcp;
}

static void clear_pool(void *records, size_t size, uint64_t count)
{
	ASAN_UNPOISON_MEMORY_REGION(records, size * count);
	memset(records, 0, size * count);
}

// All has been given back: what was used is like new again.
static void restore(struct world *w)
{
	struct tcp *tcp = w->host->tcp;

	clear_pool(tcp->sockets, sizeof(*tcp->sockets), w->state->tcp_used);
	clear_pool(tcp->requests, sizeof(*tcp->requests), w->state->tcp_requests_used);
	clear_pool(tcp->timewaits, sizeof(*tcp->timewaits), w->state->tcp_timewaits_used);
	clear_pool(tcp->timewait_more, sizeof(*tcp->timewait_more), w->state->tcp_timewaits_used);
	clear_pool(tcp->flights, sizeof(*tcp->flights), tcp->flight_used + 1);
	clear_pool(tcp->segments, sizeof(*tcp->segments), tcp->segment_used);
	clear_pool(tcp->ranges, sizeof(*tcp->ranges), tcp->range_used);
	clear_pool(tcp->block_next, sizeof(*tcp->block_next), tcp->block_used);
	clear_pool(tcp->block_data, TCP_BLOCK, tcp->block_used);
	clear_pool(tcp->keys, sizeof(*tcp->keys), tcp->key_used);
	w->state->tcp_used = w->state->tcp_requests_used = w->state->tcp_timewaits_used = 0;
	*tcp = pristine.tcp;
	*w->host = pristine.host;
	*w = pristine.world;
}

static uint64_t begin_at(uint8_t start)
{
	const uint64_t wraps[] = {
		10 * SECOND, (1ull << 31) * 1000, (1ull << 32) * 1000, (1ull << 31) * TCP_MS, (1ull << 32) * TCP_MS, (3ull << 32) * 1000,
	};
	return wraps[start % 6] - (start / 6 % 2 == 0 ? SECOND / 3 : 4 * SECOND);
}

static void configure(struct world *w, uint16_t knobs)
{
	struct host_config config;

	host_config_default(&config);
	config.timestamps = knobs & 1 ? 0 : knobs & 2 ? 2 : 1;
	config.sack = !(knobs & 4);
	config.dsack = !(knobs & 8);
	config.window_scaling = !(knobs & 16);
	config.ecn = knobs & 32 ? 1 : 2;
	config.rack = !(knobs & 64);
	config.frto = !(knobs & 128);
	config.tail_loss_probe = !(knobs & 256);
	config.congestion = knobs & 512 ? TCP_RENO : TCP_CUBIC;
	config.syn_cookies = knobs & 1024 ? 2 : 1;
	config.mtu_probing = knobs & 2048 ? 2 : 1;
	config.abort_on_overflow = !!(knobs & 4096);
	config.rfc1337 = !!(knobs & 8192);
	if (knobs & 16384)
		config.rmem_default = 8192;
	config.wmem_default = knobs & 16384 ? 300000 : 16384;
	config.max_backlog = 4;
	config.max_orphans = 6;
	host_configure(w->host, &config);
	w->direct = knobs & 32768;
	w->host->ops.deliver = w->direct ? deliver : NULL;
	w->appetite = WORLD_MOST;
}

uint32_t world_socket(struct world *w, uint16_t family)
{
	uint32_t live = 0, slot = 0;

	for (uint64_t i = 0; i < w->state->tcp_used; i++)
		live += w->state->tcp[i].cookie != 0;
	return live < WORLD_SLOTS && host_socket(w->host, family, SOCK_STREAM, 0, &slot) == 0 ? slot : 0;
}

static uint32_t listen_at(struct world *w, uint16_t port)
{
	static const uint8_t any[16];
	uint32_t slot = world_socket(w, AF_INET6);

	if (slot == 0 || host_bind(w->host, slot, any, port, 0) < 0 || host_listen(w->host, slot, 2) < 0)
		broken(w, "no listener");
	return slot;
}

static void set_keys(struct world *w)
{
	for (int six = 0; six < 2; six++) {
		struct tcp_md5sig key = {.tcpm_keylen = 8};
		struct sockaddr_in6 peer = {.sin6_family = AF_INET6};
		world_address(six, 2, peer.sin6_addr.s6_addr);
		memcpy(&key.tcpm_addr, &peer, sizeof(peer));
		memset(key.tcpm_key, KEY, key.tcpm_keylen);
		if (host_setopt(w->host, w->signed_listener, IPPROTO_TCP, TCP_MD5SIG, (const uint8_t *)&key, sizeof(key)) < 0)
			broken(w, "no keys");
	}
}

struct world *world_open(uint8_t start, uint16_t knobs)
{
	struct world *w = &world;

	if (w->host == NULL) {
		w->mtu = 1500;
		w->verify = true;
		make(w);
	}
	w->now = begin_at(start);
	configure(w, knobs);
	host_clock(w->host, w->now);
	w->listener = listen_at(w, WORLD_PORT);
	w->signed_listener = listen_at(w, WORLD_SIGNED_PORT);
	set_keys(w);
	world_check(w);
	return w;
}

static void check_hashes(struct world *w)
{
	static const uint32_t empty[TCP_HASH];
	const struct tcp *tcp = w->host->tcp;
	const uint32_t *heads[] = {tcp->connections, tcp->bound, tcp->listeners, tcp->request_heads};

	_Static_assert((int)TCP_HASH == (int)TCP_PORT_HASH, "one empty table for all");
	for (uint32_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++)
		if (memcmp(heads[i], empty, sizeof(empty)) != 0)
			broken(w, "a hash that is not empty");
	if (memcmp(tcp->timewait_heads, empty, TCP_TIMEWAIT_HASH * sizeof(*tcp->timewait_heads)) != 0)
		broken(w, "a hash of TIME-WAIT that is not empty");
}

static bool anything_left(const struct world *w)
{
	const struct tcp *tcp = w->host->tcp;

	for (uint64_t i = 0; i < w->state->tcp_used; i++)
		if (w->state->tcp[i].cookie != 0)
			return true;
	return tcp->request_count > 0 || tcp->timewait_count > 0 || tcp->heap_count > 0 || host_deadline(w->host) != UINT64_MAX;
}

__attribute__((noreturn)) static void left_over(struct world *w, const char *how)
{
	for (uint64_t i = 0; i < w->state->tcp_used; i++) {
		const struct tcp_socket *s = &w->state->tcp[i];
		if (s->cookie != 0)
			fprintf(stderr, "slot %u: state %u flags %x engine %x una %u nxt %u write %u window %u timer %u\n", tcp_slot(w->host->tcp, s), s->state,
				s->flags, s->engine, s->snd_una, s->snd_nxt, s->write_seq, s->snd_wnd, s->pending_timer);
	}
	broken(w, how);
}

void world_close(struct world *w, bool abort)
{
	const struct check check = {.tcp = w->host->tcp, .fail = broken, .user = w};
	uint64_t begun = w->now;

	w->no_route = w->no_packets = false;
	w->appetite = WORLD_MOST;
	for (uint32_t i = 0; i < w->state->tcp_used; i++) {
		w->state->tcp[i].user_timeout_ms = 0; // an app may ask for weeks
		if (abort)
			host_abort(w->host, MAX_SOCKETS + i);
		else
			host_close(w->host, MAX_SOCKETS + i);
	}
	world_flush(w);
	for (uint32_t i = 0; anything_left(w); i++) {
		uint64_t at = host_deadline(w->host);
		if (at == UINT64_MAX || i > DRAIN_TICKS || w->now - begun > DRAIN_MOST)
			left_over(w, at == UINT64_MAX ? "without a timer" : "without an end");
		w->now = at;
		host_tick(w->host, w->now);
		world_flush(w);
	}
	check_released(&check);
	check_hashes(w);
	if (w->packets != 0)
		broken(w, "packets are still held");
	restore(w);
}

// Sequence numbers never go back, and a window that was offered is not taken back (RFC 9293 section 3.8.6).
static void check_progress(struct world *w)
{
	for (uint32_t i = 0; i < WORLD_SLOTS && i < w->state->tcp_used; i++) {
		const struct tcp_socket *s = &w->state->tcp[i];
		const struct progress *before = &w->progress[i];
		const struct progress now = {
			.cookie = s->cookie, .iss = s->iss, .irs = s->irs, .snd_una = s->snd_una, .rcv_nxt = s->rcv_nxt, .copied_seq = s->copied_seq,
			.edge = s->rcv_wup + s->rcv_wnd,
		};
		bool same = tcp_synchronized(s) && now.cookie == before->cookie && now.iss == before->iss && now.irs == before->irs;
		if (same && (seq_before(now.snd_una, before->snd_una) || seq_before(now.rcv_nxt, before->rcv_nxt) ||
			     seq_before(now.copied_seq, before->copied_seq)))
			broken(w, "a sequence number went back");
		if (same && seq_before(now.edge, before->edge))
			broken(w, "an offered window was taken back");
		w->progress[i] = tcp_synchronized(s) ? now : (struct progress){0};
	}
}

void world_check(struct world *w)
{
	const struct check check = {.tcp = w->host->tcp, .fail = broken, .user = w};

	check_connections(&check);
	check_records(&check);
	check_progress(w);
}

void world_flush(struct world *w)
{
	uint32_t rounds = 0;

	do {
		host_flush(w->host, w->now);
		world_check(w);
	} while ((w->host->tcp->dirty_head != 0 || w->host->own != NULL) && rounds++ < FLUSHES);
	if (host_deadline(w->host) <= w->now)
		broken(w, "a deadline that has passed");
}

void world_advance(struct world *w, uint64_t ns, bool late)
{
	uint64_t until = w->now + ns;

	for (uint32_t i = 0; !late && i < ADVANCE_TICKS && host_deadline(w->host) <= until; i++) {
		w->now = host_deadline(w->host);
		host_clock(w->host, w->now);
		host_tick(w->host, w->now);
		world_flush(w);
	}
	w->now = until;
	host_clock(w->host, w->now);
	host_tick(w->host, w->now);
	world_flush(w);
}

// --- apps ---

void world_read(struct world *w, uint32_t slot, uint32_t length, int flags)
{
	const struct tcp_socket *s = host_stream(w->host, slot);
	uint32_t from = s != NULL ? s->copied_seq : 0;

	if (length > WORLD_MOST)
		length = WORLD_MOST;
	int got = host_stream_read(w->host, slot, w->scratch, length, flags);
	if (got > (int)length)
		broken(w, "more was read than asked for");
	if (w->verify && got > 0)
		compare(w->scratch, (uint32_t)got, from, "other bytes are read than arrived");
}

void world_write(struct world *w, uint32_t slot, uint32_t length, int flags)
{
	const struct tcp_socket *s = host_stream(w->host, slot);

	if (length > WORLD_MOST)
		length = WORLD_MOST;
	fill(w->scratch, length, s != NULL ? s->write_seq : 0);
	if (host_stream_write(w->host, slot, w->scratch, length, flags) > (int)length)
		broken(w, "more was written than given");
}

void world_reserve(struct world *w, uint32_t slot, uint32_t length, uint32_t commit, int flags)
{
	const struct tcp_socket *s = host_stream(w->host, slot);
	struct iovec parts[8];
	uint32_t given = 0;
	int count = host_stream_reserve(w->host, slot, length, parts, 8);

	for (int i = 0; i < count; i++) {
		fill(parts[i].iov_base, (uint32_t)parts[i].iov_len, s->write_seq + given);
		given += (uint32_t)parts[i].iov_len;
	}
	if (given > length)
		broken(w, "more room than asked for");
	world_check(w);
	if (count > 0)
		host_stream_commit(w->host, slot, commit < given ? commit : given, flags);
}

// --- what peers send ---

void world_address(bool six, uint8_t number, uint8_t *address)
{
	const uint8_t four[4] = {10, 0, 0, (uint8_t)(number + 1)};

	if (!six) {
		address_map(FAMILY_IPV4, four, address);
		return;
	}
	memset(address, 0, 16);
	store32(address, 0x20010db8);
	address[15] = (uint8_t)(number + 1);
}

void world_arrive(struct world *w, const uint8_t *bytes, uint32_t length, uint8_t flags, uint16_t gso_size)
{
	bool starved = w->no_packets;

	w->no_packets = false; // the driver has its own
	struct packet *packet = packet_take(w, length);
	w->no_packets = starved;
	memcpy(packet_data(packet), bytes, length);
	packet->length = length;
	packet->ingress = 1;
	packet->vnet.flags = flags;
	if (gso_size != 0) {
		packet->vnet.gso_type = bytes[0] >> 4 == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
		packet->vnet.gso_size = gso_size;
	}
	if (host_input(w->host, packet, w->now) != DROP_NONE)
		packet_give(w, packet);
	world_check(w);
}

static uint32_t put_ip(const struct segment *segment, uint8_t *ip, uint32_t length)
{
	bool four = address_mapped(segment->remote);

	memset(ip, 0, 40);
	if (four) {
		ip[0] = 0x45;
		ip[1] = segment->tos;
		store16(ip + 2, (uint16_t)(20 + length));
		ip[8] = segment->ttl;
		ip[9] = IPPROTO_TCP;
		memcpy(ip + 12, segment->remote + 12, 4);
		memcpy(ip + 16, segment->local + 12, 4);
		return 20;
	}
	store32(ip, 6u << 28 | (uint32_t)segment->tos << 20);
	store16(ip + 4, (uint16_t)length);
	ip[6] = IPPROTO_TCP;
	ip[7] = segment->ttl;
	memcpy(ip + 8, segment->remote, 16);
	memcpy(ip + 24, segment->local, 16);
	return 40;
}

void world_send(struct world *w, const struct segment *segment)
{
	uint32_t header = TCP_HEADER + segment->option_length + (segment->key != 0 ? 20u : 0u);
	uint32_t most = WORLD_MOST - 1 - 40 - header, length = segment->length < most ? segment->length : most;
	uint8_t *ip = w->scratch, *tcp = ip + put_ip(segment, ip, header + length);

	if (header > 60)
		return;
	memset(tcp, 0, TCP_HEADER);
	store16(tcp, segment->remote_port);
	store16(tcp + 2, segment->local_port);
	store32(tcp + 4, segment->seq);
	store32(tcp + 8, segment->ack);
	tcp[12] = (uint8_t)(header / 4 << 4);
	tcp[13] = segment->flags;
	store16(tcp + 14, segment->window);
	memcpy(tcp + TCP_HEADER, segment->options, segment->option_length);
	fill(tcp + header, length, segment->seq + !!(segment->flags & TCP_SYN));
	bool four = address_mapped(segment->remote);
	if (segment->key != 0)
		tcp_auth_sign(w->host->tcp, segment->key, four ? FAMILY_IPV4 : FAMILY_IPV6, segment->remote, segment->local, tcp, header,
			TCP_HEADER + segment->option_length, tcp + header, length);
	world_arrive(w, ip, (uint32_t)(tcp - ip) + header + length, VIRTIO_NET_HDR_F_DATA_VALID, segment->gso_size);
}

uint32_t world_establish(struct world *w, bool six, uint8_t peer, uint16_t port, uint16_t remote_port, bool plain)
{
	static const uint8_t offers[20] = {2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7};
	struct segment syn = {.local_port = port, .remote_port = remote_port, .seq = 0u - 3000, .flags = TCP_SYN, .window = 60000, .ttl = 64};
	bool stamped = !plain && w->host->tcp->config.timestamps;
	uint32_t slot = 0;

	world_address(six, 0, syn.local);
	world_address(six, peer, syn.remote);
	syn.option_length = plain ? 4 : sizeof(offers);
	memcpy(syn.options, offers, syn.option_length);
	world_send(w, &syn);
	struct segment ack = syn;
	ack.seq = w->answer.ack;
	ack.ack = w->answer.seq + 1;
	ack.flags = TCP_ACK;
	ack.option_length = stamped ? 12 : 0;
	memcpy(ack.options, (const uint8_t[]){1, 1, 8, 10, 0, 0, 0, 2}, 8);
	store32(ack.options + 8, w->answer.stamp);
	world_send(w, &ack);
	(void)host_accept(w->host, port == WORLD_PORT ? w->listener : w->signed_listener, &slot);
	return slot;
}
