// Which of our addresses may be used: duplicate address detection for IPv6 (RFC 4862
// section 5.4), announcement and defence for IPv4 (RFC 5227 sections 2.3 and 2.4).
//
// state->dad holds one entry for each address that is configured, dense from the front,
// so that a successor neither probes again nor forgets a duplicate.  IPv4 addresses are
// usable at once: an operator gave them, and Linux does the same.
// Not supported: optimistic DAD (RFC 4429), enhanced DAD (RFC 7527).
#include <string.h>
#include "base/siphash.h"
#include "forward/neighbor.h"
#include "wire/ip4.h"
#include "wire/ip6.h"

enum { ANNOUNCEMENTS = 2, PROBES = 1, ANNOUNCE_BUDGET = 64 };

#define PROBE_NS NS_PER_S            // RetransTimer
#define ANNOUNCE_NS (2 * NS_PER_S)   // ANNOUNCE_INTERVAL
#define DEFEND_NS (10 * NS_PER_S)    // DEFEND_INTERVAL
#define SPREAD_NS (NS_PER_S / 100)   // between bursts of ANNOUNCE_BUDGET messages

// --- the index ---

static uint16_t *dad_bucket(const struct forward *f, uint8_t family, const uint8_t *address)
{
	uint64_t hash = siphash24(f->state->random_key, address, family == FAMILY_IPV4 ? 4 : 16);
	return &f->neighbors->dad.heads[hash & (DAD_BUCKETS - 1)];
}

static bool dad_matches(const struct dad_entry *entry, uint8_t family, const uint8_t *address, uint16_t interface)
{
	return entry->family == family && (interface == 0 || entry->interface == interface) &&
	       memcmp(entry->address, address, family == FAMILY_IPV4 ? 4 : 16) == 0;
}

static void dad_link(struct forward *f, uint32_t index)
{
	const struct dad_entry *entry = &f->state->dad[index];
	uint16_t *head = dad_bucket(f, entry->family, entry->address);
	f->neighbors->dad.next[index] = *head;
	*head = (uint16_t)(index + 1);
}

static void dad_index_rebuild(struct forward *f)
{
	memset(f->neighbors->dad.heads, 0, sizeof(f->neighbors->dad.heads));
	for (uint32_t i = 0; i < f->neighbors->dad.count; i++)
		dad_link(f, i);
}

struct dad_entry *dad_find(const struct forward *f, uint8_t family, const uint8_t *address, uint16_t interface)
{
	const struct dad_index *index = &f->neighbors->dad;
	if (family == FAMILY_IPV4)
		address = ip4_home(address);
	for (uint16_t at = *dad_bucket(f, family, address); at != 0; at = index->next[at - 1]) {
		struct dad_entry *entry = &f->state->dad[at - 1];
		if (dad_matches(entry, family, address, interface))
			return entry;
	}
	return NULL;
}

bool address_usable(const struct forward *f, uint8_t family, const uint8_t *address, uint16_t interface)
{
	const struct dad_index *index = &f->neighbors->dad;
	for (uint16_t at = *dad_bucket(f, family, address); at != 0; at = index->next[at - 1]) {
		const struct dad_entry *entry = &f->state->dad[at - 1];
		if (entry->state == DAD_VALID && dad_matches(entry, family, address, interface))
			return true;
	}
	return false;
}

bool address_covers(const struct address_entry *prefix, const uint8_t *target)
{
	uint32_t bytes = prefix->length / 8u;
	uint32_t bits = prefix->length % 8u;
	if (prefix->length > (prefix->family == FAMILY_IPV4 ? 32 : 128) || memcmp(prefix->address, target, bytes) != 0)
		return false;
	return bits == 0 || (prefix->address[bytes] ^ target[bytes]) >> (8 - bits) == 0;
}

const uint8_t *dad_source(const struct forward *f, uint8_t family, uint16_t interface, const uint8_t *target)
{
	const uint8_t *fallback = NULL;
	for (uint32_t i = 0; i < f->tables.address_count; i++) {
		const struct address_entry *entry = &f->tables.addresses[i];
		if (entry->family != family || (interface != 0 && entry->interface != interface) || !address_usable(f, family,
		    entry->address, entry->interface))
			continue;
		bool best = family == FAMILY_IPV6 ? ip6_is_link_local(entry->address) : address_covers(entry, target);
		if (best)
			return entry->address;
		if (fallback == NULL)
			fallback = entry->address;
	}
	return fallback;
}

// --- the life of an address ---

static void dad_arm(struct forward *f, struct dad_entry *entry, uint64_t deadline_ns)
{
	struct dad_index *index = &f->neighbors->dad;
	entry->deadline_ns = deadline_ns;
	if (deadline_ns != 0 && (index->deadline_ns == 0 || deadline_ns < index->deadline_ns))
		index->deadline_ns = deadline_ns;
}

// As soon as possible.  Before the first iteration there is no time yet, and 0 is no timer.
static uint64_t dad_at_once(const struct forward *f)
{
	return f->now != 0 ? f->now : 1;
}

static void dad_become_valid(struct forward *f, struct dad_entry *entry, uint32_t announcements, bool announce)
{
	entry->state = DAD_VALID;
	entry->probes = announcements;
	dad_arm(f, entry, announce ? dad_at_once(f) : 0);
	forward_interfaces_changed(f);
}

static void dad_start(struct forward *f, struct dad_entry *entry, const struct address_entry *address)
{
	const struct interface_entry *interface = view_interface(&f->tables, entry->interface);
	bool loopback = interface == NULL || interface->kind == INTERFACE_LOOPBACK;
	bool up = interface != NULL && interface_up(f, interface);
	if (loopback || address->family == FAMILY_IPV4 || (address->flags & ADDRESS_NO_DAD)) {
		dad_become_valid(f, entry, address->family == FAMILY_IPV4 ? ANNOUNCEMENTS : 1, !loopback && up);
		return;
	}
	entry->state = DAD_TENTATIVE;
	entry->probes = 0;
	dad_arm(f, entry, up ? dad_at_once(f) : 0);
}

void dad_interface(struct forward *f, uint16_t interface, bool up)
{
	forward_interfaces_changed(f);
	for (uint32_t i = 0; i < f->neighbors->dad.count; i++) {
		struct dad_entry *entry = &f->state->dad[i];
		const struct interface_entry *on = view_interface(&f->tables, interface);
		if (entry->interface != interface || on == NULL || on->kind == INTERFACE_LOOPBACK)
			continue;
		// A probe that nobody could hear proves nothing.
		if (entry->state == DAD_TENTATIVE)
			entry->probes = 0;
		else if (entry->state == DAD_VALID)
			entry->probes = entry->family == FAMILY_IPV4 ? ANNOUNCEMENTS : 1;
		else
			continue;
		dad_arm(f, entry, up ? dad_at_once(f) : 0);
	}
}

static void dad_announce(struct forward *f, const struct interface_entry *out, const struct dad_entry *entry)
{
	if (entry->family == FAMILY_IPV4)
		arp_announce(f, out, entry->address);
	else
		nd_announce(f, out, entry->address);
}

void dad_conflict(struct forward *f, struct dad_entry *entry)
{
	const struct interface_entry *interface = view_interface(&f->tables, entry->interface);
	uint64_t *defended = &f->neighbors->dad.defended_ns[entry - f->state->dad];
	if (entry->state == DAD_TENTATIVE) {
		entry->state = DAD_DUPLICATE; // RFC 4862 section 5.4.5
		entry->deadline_ns = 0;
		return;
	}
	if (entry->state != DAD_VALID || interface == NULL || (*defended != 0 && f->now - *defended < DEFEND_NS))
		return;
	*defended = f->now;
	dad_announce(f, interface, entry);
}

static void dad_expire(struct forward *f, struct dad_entry *entry)
{
	const struct interface_entry *out = view_interface(&f->tables, entry->interface);
	entry->deadline_ns = 0;
	if (out == NULL || !interface_up(f, out))
		return;
	if (entry->state == DAD_TENTATIVE && entry->probes < PROBES) {
		entry->probes++;
		nd_probe(f, out, entry->address);
		dad_arm(f, entry, f->now + PROBE_NS);
		return;
	}
	if (entry->state == DAD_TENTATIVE)
		dad_become_valid(f, entry, 1, false);
	if (entry->state != DAD_VALID || entry->probes == 0)
		return;
	dad_announce(f, out, entry);
	if (--entry->probes > 0)
		dad_arm(f, entry, f->now + ANNOUNCE_NS);
}

// --- timers and configuration ---

void dad_tick(struct forward *f)
{
	struct dad_index *index = &f->neighbors->dad;
	if (index->deadline_ns == 0 || index->deadline_ns > f->now)
		return;
	index->deadline_ns = 0;
	uint32_t budget = ANNOUNCE_BUDGET;
	for (uint32_t i = 0; i < index->count; i++) {
		struct dad_entry *entry = &f->state->dad[i];
		if (entry->deadline_ns == 0)
			continue;
		if (entry->deadline_ns > f->now) {
			dad_arm(f, entry, entry->deadline_ns);
		} else if (budget > 0) {
			budget--;
			dad_expire(f, entry);
		} else {
			dad_arm(f, entry, f->now + SPREAD_NS);
		}
	}
}

uint64_t dad_deadline(const struct forward *f)
{
	return f->neighbors->dad.deadline_ns != 0 ? f->neighbors->dad.deadline_ns : UINT64_MAX;
}

// The last entry takes the place of one that is gone; after a crash in between it is there
// twice, which dad_attach and the look-ups bear.
static void dad_remove(struct forward *f, uint32_t at)
{
	struct dad_index *index = &f->neighbors->dad;
	uint32_t last = --index->count;
	f->state->dad[at] = f->state->dad[last];
	index->listed[at] = index->listed[last];
	index->defended_ns[at] = index->defended_ns[last];
	index->listed[last] = false;
	index->defended_ns[last] = 0;
	memset(&f->state->dad[last], 0, sizeof(f->state->dad[last]));
}

static void dad_add(struct forward *f, const struct address_entry *address)
{
	struct dad_index *index = &f->neighbors->dad;
	if (index->count >= MAX_ADDRESSES || (address->family != FAMILY_IPV4 && address->family != FAMILY_IPV6))
		return;
	struct dad_entry *entry = &f->state->dad[index->count];
	memset(entry, 0, sizeof(*entry));
	memcpy(entry->address, address->address, address->family == FAMILY_IPV4 ? 4 : 16);
	entry->interface = address->interface;
	dad_start(f, entry, address);
	__atomic_store_n(&entry->family, address->family, __ATOMIC_RELEASE); // makes it an entry
	index->listed[index->count] = true;
	dad_link(f, index->count++);
}

void dad_tables_changed(struct forward *f)
{
	struct dad_index *index = &f->neighbors->dad;
	memset(index->listed, 0, sizeof(index->listed));
	for (uint32_t i = 0; i < f->tables.address_count; i++) {
		const struct dad_entry *entry = dad_find(f, f->tables.addresses[i].family, f->tables.addresses[i].address,
			f->tables.addresses[i].interface);
		if (entry != NULL)
			index->listed[entry - f->state->dad] = true;
	}
	for (uint32_t i = index->count; i > 0; i--) {
		if (!index->listed[i - 1])
			dad_remove(f, i - 1);
	}
	dad_index_rebuild(f);
	for (uint32_t i = 0; i < f->tables.address_count; i++) {
		const struct address_entry *address = &f->tables.addresses[i];
		if (address->interface != 0 && dad_find(f, address->family, address->address, address->interface) == NULL)
			dad_add(f, address);
	}
}

void dad_attach(struct forward *f)
{
	struct dad_index *index = &f->neighbors->dad;
	while (index->count < MAX_ADDRESSES && f->state->dad[index->count].family != FAMILY_NONE) {
		struct dad_entry *entry = &f->state->dad[index->count];
		bool sane = (entry->family == FAMILY_IPV4 || entry->family == FAMILY_IPV6) && entry->state <= DAD_DUPLICATE
			&& entry->interface < MAX_INTERFACES;
		if (!sane)
			break;
		dad_link(f, index->count++);
		dad_arm(f, entry, entry->deadline_ns);
	}
}
