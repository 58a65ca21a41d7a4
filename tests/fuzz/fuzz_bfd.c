// Hostile packets and tables into BFD: parsing, authentication, sessions that come, change and go, successors.
//
// Input: records of one byte of meaning, one of detail, one of length, and so many bytes.  A datagram comes as a
// whole IP packet, or as a control packet of a session whose header is set right, digest included where
// the detail says so: nothing excuses a wrong one.
#include <stdlib.h>
#include <string.h>
#include "base/bytes.h"
#include "base/crc32.h"
#include "bfd/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TABLES = 1 << 20, MOST_ENTRIES = 8, INTERFACE = 3, RECORD = 3, MOST_SENT = 4096 };

struct world {
	struct state_segment *state;
	uint8_t *tables;
	struct tables_view view;
	struct bfd *bfd;
	struct bfd_ops ops;
	struct bfd_entry entries[MOST_ENTRIES];
	uint32_t count;
	uint64_t now, random, heard, epoch;
	uint32_t sent;
	uint8_t echo[ECHO_SIZE];
};

static void output(void *user, const struct bfd_datagram *datagram)
{
	struct world *w = user;
	struct control control;
	if (++w->sent > MOST_SENT || datagram->ttl != BFD_TTL || datagram->source_port < 49152)
		abort();
	if (datagram->destination_port == BFD_ECHO_PORT) {
		if (datagram->length != ECHO_SIZE || datagram->neighbor == NULL)
			abort();
		memcpy(w->echo, datagram->payload, ECHO_SIZE);
	} else if (control_parse(datagram, &control) != DROP_NONE) {
		abort();
	}
	uint8_t room[PACKET_HEADROOM + PACKET_ROOM];
	struct packet packet = {.buffer = room, .room = sizeof(room), .ingress = INTERFACE};
	bfd_encapsulate(datagram, &packet);
	struct bfd_datagram again;
	enum drop_reason reason;
	if (!bfd_parse(&packet, &again, &reason) || reason != DROP_NONE || again.length != datagram->length)
		abort();
}

static bool source(void *user, uint8_t family, const uint8_t *destination, uint16_t interface, uint8_t *address)
{
	(void)user;
	(void)destination;
	(void)interface;
	address[0] = 10;
	return family == FAMILY_IPV4;
}

static uint64_t heard_until(void *user, uint64_t now)
{
	const struct world *w = user;
	return w->heard < now ? w->heard : now;
}

static void changed(void *user, uint32_t slot)
{
	const struct world *w = user;
	if (slot >= MAX_BFD_SESSIONS || w->state->bfd[slot].state > BFD_UP)
		abort();
}

static uint64_t draw(void *user)
{
	struct world *w = user;
	return w->random = w->random * 6364136223846793005u + 1442695040888963407u;
}

static void publish(struct world *w)
{
	uint64_t where = (w->epoch & 1) ? TABLES / 2 : TABLES / 4 * 3;
	struct bfd_table *table = (void *)(w->tables + where);
	*table = (struct bfd_table){.epoch = ++w->epoch, .count = w->count};
	memcpy(table->entries, w->entries, w->count * sizeof(w->entries[0]));
	table->checksum = crc32_update(0, table, sizeof(*table) + w->count * sizeof(w->entries[0]));
	((struct tables_segment *)(void *)w->tables)->bfd_root = where;
	bfd_follow(w->bfd, w->now);
}

// Entries that are possible, with what the input says in their free places.
static void entries(struct world *w, uint8_t detail, const uint8_t *bytes, uint32_t length)
{
	w->count = detail % (MOST_ENTRIES + 1);
	for (uint32_t i = 0; i < w->count; i++) {
		struct bfd_entry *entry = &w->entries[i];
		memset(entry, 0, sizeof(*entry));
		uint8_t spice[8] = {0};
		if (length > i * 8)
			memcpy(spice, bytes + i * 8, length - i * 8 < 8 ? length - i * 8 : 8);
		entry->family = spice[0] & 1 ? FAMILY_IPV6 : FAMILY_IPV4;
		entry->remote[0] = 10;
		entry->remote[3] = (uint8_t)(2 + (spice[0] >> 4));
		entry->local[0] = spice[0] & 2 ? 0 : 10;
		entry->flags = spice[1] & 3;
		entry->interface = entry->flags & BFD_MULTIHOP ? 0 : INTERFACE;
		entry->transmit_us = 10000u + spice[2] * 10000u;
		entry->receive_us = 10000u + spice[3] * 10000u;
		entry->echo_us = spice[4] & 1 ? 20000 : 0;
		entry->multiplier = (uint8_t)(spice[4] >> 1) | 1;
		entry->authentication = spice[5] % 6;
		entry->key_id = 1;
		entry->key_length = entry->authentication == 0 ? 0 : (uint8_t)(1 + spice[6] % BFD_KEY_SIZE);
		memset(entry->key, 'k', entry->key_length);
	}
	publish(w);
}

// As it lies in the segment, right or wrong.
static void raw_table(struct world *w, const uint8_t *bytes, uint32_t length)
{
	struct bfd_table *table = (void *)(w->tables + TABLES - 4096);
	memset(table, 0, 4096);
	memcpy(table, bytes, length);
	if (length > 4 && (bytes[4] & 1)) {
		table->count &= 15;
		table->checksum = 0;
		table->checksum = crc32_update(0, table, sizeof(*table) + table->count * sizeof(struct bfd_entry));
	}
	((struct tables_segment *)(void *)w->tables)->bfd_root = TABLES - (bytes[0] & 1 ? 4096 : 8);
	bfd_follow(w->bfd, w->now);
	publish(w);
}

static void whole_packet(struct world *w, const uint8_t *bytes, uint32_t length)
{
	uint8_t *exact = malloc(PACKET_HEADROOM + length);
	struct packet packet = {.buffer = exact, .room = PACKET_HEADROOM + length, .offset = PACKET_HEADROOM, .length = length,
		.ingress = INTERFACE};
	struct bfd_datagram datagram;
	enum drop_reason reason;
	memcpy(exact + PACKET_HEADROOM, bytes, length);
	packet.vnet.flags = length > 0 && (bytes[length - 1] & 1) ? VIRTIO_NET_HDR_F_DATA_VALID : 0;
	if (length > 0 && bfd_parse(&packet, &datagram, &reason) && reason == DROP_NONE)
		(void)bfd_receive(w->bfd, &datagram, w->now);
	free(exact);
}

static void shaped_packet(struct world *w, uint8_t detail, const uint8_t *bytes, uint32_t length)
{
	if (w->count == 0)
		return;
	const struct bfd_entry *entry = &w->entries[detail % w->count];
	struct bfd_session peer = {.sent_sequence = length > 20 ? load32(bytes + 16) : w->epoch & 0xff, .multiplier = 3};
	uint8_t packet[CONTROL_ROOM] = {0};
	struct control control = {.multiplier = 3, .my_discriminator = 7, .required_us = 50000, .desired_us = 50000};
	if (length >= 12) {
		control.state = bytes[0] & 3;
		control.poll = bytes[0] & 4;
		control.final = bytes[0] & 8;
		control.multiplier = bytes[1];
		control.desired_us = load32(bytes + 2);
		control.required_us = load32(bytes + 6);
		control.echo_us = bytes[10] * 1000u;
	}
	if (detail & 0x80)
		control.your_discriminator = w->state->bfd[detail % MOST_ENTRIES].discriminator;
	struct bfd_datagram datagram = {.payload = packet, .family = entry->family, .ttl = BFD_TTL, .interface = INTERFACE,
		.destination_port = entry->flags & BFD_MULTIHOP ? BFD_MULTIHOP_PORT : BFD_PORT};
	datagram.length = control_build(&control, entry, &peer, packet);
	if (length >= 12 && (bytes[11] & 1))
		packet[1] |= 2; // demand mode
	memcpy(datagram.source, entry->remote, 16);
	memcpy(datagram.destination, entry->local, 16);
	(void)bfd_receive(w->bfd, &datagram, w->now);
}

static void echo_back(struct world *w, uint8_t detail)
{
	struct bfd_datagram datagram = {.payload = w->echo, .length = detail & 0x80 ? ECHO_SIZE : detail % (ECHO_SIZE + 1u),
		.family = FAMILY_IPV4, .ttl = 254, .interface = INTERFACE, .destination_port = BFD_ECHO_PORT};
	(void)bfd_receive(w->bfd, &datagram, w->now);
}

static void pass_time(struct world *w, uint8_t detail)
{
	w->now += (uint64_t)detail * detail * 100000;
	w->sent = 0;
	bfd_tick(w->bfd, w->now);
	if (bfd_deadline(w->bfd) <= w->now)
		abort();
}

static void succeed(struct world *w)
{
	bfd_free(w->bfd);
	w->bfd = bfd_new(w->state, &w->view, &w->ops);
	if (w->bfd == NULL)
		abort();
	bfd_follow(w->bfd, w->now);
	bfd_begin(w->bfd, w->now);
}

static void take(struct world *w, uint8_t meaning, uint8_t detail, const uint8_t *bytes, uint32_t length)
{
	w->sent = 0;
	switch (meaning % 9) {
	case 0:
		entries(w, detail, bytes, length);
		break;
	case 1:
		whole_packet(w, bytes, length);
		break;
	case 2:
		if (length > 0)
			raw_table(w, bytes, length);
		break;
	case 3:
		echo_back(w, detail);
		break;
	case 4:
		succeed(w);
		break;
	case 5:
		w->heard = detail & 1 ? w->now : UINT64_MAX;
		break;
	case 6:
		pass_time(w, detail);
		break;
	default:
		shaped_packet(w, detail, bytes, length);
		break;
	}
}

static void check(const struct world *w)
{
	uint32_t live = 0;
	for (uint32_t slot = 0; slot < w->state->bfd_used; slot++) {
		const struct bfd_session *session = &w->state->bfd[slot];
		if (session->discriminator == 0)
			continue;
		live++;
		if ((session->discriminator & SLOT_MASK) != slot || session->state > BFD_UP || session->state == BFD_ADMIN_DOWN ||
		    session->polling > 2 || session->multiplier == 0)
			abort();
	}
	if ((live > 0) != bfd_active(w->bfd) || live > w->bfd->count)
		abort();
}

// The segments are large: made once, and cleaned where they were used.
static void segments(struct world *w)
{
	static struct state_segment *state;
	static uint8_t *tables;
	if (state == NULL) {
		state = calloc(1, sizeof(*state));
		tables = calloc(1, TABLES);
	}
	memset(state->bfd, 0, state->bfd_used * sizeof(state->bfd[0]));
	state->bfd_used = 0;
	state->bfd_events = 0;
	((struct tables_segment *)(void *)tables)->bfd_root = 0;
	w->state = state;
	w->tables = tables;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world w = {.now = 1000000000000, .random = 1, .heard = UINT64_MAX};
	segments(&w);
	view_open(&w.view, w.tables, TABLES);
	w.ops = (struct bfd_ops){output, source, heard_until, changed, draw, &w};
	w.bfd = bfd_new(w.state, &w.view, &w.ops);
	if (w.bfd == NULL)
		abort();
	bfd_begin(w.bfd, w.now);
	while (size >= RECORD) {
		uint32_t length = data[2] < size - RECORD ? data[2] : (uint32_t)(size - RECORD);
		take(&w, data[0], data[1], data + RECORD, length);
		data += RECORD + length;
		size -= RECORD + length;
	}
	check(&w);
	bfd_free(w.bfd);
	return 0;
}
