// Longest prefix match and next-hop choice over the tables segment.
#ifndef TABLE_FIB_H
#define TABLE_FIB_H

#include "table/view.h"

// The group of the longest prefix that covers the address (network order; 4 bytes are read
// for IPv4, 16 for IPv6), 0: none.  Never reads outside the segment, whatever is in it.
// The caller is between view_enter and view_leave, as for all that follows references.
uint16_t fib_lookup(const struct tables_view *view, uint8_t family, const uint8_t *address);
// The same for `count` addresses side by side, of 4 or 16 bytes each.
void fib_lookup_batch(const struct tables_view *view, uint8_t family, const uint8_t *addresses, uint32_t count,
	uint16_t *groups);
// The next hop of a group for a flow hash: weighted.  NULL where the group is not valid.
// The hop lies in the segment and may change under a reader's eyes if its writer misbehaves:
// copy what is checked before it is used.  Its checksum is for those who are not in a hurry.
const struct nexthop *nexthop_select(const struct tables_view *view, uint16_t group, uint32_t hash);

#endif
