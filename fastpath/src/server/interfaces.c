// What apps may know of the router's interfaces: getifaddrs(3), if_nametoindex(3) and SIOCGIF* of a program whose
// sockets are here.
//
// Interfaces and addresses are one list, of which a reply holds as many records as fit.  Told to whoever has any right.
#include "server/internal.h"

#include <errno.h>
#include <net/if.h>

enum { ROOM = 8192 };

static uint32_t flags_of(const struct interface_entry *entry)
{
	uint32_t flags = entry->flags & INTERFACE_ADMIN_UP ? IFF_UP | IFF_RUNNING : 0;
	if (entry->kind == INTERFACE_LOOPBACK)
		return flags | IFF_LOOPBACK;
	return flags | IFF_BROADCAST | IFF_MULTICAST;
}

static uint32_t put_interface(const struct interface_entry *entry, uint8_t *at)
{
	struct rsock_interface record = {.index = entry->index, .flags = flags_of(entry), .mtu = entry->mtu};
	memcpy(record.mac, entry->mac, sizeof(record.mac));
	memcpy(record.name, entry->name, sizeof(record.name));
	memcpy(at, &record, sizeof(record));
	return sizeof(record);
}

static uint32_t put_address(const struct address_entry *entry, uint8_t *at)
{
	struct rsock_interface_address record = {
		.interface = entry->interface,
		.family = entry->family,
		.length = entry->length,
	};
	memcpy(record.address, entry->address, sizeof(record.address));
	memcpy(at, &record, sizeof(record));
	return sizeof(record);
}

void interfaces_tell(struct server *server, struct connection *connection, const struct request *request)
{
	const struct tables_view *tables = server->tables;
	struct rsock_interfaces head;
	uint8_t answer[ROOM];
	uint32_t gid;
	if (request->length < sizeof(head)) {
		connection_reply(connection, request, EINVAL, NULL, 0);
		return;
	}
	if (rights_of_peer(server, &connection->peer, NULL, &gid) == 0) {
		connection_reply(connection, request, EACCES, NULL, 0);
		return;
	}
	memcpy(&head, request->body, sizeof(head));
	head.interfaces = tables->interface_count;
	head.addresses = tables->address_count;
	uint32_t used = sizeof(head);
	memcpy(answer, &head, sizeof(head));
	uint32_t total = head.interfaces + head.addresses;
	for (uint32_t i = head.first; i < total && used + sizeof(struct rsock_interface) <= sizeof(answer); i++) {
		if (i < head.interfaces)
			used += put_interface(&tables->interfaces[i], answer + used);
		else
			used += put_address(&tables->addresses[i - head.interfaces], answer + used);
	}
	connection_reply(connection, request, 0, answer, used);
}
