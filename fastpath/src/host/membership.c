// Multicast groups that apps have joined (RFC 1112 section 6.1, RFC 3493 section 5.2).
//
// All-hosts, all-nodes and solicited-node groups are forwarding's own.  Nothing is
// reported to routers yet: IGMP and MLD are not supported.
#include "host/internal.h"

#include <errno.h>

static uint32_t join_bucket(uint16_t interface, uint8_t family, const uint8_t *group)
{
	uint32_t hash = interface * 0x9e3779b1u ^ family;
	for (int i = 0; i < 16; i += 4)
		hash = (hash ^ load32(group + i)) * 0x85ebca6b;
	return (hash >> 16) % JOIN_HEADS;
}

static struct socket_membership *join_at(const struct host *host, uint32_t number)
{
	return &host->state->sockets[number / SOCKET_MEMBERSHIPS].memberships[number % SOCKET_MEMBERSHIPS];
}

static void join_list(struct host *host, uint32_t number)
{
	const struct socket_membership *m = join_at(host, number);
	uint32_t *head = &host->join_heads[join_bucket(m->interface, m->family, m->group)];
	host->join_next[number] = *head;
	*head = number + 1;
}

static void join_unlist(struct host *host, uint32_t number)
{
	const struct socket_membership *m = join_at(host, number);
	uint32_t *at = &host->join_heads[join_bucket(m->interface, m->family, m->group)];
	while (*at != 0 && *at != number + 1)
		at = &host->join_next[*at - 1];
	if (*at != 0)
		*at = host->join_next[number];
}

bool host_group_joined(const struct host *host, uint16_t interface, uint8_t family, const uint8_t *group)
{
	uint8_t plain[16] = {0};
	memcpy(plain, group, family == FAMILY_IPV4 ? 4 : 16);
	uint32_t at = host->join_heads[join_bucket(interface, family, plain)];
	for (; at != 0; at = host->join_next[at - 1]) {
		const struct socket_membership *m = join_at(host, at - 1);
		if (m->interface == interface && m->family == family && address_equal(m->group, plain))
			return true;
	}
	return false;
}

static int membership_find(const struct socket_entry *entry, uint8_t family, const uint8_t *group, uint16_t interface)
{
	for (int i = 0; i < SOCKET_MEMBERSHIPS; i++) {
		const struct socket_membership *m = &entry->memberships[i];
		if (m->family == family && (interface == 0 || m->interface == interface) && address_equal(m->group, group))
			return i;
	}
	return -1;
}

// The interface a join without one means: where the route to the group leads, else the
// first that is up and has an address of the family.
static uint16_t membership_interface(struct host *host, uint8_t family, const uint8_t *group)
{
	uint8_t source[16];
	uint16_t egress = 0;
	if (host->ops.source(host->ops.user, family, group, 0, source, &egress) && egress != 0)
		return egress;
	for (uint32_t i = 0; i < host->tables->address_count; i++) {
		const struct address_entry *address = &host->tables->addresses[i];
		const struct interface_entry *interface = view_interface(host->tables, address->interface);
		if (address->family == family && interface != NULL && interface->kind != INTERFACE_LOOPBACK)
			return interface->index;
	}
	return 0;
}

int membership_join(struct host *host, uint32_t slot, uint8_t family, const uint8_t *group, uint16_t interface)
{
	struct socket_entry *entry = &host->state->sockets[slot];
	if (!address_multicast(family, group))
		return -EINVAL;
	if (interface == 0)
		interface = membership_interface(host, family, group);
	if (interface == 0 || view_interface(host->tables, interface) == NULL)
		return -ENODEV;
	if (membership_find(entry, family, group, interface) >= 0)
		return -EADDRINUSE;
	for (uint32_t i = 0; i < SOCKET_MEMBERSHIPS; i++) {
		struct socket_membership *m = &entry->memberships[i];
		if (m->family != FAMILY_NONE)
			continue;
		memcpy(m->group, group, 16);
		m->interface = interface;
		__atomic_store_n(&m->family, family, __ATOMIC_RELEASE);
		join_list(host, slot * SOCKET_MEMBERSHIPS + i);
		return 0;
	}
	return -ENOBUFS;
}

int membership_leave(struct host *host, uint32_t slot, uint8_t family, const uint8_t *group, uint16_t interface)
{
	struct socket_entry *entry = &host->state->sockets[slot];
	int i = membership_find(entry, family, group, interface);
	if (i < 0)
		return -EADDRNOTAVAIL;
	join_unlist(host, slot * SOCKET_MEMBERSHIPS + (uint32_t)i);
	memset(&entry->memberships[i], 0, sizeof(entry->memberships[i]));
	return 0;
}

void membership_attach(struct host *host, uint32_t slot)
{
	for (uint32_t i = 0; i < SOCKET_MEMBERSHIPS; i++)
		if (host->state->sockets[slot].memberships[i].family != FAMILY_NONE)
			join_list(host, slot * SOCKET_MEMBERSHIPS + i);
}

void membership_close(struct host *host, uint32_t slot)
{
	for (uint32_t i = 0; i < SOCKET_MEMBERSHIPS; i++)
		if (host->state->sockets[slot].memberships[i].family != FAMILY_NONE)
			join_unlist(host, slot * SOCKET_MEMBERSHIPS + i);
}
