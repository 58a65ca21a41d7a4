// Choice of a next hop: the flow hash picks a point in the sum of the weights.
#include "base/siphash.h"
#include "table/fib.h"

const struct nexthop *nexthop_select(const struct tables_view *view, uint16_t group, uint32_t hash)
{
	if (group == 0)
		return NULL;
	uint64_t where = __atomic_load_n(&view_tables(view)->groups[group], __ATOMIC_ACQUIRE);
	if (where == 0 || !view_range(view, where, sizeof(struct nexthop_group)))
		return NULL;
	const struct nexthop_group *set = (const void *)(view->base + where);
	uint32_t count = __atomic_load_n(&set->count, __ATOMIC_RELAXED);
	uint32_t total = __atomic_load_n(&set->total_weight, __ATOMIC_RELAXED);
	if (count == 0 || count > MAX_GROUP_HOPS ||
	    !view_range(view, where, sizeof(*set) + count * sizeof(struct nexthop)))
		return NULL;
	if (count == 1)
		return &set->hops[0];

	uint32_t point = (uint32_t)((uint64_t)mix32(hash) * total >> 32);
	for (uint32_t i = 0; i < count; i++)
		if (point < __atomic_load_n(&set->hops[i].weight_end, __ATOMIC_RELAXED))
			return &set->hops[i];
	return NULL;
}
