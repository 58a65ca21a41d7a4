// IPv4 options (RFC 791 section 3.1, RFC 1812 section 5.2.4, RFC 2113), checked and obeyed as
// Linux does.  Not supported: source routes, which are refused as by default in Linux;
// timestamps are marked as not in standard time, since there is no wall clock here.
#include "forward/route.h"

#include "base/bytes.h"
#include "base/cksum.h"
#include "wire/ip4.h"

#define TIMESTAMP_NOT_STANDARD 0x80000000u // RFC 791: the high-order bit
#define NS_PER_MS 1000000u

enum { TIMESTAMP_ONLY = 0, TIMESTAMP_ADDRESS = 1, TIMESTAMP_PRESPECIFIED = 3 };

// The checkers of one option give the offset of what is wrong in it, or -1.
static int check_record_route(const uint8_t *option, uint8_t length)
{
	if (length < 3)
		return 1;
	if (option[2] < 4)
		return 2;
	return option[2] <= length && option[2] + 3 > length ? 2 : -1;
}

static int check_source_route(const uint8_t *option, uint8_t length)
{
	if (length < 3)
		return 1;
	return option[2] < 4 ? 2 : -1;
}

static int check_timestamp(const uint8_t *option, uint8_t length)
{
	uint8_t flag;

	if (length < 4)
		return 1;
	if (option[2] < 5)
		return 2;
	flag = option[3] & 15;
	if (option[2] > length)
		return flag != TIMESTAMP_PRESPECIFIED && option[3] >> 4 == 15 ? 3 : -1;
	if (option[2] + 3 > length)
		return 2;
	return (flag == TIMESTAMP_ADDRESS || flag == TIMESTAMP_PRESPECIFIED) && option[2] + 7 > length ? 2 : -1;
}

static int check_option(const uint8_t *option, uint8_t length, uint8_t at, struct ip4_options *options)
{
	switch (option[0]) {
	case IP4_OPTION_RECORD_ROUTE:
		if (options->record_route != 0)
			return 0;
		options->record_route = at;
		return check_record_route(option, length);
	case IP4_OPTION_TIMESTAMP:
		if (options->timestamp != 0)
			return 0;
		options->timestamp = at;
		return check_timestamp(option, length);
	case IP4_OPTION_LOOSE_SOURCE:
	case IP4_OPTION_STRICT_SOURCE:
		if (options->source_route)
			return 0; // RFC 1812 section 5.2.4.1
		options->source_route = true;
		return check_source_route(option, length);
	case IP4_OPTION_ROUTER_ALERT:
		return length < 4 ? 1 : -1;
	default:
		return -1;
	}
}

bool ip4_options_parse(const uint8_t *ip, struct ip4_options *options, uint8_t *pointer)
{
	uint32_t end = ip4_header_length((const void *)ip);
	uint32_t length;

	*options = (struct ip4_options){0};
	for (uint32_t at = IP4_HEADER; at < end; at += length) {
		int wrong;

		length = 1;
		if (ip[at] == IP4_OPTION_NOP)
			continue;
		if (ip[at] == IP4_OPTION_END) {
			for (uint32_t rest = at + 1; rest < end; rest++)
				options->trailing |= ip[rest] != 0;
			return true;
		}
		*pointer = (uint8_t)at;
		if (end - at < 2 || ip[at + 1] < 2 || ip[at + 1] > end - at)
			return false;
		length = ip[at + 1];
		wrong = check_option(ip + at, (uint8_t)length, (uint8_t)at, options);
		if (wrong >= 0) {
			*pointer = (uint8_t)(at + (uint32_t)wrong);
			return false;
		}
	}
	return true;
}

// RFC 791: each router that a packet passes writes its address and moves the pointer on.
static void record_route(uint8_t *ip, struct ip4_options *options, const uint8_t *address)
{
	uint8_t *option = ip + options->record_route;

	if (options->record_route == 0 || option[2] > option[1])
		return; // not asked, or full
	options->route_slot = (uint8_t)(options->record_route + option[2] - 1);
	memcpy(ip + options->route_slot, address, 4);
	option[2] = (uint8_t)(option[2] + 4);
	options->changed = true;
}

static void record_time(const struct forward *f, uint8_t *ip, struct ip4_options *options, const uint8_t *address)
{
	uint32_t time = (uint32_t)(f->now / NS_PER_MS) | TIMESTAMP_NOT_STANDARD;
	uint8_t *option = ip + options->timestamp;
	uint8_t flag = option[3] & 15;
	uint8_t *slot = option + option[2] - 1;

	if (options->timestamp == 0 || (flag == TIMESTAMP_PRESPECIFIED && option[2] > option[1]))
		return;
	if (option[2] > option[1]) { // count those who found no room
		option[3] = (uint8_t)(option[3] + 16);
	} else if (flag == TIMESTAMP_ONLY) {
		store32(slot, time);
		option[2] = (uint8_t)(option[2] + 4);
	} else if (flag == TIMESTAMP_ADDRESS) {
		options->time_slot = (uint8_t)(slot - ip);
		memcpy(slot, address, 4);
		store32(slot + 4, time);
		option[2] = (uint8_t)(option[2] + 8);
	} else if (flag == TIMESTAMP_PRESPECIFIED && view_address(&f->tables, FAMILY_IPV4, slot, 0) != NULL) {
		store32(slot + 4, time);
		option[2] = (uint8_t)(option[2] + 8);
	} else {
		return;
	}
	options->changed = true;
}

static void zero_trailing(uint8_t *ip)
{
	uint32_t end = ip4_header_length((const void *)ip);
	uint32_t at = IP4_HEADER;

	while (at < end && ip[at] != IP4_OPTION_END)
		at += ip[at] == IP4_OPTION_NOP ? 1 : ip[at + 1];
	if (at < end)
		memset(ip + at, 0, end - at);
}

void ip4_options_record(const struct forward *f, uint8_t *ip, struct ip4_options *options, const uint8_t *address)
{
	record_route(ip, options, address);
	record_time(f, ip, options, address);
	if (options->trailing) {
		zero_trailing(ip);
		options->changed = true;
	}
}

void ip4_options_finish(uint8_t *ip, const struct ip4_options *options, const uint8_t *address)
{
	struct ip4_header *header = (void *)ip;

	if (options->route_slot != 0 && address != NULL)
		memcpy(ip + options->route_slot, address, 4);
	if (options->time_slot != 0 && address != NULL)
		memcpy(ip + options->time_slot, address, 4);
	header->checksum = 0;
	header->checksum = cksum(ip, ip4_header_length(header));
}
