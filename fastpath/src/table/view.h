// One forwarder's view of the two segments of its VR: checked access, no state of its own.
#ifndef TABLE_VIEW_H
#define TABLE_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "abi/state.h"
#include "abi/tables.h"

struct tables_view {
	const uint8_t *base;            // the tables segment
	size_t size;
	// Refreshed by view_refresh when the published root has changed.
	uint64_t root;                  // the word that was accepted; 0: none
	const struct interface_entry *interfaces;
	uint32_t interface_count;
	const struct address_entry *addresses;
	uint32_t address_count;
	const struct rule_entry *rules;
	uint32_t rule_count;
	uint16_t by_index[MAX_INTERFACES];  // position + 1 in interfaces; 0: absent
	uint64_t epoch;                 // of that root; an offset alone may come again
	uint64_t generation;            // our own count of what was followed: another one, and pointers are stale
	uint64_t refused, refused_epoch; // root that failed its checks: not looked at again
	uint16_t by_port[2 * MAX_INTERFACES]; // hash of port and VLAN, same values
	uint16_t *by_address;           // hash of family and address: position + 1 in addresses
	uint32_t by_address_mask;
	uint8_t *copy;                  // what the pointers above lead to: private, checked, never shared
};

// A zeroed view with base and size set is a valid one without a root; size is at least
// sizeof(struct tables_segment).  view_close frees what view_refresh allocated.
void view_open(struct tables_view *view, const void *base, size_t size);
void view_close(struct tables_view *view);

static inline const struct tables_segment *view_tables(const struct tables_view *view)
{
	return (const struct tables_segment *)(const void *)view->base;
}

// Follow the published root if it moved.  Returns true when the interfaces, addresses or
// rules are other ones than before; pointers into them are then no longer valid.  A root that
// fails its checks is not followed.  Not for the packet path: it copies and allocates.
bool view_refresh(struct tables_view *view);
// For its writer: would this root be followed?
bool view_root_valid(const struct tables_view *view, uint64_t where);
// The range [offset, offset + bytes) lies in the segment and offset is 8-byte aligned.
bool view_range(const struct tables_view *view, uint64_t offset, uint64_t bytes);
const struct interface_entry *view_interface(const struct tables_view *view, uint16_t index);
// The interface of a frame that came on `port` with VLAN id `vlan` (0 untagged), or NULL.
const struct interface_entry *view_interface_of(const struct tables_view *view, uint16_t port, uint16_t vlan);
// The entry of an address of this VR on any interface (interface 0) or on one, or NULL.
const struct address_entry *view_address(const struct tables_view *view, uint8_t family, const uint8_t *address,
	uint16_t interface);

// Readers announce the epoch in which they follow references; 0 when they stop.
void view_enter(const struct tables_view *view, struct worker_state *worker);
void view_leave(struct worker_state *worker);

#endif
