// Neighbors that BFD has found dead: groups leave them out while they have anything else, from the moment that the
// forwarder knows, whatever control is doing.
//
// Worker 0 writes, all workers read: one word each, the hash of the neighbor's key, so that nothing has to be locked.
// More than there is room for are not noted; control moves their groups.
#include "forward/bypass.h"
#include "forward/neighbor.h"

// 0 is a free word.
static uint64_t name_of(uint64_t hash)
{
	return hash | 1;
}

static uint64_t *find(struct neighbor_table *table, uint64_t word)
{
	for (uint32_t i = 0; i < SILENT_NEIGHBORS; i++)
		if (table->silent[i] == word)
			return &table->silent[i];
	return NULL;
}

void neighbor_silence(struct forward *f, uint16_t interface, uint8_t family, const uint8_t *address, bool silent)
{
	struct neighbor_table *table = f->neighbors;
	uint64_t name = name_of(neighbor_hash(f, interface, family, address));
	uint64_t *known = find(table, name), *place = silent ? find(table, 0) : known;

	if (silent == (known != NULL) || place == NULL)
		return;
	__atomic_store_n(place, silent ? name : 0, __ATOMIC_RELEASE);
	uint32_t count = silent ? table->silent_count + 1 : table->silent_count - 1;
	__atomic_store_n(&table->silent_count, count, __ATOMIC_RELEASE);
	struct neighbor_entry *entry = neighbor_find(f, interface, family, address);
	if (entry != NULL)
		bypass_neighbor(f, entry);
}

bool neighbor_silent_by(const struct forward *f, uint64_t hash)
{
	const struct neighbor_table *table = f->neighbors;
	uint64_t name = name_of(hash);

	if (__atomic_load_n(&table->silent_count, __ATOMIC_RELAXED) == 0)
		return false;
	for (uint32_t i = 0; i < SILENT_NEIGHBORS; i++)
		if (__atomic_load_n(&table->silent[i], __ATOMIC_RELAXED) == name)
			return true;
	return false;
}

bool neighbor_silent(const struct forward *f, uint16_t interface, uint8_t family, const uint8_t *address)
{
	return __atomic_load_n(&f->neighbors->silent_count, __ATOMIC_RELAXED) != 0
		&& neighbor_silent_by(f, neighbor_hash(f, interface, family, address));
}
