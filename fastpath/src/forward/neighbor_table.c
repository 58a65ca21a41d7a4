// The neighbor table: a hash with linear probing in the state segment, the packets that
// wait, and the private indices over both (timers, the list of unresolved ones).
//
// All that matters lies in the segment and is valid after each single store, so that a
// successor finds it: an entry's state is stored last, a waiting packet's length is; what
// hangs on no entry is free.  A key lies at most NEIGHBOR_WINDOW slots after its hash:
// look-ups are bounded whatever the table went through.
//
// Worker 0 alone writes entries, but for `used_ns`; the others read them (neighbor_worker.c).  So
// address, interface and the word of MAC, family and state are stored whole.
#include <string.h>
#include "base/siphash.h"
#include "forward/bypass.h"
#include "forward/neighbor.h"

enum { NOT_EVICTABLE = 3 };

static uint16_t entry_index(const struct forward *f, const struct neighbor_entry *entry)
{
	return (uint16_t)(entry - f->state->neighbors);
}

static bool entry_live(const struct neighbor_entry *entry)
{
	return entry->state != NEIGHBOR_FREE && entry->state != NEIGHBOR_DELETED;
}

uint64_t neighbor_hash(const struct forward *f, uint16_t interface, uint8_t family, const uint8_t *address)
{
	uint8_t key[20] = {(uint8_t)interface, (uint8_t)(interface >> 8), family};
	memcpy(key + 4, address, family == FAMILY_IPV4 ? 4 : 16);
	return siphash24(f->state->random_key, key, sizeof(key));
}

static bool entry_matches(const struct neighbor_entry *entry, uint16_t interface, uint8_t family,
	const uint8_t *address)
{
	return entry->state != NEIGHBOR_DELETED && entry->interface == interface && entry->family == family &&
	       memcmp(entry->address, address, family == FAMILY_IPV4 ? 4 : 16) == 0;
}

static struct neighbor_entry *window_slot(const struct forward *f, uint64_t hash, uint32_t step)
{
	return &f->state->neighbors[(hash + step) & (MAX_NEIGHBORS - 1)];
}

struct neighbor_entry *neighbor_find(const struct forward *f, uint16_t interface, uint8_t family,
	const uint8_t *address)
{
	uint64_t hash = neighbor_hash(f, interface, family, address);
	for (uint32_t step = 0; step < NEIGHBOR_WINDOW; step++) {
		struct neighbor_entry *entry = window_slot(f, hash, step);
		if (entry->state == NEIGHBOR_FREE)
			return NULL;
		if (entry_matches(entry, interface, family, address))
			return entry;
	}
	return NULL;
}

// --- what other workers read ---

static void entry_set_word(struct neighbor_entry *entry, const uint8_t *mac, uint8_t family, uint8_t state)
{
	uint8_t bytes[sizeof(uint64_t)];
	uint64_t word;
	memcpy(bytes, mac, ETHERNET_ADDRESS);
	bytes[6] = family;
	bytes[7] = state;
	memcpy(&word, bytes, sizeof(word));
	__atomic_store_n((uint64_t *)(void *)entry->mac, word, __ATOMIC_RELEASE);
}

// Only in an entry that is DELETED: whoever reads it meanwhile finds that out afterwards.
static void entry_set_key(struct neighbor_entry *entry, uint16_t interface, uint8_t family, const uint8_t *address)
{
	static const uint8_t no_mac[ETHERNET_ADDRESS];
	uint64_t words[2] = {0};
	memcpy(words, address, family == FAMILY_IPV4 ? 4 : 16);
	entry_set_word(entry, no_mac, family, NEIGHBOR_DELETED);
	for (int i = 0; i < 2; i++)
		__atomic_store_n((uint64_t *)(void *)entry->address + i, words[i], __ATOMIC_RELEASE);
	__atomic_store_n(&entry->interface, interface, __ATOMIC_RELEASE);
}

void neighbor_set_mac(struct neighbor_entry *entry, const uint8_t *mac)
{
	entry_set_word(entry, mac, entry->family, entry->state);
}

uint64_t neighbor_used(const struct neighbor_entry *entry)
{
	return __atomic_load_n(&entry->used_ns, __ATOMIC_RELAXED);
}

void neighbor_use(struct neighbor_entry *entry, uint64_t now)
{
	__atomic_store_n(&entry->used_ns, now, __ATOMIC_RELAXED);
}

// --- timers: a binary heap of entry numbers, ordered by deadline ---

static uint64_t heap_deadline(const struct forward *f, uint32_t position)
{
	return f->state->neighbors[f->neighbors->heap[position]].deadline_ns;
}

static void heap_put(struct neighbor_table *table, uint32_t position, uint16_t index)
{
	table->heap[position] = index;
	table->place[index] = (uint16_t)(position + 1);
}

static void heap_sift(struct forward *f, uint32_t position)
{
	struct neighbor_table *table = f->neighbors;
	uint16_t index = table->heap[position];
	uint64_t deadline = f->state->neighbors[index].deadline_ns;
	while (position > 0 && heap_deadline(f, (position - 1) / 2) > deadline) {
		heap_put(table, position, table->heap[(position - 1) / 2]);
		position = (position - 1) / 2;
	}
	for (;;) {
		uint32_t child = 2 * position + 1;
		if (child >= table->heap_count)
			break;
		if (child + 1 < table->heap_count && heap_deadline(f, child + 1) < heap_deadline(f, child))
			child++;
		if (heap_deadline(f, child) >= deadline)
			break;
		heap_put(table, position, table->heap[child]);
		position = child;
	}
	heap_put(table, position, index);
}

static void heap_remove(struct forward *f, uint16_t index)
{
	struct neighbor_table *table = f->neighbors;
	if (table->place[index] == 0)
		return;
	uint32_t position = table->place[index] - 1u;
	table->place[index] = 0;
	table->heap_count--;
	if (position == table->heap_count)
		return;
	heap_put(table, position, table->heap[table->heap_count]);
	heap_sift(f, position);
}

void neighbor_arm(struct forward *f, struct neighbor_entry *entry, uint64_t deadline_ns)
{
	struct neighbor_table *table = f->neighbors;
	uint16_t index = entry_index(f, entry);
	if (deadline_ns == 0) {
		heap_remove(f, index);
		entry->deadline_ns = 0;
		return;
	}
	entry->deadline_ns = deadline_ns;
	if (table->place[index] == 0)
		heap_put(table, table->heap_count++, index);
	heap_sift(f, table->place[index] - 1u);
}

// --- the list of INCOMPLETE entries, oldest first ---

static void incomplete_append(struct neighbor_table *table, uint16_t index)
{
	table->older[index] = table->newest;
	table->newer[index] = 0;
	if (table->newest != 0)
		table->newer[table->newest - 1] = (uint16_t)(index + 1);
	else
		table->oldest = (uint16_t)(index + 1);
	table->newest = (uint16_t)(index + 1);
	table->incomplete++;
}

static void incomplete_unlink(struct neighbor_table *table, uint16_t index)
{
	uint16_t older = table->older[index];
	uint16_t newer = table->newer[index];
	if (older != 0)
		table->newer[older - 1] = newer;
	else
		table->oldest = newer;
	if (newer != 0)
		table->older[newer - 1] = older;
	else
		table->newest = older;
	table->incomplete--;
}

void neighbor_enter(struct forward *f, struct neighbor_entry *entry, enum neighbor_state state, uint64_t deadline_ns)
{
	if (entry->state == NEIGHBOR_INCOMPLETE && state != NEIGHBOR_INCOMPLETE)
		incomplete_unlink(f->neighbors, entry_index(f, entry));
	if (entry->state != NEIGHBOR_INCOMPLETE && state == NEIGHBOR_INCOMPLETE)
		incomplete_append(f->neighbors, entry_index(f, entry));
	entry->probes = 0;
	entry->changed_ns = f->now;
	__atomic_store_n(&entry->state, (uint8_t)state, __ATOMIC_RELEASE);
	neighbor_arm(f, entry, deadline_ns);
	bypass_neighbor(f, entry);
}

// --- packets that wait ---

static bool pending_valid(uint32_t reference)
{
	return reference != 0 && reference <= MAX_PENDING;
}

static void pending_release(struct forward *f, uint32_t reference)
{
	struct pending_packet *slot = &f->state->pending[reference - 1];
	if (slot->ingress != 0)
		f->counters[slot->ingress].held_packets--;
	slot->length = 0;
	f->neighbors->pending_free[f->neighbors->pending_free_count++] = (uint16_t)(reference - 1);
}

// Count what packet_drop would, for a packet that has no buffer.
static void pending_drop(struct forward *f, uint32_t reference, enum drop_reason reason)
{
	const struct pending_packet *slot = &f->state->pending[reference - 1];
	if (slot->ingress != 0)
		f->counters[slot->ingress].drops[reason]++;
	else
		f->host_drops[reason]++;
	pending_release(f, reference);
}

static void pending_drop_first(struct forward *f, struct neighbor_entry *entry, enum drop_reason reason)
{
	uint32_t first = entry->pending;
	entry->pending = f->state->pending[first - 1].next;
	pending_drop(f, first, reason);
}

// A free slot, if need be at the cost of the destination that was asked for longest ago.
static uint32_t pending_take(struct forward *f, const struct neighbor_entry *for_whom)
{
	struct neighbor_table *table = f->neighbors;
	uint32_t victim = table->oldest;
	while (table->pending_free_count == 0 && table->pending_fresh == MAX_PENDING && victim != 0) {
		struct neighbor_entry *entry = &f->state->neighbors[victim - 1];
		victim = table->newer[victim - 1];
		if (entry != for_whom && entry->pending != 0)
			neighbor_remove(f, entry, DROP_NEIGHBOR_TABLE_FULL);
	}
	if (table->pending_free_count > 0)
		return table->pending_free[--table->pending_free_count] + 1u;
	if (table->pending_fresh == MAX_PENDING)
		return 0;
	f->state->neighbors_used = 1 + ++table->pending_fresh;
	return table->pending_fresh;
}

enum drop_reason neighbor_hold(struct forward *f, struct neighbor_entry *entry, struct packet *packet)
{
	packet_gather(packet);
	if (packet->length == 0 || packet->length > PENDING_ROOM)
		return DROP_NEIGHBOR_QUEUE_FULL;
	uint32_t count = 0;
	uint32_t last = 0;
	for (uint32_t at = entry->pending; pending_valid(at); at = f->state->pending[at - 1].next) {
		last = at;
		count++;
	}
	// RFC 4861 section 7.2.2: new arrivals replace the oldest.
	if (count >= MAX_PENDING_PER_NEIGHBOR)
		pending_drop_first(f, entry, DROP_NEIGHBOR_QUEUE_FULL);
	uint32_t reference = pending_take(f, entry);
	if (reference == 0)
		return DROP_NEIGHBOR_QUEUE_FULL;
	struct pending_packet *slot = &f->state->pending[reference - 1];
	slot->next = 0;
	slot->ingress = packet->account == ACCOUNT_FORWARDED ? packet->ingress : 0; // else held nowhere
	slot->account = packet->account;
	memset(slot->vnet, 0, sizeof(slot->vnet));
	memcpy(slot->vnet, &packet->vnet, sizeof(packet->vnet));
	memcpy(slot->data, packet_data(packet), packet->length);
	__atomic_store_n(&slot->length, (uint16_t)packet->length, __ATOMIC_RELEASE);
	if (last != 0)
		f->state->pending[last - 1].next = reference;
	else
		__atomic_store_n(&entry->pending, reference, __ATOMIC_RELEASE);
	if (slot->ingress != 0)
		f->counters[slot->ingress].held_packets++;
	packet_put(f->pool, packet);
	return DROP_NONE;
}

uint32_t neighbor_detach(struct neighbor_entry *entry)
{
	uint32_t chain = entry->pending;
	__atomic_store_n(&entry->pending, 0, __ATOMIC_RELEASE);
	return chain;
}

struct packet *neighbor_next_held(struct forward *f, uint32_t *chain)
{
	while (pending_valid(*chain)) {
		uint32_t reference = *chain;
		const struct pending_packet *slot = &f->state->pending[reference - 1];
		*chain = slot->next;
		struct packet *packet = packet_get(f->pool, slot->length);
		if (packet == NULL) {
			pending_drop(f, reference, DROP_NO_BUFFER);
			continue;
		}
		memcpy(packet_data(packet), slot->data, slot->length);
		memcpy(&packet->vnet, slot->vnet, sizeof(packet->vnet));
		packet->length = slot->length;
		packet->ingress = slot->ingress;
		packet->account = slot->account;
		packet->l3 = 0;
		packet->family = packet_data(packet)[0] >> 4 == 4 ? FAMILY_IPV4 : FAMILY_IPV6;
		pending_release(f, reference);
		return packet;
	}
	return NULL;
}

// --- entries ---

// A deleted slot may be free again only where no key's way leads over it.
static void slot_clear(struct forward *f, uint16_t index)
{
	struct neighbor_entry *entries = f->state->neighbors;
	uint32_t at = index;
	__atomic_store_n(&entries[at].state, NEIGHBOR_DELETED, __ATOMIC_RELEASE);
	if (entries[(at + 1) & (MAX_NEIGHBORS - 1)].state != NEIGHBOR_FREE)
		return;
	while (entries[at].state == NEIGHBOR_DELETED) {
		__atomic_store_n(&entries[at].state, NEIGHBOR_FREE, __ATOMIC_RELEASE);
		at = (at - 1) & (MAX_NEIGHBORS - 1);
	}
}

void neighbor_remove(struct forward *f, struct neighbor_entry *entry, enum drop_reason reason)
{
	uint16_t index = entry_index(f, entry);
	uint32_t chain = neighbor_detach(entry);
	neighbor_enter(f, entry, NEIGHBOR_DELETED, 0);
	f->neighbors->used--;
	slot_clear(f, index);
	while (pending_valid(chain)) {
		uint32_t reference = chain;
		chain = f->state->pending[reference - 1].next;
		pending_drop(f, reference, reason);
	}
}

// Who goes first when there is no room: smaller first.
static int eviction_rank(const struct neighbor_entry *entry)
{
	switch (entry->state) {
	case NEIGHBOR_FAILED:
		return 0;
	case NEIGHBOR_INCOMPLETE:
		return 1;
	case NEIGHBOR_STALE:
		return 2;
	default:
		return NOT_EVICTABLE;
	}
}

static uint64_t last_active(const struct neighbor_entry *entry)
{
	return neighbor_used(entry) > entry->changed_ns ? neighbor_used(entry) : entry->changed_ns;
}

static struct neighbor_entry *window_victim(const struct forward *f, uint64_t hash)
{
	struct neighbor_entry *victim = NULL;
	int best = NOT_EVICTABLE;
	for (uint32_t step = 0; step < NEIGHBOR_WINDOW; step++) {
		struct neighbor_entry *entry = window_slot(f, hash, step);
		if (!entry_live(entry))
			continue;
		int rank = eviction_rank(entry);
		if (rank < best || (victim != NULL && rank == best && last_active(entry) < last_active(victim))) {
			best = rank;
			victim = entry;
		}
	}
	return victim;
}

static struct neighbor_entry *window_hole(const struct forward *f, uint64_t hash)
{
	for (uint32_t step = 0; step < NEIGHBOR_WINDOW; step++) {
		struct neighbor_entry *entry = window_slot(f, hash, step);
		if (!entry_live(entry))
			return entry;
	}
	return NULL;
}

struct neighbor_entry *neighbor_create(struct forward *f, uint16_t interface, uint8_t family, const uint8_t *address,
	enum drop_reason *reason)
{
	struct neighbor_table *table = f->neighbors;
	uint64_t hash = neighbor_hash(f, interface, family, address);
	if (table->incomplete >= NEIGHBOR_INCOMPLETE_LIMIT && table->oldest != 0)
		neighbor_remove(f, &f->state->neighbors[table->oldest - 1], DROP_NEIGHBOR_TABLE_FULL);
	if (table->used >= NEIGHBOR_LIMIT || window_hole(f, hash) == NULL) {
		struct neighbor_entry *victim = window_victim(f, hash);
		if (victim != NULL)
			neighbor_remove(f, victim, DROP_NEIGHBOR_TABLE_FULL);
	}
	struct neighbor_entry *entry = table->used < NEIGHBOR_LIMIT ? window_hole(f, hash) : NULL;
	if (entry == NULL) {
		*reason = DROP_NEIGHBOR_TABLE_FULL;
		return NULL;
	}
	if (f->state->neighbors_used == 0)
		f->state->neighbors_used = 1;
	// A hole stays DELETED until neighbor_enter: half an entry is none.
	entry_set_key(entry, interface, family, address);
	entry->flags = 0;
	entry->probes = 0;
	entry->pending = 0;
	entry->confirmed_ns = 0;
	neighbor_use(entry, 0);
	entry->deadline_ns = 0;
	table->used++;
	return entry;
}

bool neighbor_was_solicited(const struct forward *f, uint64_t key)
{
	const struct solicited *note = &f->neighbors->solicited[key & (SOLICITED_SLOTS - 1)];
	return note->key == key && note->at_ns != 0 && f->now - note->at_ns < NS_PER_S;
}

bool neighbor_may_solicit(struct forward *f, const struct neighbor_entry *entry)
{
	uint64_t key = neighbor_hash(f, entry->interface, entry->family, entry->address);
	if (neighbor_was_solicited(f, key))
		return false;
	f->neighbors->solicited[key & (SOLICITED_SLOTS - 1)] = (struct solicited){.key = key, .at_ns = f->now};
	return true;
}

// --- taking over from a predecessor ---

static bool entry_sane(const struct neighbor_entry *entry)
{
	return entry->state < NEIGHBOR_DELETED && entry->interface != 0 && entry->interface < MAX_INTERFACES &&
	       (entry->family == FAMILY_IPV4 || entry->family == FAMILY_IPV6);
}

// Keep the sound beginning of a chain; `taken` knows the slots that hang somewhere.
static void chain_attach(struct forward *f, struct neighbor_entry *entry, bool *taken)
{
	uint32_t *link = &entry->pending;
	for (uint32_t count = 0; *link != 0; count++) {
		if (entry->state != NEIGHBOR_INCOMPLETE || count == MAX_PENDING_PER_NEIGHBOR || !pending_valid(*link)
		    || *link >= f->state->neighbors_used || taken[*link - 1]) {
			*link = 0;
			return;
		}
		struct pending_packet *slot = &f->state->pending[*link - 1];
		if (slot->length == 0 || slot->length > PENDING_ROOM || slot->ingress >= MAX_INTERFACES
		    || slot->account > ACCOUNT_FRAGMENT) {
			*link = 0;
			return;
		}
		taken[*link - 1] = true;
		if (slot->ingress != 0)
			f->counters[slot->ingress].held_packets++;
		link = &slot->next;
	}
}

static void entry_attach(struct forward *f, struct neighbor_entry *entry, bool *taken)
{
	chain_attach(f, entry, taken);
	f->neighbors->used++;
	if (entry->state == NEIGHBOR_INCOMPLETE)
		incomplete_append(f->neighbors, entry_index(f, entry));
	if (entry->state != NEIGHBOR_STATIC)
		neighbor_arm(f, entry, entry->deadline_ns != 0 ? entry->deadline_ns : f->now + 1);
}

// Clear what is not an entry, and put back in place what no look-up would find.
static void entries_settle(struct forward *f)
{
	for (uint32_t i = 0; i < MAX_NEIGHBORS; i++) {
		struct neighbor_entry *entry = &f->state->neighbors[i];
		if (entry_live(entry) && !entry_sane(entry))
			__atomic_store_n(&entry->state, NEIGHBOR_DELETED, __ATOMIC_RELEASE);
		if (!entry_live(entry) || neighbor_find(f, entry->interface, entry->family, entry->address) == entry)
			continue;
		struct neighbor_entry lost = *entry;
		__atomic_store_n(&entry->state, NEIGHBOR_DELETED, __ATOMIC_RELEASE);
		struct neighbor_entry *hole = window_hole(f, neighbor_hash(f, lost.interface, lost.family, lost.address));
		if (hole != NULL && neighbor_find(f, lost.interface, lost.family, lost.address) == NULL) {
			uint8_t state = lost.state;
			lost.state = NEIGHBOR_DELETED;
			*hole = lost;
			__atomic_store_n(&hole->state, state, __ATOMIC_RELEASE);
		}
	}
}

void neighbor_table_attach(struct forward *f)
{
	struct neighbor_table *table = f->neighbors;
	struct state_segment *state = f->state;
	if (state->neighbors_used == 0)
		return;
	for (uint32_t i = 0; i < MAX_INTERFACES; i++)
		f->counters[i].held_packets = 0;
	entries_settle(f);
	bool taken[MAX_PENDING] = {false};
	for (uint32_t i = 0; i < MAX_NEIGHBORS; i++) {
		if (entry_live(&state->neighbors[i]))
			entry_attach(f, &state->neighbors[i], taken);
	}
	// Neither of the two big arrays is looked at beyond what was ever used: reading a hole
	// of a memfd through a mapping allocates it.
	table->pending_fresh = state->neighbors_used - 1 < MAX_PENDING ? (uint32_t)state->neighbors_used - 1 : MAX_PENDING;
	for (uint32_t i = table->pending_fresh; i > 0; i--) {
		if (taken[i - 1])
			continue;
		state->pending[i - 1].length = 0;
		table->pending_free[table->pending_free_count++] = (uint16_t)(i - 1);
	}
}
