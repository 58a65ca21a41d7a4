// libFuzzer target: a table of rates as another process might have written it, and packets against it.
//
// The input: a byte of flags, u16 entries, u16 peers, u16 how many bytes of the table follow, those bytes, then a
// packet with its virtio header before it.  The table's checksum is put right unless a flag says no, so that the checks
// behind it are reached.  Each packet lies at the end of its buffer.
#include <stdlib.h>
#include <string.h>

#include "base/crc32.h"
#include "forward/police.h"
#include "wire/ip4.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ROOM = 1 << 16, HEAD = 7, MAX_PACKET = 2048, TURNS = 3, BAD_CHECKSUM = 1, WRONG_PLACE = 2, OUT = 4 };

struct world {
	uint8_t *tables;
	size_t tables_size;
	struct state_segment *state;
	struct forward forward;
	uint64_t epoch;
};

static struct world *world_new(void)
{
	struct world *w = calloc(1, sizeof(*w));
	w->tables_size = sizeof(struct tables_segment) + ROOM;
	w->tables = calloc(1, w->tables_size);
	w->state = calloc(1, sizeof(*w->state));
	w->forward.state = w->state;
	w->forward.counters = w->state->counters;
	w->forward.now = 1000000000;
	view_open(&w->forward.tables, w->tables, w->tables_size);
	if (police_init(&w->forward) < 0)
		abort();
	return w;
}

// Write the table; gives how much of the input it took.
static size_t publish(struct world *w, const uint8_t *data, size_t size)
{
	struct tables_segment *segment = (void *)w->tables;
	uint64_t where = sizeof(*segment);
	struct police_table *table = (void *)(w->tables + where);
	uint16_t entries, peers, length;

	memcpy(&entries, data + 1, 2);
	memcpy(&peers, data + 3, 2);
	memcpy(&length, data + 5, 2);
	if (length > size - HEAD)
		length = (uint16_t)(size - HEAD);
	memset(table, 0, ROOM);
	memcpy(table->control, data + HEAD, length < ROOM - 24 ? length : ROOM - 24);
	table->epoch = ++w->epoch;
	table->entry_count = entries;
	table->peer_count = peers;
	uint64_t arrays = entries * sizeof(struct police_entry) + peers * sizeof(struct police_peer);
	if ((data[0] & BAD_CHECKSUM) == 0 && arrays <= ROOM - sizeof(*table)) {
		uint32_t crc = crc32_update(0, table, sizeof(*table));
		table->checksum = crc32_update(crc, table + 1, arrays);
	}
	segment->police_root = (data[0] & WRONG_PLACE) != 0 ? w->tables_size - 8 * (entries % 64) : where;
	return HEAD + (size_t)length;
}

// What ip4_input has checked before.
static bool sound4(struct packet *packet)
{
	struct ip4_header *ip = ip4_at(packet->buffer, packet->length);
	return ip != NULL;
}

static void meet(struct world *w, const uint8_t *data, size_t size, uint8_t flags)
{
	struct forward *f = &w->forward;
	struct packet packet = {.ingress = (uint16_t)(1 + flags % 4), .length = (uint32_t)size};
	struct interface_entry interface = {.index = packet.ingress};
	struct ip6_walk walk;
	uint64_t before = 0, after = 0;

	packet.buffer = malloc(size);
	memcpy(packet.buffer, data, size);
	memcpy(&packet.vnet, data, sizeof(packet.vnet));
	packet.room = (uint32_t)size;
	struct stage stage = {.packet = &packet, .interface = &interface, .ip = packet.buffer, .length = packet.length,
		.direction = (flags & OUT) != 0 ? STAGE_OUT : STAGE_IN};
	for (int class = 0; class < CONTROL_CLASSES; class++)
		before += w->state->control_plane[class].passed + w->state->control_plane[class].dropped;
	uint64_t expected = 0;
	for (int turn = 0; turn < TURNS; turn++) {
		stage_police(f, &stage);
		if (sound4(&packet)) {
			control_local4(f, &packet);
			control_allow(f, packet.ingress, CONTROL_ERROR);
			expected += 2;
		} else if (size >= IP6_HEADER && data[0] >> 4 == 6 && ip6_walk(packet.buffer, packet.length, &walk)) {
			control_local6(f, &packet, &walk);
			control_allow(f, packet.ingress, CONTROL_ERROR);
			expected += 1;
		}
		f->now += 1000;
	}
	for (int class = 0; class < CONTROL_CLASSES; class++)
		after += w->state->control_plane[class].passed + w->state->control_plane[class].dropped;
	// Each is counted once, but for neighbor discovery, which counts for itself.
	if (after - before < expected || after - before > expected + TURNS)
		abort();
	free(packet.buffer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct world *w;

	if (w == NULL)
		w = world_new();
	if (size < HEAD)
		return 0;
	size_t used = publish(w, data, size);
	police_follow(&w->forward);
	size_t left = size - used < MAX_PACKET ? size - used : MAX_PACKET;
	if (left >= sizeof(struct virtio_net_hdr))
		meet(w, data + used, left, data[0]);
	return 0;
}
