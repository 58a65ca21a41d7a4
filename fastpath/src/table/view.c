// Checked access to the tables segment.
//
// The published interfaces, addresses and rules are copied before they are checked, so that
// what was checked is what is used: their writer is another process.
#include "table/view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32.h"
#include "base/siphash.h"
#include "table/key.h"
#include "wire/ip4.h"

// A root and its arrays, copied and checked but not yet followed.
struct candidate {
	struct tables_root root;
	size_t interface_bytes, address_bytes, rule_bytes;
	uint8_t *copy; // the three arrays one after the other; each is a multiple of 8 bytes
};

void view_open(struct tables_view *view, const void *base, size_t size)
{
	*view = (struct tables_view){.base = base, .size = size};
}

void view_close(struct tables_view *view)
{
	free(view->copy);
	free(view->by_address);
	view_open(view, view->base, view->size);
}

bool view_range(const struct tables_view *view, uint64_t offset, uint64_t bytes)
{
	return offset % 8 == 0 && offset <= view->size && bytes <= view->size - offset;
}

static bool candidate_fits(const struct tables_view *view, const struct candidate *new)
{
	const struct tables_root *root = &new->root;
	return root->interface_count < MAX_INTERFACES && root->address_count <= MAX_ADDRESSES &&
	       root->rule_count <= MAX_RULES && view_range(view, root->interfaces, new->interface_bytes) &&
	       view_range(view, root->addresses, new->address_bytes) && view_range(view, root->rules, new->rule_bytes);
}

static bool interfaces_valid(const struct interface_entry *entries, uint32_t count)
{
	bool seen[MAX_INTERFACES] = {false};
	for (uint32_t i = 0; i < count; i++) {
		const struct interface_entry *entry = &entries[i];
		if (entry->index == 0 || entry->index >= MAX_INTERFACES || seen[entry->index] || entry->port >= MAX_PORTS ||
		    entry->vlan > 4094 || entry->name[0] == '\0' || memchr(entry->name, '\0', sizeof(entry->name)) == NULL)
			return false;
		seen[entry->index] = true;
	}
	return true;
}

static bool prefix_valid(uint8_t family, uint8_t length)
{
	return (family == FAMILY_IPV4 || family == FAMILY_IPV6) && length <= key_width(family);
}

static bool addresses_valid(const struct address_entry *entries, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (!prefix_valid(entries[i].family, entries[i].length) || entries[i].interface >= MAX_INTERFACES)
			return false;
	return true;
}

static bool rules_valid(const struct rule_entry *entries, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		const struct rule_entry *entry = &entries[i];
		if (entry->port_count > MAX_RULE_PORTS || entry->prefix_count > MAX_RULE_PREFIXES)
			return false;
		for (uint32_t k = 0; k < entry->prefix_count; k++)
			if (!prefix_valid(entry->prefixes[k].family, entry->prefixes[k].length))
				return false;
	}
	return true;
}

static bool candidate_valid(const struct candidate *new)
{
	struct tables_root root = new->root;
	root.checksum = 0;
	uint32_t crc = crc32_update(0, &root, sizeof(root));
	crc = crc32_update(crc, new->copy, new->interface_bytes + new->address_bytes + new->rule_bytes);
	const uint8_t *addresses = new->copy + new->interface_bytes;
	return crc == new->root.checksum &&
	       interfaces_valid((const void *)new->copy, root.interface_count) &&
	       addresses_valid((const void *)addresses, root.address_count) &&
	       rules_valid((const void *)(addresses + new->address_bytes), root.rule_count);
}

// Copy the root at `where` and its arrays, and check the copy.  On an error nothing is owned.
static int candidate_load(const struct tables_view *view, uint64_t where, struct candidate *new)
{
	memcpy(&new->root, view->base + where, sizeof(new->root));
	new->interface_bytes = new->root.interface_count * sizeof(struct interface_entry);
	new->address_bytes = new->root.address_count * sizeof(struct address_entry);
	new->rule_bytes = new->root.rule_count * sizeof(struct rule_entry);
	if (!candidate_fits(view, new))
		return -EINVAL;
	new->copy = malloc(new->interface_bytes + new->address_bytes + new->rule_bytes + 1);
	if (new->copy == NULL)
		return -ENOMEM;
	memcpy(new->copy, view->base + new->root.interfaces, new->interface_bytes);
	memcpy(new->copy + new->interface_bytes, view->base + new->root.addresses, new->address_bytes);
	memcpy(new->copy + new->interface_bytes + new->address_bytes, view->base + new->root.rules, new->rule_bytes);
	if (!candidate_valid(new)) {
		free(new->copy);
		return -EINVAL;
	}
	return 0;
}

static uint32_t port_hash(uint16_t port, uint16_t vlan)
{
	return mix32((uint32_t)port << 16 | vlan) % (2 * MAX_INTERFACES);
}

static uint32_t address_hash(uint8_t family, const uint8_t *address)
{
	struct key key = key_of(family, address);
	return flow_mix(family, key.hi, key.lo, 0);
}

static void view_index_interfaces(struct tables_view *view)
{
	memset(view->by_index, 0, sizeof(view->by_index));
	memset(view->by_port, 0, sizeof(view->by_port));
	for (uint32_t i = 0; i < view->interface_count; i++) {
		const struct interface_entry *entry = &view->interfaces[i];
		view->by_index[entry->index] = (uint16_t)(i + 1);
		if (entry->port == 0)
			continue;
		uint32_t slot = port_hash(entry->port, entry->vlan);
		while (view->by_port[slot] != 0)
			slot = (slot + 1) % (2 * MAX_INTERFACES);
		view->by_port[slot] = (uint16_t)(i + 1);
	}
}

static void view_index_addresses(struct tables_view *view)
{
	for (uint32_t i = 0; i < view->address_count; i++) {
		uint32_t slot = address_hash(view->addresses[i].family, view->addresses[i].address) & view->by_address_mask;
		while (view->by_address[slot] != 0)
			slot = (slot + 1) & view->by_address_mask;
		view->by_address[slot] = (uint16_t)(i + 1);
	}
}

static bool candidate_same(const struct tables_view *view, const struct candidate *new)
{
	return view->copy != NULL && view->interface_count == new->root.interface_count &&
	       view->address_count == new->root.address_count && view->rule_count == new->root.rule_count &&
	       memcmp(view->copy, new->copy, new->interface_bytes + new->address_bytes + new->rule_bytes) == 0;
}

// Follow a checked candidate, whose copy the view now owns.  False without memory.
static bool view_follow(struct tables_view *view, const struct candidate *new)
{
	uint32_t slots = 8;
	while (slots < 2 * new->root.address_count)
		slots *= 2;
	uint16_t *by_address = calloc(slots, sizeof(*by_address));
	if (by_address == NULL)
		return false;
	free(view->copy);
	free(view->by_address);
	view->copy = new->copy;
	view->generation++;
	view->by_address = by_address;
	view->by_address_mask = slots - 1;
	view->interfaces = (const void *)new->copy;
	view->interface_count = new->root.interface_count;
	view->addresses = (const void *)(new->copy + new->interface_bytes);
	view->address_count = new->root.address_count;
	view->rules = (const void *)(new->copy + new->interface_bytes + new->address_bytes);
	view->rule_count = new->root.rule_count;
	view_index_interfaces(view);
	view_index_addresses(view);
	return true;
}

bool view_refresh(struct tables_view *view)
{
	uint64_t where = __atomic_load_n(&view_tables(view)->root, __ATOMIC_ACQUIRE);
	if (where == 0 || !view_range(view, where, sizeof(struct tables_root)))
		return false;
	const struct tables_root *root = (const void *)(view->base + where);
	uint64_t epoch = __atomic_load_n(&root->epoch, __ATOMIC_RELAXED);
	if ((where == view->root && epoch == view->epoch) || (where == view->refused && epoch == view->refused_epoch))
		return false;
	struct candidate new = {0};
	int error = candidate_load(view, where, &new);
	if (error == -EINVAL) {
		view->refused = where;
		view->refused_epoch = epoch;
	}
	if (error < 0)
		return false;
	bool changed = !candidate_same(view, &new);
	if (!changed) {
		free(new.copy);
	} else if (!view_follow(view, &new)) {
		free(new.copy);
		return false;
	}
	view->root = where;
	view->epoch = new.root.epoch;
	return changed;
}

bool view_root_valid(const struct tables_view *view, uint64_t where)
{
	struct candidate new = {0};
	if (!view_range(view, where, sizeof(struct tables_root)) || candidate_load(view, where, &new) < 0)
		return false;
	free(new.copy);
	return true;
}

const struct interface_entry *view_interface(const struct tables_view *view, uint16_t index)
{
	if (index >= MAX_INTERFACES || view->by_index[index] == 0)
		return NULL;
	return &view->interfaces[view->by_index[index] - 1];
}

const struct interface_entry *view_interface_of(const struct tables_view *view, uint16_t port, uint16_t vlan)
{
	// Fewer than half of the slots are taken: each probe sequence ends.
	for (uint32_t slot = port_hash(port, vlan); view->by_port[slot] != 0; slot = (slot + 1) % (2 * MAX_INTERFACES)) {
		const struct interface_entry *entry = &view->interfaces[view->by_port[slot] - 1];
		if (entry->port == port && entry->vlan == vlan)
			return entry;
	}
	return NULL;
}

const struct address_entry *view_address(const struct tables_view *view, uint8_t family, const uint8_t *address,
	uint16_t interface)
{
	if (view->by_address == NULL || (family != FAMILY_IPV4 && family != FAMILY_IPV6))
		return NULL;
	if (family == FAMILY_IPV4)
		address = ip4_home(address);
	size_t bytes = key_width(family) / 8;
	uint32_t slot = address_hash(family, address) & view->by_address_mask;
	for (; view->by_address[slot] != 0; slot = (slot + 1) & view->by_address_mask) {
		const struct address_entry *entry = &view->addresses[view->by_address[slot] - 1];
		if (entry->family == family && memcmp(entry->address, address, bytes) == 0 &&
		    (interface == 0 || entry->interface == interface))
			return entry;
	}
	return NULL;
}

void view_enter(const struct tables_view *view, struct worker_state *worker)
{
	uint64_t epoch = __atomic_load_n(&view_tables(view)->epoch, __ATOMIC_ACQUIRE);
	__atomic_store_n(&worker->reader_epoch, epoch == 0 ? 1 : epoch, __ATOMIC_RELAXED);
	// Either the writer sees that we read, or we see what it has published before it looked.
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void view_leave(struct worker_state *worker)
{
	__atomic_store_n(&worker->reader_epoch, 0, __ATOMIC_RELEASE);
}
