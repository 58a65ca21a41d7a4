// Keeps struct bypass_links in line with what this forwarder knows, and folds what the program counts into its own.
//
//   interfaces, links, features --bypass_changed--> ports[], interfaces[], sources[]
//   neighbors ------------------bypass_neighbor---> neighbors[]
//   counts[], used_ns <---------bypass_tick-------- counters, used_ns of the neighbors
//
// The program forwards on a port only before `until_ns`, which is renewed here: ten seconds after a forwarder died
// that nobody succeeded, nothing is forwarded on its word any more.  A successor takes the map as it is; neighbors are
// entered anew.  All is worker 0's.
//
// What the program counted between two folds is missing in the counters for that long.  A forwarder that is killed
// while it folds may lose the counts of one interface and processor since the fold before; the laws hold even so.
#include "forward/bypass.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "forward/neighbor.h"
#include "table/bypass.h"

#define TICK_NS (NS_PER_S / 10)
#define LEASE_NS (BYPASS_LEASE_MS * (NS_PER_S / 1000))
#define DELAY_NS (5 * NS_PER_S) // of neighbor.c

struct bypass {
	struct bypass_links *links;
	struct bypass_maps maps;
	uint64_t next_ns;                 // when the next tick is due
	uint64_t key;                     // of the hash of neighbors
	uint32_t mirrored;                // as last seen in `tables`
	uint16_t changes;                 // of an interface, for the upper half of its port
	uint32_t told;                    // the lower half of links->changes
	bool observed;
	uint16_t place[MAX_NEIGHBORS];    // of an entry of the state segment, + 1; 0: none
	uint16_t owner[BYPASS_NEIGHBORS]; // the reverse
	uint64_t used[BYPASS_NEIGHBORS];  // used_ns as last seen
	uint32_t occupied;
};

static uint64_t coarse_now(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

// A store that the program may see at any moment; those before it come first.
#define PUBLISH(place, value) __atomic_store_n(&(place), (value), __ATOMIC_RELEASE)

// What the program remembers of interfaces and neighbors is no longer so.
static void tell(struct bypass *b)
{
	PUBLISH(b->links->changes, b->links->attaches << 32 | ++b->told);
}

// --- neighbors ---

static void neighbor_forget(struct bypass *b, uint32_t index)
{
	if (b->place[index] == 0)
		return;
	uint32_t place = b->place[index] - 1u;
	PUBLISH(b->links->neighbors[place].link, 0);
	tell(b);
	b->owner[place] = 0;
	b->place[index] = 0;
	b->occupied--;
}

static uint64_t link_word(const uint8_t *mac)
{
	uint64_t word = 0;
	memcpy(&word, mac, ETHERNET_ADDRESS);
	return word | BYPASS_LINK_VALID;
}

// Where there is no place near its hash it is not entered, and its packets go on to us.
static bool neighbor_enter_place(struct bypass *b, const struct neighbor_entry *entry, uint32_t index)
{
	uint64_t words[2];
	memcpy(words, entry->address, sizeof(words));
	uint32_t first = bypass_place(b->key, entry->interface, entry->family, words[0], words[1]);
	for (uint32_t i = 0; i < BYPASS_WINDOW; i++) {
		uint32_t place = (first + i) & (BYPASS_NEIGHBORS - 1);
		if (b->owner[place] != 0)
			continue;
		struct bypass_neighbor *shown = &b->links->neighbors[place];
		__atomic_thread_fence(__ATOMIC_SEQ_CST); // the place was given up before it changes
		memcpy(shown->address, words, sizeof(words));
		shown->interface = entry->interface;
		shown->family = entry->family;
		b->used[place] = shown->used_ns;
		b->owner[place] = (uint16_t)(index + 1);
		b->place[index] = (uint16_t)(place + 1);
		b->occupied++;
		return true;
	}
	return false;
}

void bypass_neighbor(struct forward *f, const struct neighbor_entry *entry)
{
	struct bypass *b = f->bypass;
	if (b == NULL)
		return;
	uint32_t index = (uint32_t)(entry - f->state->neighbors);
	// The program knows no backups: what goes to a neighbor that BFD has found dead, goes by us.
	if (!neighbor_has_mac(entry) || neighbor_silent(f, entry->interface, entry->family, entry->address)) {
		neighbor_forget(b, index);
		return;
	}
	if (b->place[index] == 0 && !neighbor_enter_place(b, entry, index))
		return;
	uint64_t *shown = &b->links->neighbors[b->place[index] - 1].link, link = link_word(entry->mac);
	if (*shown == link)
		return;
	PUBLISH(*shown, link);
	tell(b);
}

// What the program sent to a neighbor is a use of it, as in neighbor_output.
static void neighbors_used(struct forward *f)
{
	struct bypass *b = f->bypass;
	for (uint32_t place = 0, left = b->occupied; left != 0 && place < BYPASS_NEIGHBORS; place++) {
		if (b->owner[place] == 0)
			continue;
		left--;
		uint64_t used = __atomic_load_n(&b->links->neighbors[place].used_ns, __ATOMIC_RELAXED);
		if (used == b->used[place])
			continue;
		b->used[place] = used;
		struct neighbor_entry *entry = &f->state->neighbors[b->owner[place] - 1];
		neighbor_use(entry, f->now);
		if (entry->state == NEIGHBOR_STALE)
			neighbor_enter(f, entry, NEIGHBOR_DELAY, f->now + DELAY_NS);
	}
}

// --- interfaces ---

static bool has_vlans(const struct forward *f, uint16_t port)
{
	for (uint32_t i = 0; i < f->tables.interface_count; i++)
		if (f->tables.interfaces[i].port == port && f->tables.interfaces[i].vlan != 0)
			return true;
	return false;
}

static enum bypass_state port_state_of(const struct forward *f, uint16_t port, const struct interface_entry *in)
{
	const struct bypass *b = f->bypass;
	if (in == NULL || in->kind != INTERFACE_ETHERNET)
		return BYPASS_OFF;
	if (!interface_up(f, in))
		return BYPASS_DOWN;
	if (in->features != 0)
		return BYPASS_FEATURES;
	if (has_vlans(f, port))
		return BYPASS_VLANS;
	if (b->observed)
		return BYPASS_OBSERVED;
	return b->mirrored != 0 ? BYPASS_ON : BYPASS_NO_ROUTES;
}

static void show_port(struct forward *f, uint16_t port, uint64_t until)
{
	struct bypass_port *shown = &f->bypass->links->ports[port];
	const struct interface_entry *in = view_interface_of(&f->tables, port, 0);
	enum bypass_state state = port_state_of(f, port, in);
	PUBLISH(shown->state, (uint32_t)state);
	if (state != BYPASS_ON) {
		PUBLISH(shown->until_ns, 0);
		return;
	}
	if (shown->interface != in->index || memcmp(shown->mac, in->mac, ETHERNET_ADDRESS) != 0) {
		PUBLISH(shown->until_ns, 0);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		shown->interface = in->index;
		memcpy(shown->mac, in->mac, ETHERNET_ADDRESS);
	}
	PUBLISH(shown->until_ns, until);
}

static void show_interface(struct forward *f, uint16_t index)
{
	struct bypass *b = f->bypass;
	struct bypass_interface *shown = &b->links->interfaces[index];
	const struct interface_entry *out = view_interface(&f->tables, index);
	bool usable = out != NULL && out->kind == INTERFACE_ETHERNET && out->port != 0 && out->features == 0
		&& interface_up(f, out) && !b->observed;
	if (!usable) {
		if (shown->port != 0) {
			PUBLISH(shown->port, 0);
			tell(b);
		}
		return;
	}
	if ((shown->port & UINT16_MAX) == out->port && shown->mtu == out->mtu
	    && memcmp(shown->mac, out->mac, ETHERNET_ADDRESS) == 0)
		return;
	PUBLISH(shown->port, 0);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	shown->mtu = out->mtu;
	memcpy(shown->mac, out->mac, ETHERNET_ADDRESS);
	PUBLISH(shown->port, (uint32_t)++b->changes << 16 | out->port);
	tell(b);
}

// Packets from an address of ours are refused by the slow path (RFC 1812 section 5.3.7).
static void show_sources(struct forward *f)
{
	uint64_t *shown = f->bypass->links->sources, fresh[BYPASS_SOURCES / 64] = {0};
	for (uint32_t i = 0; i < f->tables.address_count; i++) {
		uint32_t address;
		if (f->tables.addresses[i].family != FAMILY_IPV4)
			continue;
		memcpy(&address, f->tables.addresses[i].address, sizeof(address));
		uint32_t bit = bypass_source_bit(address);
		fresh[bit / 64] |= UINT64_C(1) << bit % 64;
	}
	for (uint32_t i = 0; i < BYPASS_SOURCES / 64; i++)
		if (shown[i] != fresh[i])
			PUBLISH(shown[i], fresh[i]);
}

static void show_ports(struct forward *f)
{
	uint64_t until = coarse_now() + LEASE_NS;
	for (uint16_t port = 1; port < MAX_PORTS; port++)
		if (f->queues[port] != NULL || f->bypass->links->ports[port].until_ns != 0)
			show_port(f, port, until);
}

void bypass_changed(struct forward *f)
{
	if (f->bypass == NULL)
		return;
	show_sources(f);
	for (uint16_t index = 1; index < MAX_INTERFACES; index++)
		show_interface(f, index);
	show_ports(f);
}

void bypass_observe(struct forward *f, bool observed)
{
	f->observed = observed;
	if (f->bypass == NULL || f->bypass->observed == observed)
		return;
	f->bypass->observed = observed;
	bypass_changed(f);
}

// --- counters ---

static void fold(struct forward *f, struct bypass_processor *own, uint16_t interface)
{
	const struct bypass_count *now = &own->counts[interface];
	struct bypass_count *folded = &own->folded[interface], seen = {
		.rx_packets = __atomic_load_n(&now->rx_packets, __ATOMIC_RELAXED),
		.rx_bytes = __atomic_load_n(&now->rx_bytes, __ATOMIC_RELAXED),
		.tx_packets = __atomic_load_n(&now->tx_packets, __ATOMIC_RELAXED),
		.tx_bytes = __atomic_load_n(&now->tx_bytes, __ATOMIC_RELAXED),
	};
	struct bypass_count before = *folded;
	if (memcmp(&seen, &before, sizeof(seen)) == 0)
		return;
	struct interface_counters *counters = &f->counters[interface];
	*folded = seen;
	__atomic_thread_fence(__ATOMIC_RELEASE);
	counters->rx_packets += seen.rx_packets - before.rx_packets;
	counters->rx_bytes += seen.rx_bytes - before.rx_bytes;
	counters->forwarded_packets += seen.rx_packets - before.rx_packets;
	counters->tx_packets += seen.tx_packets - before.tx_packets;
	counters->tx_bytes += seen.tx_bytes - before.tx_bytes;
	counters->forwarded_out_packets += seen.tx_packets - before.tx_packets;
}

static void fold_all(struct forward *f)
{
	for (uint32_t i = 0; i < f->bypass->maps.processors; i++)
		for (uint16_t interface = 1; interface < MAX_INTERFACES; interface++)
			fold(f, &f->bypass->links->processors[i], interface);
}

// --- life ---

static uint64_t links_bytes(uint32_t processors)
{
	return sizeof(struct bypass_links) + processors * sizeof(struct bypass_processor);
}

int bypass_attach(struct forward *f, const struct bypass_maps *maps)
{
	if (maps->processors == 0 || maps->processors > BYPASS_CPUS || maps->links_bytes < links_bytes(maps->processors))
		return -EINVAL;
	void *links = mmap(NULL, maps->links_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, maps->fds[0], 0);
	if (links == MAP_FAILED)
		return -errno;
	struct bypass *b = calloc(1, sizeof(*b));
	if (b == NULL) {
		munmap(links, maps->links_bytes);
		return -ENOMEM;
	}
	bypass_detach(f);
	*b = (struct bypass){.links = links, .maps = *maps, .observed = f->observed};
	b->changes = (uint16_t)++b->links->attaches;
	b->key = hash_step(f->state->random_key[0], f->state->random_key[1]);
	for (uint32_t place = 0; place < BYPASS_NEIGHBORS; place++)
		PUBLISH(b->links->neighbors[place].link, 0);
	tell(b);
	memcpy(b->links->hash_key, f->state->random_key, sizeof(b->links->hash_key));
	b->links->neighbor_key = b->key;
	// Of both programs of `offload: tc`, which may change one after the other: the same for the map's whole life.
	if (b->links->mark == 0)
		PUBLISH(b->links->mark, (uint32_t)forward_random(f) | 1);
	f->bypass = b;
	for (uint32_t i = 0; f->state->neighbors_used != 0 && i < MAX_NEIGHBORS; i++)
		if (neighbor_has_mac(&f->state->neighbors[i]))
			bypass_neighbor(f, &f->state->neighbors[i]);
	bypass_begin(f);
	bypass_changed(f);
	PUBLISH(b->links->ready, 1);
	return 0;
}

void bypass_detach(struct forward *f)
{
	struct bypass *b = f->bypass;
	if (b == NULL)
		return;
	for (uint32_t port = 0; port < MAX_PORTS; port++)
		PUBLISH(b->links->ports[port].until_ns, 0);
	fold_all(f);
	f->bypass = NULL;
	munmap(b->links, b->maps.links_bytes);
	for (int i = 0; i < BYPASS_FDS; i++)
		close(b->maps.fds[i]);
	free(b);
}

const struct bypass_maps *bypass_maps(const struct forward *f)
{
	return f->bypass == NULL ? NULL : &f->bypass->maps;
}

void bypass_begin(struct forward *f)
{
	struct bypass *b = f->bypass;
	if (b == NULL)
		return;
	uint32_t mirrored = __atomic_load_n(&view_tables(&f->tables)->mirrored, __ATOMIC_ACQUIRE) != 0;
	if (mirrored == b->mirrored)
		return;
	b->mirrored = mirrored;
	show_ports(f);
}

void bypass_tick(struct forward *f)
{
	struct bypass *b = f->bypass;
	if (b == NULL || f->now < b->next_ns)
		return;
	b->next_ns = f->now + TICK_NS;
	fold_all(f);
	neighbors_used(f);
	show_ports(f);
}

uint64_t bypass_deadline(const struct forward *f)
{
	return f->bypass == NULL ? UINT64_MAX : f->bypass->next_ns;
}
