// What is filtered, marked and counted: access control lists, reverse-path checks, DSCP maps and
// counted prefixes of one VR, compiled by control, followed by each worker, counted in the state segment.
//
//   tables_segment.filter_root --> struct filter_table: one immutable block, replaced as a whole
//     interfaces --> struct filter_interface[]: what is bound where
//     lists -------> struct filter_list[]
//       entries ------> struct filter_entry[entry_count + 1]; the last one is the end of the list
//       classifiers --> one for each family: bit vectors over the entries, by field
//     prefixes ----> struct filter_prefixes for each family
//   state_segment.filter_counters[worker * MAX_FILTER_COUNTERS + counter]
//
// Offsets inside the block count bytes from its start and are multiples of 8.
//
// A classifier (Lakshman and Stiliadis, 1998; Baboescu and Varghese, 2001) says for each field
// which class a value belongs to, and for each class which entries take it: a row of one summary
// word, whose bit i tells that word i is not 0, then `words` words, bit i % 64 of word i / 64 for entry
// i.  The entry that decides is the lowest bit that the rows of all fields have in common with `all`.
// Values of a field are either indices of `classes`, or lie in intervals, of which `starts` gives the
// first values in rising order, the first of them 0: uint32_t for ports and IPv4 addresses, two
// uint64_t, the upper half first, for IPv6 addresses.
#ifndef ABI_FILTER_H
#define ABI_FILTER_H

#include <stdint.h>
#include "abi/limits.h"

enum filter_limits {
	MAX_ACLS = 1024,             // lists of one VR
	MAX_ACL_ENTRIES = 2048,      // of one list, without its end; a summary has 64 bits of 64
	MAX_COUNTED_PREFIXES = 4096, // of one VR
	MAX_FILTER_COUNTERS = 16384, // entries, ends and counted prefixes of one VR
	MAX_FILTER_BYTES = 33554432, // of the block
	MAX_FILTER_CLASSES = 65535   // of one field
};

enum filter_action { FILTER_PERMIT = 0, FILTER_DENY = 1, FILTER_REJECT = 2 };

enum filter_field_kind {
	FIELD_SOURCE = 0, FIELD_DESTINATION = 1,           // intervals of addresses
	FIELD_SOURCE_PORT = 2, FIELD_DESTINATION_PORT = 3, // intervals; ICMP: 256 * type + code is the latter
	FIELD_PROTOCOL = 4,                                // index: number of the transport protocol
	FIELD_FORM = 5,                                    // index: DSCP + 64 * enum filter_form
	FIELD_FLAGS = 6,                                   // index: TCP flags, 0 without
	FILTER_FIELDS = 7
};

enum filter_form {
	FORM_WHOLE = 0, // with a transport header, as far as lists look at it
	FORM_LATER = 1, // a fragment that is not the first
	FORM_BARE = 2   // the transport header is cut short
};

enum rpf_mode { RPF_OFF = 0, RPF_STRICT = 1, RPF_LOOSE = 2 };

enum { FILTER_NO_MARK = 0xff };

struct filter_field {
	uint32_t count;       // of intervals, or 256; 0: no entry looks at the field
	uint32_t class_count;
	uint32_t starts;      // offset; intervals only
	uint32_t classes;     // offset of uint16_t[count]
	uint32_t rows;        // offset of uint64_t[class_count][1 + words]
	uint32_t reserved;
};

struct filter_classifier {
	uint32_t words;       // of a row, without its summary
	uint32_t all;         // offset of a row: the entries that are for this family
	struct filter_field fields[FILTER_FIELDS];
};

struct filter_entry {
	uint64_t identity;    // hash of salt, entry and place among equal ones: who owns the counter
	uint32_t counter;
	uint8_t action;       // enum filter_action
	uint8_t mark;         // DSCP of what is permitted; FILTER_NO_MARK: as it was
	uint8_t reserved[2];
};

struct filter_list {
	char name[ROUTER_NAME_SIZE];
	uint64_t salt;        // of its entries' identities: another one, and all of them count from 0
	uint32_t entry_count;
	uint32_t entries;
	uint32_t texts;       // for people: a line for each entry, without its end
	uint32_t text_bytes;
	struct filter_classifier classifiers[2]; // IPv4, IPv6
};

struct filter_interface {
	uint16_t index;       // of the interface
	uint16_t acl[2];      // in, out: place in `lists` + 1; 0: none
	uint8_t rpf;          // enum rpf_mode
	uint8_t rpf_default;  // 1: a default route counts
	uint8_t dscp[2][64];  // in, out: what a DSCP becomes
};

// Intervals as in a classifier; classes are places in `entries` + 1, 0: not counted.
struct filter_prefixes {
	uint32_t count;
	uint32_t starts;
	uint32_t classes;
	uint32_t entry_count;
	uint32_t entries;     // struct filter_entry[entry_count]; action and mark mean nothing
	uint32_t texts;       // a line for each entry: the prefix
	uint32_t text_bytes;
	uint32_t reserved;
};

struct filter_table {
	uint64_t epoch;       // counts publications
	uint64_t checksum;    // of the block with this field 0
	uint32_t bytes;       // of the block, a multiple of 8
	uint32_t interface_count;
	uint32_t interfaces;
	uint32_t list_count;
	uint32_t lists;
	uint32_t reserved;
	struct filter_prefixes prefixes[2]; // IPv4, IPv6
};

// One worker's count.  It is that of the owner whose identity stands there, else 0.
struct filter_counter {
	uint64_t identity;
	uint64_t packets;
	uint64_t bytes;       // of IP packets, headers included
};

#endif
