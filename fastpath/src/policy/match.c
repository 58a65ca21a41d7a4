// Look-ups of conditions: prefixes, AS paths, communities.
#include "policy/match.h"

#include "base/bytes.h"

// Segment types: RFC 4271 section 4.3, RFC 5065 section 3.
enum segment_type { AS_SET = 1, AS_SEQUENCE, CONFED_SEQUENCE, CONFED_SET };

// Places of letters in an automaton's row.
enum letter { BLANK = 10, COMMA, BRACE_OPEN, BRACE_CLOSE, ROUND_OPEN, ROUND_CLOSE, SQUARE_OPEN, SQUARE_CLOSE, NO_LETTER };

static bool stands_for(uint32_t lengths, uint8_t length)
{
	return length >= (lengths >> 8 & 0xff) && length <= (lengths >> 16 & 0xff);
}

static bool contains4(const struct policy_entry4 *entry, uint32_t value, uint8_t length)
{
	uint32_t own = entry->lengths & 0xff;
	return own <= length && (own == 0 || (value ^ entry->value) >> (32 - own) == 0);
}

static bool match4(const struct policy_entry4 *entries, uint32_t count, uint32_t value, uint8_t length)
{
	// The last entry that does not stand behind (value, length) is in the prefix, or next to what holds it.
	uint32_t low = 0;
	uint32_t high = count;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		const struct policy_entry4 *entry = &entries[middle];
		if (entry->value < value || (entry->value == value && (entry->lengths & 0xff) <= length))
			low = middle + 1;
		else
			high = middle;
	}
	for (int32_t at = (int32_t)low - 1; at >= 0; at = entries[at].parent)
		if (contains4(&entries[at], value, length) && stands_for(entries[at].lengths, length))
			return true;
	return false;
}

// Compare the values of two addresses: <0, 0, >0.
static int compare6(const uint32_t *left, const uint32_t *right)
{
	for (int i = 0; i < 4; i++)
		if (left[i] != right[i])
			return left[i] < right[i] ? -1 : 1;
	return 0;
}

static bool contains6(const struct policy_entry6 *entry, const uint32_t *value, uint8_t length)
{
	uint32_t own = entry->lengths & 0xff;
	if (own > length)
		return false;
	for (uint32_t i = 0; i < own; i += 32) {
		uint32_t bits = own - i < 32 ? own - i : 32;
		if ((value[i / 32] ^ entry->value[i / 32]) >> (32 - bits) != 0)
			return false;
	}
	return true;
}

static bool match6(const struct policy_entry6 *entries, uint32_t count, const uint32_t *value, uint8_t length)
{
	uint32_t low = 0;
	uint32_t high = count;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		int order = compare6(entries[middle].value, value);
		if (order < 0 || (order == 0 && (entries[middle].lengths & 0xff) <= length))
			low = middle + 1;
		else
			high = middle;
	}
	for (int32_t at = (int32_t)low - 1; at >= 0; at = entries[at].parent)
		if (contains6(&entries[at], value, length) && stands_for(entries[at].lengths, length))
			return true;
	return false;
}

bool match_prefix(const struct policy *policy, uint32_t table, uint8_t family, const uint8_t *address, uint8_t length)
{
	const uint32_t *place = &policy->words[policy->tables[table]];
	const struct policy_entry4 *entries4 = (const struct policy_entry4 *)&place[2];
	if (family == 4)
		return match4(entries4, place[0], load32(address), length);
	const struct policy_entry6 *entries6 = (const struct policy_entry6 *)(entries4 + place[0]);
	uint32_t value[4];
	for (int i = 0; i < 4; i++)
		value[i] = load32(address + 4 * i);
	return match6(entries6, place[1], value, length);
}

// A walk through an automaton.
struct walk {
	const struct policy_state *states;
	uint32_t state;
};

// Take a letter; true: it matches, whatever follows.
static bool walk_letter(struct walk *walk, uint32_t letter)
{
	if (walk->states[walk->state].flags & STATE_FINAL)
		return true;
	if (letter < NO_LETTER)
		walk->state = walk->states[walk->state].next[letter];
	return false;
}

static bool walk_number(struct walk *walk, uint32_t number)
{
	uint8_t digits[10];
	uint32_t count = 0;
	do {
		digits[count++] = (uint8_t)(number % 10);
		number /= 10;
	} while (number > 0);
	while (count > 0)
		if (walk_letter(walk, digits[--count]))
			return true;
	return false;
}

static bool walk_segment(struct walk *walk, uint8_t type, const uint8_t *numbers, uint8_t count)
{
	static const uint8_t letters[][3] = {
		[AS_SET] = {BRACE_OPEN, COMMA, BRACE_CLOSE},
		[AS_SEQUENCE] = {NO_LETTER, BLANK, NO_LETTER},
		[CONFED_SEQUENCE] = {ROUND_OPEN, BLANK, ROUND_CLOSE},
		[CONFED_SET] = {SQUARE_OPEN, COMMA, SQUARE_CLOSE},
	};
	if (walk_letter(walk, letters[type][0]))
		return true;
	for (uint32_t i = 0; i < count; i++)
		if ((i > 0 && walk_letter(walk, letters[type][1])) || walk_number(walk, load32(numbers + 4 * i)))
			return true;
	return walk_letter(walk, letters[type][2]);
}

// Step to the next segment that is whole, of a known type and not empty.
static bool next_segment(const uint8_t **path, uint32_t *size, uint8_t *type, uint8_t *count)
{
	while (*size >= 2) {
		*type = (*path)[0];
		*count = (*path)[1];
		uint32_t length = 2 + 4 * (uint32_t)*count;
		if (length > *size)
			return false;
		*path += length;
		*size -= length;
		if (*type >= AS_SET && *type <= CONFED_SET && *count > 0)
			return true;
	}
	return false;
}

bool match_path(const struct policy *policy, uint32_t automaton, const uint8_t *path, uint32_t size)
{
	const uint32_t *place = &policy->words[policy->automata[automaton]];
	struct walk walk = {.states = (const struct policy_state *)&place[1]};
	uint8_t type;
	uint8_t count;
	for (bool first = true; next_segment(&path, &size, &type, &count); first = false) {
		if (!first && walk_letter(&walk, BLANK))
			return true;
		if (walk_segment(&walk, type, path - 4 * (uint32_t)count, count))
			return true;
	}
	return (walk.states[walk.state].flags & (STATE_FINAL | STATE_ENDING)) != 0;
}

uint32_t match_path_length(const uint8_t *path, uint32_t size)
{
	uint32_t length = 0;
	uint8_t type;
	uint8_t count;
	while (next_segment(&path, &size, &type, &count))
		length += type == AS_SEQUENCE ? count : type == AS_SET;
	return length;
}

bool match_element(const uint8_t *element, uint32_t words, const uint32_t *patterns, uint32_t count)
{
	for (uint32_t i = 0; i < count; i += 2 * words) {
		uint32_t wrong = 0;
		for (uint32_t word = 0; word < words; word++)
			wrong |= (load32(element + 4 * word) & patterns[i + words + word]) ^ patterns[i + word];
		if (wrong == 0)
			return true;
	}
	return false;
}

bool match_list(const uint8_t *list, uint32_t size, uint32_t words, const uint32_t *patterns, uint32_t count)
{
	for (uint32_t at = 0; size - at >= 4 * words; at += 4 * words)
		if (match_element(list + at, words, patterns, count))
			return true;
	return false;
}
