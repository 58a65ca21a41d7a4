// Preloaded: interfaces are those of the router, by name, by index, in lists and by ioctl(2).
//
// Not supported: netlink, which tells of the kernel's.
#define _GNU_SOURCE
#include "preload.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if_arp.h>
#include <netpacket/packet.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>

static int default_router(void)
{
	const char *vr = preload_default();
	return vr[0] == '\0' ? -ENOENT : link_router(vr);
}

// The interfaces of a router, to be freed; NULL with errno.
static struct interfaces *ask(int router)
{
	struct interfaces *found = malloc(sizeof(*found));
	int error = found == NULL ? -ENOMEM : interfaces_get(router, found);
	if (error == 0)
		return found;
	free(found);
	errno = -error;
	return NULL;
}

static const struct interface *by_name(const struct interfaces *all, const char *name)
{
	for (int i = 0; i < all->count; i++)
		if (strncmp(all->at[i].name, name, IF_NAMESIZE - 1) == 0)
			return &all->at[i];
	return NULL;
}

static const struct interface *by_index(const struct interfaces *all, uint32_t index)
{
	for (int i = 0; i < all->count; i++)
		if (all->at[i].index == index)
			return &all->at[i];
	return NULL;
}

// --- if_nametoindex(3) and its relatives ---

EXPORT unsigned int if_nametoindex(const char *name)
{
	int router = default_router();
	if (router < 0)
		return preload_next.if_nametoindex != NULL ? preload_next.if_nametoindex(name) : 0;
	struct interfaces *all = ask(router);
	const struct interface *found = all == NULL ? NULL : by_name(all, name);
	unsigned int index = found == NULL ? 0 : found->index;
	free(all);
	if (index == 0)
		errno = ENODEV;
	return index;
}

EXPORT char *if_indextoname(unsigned int index, char name[IF_NAMESIZE])
{
	int router = default_router();
	if (router < 0)
		return preload_next.if_indextoname != NULL ? preload_next.if_indextoname(index, name) : NULL;
	struct interfaces *all = ask(router);
	const struct interface *found = all == NULL ? NULL : by_index(all, index);
	if (found != NULL) {
		memcpy(name, found->name, IF_NAMESIZE - 1);
		name[IF_NAMESIZE - 1] = '\0';
	}
	free(all);
	if (found == NULL)
		errno = ENXIO;
	return found == NULL ? NULL : name;
}

EXPORT struct if_nameindex *if_nameindex(void)
{
	int router = default_router();
	if (router < 0)
		return preload_next.if_nameindex != NULL ? preload_next.if_nameindex() : NULL;
	struct interfaces *all = ask(router);
	if (all == NULL)
		return NULL;
	// As the C library's: names one by one, so that its if_freenameindex(3) frees them.
	struct if_nameindex *list = calloc((size_t)all->count + 1, sizeof(*list));
	for (int i = 0; list != NULL && i < all->count; i++) {
		list[i].if_index = all->at[i].index;
		list[i].if_name = strndup(all->at[i].name, IF_NAMESIZE - 1);
	}
	free(all);
	return list;
}

// --- getifaddrs(3): one block, which the C library's freeifaddrs(3) frees as one ---

struct item {
	struct ifaddrs entry;
	struct sockaddr_storage address, mask, broadcast;
	char name[IF_NAMESIZE];
};

static void fill_link(const struct interface *interface, struct item *item)
{
	struct sockaddr_ll *link = (struct sockaddr_ll *)&item->address;
	link->sll_family = AF_PACKET;
	link->sll_ifindex = (int)interface->index;
	link->sll_hatype = interface->flags & IFF_LOOPBACK ? ARPHRD_LOOPBACK : ARPHRD_ETHER;
	link->sll_halen = sizeof(interface->mac);
	memcpy(link->sll_addr, interface->mac, sizeof(interface->mac));
}

static void fill_mask(const struct interface_address *address, uint8_t *mask)
{
	for (int bit = 0; bit < address->bits; bit++)
		mask[bit / 8] = (uint8_t)(mask[bit / 8] | 0x80 >> bit % 8);
}

static void fill_address(const struct interface_address *address, struct item *item)
{
	struct sockaddr_in *four = (struct sockaddr_in *)&item->address;
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)&item->address;
	item->address.ss_family = item->mask.ss_family = item->broadcast.ss_family = address->family;
	if (address->family == AF_INET) {
		struct sockaddr_in *mask = (struct sockaddr_in *)&item->mask;
		memcpy(&four->sin_addr, address->address, sizeof(four->sin_addr));
		fill_mask(address, (uint8_t *)&mask->sin_addr);
		((struct sockaddr_in *)&item->broadcast)->sin_addr.s_addr = four->sin_addr.s_addr | ~mask->sin_addr.s_addr;
		return;
	}
	memcpy(&six->sin6_addr, address->address, sizeof(six->sin6_addr));
	if (IN6_IS_ADDR_LINKLOCAL(&six->sin6_addr))
		six->sin6_scope_id = address->interface;
	fill_mask(address, ((struct sockaddr_in6 *)&item->mask)->sin6_addr.s6_addr);
}

static void fill_item(const struct interface *interface, const struct interface_address *address, struct item *item)
{
	memcpy(item->name, interface->name, IF_NAMESIZE - 1);
	item->entry.ifa_name = item->name;
	item->entry.ifa_flags = interface->flags;
	item->entry.ifa_addr = (struct sockaddr *)&item->address;
	if (address == NULL) {
		fill_link(interface, item);
		return;
	}
	fill_address(address, item);
	item->entry.ifa_netmask = (struct sockaddr *)&item->mask;
	if (address->family == AF_INET && (interface->flags & IFF_BROADCAST))
		item->entry.ifa_broadaddr = (struct sockaddr *)&item->broadcast;
}

EXPORT int getifaddrs(struct ifaddrs **list)
{
	int router = default_router();
	if (router < 0 && preload_next.getifaddrs != NULL)
		return preload_next.getifaddrs(list);
	*list = NULL;
	struct interfaces *all = router < 0 ? NULL : ask(router);
	if (all == NULL)
		return -1;
	struct item *items = calloc((size_t)(all->count + all->address_count) + 1, sizeof(*items));
	size_t used = 0;
	for (int i = 0; items != NULL && i < all->count; i++)
		fill_item(&all->at[i], NULL, &items[used++]);
	for (int i = 0; items != NULL && i < all->address_count; i++) {
		const struct interface *interface = by_index(all, all->addresses[i].interface);
		if (interface != NULL)
			fill_item(interface, &all->addresses[i], &items[used++]);
	}
	free(all);
	if (items == NULL)
		return -1;
	for (size_t i = 0; i + 1 < used; i++)
		items[i].entry.ifa_next = &items[i + 1].entry;
	if (used > 0)
		*list = &items[0].entry;
	else
		free(items);
	return 0;
}

// --- netdevice(7) ---

static const struct interface_address *first_of(const struct interfaces *all, const struct interface *interface)
{
	for (int i = 0; i < all->address_count; i++)
		if (all->addresses[i].interface == interface->index && all->addresses[i].family == AF_INET)
			return &all->addresses[i];
	return NULL;
}

// SIOCGIFCONF: IPv4 addresses, as many as there is room for; without room, how much is needed.
static void list_addresses(const struct interfaces *all, struct ifconf *list)
{
	int used = 0;
	for (int i = 0; i < all->address_count; i++) {
		const struct interface *interface = by_index(all, all->addresses[i].interface);
		struct item item = {0};
		struct ifreq request = {0};
		if (interface == NULL || all->addresses[i].family != AF_INET)
			continue;
		if (list->ifc_buf != NULL && used + (int)sizeof(request) > list->ifc_len)
			break;
		fill_address(&all->addresses[i], &item);
		memcpy(request.ifr_name, interface->name, IF_NAMESIZE - 1);
		memcpy(&request.ifr_addr, &item.address, sizeof(request.ifr_addr));
		if (list->ifc_buf != NULL)
			memcpy(list->ifc_buf + used, &request, sizeof(request));
		used += (int)sizeof(request);
	}
	list->ifc_len = used;
}

static int tell_address(
	const struct interfaces *all, const struct interface *interface, unsigned long asked, struct ifreq *request)
{
	const struct interface_address *address = first_of(all, interface);
	struct item item = {0};
	if (address == NULL)
		return -EADDRNOTAVAIL;
	fill_address(address, &item);
	memcpy(&request->ifr_addr,
		asked == SIOCGIFADDR          ? &item.address
			: asked == SIOCGIFNETMASK ? &item.mask
									  : &item.broadcast,
		sizeof(request->ifr_addr));
	return 0;
}

static int tell(const struct interfaces *all, unsigned long asked, struct ifreq *request)
{
	request->ifr_name[IF_NAMESIZE - 1] = '\0';
	const struct interface *interface =
		asked == SIOCGIFNAME ? by_index(all, (uint32_t)request->ifr_ifindex) : by_name(all, request->ifr_name);
	if (interface == NULL)
		return -ENODEV;
	switch (asked) {
	case SIOCGIFNAME:
		memcpy(request->ifr_name, interface->name, IF_NAMESIZE - 1);
		return 0;
	case SIOCGIFINDEX:
		request->ifr_ifindex = (int)interface->index;
		return 0;
	case SIOCGIFFLAGS:
		request->ifr_flags = (short)interface->flags;
		return 0;
	case SIOCGIFMTU:
		request->ifr_mtu = (int)interface->mtu;
		return 0;
	case SIOCGIFMETRIC:
		request->ifr_metric = 0;
		return 0;
	case SIOCGIFHWADDR:
		request->ifr_hwaddr.sa_family = interface->flags & IFF_LOOPBACK ? ARPHRD_LOOPBACK : ARPHRD_ETHER;
		memcpy(request->ifr_hwaddr.sa_data, interface->mac, sizeof(interface->mac));
		return 0;
	default:
		return tell_address(all, interface, asked, request);
	}
}

bool preload_interface_ioctl(int router, unsigned long asked, void *argument, int *result)
{
	switch (asked) {
	case SIOCGIFCONF:
	case SIOCGIFNAME:
	case SIOCGIFINDEX:
	case SIOCGIFFLAGS:
	case SIOCGIFMTU:
	case SIOCGIFMETRIC:
	case SIOCGIFHWADDR:
	case SIOCGIFADDR:
	case SIOCGIFNETMASK:
	case SIOCGIFBRDADDR:
		break;
	default:
		return false;
	}
	struct interfaces *all = ask(router);
	if (all == NULL) {
		*result = -errno;
		return true;
	}
	*result = 0;
	if (asked == SIOCGIFCONF)
		list_addresses(all, argument);
	else
		*result = tell(all, asked, argument);
	free(all);
	return true;
}
