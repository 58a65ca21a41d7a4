// Socket options about group membership, with the names, values and errors of Linux: ip(7),
// ipv6(7), RFC 3493 section 5.2, RFC 3678.
//
// Not supported: the ioctls of RFC 3678 section 8.
#include "host/internal.h"

#include <errno.h>
#include <stddef.h>
#include <sys/socket.h>

enum { MULTICAST_ALL6 = 29 }; // IPV6_MULTICAST_ALL

static uint32_t address_bytes(uint8_t family)
{
	return family == FAMILY_IPV4 ? 4 : 16;
}

static int take_interface(uint32_t index, struct membership_name *name)
{
	if (index >= MAX_INTERFACES)
		return -ENODEV;
	name->interface = (uint16_t)index;
	return 0;
}

// The interface that has this address of ours; 0.0.0.0: as the route says.
static int interface_by_address(const struct host *host, const uint8_t *four, struct membership_name *name)
{
	uint8_t address[16] = {0};
	memcpy(address, four, 4);
	if (load32(four) == 0)
		return 0;
	const struct address_entry *entry = view_address(host->tables, FAMILY_IPV4, address, 0);
	if (entry == NULL)
		return -ENODEV;
	name->interface = entry->interface;
	return 0;
}

// --- joining and leaving ---

// struct ip_mreq or ip_mreqn: group, interface address[, interface index].
static int name_mreq4(const struct host *host, const uint8_t *value, uint32_t length, struct membership_name *name)
{
	if (length < sizeof(struct ip_mreq))
		return -EINVAL;
	int index = 0;
	name->family = FAMILY_IPV4;
	memcpy(name->group, value, 4);
	if (length >= sizeof(struct ip_mreqn))
		memcpy(&index, value + offsetof(struct ip_mreqn, imr_ifindex), sizeof(index));
	return index != 0 ? take_interface((uint32_t)index, name) : interface_by_address(host, value + 4, name);
}

static int name_mreq6(const uint8_t *value, uint32_t length, struct membership_name *name)
{
	uint32_t index;
	if (length < sizeof(struct ipv6_mreq))
		return -EINVAL;
	name->family = FAMILY_IPV6;
	memcpy(name->group, value, 16);
	memcpy(&index, value + offsetof(struct ipv6_mreq, ipv6mr_interface), sizeof(index));
	return take_interface(index, name);
}

// The address in a sockaddr_storage; false where it is of another family.
static bool take_address(const uint8_t *storage, uint8_t family, uint8_t *address)
{
	sa_family_t found;
	memcpy(&found, storage, sizeof(found));
	if (found != (family == FAMILY_IPV4 ? AF_INET : AF_INET6))
		return false;
	size_t at = family == FAMILY_IPV4 ? offsetof(struct sockaddr_in, sin_addr) : offsetof(struct sockaddr_in6, sin6_addr);
	memset(address, 0, 16);
	memcpy(address, storage + at, address_bytes(family));
	return true;
}

// struct group_req: interface index, group.
static int name_group(const uint8_t *value, uint32_t length, uint8_t family, struct membership_name *name)
{
	uint32_t index;
	if (length < sizeof(struct group_req))
		return -EINVAL;
	memcpy(&index, value, sizeof(index));
	name->family = family;
	if (!take_address(value + offsetof(struct group_req, gr_group), family, name->group))
		return family == FAMILY_IPV4 ? -EINVAL : -EADDRNOTAVAIL;
	return take_interface(index, name);
}

static int set_membership(struct host *host, uint32_t slot, uint8_t family, int option, const uint8_t *value, uint32_t length)
{
	struct membership_name name = {0};
	bool join = option == MCAST_JOIN_GROUP;
	int error;
	if (option == MCAST_JOIN_GROUP || option == MCAST_LEAVE_GROUP) {
		error = name_group(value, length, family, &name);
	} else if (family == FAMILY_IPV4) {
		join = option == IP_ADD_MEMBERSHIP;
		error = name_mreq4(host, value, length, &name);
	} else {
		join = option == IPV6_JOIN_GROUP;
		error = name_mreq6(value, length, &name);
	}
	if (error < 0)
		return error;
	return join ? membership_join(host, slot, &name, MEMBERSHIP_EXCLUDE) : membership_leave(host, slot, &name);
}

// --- one source ---

// struct ip_mreq_source: group, interface address, source.
static int name_source4(const struct host *host, const uint8_t *value, uint32_t length, struct membership_name *name, uint8_t *source)
{
	if (length != sizeof(struct ip_mreq_source))
		return -EINVAL;
	name->family = FAMILY_IPV4;
	memcpy(name->group, value, 4);
	memcpy(source, value + offsetof(struct ip_mreq_source, imr_sourceaddr), 4);
	return interface_by_address(host, value + offsetof(struct ip_mreq_source, imr_interface), name);
}

// struct group_source_req: interface index, group, source.
static int name_group_source(const uint8_t *value, uint32_t length, uint8_t family, struct membership_name *name, uint8_t *source)
{
	uint32_t index;
	if (length != sizeof(struct group_source_req))
		return -EINVAL;
	memcpy(&index, value, sizeof(index));
	name->family = family;
	if (!take_address(value + offsetof(struct group_source_req, gsr_group), family, name->group) ||
	    !take_address(value + offsetof(struct group_source_req, gsr_source), family, source))
		return -EADDRNOTAVAIL;
	return take_interface(index, name);
}

enum source_call { SOURCE_JOIN, SOURCE_LEAVE, SOURCE_BLOCK, SOURCE_UNBLOCK };

static int set_source(struct host *host, uint32_t slot, const struct membership_name *name, enum source_call call, const uint8_t *source)
{
	int error;
	switch (call) {
	case SOURCE_JOIN:
		// RFC 3678 section 4.1.3: the first source of a group joins it.
		error = membership_join(host, slot, name, MEMBERSHIP_INCLUDE);
		if (error < 0 && error != -EADDRINUSE)
			return error;
		return membership_add_source(host, slot, name, MEMBERSHIP_INCLUDE, source);
	case SOURCE_LEAVE:
		return membership_remove_source(host, slot, name, MEMBERSHIP_INCLUDE, source);
	case SOURCE_BLOCK:
		return membership_add_source(host, slot, name, MEMBERSHIP_EXCLUDE, source);
	default:
		return membership_remove_source(host, slot, name, MEMBERSHIP_EXCLUDE, source);
	}
}

static enum source_call call_of(int option)
{
	switch (option) {
	case IP_ADD_SOURCE_MEMBERSHIP:
	case MCAST_JOIN_SOURCE_GROUP:
		return SOURCE_JOIN;
	case IP_DROP_SOURCE_MEMBERSHIP:
	case MCAST_LEAVE_SOURCE_GROUP:
		return SOURCE_LEAVE;
	case IP_BLOCK_SOURCE:
	case MCAST_BLOCK_SOURCE:
		return SOURCE_BLOCK;
	default:
		return SOURCE_UNBLOCK;
	}
}

static int set_one_source(struct host *host, uint32_t slot, uint8_t family, int option, const uint8_t *value, uint32_t length)
{
	struct membership_name name = {0};
	uint8_t source[16] = {0};
	bool independent = option >= MCAST_BLOCK_SOURCE;
	int error = independent ? name_group_source(value, length, family, &name, source) : name_source4(host, value, length, &name, source);
	return error < 0 ? error : set_source(host, slot, &name, call_of(option), source);
}

// --- whole filters ---

enum {
	// struct ip_msfilter: group, interface address, mode, number, sources.
	MSFILTER_HEADER = 16,
	MSFILTER_NUMBER = 12,
	// struct group_filter: interface index, group, mode, number, sources.
	GROUP_FILTER_HEADER = offsetof(struct group_filter, gf_slist),
	GROUP_FILTER_NUMBER = offsetof(struct group_filter, gf_numsrc)
};

struct filter_layout {
	bool independent;     // struct group_filter
	uint32_t header;
	uint32_t number_at;   // the mode stands before it
	uint32_t stride;      // from source to source
};

static struct filter_layout layout_of(int option)
{
	if (option == IP_MSFILTER)
		return (struct filter_layout){.header = MSFILTER_HEADER, .number_at = MSFILTER_NUMBER, .stride = 4};
	return (struct filter_layout){
		.independent = true, .header = GROUP_FILTER_HEADER, .number_at = GROUP_FILTER_NUMBER, .stride = sizeof(struct sockaddr_storage),
	};
}

static int name_filter(const struct host *host, uint8_t family, const struct filter_layout *layout, const uint8_t *value, struct membership_name *name)
{
	uint32_t index;
	name->family = family;
	if (!layout->independent) {
		memcpy(name->group, value, 4);
		return interface_by_address(host, value + 4, name);
	}
	memcpy(&index, value, sizeof(index));
	if (!take_address(value + offsetof(struct group_filter, gf_group), family, name->group))
		return -EADDRNOTAVAIL;
	return take_interface(index, name);
}

static int set_filter(struct host *host, uint32_t slot, uint8_t family, int option, const uint8_t *value, uint32_t length)
{
	const struct filter_layout layout = layout_of(option);
	struct membership_name name = {0};
	struct source_filter filter = {0};
	uint32_t mode, number;
	if (length < layout.header)
		return -EINVAL;
	memcpy(&mode, value + layout.number_at - 4, sizeof(mode));
	memcpy(&number, value + layout.number_at, sizeof(number));
	if (number > MEMBERSHIP_SOURCES)
		return -ENOBUFS;
	if (length < layout.header + number * layout.stride)
		return -EINVAL;
	int error = name_filter(host, family, &layout, value, &name);
	if (error < 0)
		return error;
	if (mode != MEMBERSHIP_INCLUDE && mode != MEMBERSHIP_EXCLUDE)
		return -EINVAL;
	filter.mode = (uint8_t)mode;
	for (; filter.count < number; filter.count++) {
		const uint8_t *source = value + layout.header + filter.count * layout.stride;
		if (!layout.independent)
			memcpy(filter.sources[filter.count], source, 4);
		else if (!take_address(source, family, filter.sources[filter.count]))
			return -EADDRNOTAVAIL;
	}
	return membership_set_filter(host, slot, &name, &filter);
}

static void give_address(uint8_t family, const uint8_t *address, uint8_t *storage)
{
	sa_family_t socket_family = family == FAMILY_IPV4 ? AF_INET : AF_INET6;
	size_t at = family == FAMILY_IPV4 ? offsetof(struct sockaddr_in, sin_addr) : offsetof(struct sockaddr_in6, sin6_addr);
	memset(storage, 0, sizeof(struct sockaddr_storage));
	memcpy(storage, &socket_family, sizeof(socket_family));
	memcpy(storage + at, address, address_bytes(family));
}

// Tells how many sources there are, and as many of them as the app has room for.
static int get_filter(struct host *host, uint32_t slot, uint8_t family, int option, uint8_t *value, uint32_t *length)
{
	const struct filter_layout layout = layout_of(option);
	struct membership_name name = {0};
	struct source_filter filter;
	uint32_t asked;
	if (*length < layout.header)
		return -EINVAL;
	memcpy(&asked, value + layout.number_at, sizeof(asked));
	int error = name_filter(host, family, &layout, value, &name);
	if (error == 0)
		error = membership_get_filter(host, slot, &name, &filter);
	if (error < 0)
		return error;
	uint32_t mode = filter.mode;
	uint32_t number = filter.count;
	uint32_t room = (*length - layout.header) / layout.stride;
	uint32_t given = number < asked ? number : asked;
	if (given > room)
		given = room;
	memcpy(value + layout.number_at - 4, &mode, sizeof(mode));
	memcpy(value + layout.number_at, &number, sizeof(number));
	for (uint32_t i = 0; i < given; i++) {
		uint8_t *source = value + layout.header + i * layout.stride;
		if (layout.independent)
			give_address(family, filter.sources[i], source);
		else
			memcpy(source, filter.sources[i], 4);
	}
	*length = layout.header + given * layout.stride;
	return 0;
}

// --- the entry ---

static uint8_t only_bit(uint8_t family)
{
	return family == FAMILY_IPV4 ? MULTICAST_ONLY4 : MULTICAST_ONLY6;
}

static bool all_option(uint8_t family, int name)
{
	return name == (family == FAMILY_IPV4 ? IP_MULTICAST_ALL : MULTICAST_ALL6);
}

static int set_all(struct socket_entry *entry, uint8_t family, const uint8_t *value, uint32_t length)
{
	int on = 0;
	if (length == 0)
		return -EINVAL;
	if (length >= sizeof(on))
		memcpy(&on, value, sizeof(on));
	else
		on = value[0];
	if (family == FAMILY_IPV4 && on != 0 && on != 1)
		return -EINVAL;
	entry->multicast_only = (uint8_t)(on ? entry->multicast_only & ~only_bit(family) : entry->multicast_only | only_bit(family));
	return 0;
}

bool multicast_option(int level, int name)
{
	if (level == IPPROTO_IP)
		return name >= IP_ADD_MEMBERSHIP && name <= IP_MULTICAST_ALL;
	if (level != IPPROTO_IPV6)
		return false;
	return (name >= MCAST_JOIN_GROUP && name <= MCAST_MSFILTER) || name == IPV6_JOIN_GROUP || name == IPV6_LEAVE_GROUP || name == MULTICAST_ALL6;
}

int multicast_setopt(struct host *host, uint32_t slot, int level, int name, const uint8_t *value, uint32_t length)
{
	struct socket_entry *entry = &host->state->sockets[slot];
	uint8_t family = level == IPPROTO_IP ? FAMILY_IPV4 : FAMILY_IPV6;
	if (family == FAMILY_IPV6 && entry->family != AF_INET6)
		return -ENOPROTOOPT;
	if (all_option(family, name))
		return set_all(entry, family, value, length);
	switch (name) {
	case IP_ADD_SOURCE_MEMBERSHIP:
	case IP_DROP_SOURCE_MEMBERSHIP:
	case IP_BLOCK_SOURCE:
	case IP_UNBLOCK_SOURCE:
	case MCAST_JOIN_SOURCE_GROUP:
	case MCAST_LEAVE_SOURCE_GROUP:
	case MCAST_BLOCK_SOURCE:
	case MCAST_UNBLOCK_SOURCE:
		return set_one_source(host, slot, family, name, value, length);
	case IP_MSFILTER:
	case MCAST_MSFILTER:
		return set_filter(host, slot, family, name, value, length);
	default:
		return set_membership(host, slot, family, name, value, length);
	}
}

int multicast_getopt(struct host *host, uint32_t slot, int level, int name, uint8_t *value, uint32_t *length)
{
	const struct socket_entry *entry = &host->state->sockets[slot];
	uint8_t family = level == IPPROTO_IP ? FAMILY_IPV4 : FAMILY_IPV6;
	if (family == FAMILY_IPV6 && entry->family != AF_INET6)
		return -ENOPROTOOPT;
	if (name == IP_MSFILTER || name == MCAST_MSFILTER)
		return get_filter(host, slot, family, name, value, length);
	if (!all_option(family, name))
		return -ENOPROTOOPT;
	int on = !(entry->multicast_only & only_bit(family));
	if (*length > sizeof(on))
		*length = sizeof(on);
	memcpy(value, &on, *length);
	return 0;
}
