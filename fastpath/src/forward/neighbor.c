// Neighbor resolution: the state machine of RFC 4861 section 7.3.2, for ARP and for ND.
//
//   neighbor_output -> known: send | unknown: hold and ask -> neighbor_learn -> send what waits
//                                                         \-> no answer: FAILED, ICMP error
//
// Differences from the RFC, on purpose: an entry in use is not moved by a message that we
// did not ask for; we ask the neighbor that we know first, and look for the new one when
// it does not answer.  A destination that did not answer is left alone for a second.
// Not supported: confirmation by upper layers (section 7.3.1), proxies.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "forward/neighbor.h"
#include "forward/police.h"
#include "wire/ethernet.h"
#include "wire/icmp.h"
#include "wire/ip4.h"
#include "wire/ip6.h"

enum { SOLICITATIONS = 3, UNICAST_PROBES = 3 };

#define RETRANS_NS NS_PER_S                  // RetransTimer
#define REACHABLE_NS (30 * NS_PER_S)         // BaseReachableTime
#define DELAY_NS (5 * NS_PER_S)              // DELAY_FIRST_PROBE_TIME
#define STALE_NS (600 * NS_PER_S)            // an unused entry is forgotten after
#define NEGATIVE_NS NS_PER_S                 // no new attempt for, after no answer
#define FAILED_NS (60 * NS_PER_S)            // a failed entry is shown for
#define HEARD_NS (NS_PER_S / 10)             // a known neighbor is heard out of turn after

uint64_t forward_random(struct forward *f)
{
	// splitmix64
	uint64_t value = (f->random += 0x9e3779b97f4a7c15);
	value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
	value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
	return value ^ (value >> 31);
}

bool interface_up(const struct forward *f, const struct interface_entry *interface)
{
	uint16_t port = interface->port;
	if (!(interface->flags & INTERFACE_ADMIN_UP))
		return false;
	return interface->kind == INTERFACE_LOOPBACK || (port != 0 && port < MAX_PORTS && f->queues[port] != NULL
		&& f->ports[port].link_up != 0);
}

struct packet *packet_own(struct forward *f, uint32_t length)
{
	struct packet *packet = packet_get(f->pool, length);
	if (packet == NULL) {
		f->host_drops[DROP_NO_BUFFER]++;
		return NULL;
	}
	packet->length = length;
	packet->account = ACCOUNT_ORIGINATED;
	memset(packet_data(packet), 0, length);
	return packet;
}

void packet_send_own(struct forward *f, const struct interface_entry *out, const uint8_t *mac, uint16_t ethertype,
	struct packet *packet)
{
	enum drop_reason reason = ethernet_output(f, out, mac, ethertype, packet);
	if (reason != DROP_NONE)
		packet_drop(f, packet, reason);
}

bool neighbor_has_mac(const struct neighbor_entry *entry)
{
	switch (entry->state) {
	case NEIGHBOR_REACHABLE:
	case NEIGHBOR_STALE:
	case NEIGHBOR_DELAY:
	case NEIGHBOR_PROBE:
	case NEIGHBOR_STATIC:
		return true;
	default:
		return false;
	}
}

// The packet's own header decides, not the family of its next hop (RFC 8950).
static uint8_t packet_version(struct packet *packet)
{
	return packet_data(packet)[0] >> 4 == 4 ? FAMILY_IPV4 : FAMILY_IPV6;
}

static uint16_t packet_ethertype(struct packet *packet)
{
	return packet_version(packet) == FAMILY_IPV4 ? ETHERNET_IP4 : ETHERNET_IP6;
}

// RFC 1112 section 6.4, RFC 2464 section 7.
bool neighbor_group_mac(uint8_t family, const uint8_t *address, uint8_t *mac)
{
	if (family == FAMILY_IPV6 && ip6_is_multicast(address)) {
		mac[0] = mac[1] = 0x33;
		memcpy(mac + 2, address + 12, 4);
	} else if (family == FAMILY_IPV4 && ip4_is_multicast(address)) {
		const uint8_t group[ETHERNET_ADDRESS] = {0x01, 0x00, 0x5e, address[1] & 0x7f, address[2], address[3]};
		memcpy(mac, group, sizeof(group));
	} else if (family == FAMILY_IPV4 && ip4_is_limited_broadcast(address)) {
		memset(mac, 0xff, ETHERNET_ADDRESS);
	} else {
		return false;
	}
	return true;
}

static void host_unreachable(struct forward *f, struct packet *packet)
{
	if (packet_version(packet) == FAMILY_IPV4)
		icmp4_error(f, packet, ICMP4_UNREACHABLE, ICMP4_HOST_UNREACHABLE, 0);
	else
		icmp6_error(f, packet, ICMP6_UNREACHABLE, ICMP6_ADDRESS_UNREACHABLE, 0);
}

// --- asking ---

// The source of the first packet that waits, where that is an address of ours: RFC 4861
// section 7.2.2, and what Linux does for ARP (arp_announce 0).
static const uint8_t *asking_address(const struct forward *f, const struct neighbor_entry *entry)
{
	if (entry->pending == 0 || entry->pending > MAX_PENDING)
		return NULL;
	const struct pending_packet *slot = &f->state->pending[entry->pending - 1];
	const uint8_t *source = slot->data + (entry->family == FAMILY_IPV4 ? 12 : 8);
	uint8_t address[16] = {0};
	memcpy(address, source, entry->family == FAMILY_IPV4 ? 4 : 16);
	uint16_t interface = entry->family == FAMILY_IPV4 ? 0 : entry->interface;
	bool same_family = slot->data[0] >> 4 == (entry->family == FAMILY_IPV4 ? 4 : 6);
	return same_family && address_usable(f, entry->family, address, interface) ? source : NULL;
}

static void solicit(struct forward *f, struct neighbor_entry *entry, bool unicast)
{
	const struct interface_entry *out = view_interface(&f->tables, entry->interface);
	if (out == NULL)
		return;
	entry->probes++;
	const uint8_t *mac = unicast ? entry->mac : NULL;
	if (!unicast && !neighbor_may_solicit(f, entry))
		return;
	if (entry->family == FAMILY_IPV4)
		arp_request(f, out, entry->address, mac, asking_address(f, entry));
	else
		nd_solicit(f, out, entry->address, mac, asking_address(f, entry));
}

// --- the states ---

static void send_held(struct forward *f, struct neighbor_entry *entry)
{
	uint32_t chain = neighbor_detach(entry);
	const struct interface_entry *out = view_interface(&f->tables, entry->interface);
	uint8_t mac[ETHERNET_ADDRESS]; // sending may turn the table over
	memcpy(mac, entry->mac, sizeof(mac));
	struct packet *packet;
	while ((packet = neighbor_next_held(f, &chain)) != NULL) {
		enum drop_reason reason = DROP_EGRESS_DOWN;
		if (out != NULL)
			reason = ethernet_output(f, out, mac, packet_ethertype(packet), packet);
		if (reason != DROP_NONE)
			packet_drop(f, packet, reason);
	}
}

void neighbor_reachable(struct forward *f, struct neighbor_entry *entry, const uint8_t *mac)
{
	bool waited = entry->state == NEIGHBOR_INCOMPLETE;
	if (mac != NULL)
		neighbor_set_mac(entry, mac);
	entry->confirmed_ns = f->now;
	// RFC 4861 section 6.3.2: uniformly between 0.5 and 1.5 times the base.
	neighbor_enter(f, entry, NEIGHBOR_REACHABLE, f->now + REACHABLE_NS / 2 + forward_random(f) % REACHABLE_NS);
	if (waited)
		send_held(f, entry);
}

// An address that nobody proved yet.  What waited is a use of it, so the proof is due.
void neighbor_stale(struct forward *f, struct neighbor_entry *entry, const uint8_t *mac)
{
	neighbor_set_mac(entry, mac);
	if (entry->state != NEIGHBOR_INCOMPLETE || entry->pending == 0) {
		neighbor_enter(f, entry, NEIGHBOR_STALE, f->now + STALE_NS);
		return;
	}
	neighbor_enter(f, entry, NEIGHBOR_DELAY, f->now + DELAY_NS);
	neighbor_use(entry, f->now);
	send_held(f, entry);
}

void neighbor_doubt(struct forward *f, struct neighbor_entry *entry)
{
	if (entry->state != NEIGHBOR_REACHABLE && entry->state != NEIGHBOR_DELAY)
		return;
	neighbor_enter(f, entry, NEIGHBOR_PROBE, f->now + RETRANS_NS);
	entry->probes = UNICAST_PROBES - 1;
	solicit(f, entry, true);
}

// Nobody answered: tell those whose packets waited (RFC 1812 section 5.2.7.1, RFC 4861
// section 7.2.2).
static void fail(struct forward *f, struct neighbor_entry *entry)
{
	bool negative = entry->state == NEIGHBOR_INCOMPLETE;
	uint32_t chain = neighbor_detach(entry);
	neighbor_enter(f, entry, NEIGHBOR_FAILED, f->now + FAILED_NS);
	// The count of unanswered requests is kept: after unicast probes to a stale address,
	// the next packet may look for the neighbor at once.
	entry->probes = negative ? SOLICITATIONS : 0;
	struct packet *packet;
	while ((packet = neighbor_next_held(f, &chain)) != NULL) {
		host_unreachable(f, packet);
		packet_drop(f, packet, DROP_NEIGHBOR_UNRESOLVED);
	}
}

static void expire(struct forward *f, struct neighbor_entry *entry)
{
	switch (entry->state) {
	case NEIGHBOR_INCOMPLETE:
		if (entry->probes >= SOLICITATIONS) {
			fail(f, entry);
			return;
		}
		neighbor_arm(f, entry, f->now + RETRANS_NS);
		solicit(f, entry, false);
		return;
	case NEIGHBOR_REACHABLE:
		neighbor_enter(f, entry, NEIGHBOR_STALE, f->now + STALE_NS);
		return;
	case NEIGHBOR_STALE:
		if (neighbor_used(entry) + STALE_NS > f->now)
			neighbor_arm(f, entry, neighbor_used(entry) + STALE_NS);
		else
			neighbor_remove(f, entry, DROP_NEIGHBOR_UNRESOLVED);
		return;
	case NEIGHBOR_DELAY:
		neighbor_enter(f, entry, NEIGHBOR_PROBE, f->now + RETRANS_NS);
		solicit(f, entry, true);
		return;
	case NEIGHBOR_PROBE:
		if (entry->probes >= UNICAST_PROBES) {
			fail(f, entry);
			return;
		}
		neighbor_arm(f, entry, f->now + RETRANS_NS);
		solicit(f, entry, true);
		return;
	case NEIGHBOR_FAILED:
		neighbor_remove(f, entry, DROP_NEIGHBOR_UNRESOLVED);
		return;
	default:
		neighbor_arm(f, entry, 0);
	}
}

// --- learning ---

bool neighbor_admit(struct forward *f, uint16_t interface, const struct neighbor_entry *entry, const uint8_t *mac,
	bool answer)
{
	if (entry != NULL && answer && (entry->state == NEIGHBOR_INCOMPLETE || entry->state == NEIGHBOR_PROBE))
		return true;
	if (entry != NULL && neighbor_has_mac(entry) && mac != NULL && memcmp(mac, entry->mac, ETHERNET_ADDRESS) == 0) {
		uint64_t *heard = &f->neighbors->heard_ns[entry - f->state->neighbors];
		if (f->now - *heard >= HEARD_NS) {
			*heard = f->now;
			return true;
		}
	}
	return control_allow(f, interface, CONTROL_NEIGHBOR);
}

void neighbor_learn(struct forward *f, uint16_t interface, uint8_t family, const uint8_t *address, const uint8_t *mac,
	enum neighbor_evidence evidence)
{
	struct neighbor_entry *entry = neighbor_find(f, interface, family, address);
	if (entry == NULL) {
		if (evidence != EVIDENCE_ASKED_US)
			return;
		enum drop_reason reason;
		entry = neighbor_create(f, interface, family, address, &reason);
		if (entry != NULL)
			neighbor_stale(f, entry, mac);
		return;
	}
	bool same = neighbor_has_mac(entry) && memcmp(entry->mac, mac, ETHERNET_ADDRESS) == 0;
	switch (entry->state) {
	case NEIGHBOR_STATIC:
		return;
	case NEIGHBOR_INCOMPLETE:
		if (evidence == EVIDENCE_ANSWER)
			neighbor_reachable(f, entry, mac);
		else
			neighbor_stale(f, entry, mac);
		return;
	case NEIGHBOR_FAILED:
		neighbor_stale(f, entry, mac);
		return;
	case NEIGHBOR_STALE:
		if (!same)
			neighbor_stale(f, entry, mac);
		return;
	default:
		if (!same)
			neighbor_doubt(f, entry);
		else if (entry->state == NEIGHBOR_PROBE && evidence == EVIDENCE_ANSWER)
			neighbor_reachable(f, entry, mac);
	}
}

// --- sending ---

static enum drop_reason resolve(struct forward *f, const struct interface_entry *out, uint8_t family,
	const uint8_t *address, struct neighbor_entry *entry, struct packet *packet)
{
	enum drop_reason reason = DROP_NONE;
	if (entry == NULL) {
		if (neighbor_was_solicited(f, neighbor_hash(f, out->index, family, address)))
			return DROP_NEIGHBOR_RATE_LIMITED;
		if (!control_allow(f, packet->ingress, CONTROL_RESOLVE))
			return DROP_CONTROL_PLANE;
		entry = neighbor_create(f, out->index, family, address, &reason);
		if (entry == NULL)
			return reason;
	} else if (entry->state == NEIGHBOR_FAILED && entry->probes != 0 && f->now - entry->changed_ns < NEGATIVE_NS) {
		host_unreachable(f, packet);
		return DROP_NEIGHBOR_UNRESOLVED;
	}
	bool first = entry->state != NEIGHBOR_INCOMPLETE;
	if (first)
		neighbor_enter(f, entry, NEIGHBOR_INCOMPLETE, f->now + RETRANS_NS);
	neighbor_use(entry, f->now);
	forward_trace(f, packet, "neighbor", "held: resolving on %.*s", INTERFACE_NAME_SIZE, out->name);
	reason = neighbor_hold(f, entry, packet);
	if (first)
		solicit(f, entry, false);
	return reason;
}

enum drop_reason neighbor_output(struct forward *f, const struct interface_entry *out, uint8_t family,
	const uint8_t *address, struct packet *packet)
{
	if (out->port == 0 || out->index >= MAX_INTERFACES)
		return DROP_BAD_NEXTHOP;
	if (f->hands != NULL)
		return neighbor_transit(f, out, family, address, packet);
	if (!f->neighbors->up[out->index])
		return DROP_EGRESS_DOWN;
	uint16_t ethertype = packet_ethertype(packet);
	uint8_t mac[ETHERNET_ADDRESS];
	if (neighbor_group_mac(family, address, mac))
		return ethernet_output(f, out, mac, ethertype, packet);
	struct neighbor_entry *entry = neighbor_find(f, out->index, family, address);
	if (entry == NULL || !neighbor_has_mac(entry))
		return resolve(f, out, family, address, entry, packet);
	neighbor_use(entry, f->now);
	if (entry->state == NEIGHBOR_STALE)
		neighbor_enter(f, entry, NEIGHBOR_DELAY, f->now + DELAY_NS);
	return ethernet_output(f, out, entry->mac, ethertype, packet);
}

// Traffic of other workers uses a stale entry as ours does: it has to be proven.
void neighbor_collect(struct forward *f)
{
	struct neighbor_table *table = f->neighbors;
	if (__atomic_load_n(&table->touched_any, __ATOMIC_RELAXED) == 0)
		return;
	__atomic_store_n(&table->touched_any, 0, __ATOMIC_SEQ_CST);
	for (uint32_t i = 0; i < MAX_NEIGHBORS / 64; i++) {
		uint64_t touched = __atomic_exchange_n(&table->touched[i], 0, __ATOMIC_SEQ_CST);
		for (; touched != 0; touched &= touched - 1) {
			struct neighbor_entry *entry = &f->state->neighbors[i * 64 + (uint32_t)__builtin_ctzll(touched)];
			if (entry->state == NEIGHBOR_STALE)
				neighbor_enter(f, entry, NEIGHBOR_DELAY, f->now + DELAY_NS);
		}
	}
}

// --- changes around us ---

// What was found out on the old link says nothing of the next one.
static void forget_solicited(struct forward *f)
{
	memset(f->neighbors->solicited, 0, sizeof(f->neighbors->solicited));
}

static void flush_interface(struct forward *f, uint16_t interface, enum drop_reason reason)
{
	for (uint32_t i = 0; f->state->neighbors_used != 0 && i < MAX_NEIGHBORS; i++) {
		struct neighbor_entry *entry = &f->state->neighbors[i];
		if (entry->interface == interface && entry->state != NEIGHBOR_FREE && entry->state != NEIGHBOR_DELETED
		    && entry->state != NEIGHBOR_STATIC)
			neighbor_remove(f, entry, reason);
	}
}

static void interface_update(struct forward *f, uint16_t index)
{
	struct neighbor_table *table = f->neighbors;
	const struct interface_entry *interface = view_interface(&f->tables, index);
	bool up = interface != NULL && interface_up(f, interface);
	bool was = table->up[index];
	table->up[index] = up;
	if (was && !up) {
		flush_interface(f, index, DROP_EGRESS_DOWN);
		forget_solicited(f);
	}
	if (was != up)
		dad_interface(f, index, up);
}

static bool neighbor_on_link(const struct forward *f, const struct neighbor_entry *entry)
{
	if (entry->family == FAMILY_IPV6 && entry->address[0] == 0xfe && (entry->address[1] & 0xc0) == 0x80)
		return true;
	for (uint32_t i = 0; i < f->tables.address_count; i++) {
		const struct address_entry *prefix = &f->tables.addresses[i];
		if (prefix->interface == entry->interface && prefix->family == entry->family
		    && address_covers(prefix, entry->address))
			return true;
	}
	return false;
}

// Order does not matter to the digest.
static void digest_prefixes(const struct forward *f, uint64_t *digests)
{
	memset(digests, 0, MAX_INTERFACES * sizeof(*digests));
	for (uint32_t i = 0; i < f->tables.address_count; i++) {
		const struct address_entry *prefix = &f->tables.addresses[i];
		if (prefix->interface < MAX_INTERFACES)
			digests[prefix->interface] += neighbor_hash(f, prefix->length, prefix->family, prefix->address) | 1;
	}
}

static void flush_moved(struct forward *f, const bool *mac_changed, const bool *prefixes_changed)
{
	for (uint32_t i = 0; f->state->neighbors_used != 0 && i < MAX_NEIGHBORS; i++) {
		struct neighbor_entry *entry = &f->state->neighbors[i];
		if (entry->state == NEIGHBOR_FREE || entry->state == NEIGHBOR_DELETED || entry->state == NEIGHBOR_STATIC
		    || entry->interface >= MAX_INTERFACES)
			continue;
		if (view_interface(&f->tables, entry->interface) == NULL || mac_changed[entry->interface]
		    || (prefixes_changed[entry->interface] && !neighbor_on_link(f, entry))) {
			neighbor_remove(f, entry, DROP_EGRESS_DOWN);
			forget_solicited(f);
		}
	}
}

void neighbor_tables_changed(struct forward *f)
{
	struct neighbor_table *table = f->neighbors;
	bool mac_changed[MAX_INTERFACES] = {false};
	bool prefixes_changed[MAX_INTERFACES] = {false};
	uint64_t digests[MAX_INTERFACES];
	digest_prefixes(f, digests);
	for (uint16_t i = 1; i < MAX_INTERFACES; i++) {
		const struct interface_entry *interface = view_interface(&f->tables, i);
		interface_update(f, i);
		if (interface == NULL) {
			memset(table->macs[i], 0, ETHERNET_ADDRESS);
			table->prefixes[i] = 0;
			continue;
		}
		mac_changed[i] = !ethernet_is_zero(table->macs[i])
			&& memcmp(table->macs[i], interface->mac, ETHERNET_ADDRESS) != 0;
		prefixes_changed[i] = table->prefixes[i] != 0 && table->prefixes[i] != digests[i];
		memcpy(table->macs[i], interface->mac, ETHERNET_ADDRESS);
		table->prefixes[i] = digests[i];
	}
	flush_moved(f, mac_changed, prefixes_changed);
}

void neighbor_link(struct forward *f, uint16_t port, bool up)
{
	(void)up; // interface_up decides, by what forward_port noted
	for (uint32_t i = 0; i < f->tables.interface_count; i++) {
		const struct interface_entry *interface = &f->tables.interfaces[i];
		if (interface->port == port && interface->index < MAX_INTERFACES)
			interface_update(f, interface->index);
	}
}

// --- life ---

int neighbor_init(struct forward *f)
{
	f->neighbors = calloc(1, sizeof(*f->neighbors));
	if (f->neighbors == NULL)
		return -ENOMEM;
	if (f->state->random_key[0] == 0 && f->state->random_key[1] == 0) {
		f->state->random_key[0] = forward_random(f);
		f->state->random_key[1] = forward_random(f);
	}
	neighbor_table_attach(f);
	dad_attach(f);
	neighbor_tables_changed(f);
	dad_tables_changed(f);
	return 0;
}

void neighbor_fini(struct forward *f)
{
	free(f->neighbors);
	f->neighbors = NULL;
}

void neighbor_tick(struct forward *f)
{
	struct neighbor_table *table = f->neighbors;
	while (table->heap_count > 0) {
		struct neighbor_entry *entry = &f->state->neighbors[table->heap[0]];
		if (entry->deadline_ns > f->now)
			return;
		expire(f, entry);
	}
}

uint64_t neighbor_deadline(const struct forward *f)
{
	const struct neighbor_table *table = f->neighbors;
	return table->heap_count > 0 ? f->state->neighbors[table->heap[0]].deadline_ns : UINT64_MAX;
}
