// The published filters (abi/filter.h) as one worker follows them, and the match against a list.
#ifndef TABLE_FILTER_H
#define TABLE_FILTER_H

#include "abi/filter.h"
#include "table/key.h"
#include "table/view.h"

// A private copy, checked as a whole: afterwards no offset and no class in it is doubted again.
struct filter_view {
	const struct filter_table *table; // NULL: there is nothing to filter
	bool counts;                      // there are counted prefixes
	bool broken;                      // what is published has never been sound: nothing passes a list
	uint64_t root, epoch;             // looked at last
	const struct filter_interface *by_index[MAX_INTERFACES];
	uint8_t *copy;
};

// What lists look at in a packet.
struct filter_key {
	struct key source;
	struct key destination;
	uint16_t source_port;
	uint16_t destination_port; // ICMP: 256 * type + code
	uint8_t protocol;
	uint8_t form;              // DSCP + 64 * enum filter_form
	uint8_t flags;             // of TCP
};

// Follow the published block if it is another one; true if so.  One that fails its checks is not
// followed.  Not for the packet path: it copies and allocates.
bool filter_refresh(struct filter_view *filters, const struct tables_view *view);
void filter_close(struct filter_view *filters);
// For the writer: would this block be followed?  `bytes` are those from `block` on that exist.
bool filter_sound(const void *block, uint64_t bytes);
uint64_t filter_checksum(const struct filter_table *table);

static inline const void *filter_at(const struct filter_view *filters, uint32_t offset)
{
	return filters->copy + offset;
}

// The list that is bound to an interface, or NULL.
const struct filter_list *filter_bound(const struct filter_view *filters, uint16_t interface, unsigned direction);
// The entry that decides; list->entry_count is the end of the list.
uint32_t filter_match(const struct filter_view *filters, const struct filter_list *list, uint8_t family,
	const struct filter_key *key);
static inline const struct filter_entry *filter_entry(const struct filter_view *filters, const struct filter_list *list,
	uint32_t entry)
{
	return (const struct filter_entry *)filter_at(filters, list->entries) + entry;
}
static inline bool filter_counts(const struct filter_view *filters)
{
	return filters->counts;
}
// The longest counted prefix that holds an address, or NULL.
const struct filter_entry *filter_counted(const struct filter_view *filters, uint8_t family, const uint8_t *address);

#endif
