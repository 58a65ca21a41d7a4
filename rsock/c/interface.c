// The interfaces of a router, as its forwarder tells them.
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <string.h>

enum { IPV4 = 4, INTERFACES = 256, ADDRESSES = 1024, REPLIES = 64 };

static void take_interface(const uint8_t *at, struct interfaces *found)
{
	struct rsock_interface record;
	memcpy(&record, at, sizeof(record));
	if (found->count == INTERFACES)
		return;
	struct interface *made = &found->at[found->count++];
	*made = (struct interface){.index = record.index, .flags = record.flags, .mtu = record.mtu};
	memcpy(made->mac, record.mac, sizeof(made->mac));
	memcpy(made->name, record.name, sizeof(record.name));
}

static void take_address(const uint8_t *at, struct interfaces *found)
{
	struct rsock_interface_address record;
	memcpy(&record, at, sizeof(record));
	uint8_t most = record.family == IPV4 ? 32 : 128;
	if (found->address_count == ADDRESSES || record.length > most)
		return;
	struct interface_address *made = &found->addresses[found->address_count++];
	made->interface = record.interface;
	made->family = record.family == IPV4 ? AF_INET : AF_INET6;
	made->bits = record.length;
	memcpy(made->address, record.address, sizeof(made->address));
}

// Take the records of one reply; the place in the list behind them.
static uint32_t take_reply(const struct answer *answer, const struct rsock_interfaces *head, struct interfaces *found)
{
	uint32_t at = sizeof(*head);
	uint32_t place = head->first;
	for (;; place++) {
		bool is_interface = place < head->interfaces;
		uint32_t size = is_interface ? sizeof(struct rsock_interface) : sizeof(struct rsock_interface_address);
		if (at > answer->length || answer->length - at < size)
			return place;
		if (is_interface)
			take_interface(answer->body + at, found);
		else
			take_address(answer->body + at, found);
		at += size;
	}
}

int interfaces_get(int router, struct interfaces *found)
{
	struct answer answer;
	struct rsock_interfaces head = {.first = 0};
	memset(found, 0, sizeof(*found));
	for (int i = 0; i < REPLIES; i++) {
		uint32_t asked = head.first;
		const struct rsock_interfaces question = {.first = asked};
		int error = link_call(router, RSOCK_OP_INTERFACES, 0, 0, &question, sizeof(question), &answer);
		if (error < 0)
			return error;
		if (answer.length < sizeof(head))
			return -EPROTO;
		memcpy(&head, answer.body, sizeof(head));
		head.first = asked;
		head.first = take_reply(&answer, &head, found);
		if (head.first == asked || head.first >= head.interfaces || head.first - head.interfaces >= head.addresses)
			break;
	}
	return 0;
}
