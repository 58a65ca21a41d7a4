// Addresses between the forms of sockets and of the wire: 16 bytes, IPv4 in the first four, ports in host order.
#define _GNU_SOURCE
#include "internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
enum { IPV4 = 4, IPV6 = 6, SIN6_LENGTH_RFC2133 = 24 };

int address_to_wire(int domain, const struct sockaddr *address, socklen_t length, struct rsock_name *name)
{
	memset(name, 0, sizeof(*name));
	if (address == NULL || length < sizeof(address->sa_family))
		return -EINVAL;
	if (domain == AF_INET) {
		struct sockaddr_in four;
		if (length < sizeof(four))
			return -EINVAL;
		memcpy(&four, address, sizeof(four));
		// As Linux: bind takes an address of no family for any address.
		if (four.sin_family != AF_INET && (four.sin_family != AF_UNSPEC || four.sin_addr.s_addr != INADDR_ANY))
			return -EAFNOSUPPORT;
		name->family = AF_INET;
		name->port = ntohs(four.sin_port);
		memcpy(name->address, &four.sin_addr, sizeof(four.sin_addr));
		return 0;
	}
	struct sockaddr_in6 six = {0};
	if (length < SIN6_LENGTH_RFC2133)
		return -EINVAL;
	memcpy(&six, address, length < sizeof(six) ? length : sizeof(six));
	if (six.sin6_family != AF_INET6)
		return -EAFNOSUPPORT;
	name->family = AF_INET6;
	name->port = ntohs(six.sin6_port);
	name->interface = six.sin6_scope_id;
	memcpy(name->address, &six.sin6_addr, sizeof(six.sin6_addr));
	return 0;
}

static bool scoped(const uint8_t *address)
{
	return (address[0] == 0xfe && (address[1] & 0xc0) == 0x80) ||
		(address[0] == 0xff && ((address[1] & 15) == 1 || (address[1] & 15) == 2));
}

static socklen_t show(
	int domain, const uint8_t *address, uint16_t port, uint32_t interface, struct sockaddr_storage *shown)
{
	memset(shown, 0, sizeof(*shown));
	if (domain == AF_INET) {
		struct sockaddr_in *four = (struct sockaddr_in *)shown;
		four->sin_family = AF_INET;
		four->sin_port = htons(port);
		memcpy(&four->sin_addr, address, sizeof(four->sin_addr));
		return sizeof(*four);
	}
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)shown;
	six->sin6_family = AF_INET6;
	six->sin6_port = htons(port);
	six->sin6_scope_id = scoped(address) ? interface : 0;
	memcpy(&six->sin6_addr, address, sizeof(six->sin6_addr));
	return sizeof(*six);
}

socklen_t address_of_local(const struct rsock_name *name, struct sockaddr_storage *address)
{
	return show(name->family, name->address, name->port, name->interface, address);
}

socklen_t address_of_remote(const struct rsock_name *name, struct sockaddr_storage *address)
{
	return show(name->remote_family, name->remote_address, name->remote_port, name->remote_interface, address);
}

int address_to_header(int domain, const struct sockaddr *address, socklen_t length, struct rsock_datagram *header)
{
	struct rsock_name name;
	// As Linux: an IPv6 socket may be given an IPv4 address.
	if (domain == AF_INET6 && length >= sizeof(address->sa_family) && address->sa_family == AF_INET)
		domain = AF_INET;
	int error = address_to_wire(domain, address, length, &name);
	if (error < 0)
		return error;
	memset(header, 0, sizeof(*header));
	header->version = RSOCK_VERSION;
	header->port = name.port;
	header->interface = name.interface;
	header->family = name.family == AF_INET ? IPV4 : IPV6;
	if (header->family == IPV6 && memcmp(name.address, mapped, sizeof(mapped)) == 0) {
		header->family = IPV4;
		memcpy(header->address, name.address + sizeof(mapped), 4);
	} else {
		memcpy(header->address, name.address, sizeof(header->address));
	}
	return 0;
}

socklen_t address_of_header(int domain, const struct rsock_datagram *header, struct sockaddr_storage *address)
{
	uint8_t whole[16];
	memcpy(whole, header->address, sizeof(whole));
	if (domain == AF_INET6 && header->family == IPV4) {
		memcpy(whole, mapped, sizeof(mapped));
		memcpy(whole + sizeof(mapped), header->address, 4);
	}
	return show(domain, whole, header->port, header->interface, address);
}

void address_give(const struct sockaddr_storage *from, socklen_t length, struct sockaddr *to, socklen_t *room)
{
	if (to == NULL || room == NULL)
		return;
	memcpy(to, from, *room < length ? *room : length);
	*room = length;
}
