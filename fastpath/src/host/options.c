// Socket options with the names, values and errors of Linux: socket(7), ip(7), ipv6(7),
// raw(7), icmp(7), RFC 3493, RFC 3542.
//
// Options of the app's own fd (timeouts, FIONREAD) never come here; group membership is in
// options_multicast.c.
// Not supported: sticky options and extension headers of RFC 3542.
#include "host/tcp_internal.h"

#include <errno.h>
#include <sys/socket.h>

enum {
	RAW_ICMP_FILTER = 1,   // linux/icmp.h, at SOL_RAW
	RAW_ICMP6_FILTER = 1,  // netinet/icmp6.h, at IPPROTO_ICMPV6
	DONT_FRAGMENT6 = 62,   // IPV6_DONTFRAG
	BIND_TO_IFINDEX = 62   // SO_BINDTOIFINDEX
};

// Options that are one bit.
static const struct option_switch switches[] = {
	{SOL_SOCKET, SO_REUSEADDR, true, SOCKET_REUSE_ADDRESS},
	{SOL_SOCKET, SO_REUSEPORT, true, SOCKET_REUSE_PORT},
	{SOL_SOCKET, SO_BROADCAST, true, SOCKET_BROADCAST},
	{SOL_SOCKET, SO_TIMESTAMP, false, OPTION_TIMESTAMP},
	{SOL_SOCKET, SO_TIMESTAMPNS, false, OPTION_TIMESTAMP_NS},
	{IPPROTO_IP, IP_PKTINFO, false, OPTION_PKTINFO4},
	{IPPROTO_IP, IP_RECVTTL, false, OPTION_TTL},
	{IPPROTO_IP, IP_RECVTOS, false, OPTION_TOS},
	{IPPROTO_IP, IP_RECVERR, false, OPTION_ERRORS4},
	{IPPROTO_IPV6, IPV6_RECVPKTINFO, false, OPTION_PKTINFO6},
	{IPPROTO_IPV6, IPV6_RECVHOPLIMIT, false, OPTION_HOP_LIMIT},
	{IPPROTO_IPV6, IPV6_RECVTCLASS, false, OPTION_TRAFFIC_CLASS},
	{IPPROTO_IPV6, IPV6_RECVERR, false, OPTION_ERRORS6},
	{IPPROTO_IPV6, DONT_FRAGMENT6, false, OPTION_DONT_FRAGMENT},
};

enum { SWITCHES = sizeof(switches) / sizeof(switches[0]) };

int option_switch_at(const struct option_switch *list, int count, int level, int name)
{
	for (int i = 0; i < count; i++)
		if (list[i].level == level && list[i].name == name)
			return i;
	return -1;
}

static void switch_set(struct socket_entry *entry, int at, bool on)
{
	uint32_t *word = switches[at].other ? &entry->flags : &entry->options;
	*word = on ? *word | switches[at].bit : *word & ~switches[at].bit;
	uint32_t shown = entry->options & ~(uint32_t)(OPTION_LOCAL | OPTION_ERRORS);
	if (shown & (OPTION_PKTINFO4 | OPTION_PKTINFO6))
		shown |= OPTION_LOCAL;
	if (shown & (OPTION_ERRORS4 | OPTION_ERRORS6))
		shown |= OPTION_ERRORS;
	entry->options = shown;
}

// An int, or a single byte as BSD programs write some of them.
static bool take_int(const uint8_t *value, uint32_t length, int *out)
{
	if (length >= sizeof(*out)) {
		memcpy(out, value, sizeof(*out));
		return true;
	}
	if (length == 0)
		return false;
	*out = value[0];
	return true;
}

static int pin(struct host *host, struct socket_entry *entry, uint16_t index)
{
	if (index != 0 && view_interface(host->tables, index) == NULL)
		return -ENODEV;
	entry->interface = index;
	entry->flags = index != 0 ? entry->flags | SOCKET_PINNED : entry->flags & ~(uint32_t)SOCKET_PINNED;
	return 0;
}

int option_interface(const struct host *host, const uint8_t *value, uint32_t length)
{
	char name[INTERFACE_NAME_SIZE] = {0};
	if (length > sizeof(name) - 1)
		length = sizeof(name) - 1;
	memcpy(name, value, length);
	if (name[0] == '\0')
		return 0;
	for (uint32_t i = 0; i < host->tables->interface_count; i++)
		if (strncmp(host->tables->interfaces[i].name, name, sizeof(name)) == 0)
			return host->tables->interfaces[i].index;
	return -ENODEV;
}

static int pin_name(struct host *host, struct socket_entry *entry, const uint8_t *value, uint32_t length)
{
	int index = option_interface(host, value, length);
	return index < 0 ? index : pin(host, entry, (uint16_t)index);
}

static uint16_t interface_of_address(const struct host *host, const uint8_t *four)
{
	uint8_t address[16] = {0};
	memcpy(address, four, 4);
	const struct address_entry *entry = view_address(host->tables, FAMILY_IPV4, address, 0);
	return entry != NULL ? entry->interface : 0;
}

static int multicast_interface4(struct host *host, struct socket_entry *entry, const uint8_t *value, uint32_t length)
{
	if (length < 4)
		return -EINVAL;
	int index = 0;
	const uint8_t *address = length >= 8 ? value + 4 : value;
	if (length >= 12)
		memcpy(&index, value + 8, sizeof(index));
	if (index == 0 && load32(address) != 0) {
		index = interface_of_address(host, address);
		if (index == 0)
			return -EADDRNOTAVAIL;
	}
	if (index < 0 || index >= MAX_INTERFACES || (index != 0 && view_interface(host->tables, (uint16_t)index) == NULL))
		return -ENODEV;
	entry->multicast_interface = (uint16_t)index;
	return 0;
}

// A number in a range, where -1 stands for the default.
static int set_byte(uint8_t *field, int value, int most, uint8_t fallback)
{
	if (value < -1 || value > most)
		return -EINVAL;
	*field = value == -1 ? fallback : (uint8_t)value;
	return 0;
}

static int set_socket(struct host *host, uint32_t slot, int name, const uint8_t *value, uint32_t length)
{
	struct socket_entry *entry = &host->state->sockets[slot];
	int number = 0;
	if (name == SO_BINDTODEVICE)
		return pin_name(host, entry, value, length);
	if (!take_int(value, length, &number))
		return -EINVAL;
	switch (name) {
	case BIND_TO_IFINDEX:
		return number < 0 || number >= MAX_INTERFACES ? -ENODEV : pin(host, entry, (uint16_t)number);
	case SO_RCVBUF:
	case SO_SNDBUF:
	case SO_PRIORITY:
	case SO_DONTROUTE:
	case SO_KEEPALIVE:
		return 0; // the server sizes the fd; the others mean nothing to a datagram here
	default:
		return -ENOPROTOOPT;
	}
}

static int set_header_included(struct socket_entry *entry, uint16_t family, int on)
{
	if (entry->type != SOCK_RAW || entry->family != family)
		return -ENOPROTOOPT;
	entry->flags = on ? entry->flags | SOCKET_HEADER_INCLUDED : entry->flags & ~(uint32_t)SOCKET_HEADER_INCLUDED;
	return 0;
}

static int set_ip4(struct host *host, uint32_t slot, int name, const uint8_t *value, uint32_t length)
{
	struct socket_entry *entry = &host->state->sockets[slot];
	int number = 0;
	if (name == IP_MULTICAST_IF)
		return multicast_interface4(host, entry, value, length);
	if (!take_int(value, length, &number))
		return -EINVAL;
	switch (name) {
	case IP_TTL:
		return number == 0 ? -EINVAL : set_byte(&entry->ttl, number, 255, 0);
	case IP_TOS:
		entry->tos = (uint8_t)number;
		return 0;
	case IP_MTU_DISCOVER:
		return number < 0 ? -EINVAL : set_byte(&entry->pmtu_discover, number, IP_PMTUDISC_OMIT, 0);
	case IP_MULTICAST_TTL:
		return set_byte(&entry->multicast_ttl, number, 255, 1);
	case IP_MULTICAST_LOOP:
		entry->multicast_loop = number != 0;
		return 0;
	case IP_HDRINCL:
		return set_header_included(entry, AF_INET, number);
	default:
		return -ENOPROTOOPT;
	}
}

static int set_checksum(struct socket_entry *entry, int offset)
{
	if (entry->type != SOCK_RAW || entry->family != AF_INET6)
		return -ENOPROTOOPT;
	if (entry->protocol == IPPROTO_ICMPV6) // RFC 3542 section 3.1
		return -EINVAL;
	if (offset >= 0 && (offset & 1 || offset >= LARGEST_PACKET))
		return -EINVAL;
	entry->checksum_offset_set = offset >= 0;
	entry->checksum_offset = offset >= 0 ? offset : 0;
	return 0;
}

static int set_ip6(struct host *host, uint32_t slot, int name, const uint8_t *value, uint32_t length)
{
	struct socket_entry *entry = &host->state->sockets[slot];
	if (entry->family != AF_INET6)
		return -ENOPROTOOPT;
	int number = 0;
	if (!take_int(value, length, &number))
		return -EINVAL;
	switch (name) {
	case IPV6_V6ONLY:
		if (entry->flags & SOCKET_BOUND)
			return -EINVAL;
		entry->flags = number ? entry->flags | SOCKET_V6ONLY : entry->flags & ~(uint32_t)SOCKET_V6ONLY;
		return 0;
	case IPV6_UNICAST_HOPS:
		return set_byte(&entry->ttl, number, 255, 0);
	case IPV6_MULTICAST_HOPS:
		return set_byte(&entry->multicast_ttl, number, 255, 1);
	case IPV6_MULTICAST_LOOP:
		entry->multicast_loop = number != 0;
		return 0;
	case IPV6_MULTICAST_IF:
		if (number < 0 || number >= MAX_INTERFACES || (number != 0 && view_interface(host->tables, (uint16_t)number) == NULL))
			return -ENODEV;
		entry->multicast_interface = (uint16_t)number;
		return 0;
	case IPV6_TCLASS:
		return set_byte(&entry->tos, number, 255, 0);
	case IPV6_MTU_DISCOVER:
		return number < 0 ? -EINVAL : set_byte(&entry->pmtu_discover, number, IP_PMTUDISC_OMIT, 0);
	case IPV6_CHECKSUM:
		return set_checksum(entry, number);
	case IPV6_HDRINCL:
		return set_header_included(entry, AF_INET6, number);
	default:
		return -ENOPROTOOPT;
	}
}

static int set_filter(struct socket_entry *entry, const uint8_t *value, uint32_t length, uint32_t size)
{
	if (length > size)
		length = size;
	memcpy(entry->icmp_filter, value, length);
	return 0;
}

static bool raw_icmp(const struct socket_entry *entry, uint16_t family)
{
	uint16_t icmp = family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6;
	return entry->type == SOCK_RAW && entry->family == family && entry->protocol == icmp;
}

int host_setopt(struct host *host, uint32_t slot, int level, int name, const uint8_t *value, uint32_t length)
{
	struct tcp_socket *stream = host_stream(host, slot);
	if (stream != NULL)
		return tcp_setopt(host->tcp, stream, level, name, value, length);
	struct socket_entry *entry = host_entry(host, slot);
	if (entry == NULL)
		return -EBADF;
	if (multicast_option(level, name))
		return multicast_setopt(host, slot, level, name, value, length);
	int at = option_switch_at(switches, SWITCHES, level, name);
	if (at >= 0) {
		int number;
		if (level == IPPROTO_IPV6 && entry->family != AF_INET6)
			return -ENOPROTOOPT;
		if (!take_int(value, length, &number))
			return -EINVAL;
		switch_set(entry, at, number != 0);
		return 0;
	}
	switch (level) {
	case SOL_SOCKET:
		return set_socket(host, slot, name, value, length);
	case IPPROTO_IP:
		return set_ip4(host, slot, name, value, length);
	case IPPROTO_IPV6:
		return set_ip6(host, slot, name, value, length);
	case IPPROTO_ICMPV6:
		if (name == RAW_ICMP6_FILTER && raw_icmp(entry, AF_INET6))
			return set_filter(entry, value, length, SOCKET_FILTER_BYTES);
		return -ENOPROTOOPT;
	case SOL_RAW:
		if (name == RAW_ICMP_FILTER && raw_icmp(entry, AF_INET))
			return set_filter(entry, value, length, 4);
		if (name == IPV6_CHECKSUM && length >= sizeof(int))
			return set_ip6(host, slot, name, value, length);
		return -ENOPROTOOPT;
	default:
		return -ENOPROTOOPT;
	}
}

static int path_mtu_now(struct host *host, const struct socket_entry *entry)
{
	uint8_t family;
	uint8_t plain[16];
	if (!(entry->flags & SOCKET_CONNECTED))
		return -ENOTCONN;
	if (!address_unmap(entry->family, entry->remote, &family, plain))
		return -EINVAL;
	uint32_t mtu = host->ops.path_mtu(host->ops.user, family, plain, entry->interface);
	return mtu == 0 ? -ENETUNREACH : (int)path_mtu_clamp(host, family, plain, mtu);
}

static int get_socket(struct socket_entry *entry, int name, int *number)
{
	switch (name) {
	case SO_ERROR: // once
		*number = entry->error;
		entry->error = 0;
		return 0;
	case SO_TYPE:
		*number = entry->type;
		return 0;
	case SO_DOMAIN:
		*number = entry->family;
		return 0;
	case SO_PROTOCOL:
		*number = entry->protocol;
		return 0;
	case BIND_TO_IFINDEX:
		*number = entry->interface;
		return 0;
	case SO_ACCEPTCONN:
	case SO_PRIORITY:
	case SO_DONTROUTE:
	case SO_KEEPALIVE:
		*number = 0;
		return 0;
	default:
		return -ENOPROTOOPT;
	}
}

static int get_common(struct host *host, const struct socket_entry *entry, bool four, int name, int *number)
{
	if (name == (four ? IP_TTL : IPV6_UNICAST_HOPS))
		*number = entry->ttl != 0 ? entry->ttl : DEFAULT_TTL;
	else if (name == (four ? IP_TOS : IPV6_TCLASS))
		*number = entry->tos;
	else if (name == (four ? IP_MULTICAST_TTL : IPV6_MULTICAST_HOPS))
		*number = entry->multicast_ttl;
	else if (name == (four ? IP_MULTICAST_LOOP : IPV6_MULTICAST_LOOP))
		*number = entry->multicast_loop;
	else if (name == (four ? IP_MTU_DISCOVER : IPV6_MTU_DISCOVER))
		*number = entry->pmtu_discover;
	else if (name == (four ? IP_MTU : IPV6_MTU))
		*number = path_mtu_now(host, entry);
	else
		return -ENOPROTOOPT;
	return *number < 0 ? *number : 0;
}

static int get_number(struct host *host, struct socket_entry *entry, int level, int name, int *number)
{
	int at = option_switch_at(switches, SWITCHES, level, name);
	if (level == IPPROTO_IPV6 && entry->family != AF_INET6)
		return -ENOPROTOOPT;
	if (at >= 0) {
		*number = ((switches[at].other ? entry->flags : entry->options) & switches[at].bit) != 0;
		return 0;
	}
	if (level == SOL_SOCKET)
		return get_socket(entry, name, number);
	if ((level == IPPROTO_IP && name == IP_HDRINCL) || (level == IPPROTO_IPV6 && name == IPV6_HDRINCL)) {
		*number = (entry->flags & SOCKET_HEADER_INCLUDED) != 0;
		return 0;
	}
	if (level == IPPROTO_IPV6 && name == IPV6_V6ONLY) {
		*number = (entry->flags & SOCKET_V6ONLY) != 0;
		return 0;
	}
	if (level == IPPROTO_IPV6 && name == IPV6_MULTICAST_IF) {
		*number = entry->multicast_interface;
		return 0;
	}
	if ((level == IPPROTO_IPV6 || level == SOL_RAW) && name == IPV6_CHECKSUM && entry->type == SOCK_RAW) {
		*number = entry->checksum_offset_set ? entry->checksum_offset : -1;
		return 0;
	}
	if (level != IPPROTO_IP && level != IPPROTO_IPV6)
		return -ENOPROTOOPT;
	return get_common(host, entry, level == IPPROTO_IP, name, number);
}

static int give(uint8_t *value, uint32_t *length, const void *from, uint32_t bytes)
{
	if (*length > bytes)
		*length = bytes;
	memcpy(value, from, *length);
	return 0;
}

int host_getopt(struct host *host, uint32_t slot, int level, int name, uint8_t *value, uint32_t *length)
{
	struct tcp_socket *stream = host_stream(host, slot);
	if (stream != NULL)
		return tcp_getopt(host->tcp, stream, level, name, value, length);
	struct socket_entry *entry = host_entry(host, slot);
	if (entry == NULL)
		return -EBADF;
	if (multicast_option(level, name))
		return multicast_getopt(host, slot, level, name, value, length);
	if (level == SOL_SOCKET && name == SO_BINDTODEVICE) {
		const struct interface_entry *interface = view_interface(host->tables, entry->interface);
		if (interface == NULL || !(entry->flags & SOCKET_PINNED)) {
			*length = 0;
			return 0;
		}
		return give(value, length, interface->name, (uint32_t)strnlen(interface->name, INTERFACE_NAME_SIZE - 1) + 1);
	}
	if (level == SOL_RAW && name == RAW_ICMP_FILTER && raw_icmp(entry, AF_INET))
		return give(value, length, entry->icmp_filter, 4);
	if (level == IPPROTO_ICMPV6 && name == RAW_ICMP6_FILTER && raw_icmp(entry, AF_INET6))
		return give(value, length, entry->icmp_filter, SOCKET_FILTER_BYTES);
	if (level == IPPROTO_IP && name == IP_MULTICAST_IF) {
		uint8_t address[4] = {0};
		for (uint32_t i = 0; i < host->tables->address_count; i++) {
			const struct address_entry *candidate = &host->tables->addresses[i];
			if (candidate->family == FAMILY_IPV4 && candidate->interface == entry->multicast_interface) {
				memcpy(address, candidate->address, sizeof(address));
				break;
			}
		}
		return give(value, length, address, sizeof(address));
	}
	int number = 0;
	int error = get_number(host, entry, level, name, &number);
	if (error < 0)
		return error;
	return give(value, length, &number, sizeof(number));
}
