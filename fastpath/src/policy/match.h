// The conditions that look into tables, automata and lists.
#ifndef POLICY_MATCH_H
#define POLICY_MATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "policy/policy.h"
#include "policy/program.h"

// Is a prefix in a table?  An address is a prefix of all its bits.
bool match_prefix(const struct policy *policy, uint32_t table, uint8_t family, const uint8_t *address, uint8_t length);

// Does the text of an AS path match?
bool match_path(const struct policy *policy, uint32_t automaton, const uint8_t *path, uint32_t size);

// Count the AS numbers of a path; RFC 4271 section 9.1.2.2, RFC 5065 section 5.3.
uint32_t match_path_length(const uint8_t *path, uint32_t size);

// Is an element of `words` words (network order) one of some patterns, (value, mask) each?
bool match_element(const uint8_t *element, uint32_t words, const uint32_t *patterns, uint32_t count);

// Is any element of a list?
bool match_list(const uint8_t *list, uint32_t size, uint32_t words, const uint32_t *patterns, uint32_t count);

#endif
