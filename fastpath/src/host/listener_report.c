// Reports of IGMPv3 and MLDv2 (RFC 3376 section 4.2, RFC 3810 section 5.2): both have the same
// header and records, but for the length of an address.
//
// A record that does not fit is cut into several, except where it excludes: that one is
// truncated (RFC 3376 section 4.2.16).
#include "host/listener.h"

#include <stddef.h>

enum {
	REPORT_HEADER = 8,   // type, reserved, checksum, reserved, number of records
	REPORT_RECORDS = 6,  // where that number stands
	RECORD_HEADER = 4,   // before the group: type, auxiliary length, number of sources
	LARGEST_REPORT = 1500,
	IP_HEADERS4 = 24,    // with the router alert
	IP_HEADERS6 = 48
};

// Which nodes a record lists.
enum chosen { CHOSEN_LISTED, CHOSEN_ALLOWED, CHOSEN_BLOCKED, CHOSEN_ASKED, CHOSEN_NONE };

void report_begin(struct host *host, uint8_t family, uint16_t interface, struct listener_report *report)
{
	const struct interface_entry *entry = view_interface(host->tables, interface);
	uint32_t mtu = entry != NULL && entry->mtu < LARGEST_REPORT ? entry->mtu : LARGEST_REPORT;
	uint32_t headers = family == FAMILY_IPV4 ? IP_HEADERS4 : IP_HEADERS6;
	uint32_t least = REPORT_HEADER + RECORD_HEADER + 2 * listener_address_size(family);
	*report = (struct listener_report){.host = host, .family = family, .interface = interface};
	report->room = mtu > headers + least ? mtu - headers : least;
}

static bool report_open(struct listener_report *report)
{
	static const uint8_t routers4[16] = {224, 0, 0, 22};
	static const uint8_t routers6[16] = {0xff, 2, [15] = 0x16};
	if (report->packet != NULL)
		return true;
	report->packet = report->family == FAMILY_IPV4
		? igmp_packet(report->host, report->interface, routers4, report->room, &report->body)
		: mld_packet(report->host, report->interface, routers6, report->room, &report->body);
	report->records = 0;
	report->length = REPORT_HEADER;
	return report->packet != NULL;
}

void report_send(struct listener_report *report)
{
	if (report->packet == NULL)
		return;
	report->body[0] = report->family == FAMILY_IPV4 ? 0x22 : 143;
	store16(report->body + REPORT_RECORDS, report->records);
	report->packet->length -= report->room - report->length;
	if (report->family == FAMILY_IPV4)
		igmp_send(report->host, report->interface, report->packet);
	else
		mld_send(report->host, report->interface, report->packet);
	report->packet = NULL;
}

static bool node_chosen(struct listener *l, const struct listener_group *group, const struct listener_node *node, enum chosen chosen)
{
	bool excludes = group->mode == MEMBERSHIP_EXCLUDE;
	switch (chosen) {
	case CHOSEN_LISTED:
		return node->listed;
	case CHOSEN_ALLOWED:
		return node->changes != 0 && node->listed != excludes;
	case CHOSEN_BLOCKED:
		return node->changes != 0 && node->listed == excludes;
	case CHOSEN_ASKED: // of those that were asked for, the ones that we want
		for (uint16_t at = group->nodes; at != 0; at = listener_node(l, at)->next)
			if (listener_node(l, at)->listed && address_equal(listener_node(l, at)->address, node->address))
				return !excludes;
		return excludes;
	default:
		return false;
	}
}

static uint32_t count_chosen(struct listener *l, const struct listener_group *group, uint16_t head, enum chosen chosen)
{
	uint32_t count = 0;
	for (uint16_t at = head; at != 0; at = listener_node(l, at)->next)
		count += node_chosen(l, group, listener_node(l, at), chosen);
	return count;
}

// Begin a record that wants `sources`; how many of them it may have.
static uint32_t record_begin(struct listener_report *report, const struct listener_group *group, enum record_type type, uint32_t sources)
{
	uint32_t size = listener_address_size(report->family);
	uint32_t head = RECORD_HEADER + size;
	if (report->packet != NULL && report->length + head + sources * size > report->room)
		report_send(report);
	if (!report_open(report))
		return 0;
	uint8_t *record = report->body + report->length;
	uint32_t room = (report->room - report->length - head) / size;
	record[0] = (uint8_t)type;
	store16(record + 2, (uint16_t)(sources < room ? sources : room));
	memcpy(record + RECORD_HEADER, group->address, size);
	report->length += head;
	report->records++;
	return sources < room ? sources : room;
}

static void report_record(struct listener_report *report, const struct listener_group *group, enum record_type type, enum chosen chosen)
{
	struct listener *l = report->host->listener;
	bool excludes = type == RECORD_IS_EXCLUDE || type == RECORD_TO_EXCLUDE;
	uint32_t size = listener_address_size(report->family);
	uint16_t head = chosen == CHOSEN_ASKED ? group->asked : group->nodes;
	uint32_t left = count_chosen(l, group, head, chosen);
	uint32_t room = record_begin(report, group, type, left);
	for (uint16_t at = head; at != 0 && left > 0 && report->packet != NULL; at = listener_node(l, at)->next) {
		const struct listener_node *node = listener_node(l, at);
		if (!node_chosen(l, group, node, chosen))
			continue;
		if (room == 0) {
			if (excludes)
				return;
			report_send(report);
			room = record_begin(report, group, type, left);
			if (room == 0)
				return;
		}
		memcpy(report->body + report->length, node->address, size);
		report->length += size;
		room--;
		left--;
	}
}

void report_current(struct listener_report *report, const struct listener_group *group)
{
	struct listener *l = report->host->listener;
	if (group->asked == 0)
		report_record(report, group, group->mode == MEMBERSHIP_EXCLUDE ? RECORD_IS_EXCLUDE : RECORD_IS_INCLUDE, CHOSEN_LISTED);
	else if (count_chosen(l, group, group->asked, CHOSEN_ASKED) > 0)
		report_record(report, group, RECORD_IS_INCLUDE, CHOSEN_ASKED);
}

void report_changes(struct listener_report *report, const struct listener_group *group)
{
	struct listener *l = report->host->listener;
	if (group->mode_changes > 0) {
		report_record(report, group, group->mode == MEMBERSHIP_EXCLUDE ? RECORD_TO_EXCLUDE : RECORD_TO_INCLUDE, CHOSEN_LISTED);
		return;
	}
	if (count_chosen(l, group, group->nodes, CHOSEN_ALLOWED) > 0)
		report_record(report, group, RECORD_ALLOW, CHOSEN_ALLOWED);
	if (count_chosen(l, group, group->nodes, CHOSEN_BLOCKED) > 0)
		report_record(report, group, RECORD_BLOCK, CHOSEN_BLOCKED);
}
