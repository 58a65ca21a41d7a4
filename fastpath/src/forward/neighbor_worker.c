// Neighbors as transit workers see them: read without a lock, while worker 0 changes them.
//
// An entry's MAC, family and state are one word.  It is read before and after the key: an entry that is
// forgotten or becomes another one in between has another word, as every entry begins without a MAC.
// What a reader cannot settle so, it leaves to worker 0.
#include "forward/hand.h"
#include "forward/neighbor.h"

#include <stddef.h>
#include <string.h>

#define NOTE_NS (NS_PER_S / 10) // how exactly the time of the last use is known

_Static_assert(offsetof(struct neighbor_entry, mac) % 8 == 0 &&
               offsetof(struct neighbor_entry, family) == offsetof(struct neighbor_entry, mac) + 6 &&
               offsetof(struct neighbor_entry, state) == offsetof(struct neighbor_entry, mac) + 7,
               "MAC, family and state are one word");

// The word of an entry, taken apart.
struct seen {
	uint8_t mac[ETHERNET_ADDRESS];
	uint8_t family;
	uint8_t state;
};

_Static_assert(sizeof(struct seen) == sizeof(uint64_t), "as it lies in the entry");

static uint64_t read_word(const struct neighbor_entry *entry, struct seen *seen)
{
	uint64_t word = __atomic_load_n((const uint64_t *)(const void *)entry->mac, __ATOMIC_ACQUIRE);
	memcpy(seen, &word, sizeof(*seen));
	return word;
}

static bool has_mac(uint8_t state)
{
	return state == NEIGHBOR_REACHABLE || state == NEIGHBOR_STALE || state == NEIGHBOR_DELAY || state == NEIGHBOR_PROBE
		|| state == NEIGHBOR_STATIC;
}

static bool key_matches(const struct neighbor_entry *entry, uint16_t interface, const uint64_t *address)
{
	const uint64_t *words = (const void *)entry->address;
	return __atomic_load_n(&words[0], __ATOMIC_ACQUIRE) == address[0]
		&& __atomic_load_n(&words[1], __ATOMIC_ACQUIRE) == address[1]
		&& __atomic_load_n(&entry->interface, __ATOMIC_ACQUIRE) == interface;
}

// The entry of a neighbor whose MAC is known, or NULL.
static struct neighbor_entry *find_known(const struct forward *f, uint64_t hash, uint16_t interface, uint8_t family,
	const uint8_t *address, struct seen *seen)
{
	uint64_t words[2] = {0};
	struct seen again;
	memcpy(words, address, family == FAMILY_IPV4 ? 4 : 16);
	for (uint32_t step = 0; step < NEIGHBOR_WINDOW; step++) {
		struct neighbor_entry *entry = &f->state->neighbors[(hash + step) & (MAX_NEIGHBORS - 1)];
		uint64_t word = read_word(entry, seen);
		if (seen->state == NEIGHBOR_FREE)
			return NULL;
		if (seen->family == family && has_mac(seen->state) && key_matches(entry, interface, words))
			return read_word(entry, &again) == word ? entry : NULL;
	}
	return NULL;
}

struct neighbor_entry *neighbor_known(const struct forward *f, uint16_t interface, uint8_t family,
	const uint8_t *address)
{
	struct seen seen;
	return find_known(f, neighbor_hash(f, interface, family, address), interface, family, address, &seen);
}

static void note_use(const struct forward *f, struct neighbor_entry *entry, uint8_t state)
{
	uint32_t index = (uint32_t)(entry - f->state->neighbors);
	uint64_t bit = 1ull << index % 64;
	if (f->now - neighbor_used(entry) > NOTE_NS)
		neighbor_use(entry, f->now);
	if (state != NEIGHBOR_STALE || (__atomic_load_n(&f->neighbors->touched[index / 64], __ATOMIC_RELAXED) & bit) != 0)
		return;
	__atomic_fetch_or(&f->neighbors->touched[index / 64], bit, __ATOMIC_SEQ_CST);
	__atomic_store_n(&f->neighbors->touched_any, 1, __ATOMIC_SEQ_CST);
}

enum drop_reason neighbor_transit(struct forward *f, const struct interface_entry *out, uint8_t family,
	const uint8_t *address, struct packet *packet)
{
	uint16_t ethertype = packet_data(packet)[0] >> 4 == 4 ? ETHERNET_IP4 : ETHERNET_IP6;
	uint64_t hash = neighbor_hash(f, out->index, family, address);
	struct neighbor_entry *entry;
	struct seen seen;

	if (!interface_up(f, out))
		return DROP_EGRESS_DOWN;
	entry = find_known(f, hash, out->index, family, address, &seen);
	if (entry == NULL || (f->served[out->port / 64] >> out->port % 64 & 1) == 0)
		return hand_neighbor(f, out, family, address, hash, packet);
	if (hand_marked(f, hash)) {
		hand_await(f, hash);
		return hand_neighbor(f, out, family, address, hash, packet);
	}
	note_use(f, entry, seen.state);
	return ethernet_output(f, out, seen.mac, ethertype, packet);
}
