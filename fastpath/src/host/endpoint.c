// bind, connect and send: what a socket's own addresses allow.
#include "host/tcp_internal.h"

#include <errno.h>

static int autobind(struct host *host, uint32_t slot)
{
	const struct socket_entry *entry = &host->state->sockets[slot];
	if (entry->type == SOCK_RAW || entry->local_port != 0)
		return 0;
	return demux_bind_port(host, slot, 0);
}

// The address of a bind: ours, a group, a broadcast address, or any.
static int bindable(const struct host *host, const struct socket_entry *entry, const uint8_t *address, uint16_t *interface)
{
	uint8_t family;
	uint8_t plain[16];
	if (!address_unmap(entry->family, address, &family, plain))
		return -EAFNOSUPPORT;
	if (entry->family == AF_INET6 && family == FAMILY_IPV4 && (entry->flags & SOCKET_V6ONLY))
		return -EINVAL;
	if (address_any(address) || (family == FAMILY_IPV4 && load32(plain) == 0))
		return 0;
	if (address_needs_scope(family, plain)) {
		if (*interface == 0)
			*interface = entry->interface;
		if (*interface == 0)
			return -EINVAL;
		if (address_multicast(family, plain))
			return view_interface(host->tables, *interface) != NULL ? 0 : -ENODEV;
		return view_address(host->tables, family, plain, *interface) != NULL ? 0 : -EADDRNOTAVAIL;
	}
	*interface = 0; // a scope means nothing for a global address
	if (address_multicast(family, plain) || (family == FAMILY_IPV4 && load32(plain) == INADDR_BROADCAST))
		return 0;
	return view_address(host->tables, family, plain, 0) != NULL ? 0 : -EADDRNOTAVAIL;
}

int host_bind(struct host *host, uint32_t slot, const uint8_t *address, uint16_t port, uint16_t interface)
{
	struct tcp_socket *stream = host_stream(host, slot);
	if (stream != NULL)
		return tcp_bind(host->tcp, stream, address, port, interface);
	struct socket_entry *entry = host_entry(host, slot);
	if (entry == NULL)
		return -EBADF;
	if (entry->type != SOCK_RAW && entry->local_port != 0)
		return -EINVAL;
	int error = bindable(host, entry, address, &interface);
	if (error < 0)
		return error;
	if (interface != 0 && entry->interface != 0 && entry->interface != interface)
		return -EINVAL;
	uint8_t before[16];
	uint16_t pinned = entry->interface;
	memcpy(before, entry->local, sizeof(before));
	memcpy(entry->local, address, sizeof(entry->local));
	if (interface != 0)
		entry->interface = interface;
	if (entry->type != SOCK_RAW) {
		error = demux_bind_port(host, slot, port);
		if (error < 0) {
			memcpy(entry->local, before, sizeof(before));
			entry->interface = pinned;
			return error;
		}
	}
	entry->flags |= SOCKET_BOUND;
	if (!address_any(address))
		entry->options |= OPTION_ADDRESS_LOCKED;
	if (port != 0)
		entry->options |= OPTION_PORT_LOCKED;
	return 0;
}

// Is this the directed broadcast address of a prefix of ours, or the limited one?
static bool broadcast_destination(const struct host *host, const struct outbound *out)
{
	if (out->family != FAMILY_IPV4)
		return false;
	uint32_t destination = load32(out->destination);
	if (destination == INADDR_BROADCAST)
		return true;
	for (uint32_t i = 0; i < host->tables->address_count; i++) {
		const struct address_entry *address = &host->tables->addresses[i];
		if (address->family != FAMILY_IPV4 || address->length >= 31)
			continue;
		uint32_t rest = 0xffffffffu >> address->length;
		if (destination == (load32(address->address) | rest))
			return true;
	}
	return false;
}

static int route(struct host *host, const struct socket_entry *entry, const struct rsock_datagram *header, struct outbound *out)
{
	if (!(entry->flags & SOCKET_BROADCAST) && broadcast_destination(host, out))
		return -EACCES;
	return outbound_route(host, entry, header, out);
}

int host_connect(struct host *host, uint32_t slot, const uint8_t *address, uint16_t port, uint16_t interface)
{
	struct tcp_socket *stream = host_stream(host, slot);
	if (stream != NULL)
		return tcp_connect(host->tcp, stream, address, port, interface);
	struct socket_entry *entry = host_entry(host, slot);
	if (entry == NULL)
		return -EBADF;
	struct outbound out = {.port = port};
	if (!address_unmap(entry->family, address, &out.family, out.destination))
		return -EAFNOSUPPORT;
	if (entry->family == AF_INET6 && out.family == FAMILY_IPV4 && (entry->flags & SOCKET_V6ONLY))
		return -ENETUNREACH;
	if (address_any(out.destination))
		return -ECONNREFUSED;
	struct rsock_datagram scope = {.interface = interface};
	// A new connect forgets what an earlier one chose.
	(void)host_disconnect(host, slot);
	int error = route(host, entry, &scope, &out);
	if (error == 0)
		error = autobind(host, slot);
	if (error < 0)
		return error;
	if (address_any(entry->local)) {
		if (entry->family == AF_INET6)
			address_map(out.family, out.source, entry->local);
		else
			memcpy(entry->local, out.source, 4);
	}
	if (interface != 0 && address_link_local(out.family, out.destination))
		entry->interface = interface;
	memcpy(entry->remote, address, sizeof(entry->remote));
	entry->remote_port = port;
	entry->error = 0;
	entry->flags |= SOCKET_CONNECTED;
	return 0;
}

int host_disconnect(struct host *host, uint32_t slot)
{
	struct tcp_socket *stream = host_stream(host, slot);
	if (stream != NULL)
		return tcp_disconnect(host->tcp, stream);
	struct socket_entry *entry = host_entry(host, slot);
	if (entry == NULL)
		return -EBADF;
	if (!(entry->flags & SOCKET_CONNECTED))
		return 0;
	entry->flags &= ~(uint32_t)SOCKET_CONNECTED;
	memset(entry->remote, 0, sizeof(entry->remote));
	entry->remote_port = 0;
	entry->error = 0;
	if (!(entry->options & OPTION_ADDRESS_LOCKED)) {
		memset(entry->local, 0, sizeof(entry->local));
		if (!(entry->flags & SOCKET_PINNED))
			entry->interface = 0;
	}
	return 0;
}

static int destination(const struct socket_entry *entry, const struct rsock_datagram *header, struct outbound *out)
{
	if (header == NULL) {
		if (!(entry->flags & SOCKET_CONNECTED))
			return -EDESTADDRREQ;
		out->port = entry->remote_port;
		return address_unmap(entry->family, entry->remote, &out->family, out->destination) ? 0 : -EAFNOSUPPORT;
	}
	out->port = header->port;
	if (header->family == FAMILY_IPV6) {
		address_unmap(AF_INET6, header->address, &out->family, out->destination);
	} else if (header->family == FAMILY_IPV4) {
		out->family = FAMILY_IPV4;
		memcpy(out->destination, header->address, 4);
	} else {
		return -EAFNOSUPPORT;
	}
	if (entry->family == AF_INET && header->family != FAMILY_IPV4)
		return -EAFNOSUPPORT;
	if (entry->family == AF_INET6 && out->family == FAMILY_IPV4 && ((entry->flags & SOCKET_V6ONLY) || entry->type == SOCK_RAW))
		return -ENETUNREACH;
	return 0;
}

int host_send(struct host *host, uint32_t slot, const void *header, const uint8_t *payload, uint32_t length, uint64_t now)
{
	host->now = now;
	struct socket_entry *entry = host_entry(host, slot);
	if (entry == NULL)
		return -EBADF;
	if (length > LARGEST_PACKET)
		return -EMSGSIZE;
	const struct rsock_datagram *datagram = header;
	struct outbound out = {0};
	int error = destination(entry, datagram, &out);
	if (error == 0)
		error = autobind(host, slot);
	if (error == 0)
		error = route(host, entry, datagram, &out);
	if (error < 0)
		return error;
	if (entry->type == SOCK_RAW)
		error = raw_send(host, slot, &out, payload, length);
	else if (entry->protocol == IPPROTO_UDP)
		error = udp_send(host, slot, &out, payload, length);
	else
		error = ping_send(host, slot, &out, payload, length);
	if (error == 0)
		entry->tx_packets++;
	return error;
}
