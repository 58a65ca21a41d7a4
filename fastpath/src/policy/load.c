// Takes a policy program in, and believes nothing of it: whatever the interpreter will follow is checked here.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "policy/policy.h"
#include "policy/program.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "programs are little-endian");
_Static_assert(sizeof(struct policy_entry4) == 12 && sizeof(struct policy_entry6) == 24, "no padding");
_Static_assert(sizeof(struct policy_state) == 40 && sizeof(struct policy_header) == 28, "no padding");

enum { MAX_WORDS = 1 << 26, INTERFACE_WORDS = POLICY_INTERFACE_SIZE / 4, NEXT_HOP_OPERANDS = 6, REGISTERS = 6 };

// Does an entry stand for lengths that a prefix can have, and does its parent stand before it?
static bool entry_is_sound(uint32_t lengths, int32_t parent, uint32_t position, uint32_t bits)
{
	uint32_t own = lengths & 0xff;
	uint32_t high = lengths >> 16 & 0xff;
	return own <= bits && high <= bits && lengths >> 24 == 0 &&
	    (parent == POLICY_NO_PARENT || (parent >= 0 && (uint32_t)parent < position));
}

static bool table_is_sound(const struct policy *policy, uint32_t place)
{
	uint64_t size = policy->size;
	if (place >= size || size - place < 2)
		return false;
	uint64_t count4 = policy->words[place];
	uint64_t count6 = policy->words[place + 1];
	if (count4 * 3 + count6 * 6 > size - place - 2)
		return false;
	const struct policy_entry4 *entries4 = (const struct policy_entry4 *)&policy->words[place + 2];
	for (uint32_t i = 0; i < count4; i++)
		if (!entry_is_sound(entries4[i].lengths, entries4[i].parent, i, 32))
			return false;
	const struct policy_entry6 *entries6 = (const struct policy_entry6 *)(entries4 + count4);
	for (uint32_t i = 0; i < count6; i++)
		if (!entry_is_sound(entries6[i].lengths, entries6[i].parent, i, 128))
			return false;
	return true;
}

static bool automaton_is_sound(const struct policy *policy, uint32_t place)
{
	if (place >= policy->size)
		return false;
	uint64_t states = policy->words[place];
	uint64_t words = states * (sizeof(struct policy_state) / 4);
	if (states == 0 || states > POLICY_MAX_STATES || words > policy->size - place - 1)
		return false;
	const struct policy_state *state = (const struct policy_state *)&policy->words[place + 1];
	for (uint32_t i = 0; i < states; i++)
		for (uint32_t letter = 0; letter < POLICY_LETTERS; letter++)
			if (state[i].next[letter] >= states)
				return false;
	return true;
}

static bool all_below(const uint32_t *operands, uint32_t count, uint32_t limit)
{
	for (uint32_t i = 0; i < count; i++)
		if (operands[i] >= limit)
			return false;
	return true;
}

static bool edit_is_sound(const uint32_t *operands, uint32_t count, uint32_t words)
{
	if (count == 0 || operands[0] >= MODES)
		return false;
	return (count - 1) % (operands[0] == MODE_REMOVE ? 2 * words : words) == 0;
}

static bool next_hop_is_sound(const uint32_t *operands, uint32_t count)
{
	if (count != NEXT_HOP_OPERANDS || operands[0] < POLICY_TO_ADDRESS || operands[0] > POLICY_TO_PEER)
		return false;
	return operands[0] != POLICY_TO_ADDRESS || operands[1] == 4 || operands[1] == 6;
}

static bool instruction_is_sound(const struct policy *policy, uint32_t op, const uint32_t *operands, uint32_t count)
{
	switch (op) {
	case OP_PREFIX:
	case OP_NEXT_HOP:
	case OP_NEIGHBOR:
		return all_below(operands, count, policy->header->tables);
	case OP_AS_PATH:
		return all_below(operands, count, policy->header->automata);
	case OP_LENGTH:
	case OP_AS_PATH_LENGTH:
	case OP_COMMUNITY:
	case OP_TAG:
	case OP_METRIC:
	case OP_MED:
	case OP_LOCAL_PREF:
		return count % 2 == 0;
	case OP_LARGE:
		return count % 6 == 0;
	case OP_EXTENDED:
		return count % 4 == 0;
	case OP_PROTOCOL:
	case OP_FAMILY:
	case OP_ORIGIN:
		return count == 1;
	case OP_INTERFACE:
		return count % INTERFACE_WORDS == 0;
	case OP_NUMBER:
		return count == 3 && operands[0] < REGISTERS && operands[1] < MODES;
	case OP_EDIT_COMMUNITIES:
		return edit_is_sound(operands, count, 1);
	case OP_EDIT_LARGE:
		return edit_is_sound(operands, count, 3);
	case OP_EDIT_EXTENDED:
		return edit_is_sound(operands, count, 2);
	case OP_PREPEND:
		return count <= POLICY_MAX_PREPEND;
	case OP_SET_NEXT_HOP:
		return next_hop_is_sound(operands, count);
	case OP_SET_ORIGIN:
		return count == 1 && operands[0] <= 2;
	case OP_ACCEPT:
	case OP_REJECT:
		return count == 0;
	default:
		return false;
	}
}

// Walk the code as the interpreter will.
static bool code_is_sound(const struct policy *policy)
{
	const uint32_t *at = policy->words + policy->header->code;
	const uint32_t *end = at + policy->header->code_words;
	while (at < end) {
		if (*at == 0 || *at > (uint64_t)(end - at))
			return false;
		const uint32_t *term_end = at + *at;
		for (at++; at < term_end;) {
			uint32_t op = *at & 0xff;
			uint32_t count = *at >> 8;
			at++;
			if (count > (uint64_t)(term_end - at) || !instruction_is_sound(policy, op, at, count))
				return false;
			at += count;
		}
	}
	return true;
}

static bool is_sound(const struct policy *policy)
{
	const struct policy_header *header = policy->header;
	uint64_t places = (uint64_t)header->tables + header->automata;
	uint64_t head = sizeof *header / 4;
	if (header->magic != POLICY_MAGIC || header->words != policy->size || places > policy->size - head)
		return false;
	if (header->code > policy->size || header->code_words > policy->size - header->code)
		return false;
	for (uint32_t i = 0; i < header->tables; i++)
		if (!table_is_sound(policy, policy->tables[i]))
			return false;
	for (uint32_t i = 0; i < header->automata; i++)
		if (!automaton_is_sound(policy, policy->automata[i]))
			return false;
	return code_is_sound(policy);
}

int policy_load(const void *program, size_t size, struct policy **policy)
{
	if (size % 4 != 0 || size < sizeof(struct policy_header) || size / 4 > MAX_WORDS)
		return EINVAL;
	struct policy *made = malloc(sizeof *made + size);
	if (made == NULL)
		return ENOMEM;
	memcpy(made->words, program, size);
	made->size = (uint32_t)(size / 4);
	made->header = (const struct policy_header *)made->words;
	made->tables = made->words + sizeof(struct policy_header) / 4;
	if (made->header->tables > made->size) {
		free(made);
		return EINVAL;
	}
	made->automata = made->tables + made->header->tables;
	if (!is_sound(made)) {
		free(made);
		return EINVAL;
	}
	*policy = made;
	return 0;
}

void policy_free(struct policy *policy)
{
	free(policy);
}

bool policy_looks_at_prefix(const struct policy *policy)
{
	return (policy->header->flags & POLICY_LOOKS_AT_PREFIX) != 0;
}
