// The short way of plain packets in transit, a batch at a time.
//
//   headers of all -> FIB of all -> each in turn: its next hop's adjacency, rewritten, egress queue
//
// Plain is a packet that comes untagged to our MAC address, without IPv4 options or IPv6 hop-by-hop
// options, untraced, which fits the MTU as it is, and whose route is a group of one next hop, a
// neighbor in use.  It passes the same checks and stages as in ethernet.c, ip4.c, ip6.c and transmit.c.
// Whatever fails a check is as it came, and taken in as any packet is, by ethernet_input, in its turn:
// what is to be counted, answered or asked is decided there.
//
// An adjacency is what a group leads to: both link addresses, ready to be written.  It is not told of
// changes: each use compares what it was made from (the word of the group, the hop, the generation of
// the interfaces, the neighbor's entry) with what stands there now.
#include "forward/transit.h"

#include "forward/hand.h"
#include "forward/join.h"
#include "forward/neighbor.h"
#include "forward/stage.h"
#include "wire/ethernet.h"
#include "wire/ip4.h"
#include "wire/ip6.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

enum {
	ADJACENCIES = 256,       // a power of two
	OWN_BITS = 1 << 14,      // a power of two
	LINK_ADDRESSES = 2 * ETHERNET_ADDRESS
};

struct adjacency {
	uint64_t where;          // the word of the group; 0: empty
	uint64_t generation;     // of the interfaces
	struct nexthop hop;
	const struct interface_entry *out;
	struct neighbor_entry *neighbor;
	uint64_t seen;           // its MAC, family and state
	uint64_t hash;
	uint64_t used_ns;
	uint16_t group;
	bool backed;             // the group has a backup
	uint8_t link[LINK_ADDRESSES];
};

struct transit {
	struct adjacency adjacencies[ADJACENCIES];
	uint64_t generation;     // of the addresses that `own` tells of
	uint64_t own[OWN_BITS / 64]; // hashes of our IPv4 addresses
};

// What a batch's packets have in common.
struct arrival {
	const struct interface_entry *in;
	uint64_t mac;            // of the interface, as load_mac gives it
	uint64_t packets, bytes; // that were taken
};

struct transit *transit_new(void)
{
	return calloc(1, sizeof(struct transit));
}

void transit_free(struct transit *transit)
{
	free(transit);
}

// --- our own addresses ---

static uint32_t own_bit(const uint8_t *address)
{
	uint32_t word;
	memcpy(&word, address, sizeof(word));
	return (word * 0x9e3779b1u >> 16) & (OWN_BITS - 1);
}

static void own_refresh(struct transit *transit, const struct tables_view *view)
{
	memset(transit->own, 0, sizeof(transit->own));
	for (uint32_t i = 0; i < view->address_count; i++) {
		uint32_t bit = own_bit(view->addresses[i].address);
		if (view->addresses[i].family == FAMILY_IPV4)
			transit->own[bit / 64] |= 1ull << bit % 64;
	}
	transit->generation = view->generation;
}

static bool maybe_own(const struct transit *transit, const uint8_t *address)
{
	uint32_t bit = own_bit(address);
	return (transit->own[bit / 64] >> bit % 64 & 1) != 0;
}

bool transit_own4(const struct transit *transit, const struct tables_view *view, const uint8_t *address)
{
	return maybe_own(transit, address) && view_address(view, FAMILY_IPV4, address, 0) != NULL;
}

// --- headers ---

static uint64_t load_mac(const uint8_t *address)
{
	uint32_t high;
	uint16_t low;
	memcpy(&high, address, sizeof(high));
	memcpy(&low, address + 4, sizeof(low));
	return (uint64_t)low << 32 | high;
}

static bool plain_link(const struct arrival *arrival, const struct packet *packet, const uint8_t *data)
{
	uint64_t source = load_mac(data + ETHERNET_ADDRESS);

	return !packet->vlan_present && packet->trace == 0 && packet->vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE
		&& packet->ingress == 0 && load_mac(data) == arrival->mac && (source & 1) == 0 && source != 0
		&& source != arrival->mac;
}

// A sum of ten words is right if it is all ones (RFC 1071).
static bool checksum_good(const uint8_t *ip)
{
	uint32_t words[IP4_HEADER / 4];
	uint64_t sum = 0;

	memcpy(words, ip, sizeof(words));
	for (int i = 0; i < IP4_HEADER / 4; i++)
		sum += words[i];
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

static bool plain_ip4(const struct transit *transit, const struct tables_view *view, const struct packet *packet,
	const uint8_t *data)
{
	const struct ip4_header *ip = (const void *)(data + ETHERNET_HEADER);
	uint32_t available = packet->length - ETHERNET_HEADER;
	uint32_t length = ip4_total_length(ip);

	// Groups and the limited broadcast begin with 224 and more; what else is there is rare.
	return ip->version_length == 0x45 && length >= IP4_HEADER && length <= available && ip->ttl > 1
		&& ip->source[0] < 224 && ip->source[0] != 0 && !ip4_is_loopback(ip->source) && !maybe_own(transit, ip->source)
		&& ip->destination[0] < 224 && ip->destination[0] != 0 && !ip4_is_loopback(ip->destination)
		&& !transit_own4(transit, view, ip->destination)
		&& checksum_good(data + ETHERNET_HEADER);
}

static bool plain_ip6(const struct packet *packet, const uint8_t *data)
{
	const struct ip6_header *ip = (const void *)(data + ETHERNET_HEADER);

	// Global unicast (RFC 4291 section 2.4) and unique local addresses (RFC 4193).
	return data[ETHERNET_HEADER] >> 4 == 6 && ip6_payload_length(ip) <= packet->length - ETHERNET_HEADER - IP6_HEADER
		&& ip->next != IPPROTO_HOPOPTS && ip->hop_limit > 1
		&& (ip->source[0] >> 5 == 1 || ip->source[0] >> 1 == 0x7e)
		&& (ip->destination[0] >> 5 == 1 || ip->destination[0] >> 1 == 0x7e);
}

// The family of a packet that may go the short way; 0: it may not.
static uint8_t plain_family(const struct transit *transit, const struct tables_view *view, const struct arrival *arrival,
	struct packet *packet)
{
	const uint8_t *data = packet_data(packet);
	uint16_t type;

	if (packet->length < ETHERNET_HEADER + IP4_HEADER || !plain_link(arrival, packet, data))
		return 0;
	memcpy(&type, data + ETHERNET_HEADER - 2, sizeof(type));
	if (type == htons(ETHERNET_IP4))
		return plain_ip4(transit, view, packet, data) ? FAMILY_IPV4 : 0;
	if (type == htons(ETHERNET_IP6) && packet->length >= ETHERNET_HEADER + IP6_HEADER)
		return plain_ip6(packet, data) ? FAMILY_IPV6 : 0;
	return 0;
}

// --- adjacencies ---

// The only hop of a group, in shared memory; NULL where there are none or several.
static const struct nexthop *only_hop(const struct forward *f, uint64_t where, bool *backed)
{
	const struct nexthop_group *set = (const void *)(f->tables.base + where);

	if (where == 0 || !view_range(&f->tables, where, sizeof(*set) + sizeof(set->hops[0])))
		return NULL;
	*backed = __atomic_load_n(&set->backups, __ATOMIC_RELAXED) != 0;
	return __atomic_load_n(&set->count, __ATOMIC_RELAXED) == 1 ? set->hops : NULL;
}

static uint64_t entry_word(const struct neighbor_entry *entry)
{
	return __atomic_load_n((const uint64_t *)(const void *)entry->mac, __ATOMIC_ACQUIRE);
}

// Is this the entry of the hop, with this word?  Worker 0 may be changing it: see neighbor_worker.c.
static bool entry_stands(const struct neighbor_entry *entry, const struct nexthop *hop, uint64_t word)
{
	const uint64_t *key = (const void *)entry->address;
	uint64_t via[2];

	memcpy(via, hop->via, sizeof(via));
	return entry_word(entry) == word && __atomic_load_n(&key[0], __ATOMIC_ACQUIRE) == via[0]
		&& __atomic_load_n(&key[1], __ATOMIC_ACQUIRE) == via[1]
		&& __atomic_load_n(&entry->interface, __ATOMIC_ACQUIRE) == hop->interface && entry_word(entry) == word;
}

// A use of a stale entry begins its proof, and is not for the short way.
static bool in_use(uint64_t word)
{
	uint8_t state = (uint8_t)(word >> 56);
	return state == NEIGHBOR_REACHABLE || state == NEIGHBOR_DELAY || state == NEIGHBOR_PROBE || state == NEIGHBOR_STATIC;
}

static bool adjacency_make(struct forward *f, struct adjacency *adjacency, uint16_t group, uint64_t where,
	const struct nexthop *hop, bool backed)
{
	struct adjacency made = {
		.group = group, .where = where, .generation = f->tables.generation, .hop = *hop, .backed = backed
	};

	made.out = view_interface(&f->tables, made.hop.interface);
	if (made.hop.kind != NEXTHOP_FORWARD || (made.hop.family != FAMILY_IPV4 && made.hop.family != FAMILY_IPV6)
	    || made.out == NULL || made.out->kind != INTERFACE_ETHERNET || made.out->vlan != 0
	    || made.out->port == 0 || made.out->port >= MAX_PORTS)
		return false;
	made.neighbor = neighbor_known(f, made.out->index, made.hop.family, made.hop.via);
	if (made.neighbor == NULL)
		return false;
	made.seen = entry_word(made.neighbor);
	if (!in_use(made.seen) || !entry_stands(made.neighbor, &made.hop, made.seen))
		return false;
	made.hash = neighbor_hash(f, made.out->index, made.hop.family, made.hop.via);
	memcpy(made.link, &made.seen, ETHERNET_ADDRESS);
	memcpy(made.link + ETHERNET_ADDRESS, made.out->mac, ETHERNET_ADDRESS);
	*adjacency = made;
	return true;
}

// May this worker send there now?
static bool adjacency_open(const struct forward *f, const struct adjacency *adjacency)
{
	const struct interface_entry *out = adjacency->out;

	if (adjacency->backed && neighbor_silent_by(f, adjacency->hash))
		return false;
	if (f->hands == NULL)
		return f->neighbors->up[out->index];
	return (f->served[out->port / 64] >> out->port % 64 & 1) != 0 && !hand_marked(f, adjacency->hash);
}

static struct adjacency *adjacency_of(struct forward *f, uint16_t group)
{
	struct adjacency *adjacency = &f->transit->adjacencies[group % ADJACENCIES];
	uint64_t where = __atomic_load_n(&view_tables(&f->tables)->groups[group], __ATOMIC_ACQUIRE);
	bool backed = false;
	const struct nexthop *hop = group != 0 ? only_hop(f, where, &backed) : NULL;

	if (hop == NULL)
		return NULL;
	bool same = adjacency->group == group && adjacency->where == where && adjacency->generation == f->tables.generation
		&& adjacency->backed == backed
		&& memcmp(hop, &adjacency->hop, sizeof(*hop)) == 0
		&& entry_stands(adjacency->neighbor, &adjacency->hop, adjacency->seen);
	if (!same && !adjacency_make(f, adjacency, group, where, hop, backed))
		return NULL;
	return adjacency_open(f, adjacency) ? adjacency : NULL;
}

// --- sending ---

// Lengths as the header says (links pad), hop count and link addresses; RFC 1624: the TTL shares its word with the
// protocol number, and the sum grows by what the word loses.
static void rewrite(struct packet *packet, const struct adjacency *adjacency)
{
	uint8_t *data = packet_data(packet);

	if (packet->family == FAMILY_IPV4) {
		struct ip4_header *ip = (void *)(data + ETHERNET_HEADER);
		uint32_t sum = ip->checksum + (uint32_t)htons(0x0100);
		ip->ttl--;
		ip->checksum = (uint16_t)(sum + (sum >= 0xffff));
	} else {
		((struct ip6_header *)(void *)(data + ETHERNET_HEADER))->hop_limit--;
	}
	memcpy(data, adjacency->link, LINK_ADDRESSES);
}

static uint32_t ip_length(const struct packet *packet, uint8_t family)
{
	const uint8_t *ip = packet->buffer + packet->offset + ETHERNET_HEADER;

	return family == FAMILY_IPV4 ? ip4_total_length((const void *)ip)
		: IP6_HEADER + ip6_payload_length((const void *)ip);
}

// What stands between input and output of a packet elsewhere: the stages of both interfaces, and the count of prefixes.
static enum drop_reason pass_stages(struct forward *f, const struct interface_entry *in,
	const struct adjacency *adjacency, struct packet *packet)
{
	const uint8_t *source = packet_data(packet) + ETHERNET_HEADER + offsetof(struct ip4_header, source);
	bool egress = (adjacency->out->features & FEATURES_EGRESS) != 0;
	enum drop_reason reason = DROP_NONE;

	if ((in->features & FEATURES_INGRESS) != 0) {
		bool asked = (in->features & FEATURE_RPF) != 0 && packet->family == FAMILY_IPV4;
		uint16_t group = asked ? fib_lookup(&f->tables, FAMILY_IPV4, source) : 0;
		reason = stages_ingress(f, in, packet, group, false);
		if (reason != DROP_NONE)
			return reason;
	}
	rewrite(packet, adjacency);
	if (!egress && !filter_counts(&f->filters))
		return DROP_NONE;
	packet_pull(packet, ETHERNET_HEADER);
	packet->l3 = 0;
	if (filter_counts(&f->filters))
		stage_count_route(f, packet);
	if (egress)
		reason = stages_egress(f, adjacency->out, packet);
	packet_push(packet, ETHERNET_HEADER);
	packet->l3 = ETHERNET_HEADER;
	return reason;
}

// Does it all, or nothing: then the packet is as it came.
static bool transit_one(struct forward *f, struct arrival *arrival, struct packet *packet, uint8_t family,
	uint16_t group)
{
	struct adjacency *adjacency = adjacency_of(f, group);
	uint32_t length = ip_length(packet, family);
	enum drop_reason reason;

	if (adjacency == NULL || length > adjacency->out->mtu)
		return false;
	arrival->packets++;
	arrival->bytes += packet->length;
	packet->ingress = arrival->in->index;
	packet->family = family;
	packet->l3 = ETHERNET_HEADER;
	packet->length = ETHERNET_HEADER + length;
	reason = pass_stages(f, arrival->in, adjacency, packet);
	if (reason != DROP_NONE) {
		packet_drop(f, packet, reason);
		return true;
	}
	if (adjacency->used_ns != f->now) {
		adjacency->used_ns = f->now;
		neighbor_use(adjacency->neighbor, f->now);
	}
	reason = egress_queue(f, adjacency->out, packet);
	if (reason != DROP_NONE)
		packet_drop(f, packet, reason);
	return true;
}

// --- batches ---

static void general(struct forward *f, const struct interface_entry *in, struct packet *packet)
{
	uint16_t joined = packet->joined;
	enum drop_reason reason = ethernet_input(f, packet);

	if (reason != DROP_NONE)
		packet_drop(f, packet, reason);
	if (joined == 0)
		return;
	// Those share its fate.
	struct interface_counters *counters = &f->counters[in->index];
	counters->rx_packets += joined;
	*(reason == DROP_NONE ? &counters->punt_packets : &counters->drops[reason]) += joined;
}

static void look_up(const struct forward *f, struct packet **packets, const uint8_t *families, int count, uint8_t family,
	uint16_t *groups)
{
	uint8_t addresses[BATCH_SIZE * 16];
	uint16_t found[BATCH_SIZE];
	uint32_t size = family == FAMILY_IPV4 ? 4 : 16, at = family == FAMILY_IPV4 ? 16 : 24, wanted = 0;

	for (int i = 0; i < count; i++) {
		if (families[i] == family)
			memcpy(addresses + size * wanted++, packet_data(packets[i]) + ETHERNET_HEADER + at, size);
	}
	if (wanted == 0)
		return;
	fib_lookup_batch(&f->tables, family, addresses, wanted, found);
	for (int i = count; i-- > 0;) {
		if (families[i] == family)
			groups[i] = found[--wanted];
	}
}

static bool open_to_transit(const struct forward *f, const struct interface_entry *in)
{
	return in != NULL && interface_up(f, in);
}

void transit_receive(struct forward *f, uint16_t port, struct packet **packets, int count)
{
	struct arrival arrival = {.in = view_interface_of(&f->tables, port, 0)};
	struct transit *transit = f->transit;
	uint8_t families[BATCH_SIZE] = {0};
	uint16_t groups[BATCH_SIZE] = {0};

	if (transit == NULL || count > BATCH_SIZE || !open_to_transit(f, arrival.in)) {
		for (int i = 0; i < count; i++)
			general(f, arrival.in, packets[i]);
		return;
	}
	arrival.mac = load_mac(arrival.in->mac);
	if (transit->generation != f->tables.generation)
		own_refresh(transit, &f->tables);
	count = join_batch(f, arrival.in, packets, count);
	for (int i = 0; i < count; i++) {
		if (i + 1 < count)
			__builtin_prefetch(packet_data(packets[i + 1]));
		families[i] = plain_family(transit, &f->tables, &arrival, packets[i]);
	}
	look_up(f, packets, families, count, FAMILY_IPV4, groups);
	look_up(f, packets, families, count, FAMILY_IPV6, groups);
	for (int i = 0; i < count; i++) {
		if (families[i] == 0 || !transit_one(f, &arrival, packets[i], families[i], groups[i]))
			general(f, arrival.in, packets[i]);
	}
	f->counters[arrival.in->index].rx_packets += arrival.packets;
	f->counters[arrival.in->index].rx_bytes += arrival.bytes;
}
