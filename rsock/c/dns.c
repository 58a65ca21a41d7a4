// Messages of the Domain Name System, as far as a stub resolver needs them; RFC 1035, 3596, 6891.
//
// Everything that comes in is hostile: a name is at most 255 bytes, a pointer leads only back, and each step through
// a message takes bytes from it.  Not supported: DNSSEC, a cache.
#define _GNU_SOURCE
#include "internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum {
	LABEL = 63,
	POINTER = 0xc0,
	RECORD = 10,                 // type, class, TTL, length
	CHAIN = 16,                  // aliases that are followed
	PAYLOAD = 1232,              // what is taken by UDP: no fragments on usual links
	RECURSION_DESIRED = 0x01,    // third byte of the header
	TRUNCATED = 0x02,
	RESPONSE = 0x80,
	RCODE = 0x0f                 // fourth byte
};

static uint16_t read16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

static void write16(uint8_t *at, uint16_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

// --- queries ---

static int encode_name(const char *name, uint8_t *out)
{
	size_t used = 0;
	size_t length = strlen(name);
	if (length > 0 && name[length - 1] == '.')
		length--;
	if (length == 0 || length > 253)
		return -EINVAL;
	for (const char *at = name, *end = name + length; at < end;) {
		const char *dot = memchr(at, '.', (size_t)(end - at));
		size_t label = (size_t)((dot != NULL ? dot : end) - at);
		if (label == 0 || label > LABEL)
			return -EINVAL;
		out[used++] = (uint8_t)label;
		memcpy(out + used, at, label);
		used += label;
		at += label;
		if (at < end && ++at == end)
			return -EINVAL;
	}
	out[used++] = 0;
	return (int)used;
}

int dns_query(uint16_t id, const char *name, uint16_t type, uint16_t class, bool extended, uint8_t query[DNS_QUERY])
{
	memset(query, 0, DNS_HEADER);
	write16(query, id);
	query[2] = RECURSION_DESIRED;
	write16(query + 4, 1);
	int size = encode_name(name, query + DNS_HEADER);
	if (size < 0)
		return size;
	uint8_t *at = query + DNS_HEADER + size;
	write16(at, type);
	write16(at + 2, class);
	at += 4;
	if (extended) { // RFC 6891 section 6.1.2
		memset(at, 0, 11);
		write16(at + 1, DNS_OPT);
		write16(at + 3, PAYLOAD);
		at += 11;
		write16(query + 10, 1);
	}
	return (int)(at - query);
}

void dns_reverse(int family, const void *address, char name[DNS_NAME])
{
	const uint8_t *bytes = address;
	if (family == AF_INET) {
		(void)snprintf(name, DNS_NAME, "%u.%u.%u.%u.in-addr.arpa", bytes[3], bytes[2], bytes[1], bytes[0]);
		return;
	}
	size_t used = 0;
	for (int i = 15; i >= 0; i--)
		used += (size_t)snprintf(name + used, DNS_NAME - used, "%x.%x.", bytes[i] & 15u, bytes[i] >> 4u);
	(void)snprintf(name + used, DNS_NAME - used, "ip6.arpa");
}

// --- answers ---

// Only what may stand in a host's name, since programs print these, and put them into commands.
static bool sound(uint8_t c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
		c == '/';
}

// Read a name at *offset, which then stands behind it; false: malformed.  What is no host's name becomes "?".
static bool read_name(const uint8_t *message, size_t length, size_t *offset, char name[DNS_NAME])
{
	size_t at = *offset, used = 0, behind = 0;
	size_t bound = length; // pointers lead before where the last one stood
	bool strange = false;
	for (;;) {
		if (at >= length)
			return false;
		uint8_t size = message[at];
		if ((size & POINTER) == POINTER) {
			if (at + 2 > length)
				return false;
			size_t target = (size_t)(size & ~POINTER) << 8 | message[at + 1];
			if (behind == 0)
				behind = at + 2;
			if (target >= at || target >= bound)
				return false;
			bound = at = target;
			continue;
		}
		at++;
		if (size > LABEL || at + size > length)
			return false;
		if (size == 0)
			break;
		if (used + size + 1 >= DNS_NAME)
			return false;
		if (used > 0)
			name[used++] = '.';
		for (uint8_t i = 0; i < size; i++) {
			strange |= !sound(message[at + i]);
			name[used++] = (char)message[at + i];
		}
		at += size;
	}
	name[used] = '\0';
	if (strange)
		strcpy(name, "?");
	*offset = behind != 0 ? behind : at;
	return true;
}

bool dns_truncated(const uint8_t *message)
{
	return message[2] & TRUNCATED;
}

int dns_rcode(const uint8_t *message)
{
	return message[3] & RCODE;
}

bool dns_matches(const uint8_t *query, size_t query_length, const uint8_t *message, size_t length)
{
	size_t at = DNS_HEADER;
	if (query_length < DNS_HEADER + 5 || length < DNS_HEADER || memcmp(query, message, 2) != 0 ||
		!(message[2] & RESPONSE))
		return false;
	// Some servers leave the question out when they refuse.
	if (read16(message + 4) == 0)
		return dns_rcode(message) != DNS_NOERROR;
	while (at < query_length && query[at] != 0)
		at += (size_t)query[at] + 1;
	size_t end = at + 5;
	if (end > query_length || end > length)
		return false;
	for (size_t i = DNS_HEADER; i < end; i++) {
		uint8_t asked = query[i], told = message[i];
		bool letter = i < at && (asked | 0x20) >= 'a' && (asked | 0x20) <= 'z';
		if (asked != told && !(letter && (asked ^ told) == 0x20))
			return false;
	}
	return true;
}

struct record {
	char owner[DNS_NAME];
	uint16_t type, class;
	size_t data, length;
};

static bool read_record(const uint8_t *message, size_t length, size_t *offset, struct record *record)
{
	if (!read_name(message, length, offset, record->owner) || *offset + RECORD > length)
		return false;
	record->type = read16(message + *offset);
	record->class = read16(message + *offset + 2);
	record->length = read16(message + *offset + 8);
	record->data = *offset + RECORD;
	*offset = record->data + record->length;
	return *offset <= length;
}

static void take_value(const uint8_t *message, size_t length, const struct record *record, struct dns_answer *answer)
{
	size_t size = record->type == DNS_A ? 4 : 16;
	size_t at = record->data;
	if (record->type == DNS_PTR) {
		if (answer->target[0] == '\0' &&
			(!read_name(message, length, &at, answer->target) || strcmp(answer->target, "?") == 0))
			answer->target[0] = '\0';
	} else if (record->length == size && answer->count < DNS_VALUES) {
		memset(answer->values[answer->count], 0, sizeof(answer->values[0]));
		memcpy(answer->values[answer->count++], message + record->data, size);
	}
}

// One walk over the answers: values of the name, or the next alias; true where there is one.
static int walk(const uint8_t *message, size_t length, size_t begin, uint16_t type, struct dns_answer *answer)
{
	struct record record;
	char alias[DNS_NAME] = "";
	size_t offset = begin;
	for (int left = read16(message + 6); left > 0; left--) {
		// What is cut off behind is no reason to throw away what is there.
		if (!read_record(message, length, &offset, &record))
			break;
		if (record.class != DNS_IN || strcasecmp(record.owner, answer->canonical) != 0)
			continue;
		size_t at = record.data;
		if (record.type == type)
			take_value(message, length, &record, answer);
		else if (record.type == DNS_CNAME && alias[0] == '\0' && !read_name(message, length, &at, alias))
			return -EBADMSG;
	}
	if (alias[0] == '\0' || answer->count > 0)
		return 0;
	strcpy(answer->canonical, alias);
	return 1;
}

int dns_parse(const uint8_t *message, size_t length, const char *name, uint16_t type, struct dns_answer *answer)
{
	size_t offset = DNS_HEADER;
	char question[DNS_NAME];
	memset(answer, 0, sizeof(*answer));
	if (length < DNS_HEADER)
		return -EBADMSG;
	answer->rcode = dns_rcode(message);
	size_t size = strlen(name);
	if (size > 0 && name[size - 1] == '.')
		size--;
	if (size >= DNS_NAME)
		return -EBADMSG;
	memcpy(answer->canonical, name, size);
	for (int left = read16(message + 4); left > 0; left--) {
		if (!read_name(message, length, &offset, question) || offset + 4 > length)
			return -EBADMSG;
		offset += 4;
	}
	for (int hop = 0; hop < CHAIN; hop++) {
		int more = walk(message, length, offset, type, answer);
		if (more <= 0)
			return more;
	}
	return -EBADMSG;
}
