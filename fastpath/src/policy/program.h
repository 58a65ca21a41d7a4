// The layout of a policy program, as vrouter/rib/policy_program.py writes it: little-endian 32-bit words.
//
//   struct policy_header | places of tables | places of automata | code | tables | automata
//
// Code is a row of terms.  A term: its length in words, that one included, then instructions.  An instruction:
// its code in the low byte, the number of its operands above, then the operands.  A condition that does not hold
// ends its term.  A prefix table: numbers of entries of IPv4 and IPv6, then the entries, sorted by (value, length);
// an automaton: the number of its states, then struct policy_state for each.
#ifndef POLICY_PROGRAM_H
#define POLICY_PROGRAM_H

#include <stdint.h>

enum {
	POLICY_MAGIC = 0x31525056,
	POLICY_LOOKS_AT_PREFIX = 1,        // a flag of the header
	POLICY_NO_PARENT = -1,
	POLICY_LETTERS = 18,               // "0123456789 ,{}()[]"
	POLICY_MAX_STATES = 65535
};

// Codes of instructions, class Op of vrouter/rib/policy_terms.py.
enum policy_op {
	OP_PREFIX = 1,                     // prefix tables: in any
	OP_LENGTH,                         // (first, last) ...
	OP_AS_PATH,                        // automata: any matches
	OP_AS_PATH_LENGTH,                 // (first, last) ...
	OP_COMMUNITY,                      // (value, mask) ..., the most significant word first
	OP_LARGE,
	OP_EXTENDED,
	OP_PROTOCOL,                       // a set of bits
	OP_FAMILY,
	OP_ORIGIN,
	OP_NEXT_HOP,                       // prefix tables
	OP_NEIGHBOR,
	OP_INTERFACE,                      // names of 8 words, padded with zeros
	OP_TAG,                            // (first, last) ...
	OP_METRIC,
	OP_MED,
	OP_LOCAL_PREF,
	OP_NUMBER = 32,                    // register, mode, value
	OP_EDIT_COMMUNITIES,               // mode, values; (value, mask) ... to remove
	OP_EDIT_LARGE,
	OP_EDIT_EXTENDED,
	OP_PREPEND,                        // AS numbers
	OP_SET_NEXT_HOP,                   // kind, family, 4 words of an address
	OP_SET_ORIGIN,
	OP_ACCEPT,
	OP_REJECT
};

enum policy_mode { MODE_SET, MODE_ADD, MODE_REMOVE, MODES };

enum policy_state_flag { STATE_FINAL = 1, STATE_ENDING = 2 };

struct policy_header {
	uint32_t magic;
	uint32_t words;                    // of the whole program
	uint32_t flags;
	uint32_t tables;
	uint32_t automata;
	uint32_t code;                     // where it begins
	uint32_t code_words;
};

// An entry of a table: `lengths` is that of the prefix, then shortest and longest that it stands for, a byte each.
// What lies in an entry has it for a parent, or a parent of its parents; parents stand before.
struct policy_entry4 {
	uint32_t value;
	uint32_t lengths;
	int32_t parent;
};

struct policy_entry6 {
	uint32_t value[4];
	uint32_t lengths;
	int32_t parent;
};

// A state of an automaton over the text of an AS path.
struct policy_state {
	uint16_t flags;
	uint16_t next[POLICY_LETTERS];
	uint16_t unused;
};

struct policy {
	uint32_t size;                     // words
	const struct policy_header *header;
	const uint32_t *tables;            // places
	const uint32_t *automata;
	uint32_t words[];
};

#endif
