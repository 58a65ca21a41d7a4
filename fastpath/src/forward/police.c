// Policers of interfaces, and the table of rates that both kinds of policing follow.
//
// A policer is a single rate, two color marker (RFC 2697 with an excess burst of 0, color blind)
// that drops what is not green.  It counts IP packets as they are on the wire: a super-packet
// as the segments that it stands for.  What passes may leave a debt, see base/bucket.h: so a
// super-packet that is larger than the burst passes too, and the rate holds all the same.
//
// Not supported: peak rates (RFC 2698), shaping, and marking down instead of dropping.
#include "forward/police.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32.h"
#include "table/key.h"

// --- the table ---

static uint64_t table_bytes(const struct police_table *head)
{
	return sizeof(*head) + head->entry_count * sizeof(struct police_entry)
		+ head->peer_count * sizeof(struct police_peer);
}

static int peer_compare(const void *a, const void *b)
{
	const struct police_peer *one = a, *other = b;
	if (one->family != other->family)
		return one->family < other->family ? -1 : 1;
	return memcmp(one->address, other->address, sizeof(one->address));
}

static bool table_valid(const struct police_table *table)
{
	struct police_table head = *table;
	const struct police_entry *entries = (const void *)(table + 1);
	const struct police_peer *peers = (const void *)(entries + table->entry_count);

	head.checksum = 0;
	uint32_t crc = crc32_update(0, &head, sizeof(head));
	if (crc32_update(crc, entries, table_bytes(table) - sizeof(head)) != table->checksum)
		return false;
	for (uint32_t i = 0; i < table->entry_count; i++) {
		if (entries[i].interface == 0 || entries[i].interface >= MAX_INTERFACES
		    || entries[i].direction >= POLICE_DIRECTIONS
		    || (entries[i].unit != POLICE_BITS && entries[i].unit != POLICE_PACKETS))
			return false;
	}
	for (uint32_t i = 1; i < table->peer_count; i++) {
		if (peer_compare(&peers[i - 1], &peers[i]) >= 0)
			return false;
	}
	return true;
}

// A private copy of the table, which its writer cannot change any more; NULL: it is not sound.
static struct police_table *table_copy(const struct forward *f, uint64_t where)
{
	struct police_table head;

	memcpy(&head, f->tables.base + where, sizeof(head));
	if (head.entry_count > POLICE_DIRECTIONS * MAX_INTERFACES || head.peer_count > MAX_POLICE_PEERS
	    || !view_range(&f->tables, where, table_bytes(&head)))
		return NULL;
	struct police_table *copy = malloc(table_bytes(&head));
	if (copy == NULL)
		return NULL;
	memcpy(copy, f->tables.base + where, table_bytes(&head));
	if (copy->entry_count == head.entry_count && copy->peer_count == head.peer_count && table_valid(copy))
		return copy;
	free(copy);
	return NULL;
}

static void change_policer(struct forward *f, struct policer *policer, const struct police_entry *entry)
{
	uint8_t unit = entry == NULL || entry->rate.rate == 0 ? 0 : entry->unit;
	struct bucket_rate rate = {0};

	if (unit == POLICE_BITS) // no faster than 8 bits a second can tokens of a byte be given
		rate = bucket_rate(entry->rate.rate < 8 ? 1 : entry->rate.rate / 8, entry->rate.burst);
	else if (unit == POLICE_PACKETS)
		rate = bucket_rate(entry->rate.rate, entry->rate.burst);
	if (unit == policer->unit && memcmp(&rate, &policer->rate, sizeof(rate)) == 0)
		return;
	if (unit != 0 && unit == policer->unit)
		bucket_change(&policer->full, &policer->rate, &rate, f->now);
	else
		policer->full = 0;
	policer->rate = rate;
	policer->unit = unit;
}

static void apply(struct forward *f, const struct police_table *table)
{
	static const struct police_rate unlimited;
	const struct police_entry *by_interface[MAX_INTERFACES][POLICE_DIRECTIONS] = {0};
	const struct police_entry *entries = table == NULL ? NULL : (const void *)(table + 1);
	struct police *police = f->police;

	for (int class = 0; class < CONTROL_CLASSES; class++) {
		const struct police_rate *wanted = table == NULL ? &unlimited : &table->control[class];
		struct bucket_rate rate = bucket_rate(wanted->rate, wanted->burst);
		for (int i = 1; i < MAX_INTERFACES; i++)
			if (police->control_full[i][class] != 0)
				bucket_change(&police->control_full[i][class], &police->control[class], &rate, f->now);
		police->control[class] = rate;
	}
	for (uint32_t i = 0; table != NULL && i < table->entry_count; i++)
		by_interface[entries[i].interface][entries[i].direction] = &entries[i];
	for (int i = 1; i < MAX_INTERFACES; i++)
		for (int direction = 0; direction < POLICE_DIRECTIONS; direction++)
			change_policer(f, &police->policers[i][direction], by_interface[i][direction]);
}

// The peers are kept in the copy's own memory.
static void take_peers(struct police *police, struct police_table *table)
{
	uint32_t count = table == NULL ? 0 : table->peer_count;

	free(police->peers);
	police->peers = NULL;
	police->peer_count = 0;
	if (count == 0) {
		free(table);
		return;
	}
	size_t front = table_bytes(table) - count * sizeof(struct police_peer);
	memmove(table, (const uint8_t *)table + front, count * sizeof(struct police_peer));
	police->peers = (void *)table;
	police->peer_count = count;
}

bool police_stale(const struct forward *f)
{
	const struct police *police = f->police;
	uint64_t where = __atomic_load_n(&view_tables(&f->tables)->police_root, __ATOMIC_ACQUIRE);
	const struct police_table *table = (const void *)(f->tables.base + where);
	uint64_t epoch;

	if (where == 0 || !view_range(&f->tables, where, sizeof(*table)))
		return where == 0 && police->root != 0;
	epoch = __atomic_load_n(&table->epoch, __ATOMIC_RELAXED);
	return (where != police->root || epoch != police->epoch)
		&& (where != police->refused || epoch != police->refused_epoch);
}

void police_follow(struct forward *f)
{
	struct police *police = f->police;
	uint64_t where = __atomic_load_n(&view_tables(&f->tables)->police_root, __ATOMIC_ACQUIRE), epoch = 0;
	struct police_table *table = NULL;

	if (where == 0 && police->root == 0)
		return;
	if (where != 0) {
		if (!view_range(&f->tables, where, sizeof(struct police_table)))
			return;
		epoch = __atomic_load_n(&((const struct police_table *)(const void *)(f->tables.base + where))->epoch,
			__ATOMIC_RELAXED);
		if ((where == police->root && epoch == police->epoch)
		    || (where == police->refused && epoch == police->refused_epoch))
			return;
		table = table_copy(f, where);
		if (table == NULL) {
			police->refused = where;
			police->refused_epoch = epoch;
			return;
		}
	}
	apply(f, table);
	take_peers(police, table);
	police->root = where;
	police->epoch = epoch;
}

bool police_is_peer(const struct forward *f, uint8_t family, const uint8_t *address)
{
	struct police_peer key = {.family = family};

	if (f->police->peer_count == 0)
		return false;
	memcpy(key.address, address, key_width(family) / 8);
	return bsearch(&key, f->police->peers, f->police->peer_count, sizeof(key), peer_compare) != NULL;
}

// --- the stage ---

// What a packet is on the wire: bytes of IP packets, and how many.  By its own headers, as it would be split: what its
// virtio header says of them is its sender's word.
static uint64_t wire_bytes(const struct stage *stage, uint64_t *packets)
{
	const struct packet *packet = stage->packet;
	uint64_t bytes = stage->length + packet->part_bytes, size = packet->vnet.gso_size, unit, header;

	*packets = 1;
	if (packet->vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE)
		return bytes;
	unit = offload_unit(packet);
	if (unit >= bytes)
		return bytes;
	header = unit - size;
	*packets = (bytes - header + size - 1) / size;
	return bytes + (*packets - 1) * header;
}

enum drop_reason stage_police(struct forward *f, struct stage *stage)
{
	bool in = stage->direction == STAGE_IN;
	enum police_direction direction = in ? POLICE_IN : POLICE_OUT;
	struct policer *policer = &f->police->policers[stage->interface->index][direction];
	size_t place = (size_t)(f->counters - f->state->counters) + stage->interface->index; // this worker's
	struct policer_counters *counters = &f->state->policers[POLICE_DIRECTIONS * place + direction];
	uint64_t packets, bytes;

	// What keeps adjacencies up is small, and loses more than it weighs.
	if (policer->unit == 0 || (stage->own && stage->packet->urgent))
		return DROP_NONE;
	bytes = wire_bytes(stage, &packets);
	if (bucket_take(&policer->full, &policer->rate, f->now, policer->unit == POLICE_BITS ? bytes : packets)) {
		counters->passed_packets += packets;
		counters->passed_bytes += bytes;
		return DROP_NONE;
	}
	counters->dropped_packets += packets;
	counters->dropped_bytes += bytes;
	return in ? DROP_POLICE_IN : DROP_POLICE_OUT;
}

// --- life ---

int police_init(struct forward *f)
{
	f->police = calloc(1, sizeof(*f->police));
	return f->police != NULL ? 0 : -ENOMEM;
}

void police_fini(struct forward *f)
{
	if (f->police != NULL)
		free(f->police->peers);
	free(f->police);
	f->police = NULL;
}
