// Routing decisions and the choice of source addresses.
//
// A loopback address is no source for what leaves (RFC 1122 section 3.2.1.3, RFC 4291 section 2.5.3).
//
// Source addresses: IPv6 by RFC 6724 section 5, rules 1, 2, 3 (an address that is not past
// duplicate address detection is no candidate), 5, 6 with the default policy table, and 8; the
// other rules are about mobile hosts, addresses by autoconfiguration and temporary ones, which
// a router has not.  IPv4 as Linux does, the address of the egress interface whose subnet holds
// the next hop, else its first one.
#include "forward/neighbor.h"
#include "forward/route.h"

#include <arpa/inet.h>
#include <string.h>

#include "wire/ip4.h"
#include "wire/ip6.h"

static uint32_t address_size(uint8_t family)
{
	return family == FAMILY_IPV4 ? 4 : 16;
}

// The hops of a group, and behind them its backups: written by another process, so checked here and copied by the
// caller.
static const struct nexthop *group_hops(const struct forward *f, uint16_t group, uint32_t *count, uint32_t *backups)
{
	uint64_t at = __atomic_load_n(&view_tables(&f->tables)->groups[group], __ATOMIC_ACQUIRE);
	const struct nexthop_group *set = (const void *)(f->tables.base + at);

	if (at == 0 || !view_range(&f->tables, at, sizeof *set))
		return NULL;
	*count = __atomic_load_n(&set->count, __ATOMIC_RELAXED);
	*backups = __atomic_load_n(&set->backups, __ATOMIC_RELAXED);
	if (*count > MAX_GROUP_HOPS || *backups > MAX_GROUP_HOPS
	    || !view_range(&f->tables, at, sizeof *set + (*count + *backups) * sizeof(struct nexthop)))
		return NULL;
	return set->hops;
}

static bool resolve(const struct forward *f, const struct nexthop *hop, const uint8_t *destination, uint8_t family,
	struct route *route)
{
	route->kind = hop->kind;
	route->out = view_interface(&f->tables, hop->interface);
	route->family = family;
	switch (hop->kind) {
	case NEXTHOP_FORWARD:
		route->family = hop->family;
		memcpy(route->nexthop, hop->via, 16);
		return route->out != NULL && (hop->family == FAMILY_IPV4 || hop->family == FAMILY_IPV6);
	case NEXTHOP_CONNECTED:
		memcpy(route->nexthop, destination, address_size(family));
		return route->out != NULL;
	case NEXTHOP_BROADCAST:
		memset(route->nexthop, 0xff, 4);
		return route->out != NULL && family == FAMILY_IPV4;
	default:
		return hop->kind == NEXTHOP_LOCAL || hop->kind == NEXTHOP_BLACKHOLE || hop->kind == NEXTHOP_UNREACHABLE;
	}
}

static bool usable(const struct forward *f, const struct route *route)
{
	return (route->kind != NEXTHOP_FORWARD && route->kind != NEXTHOP_CONNECTED)
		|| (interface_up(f, route->out) && !neighbor_silent(f, route->out->index, route->family, route->nexthop));
}

// Another one of some hops: on `interface`, or where it is 0 any whose link is up and whose neighbor answers BFD.
static bool hop_among(const struct forward *f, const struct nexthop *hops, uint32_t count, uint16_t interface,
	const uint8_t *destination, uint8_t family, uint32_t hash, struct route *route)
{
	for (uint32_t i = 0; i < count; i++) {
		struct nexthop hop = hops[(hash % count + i) % count];
		struct route other = {.group = route->group};

		if (!resolve(f, &hop, destination, family, &other) || other.out == NULL)
			continue;
		if (interface != 0 ? other.out->index != interface : !usable(f, &other))
			continue;
		*route = other;
		return true;
	}
	return false;
}

// Another hop of the group, else a backup.
static bool other_hop(const struct forward *f, uint16_t interface, const uint8_t *destination, uint8_t family,
	uint32_t hash, struct route *route)
{
	uint32_t count = 0, backups = 0;
	const struct nexthop *hops = group_hops(f, route->group, &count, &backups);

	return hops != NULL && (hop_among(f, hops, count, interface, destination, family, hash, route)
		|| hop_among(f, hops + count, backups, interface, destination, family, hash, route));
}

enum drop_reason route_lookup(const struct forward *f, uint8_t family, const uint8_t *destination, uint32_t hash,
	struct route *route)
{
	const struct nexthop *hop;
	struct nexthop copy;

	*route = (struct route){.group = fib_lookup(&f->tables, family, destination)};
	if (route->group == 0)
		return DROP_NO_ROUTE;
	hop = nexthop_select(&f->tables, route->group, hash);
	if (hop == NULL)
		return DROP_BAD_NEXTHOP;
	copy = *hop;
	if (!resolve(f, &copy, destination, family, route))
		return DROP_BAD_NEXTHOP;
	if (!usable(f, route))
		other_hop(f, 0, destination, family, hash, route);
	return DROP_NONE;
}

static bool leads(const struct forward *f, const struct nexthop *hops, uint32_t count, uint16_t interface, bool *open)
{
	for (uint32_t i = 0; i < count; i++) {
		const struct interface_entry *out = view_interface(&f->tables, hops[i].interface);

		if (hops[i].kind != NEXTHOP_FORWARD && hops[i].kind != NEXTHOP_CONNECTED)
			continue;
		if (interface == 0 || hops[i].interface == interface)
			return true;
		*open |= out != NULL && interface_up(f, out)
			&& (hops[i].kind == NEXTHOP_CONNECTED || !neighbor_silent(f, out->index, hops[i].family, hops[i].via));
	}
	return false;
}

bool route_leads(const struct forward *f, uint16_t group, uint16_t interface)
{
	uint32_t count = 0, backups = 0;
	const struct nexthop *hops = group == 0 ? NULL : group_hops(f, group, &count, &backups);
	bool open = false;

	return hops != NULL && (leads(f, hops, count, interface, &open)
		|| (!open && leads(f, hops + count, backups, interface, &open)));
}

static void on_link(const struct interface_entry *out, uint8_t family, const uint8_t *destination, struct route *route)
{
	*route = (struct route){.kind = NEXTHOP_CONNECTED, .family = family, .out = out};
	memcpy(route->nexthop, destination, address_size(family));
}

// IPv6 link-local addresses and groups mean something on one interface only.
static enum drop_reason route_scoped(const struct forward *f, uint8_t family, const uint8_t *destination,
	uint16_t interface, struct route *route)
{
	const struct interface_entry *out = view_interface(&f->tables, interface);
	const struct address_entry *own = view_address(&f->tables, family, destination, interface);

	if (own != NULL) {
		*route = (struct route){.kind = NEXTHOP_LOCAL, .family = family};
		route->out = view_interface(&f->tables, own->interface);
		return DROP_NONE;
	}
	if (out == NULL)
		return DROP_NO_ROUTE;
	on_link(out, family, destination, route);
	return DROP_NONE;
}

static bool is_group(uint8_t family, const uint8_t *destination)
{
	if (family == FAMILY_IPV6)
		return ip6_is_multicast(destination);
	return ip4_is_multicast(destination) || ip4_is_limited_broadcast(destination);
}

// As Linux does for a socket that is bound to a device: by a route over that interface, else
// the destination is taken to be on its link.
static enum drop_reason route_pinned(const struct forward *f, uint8_t family, const uint8_t *destination,
	uint16_t interface, uint32_t hash, struct route *route)
{
	const struct interface_entry *out = view_interface(&f->tables, interface);

	if (out == NULL)
		return DROP_NO_ROUTE;
	if (route->group != 0 && other_hop(f, interface, destination, family, hash, route))
		return DROP_NONE;
	on_link(out, family, destination, route);
	return DROP_NONE;
}

enum drop_reason route_output(const struct forward *f, uint8_t family, const uint8_t *destination, uint16_t interface,
	uint32_t hash, struct route *route)
{
	bool group = is_group(family, destination);
	enum drop_reason reason;

	if ((group && interface != 0) || (family == FAMILY_IPV6 && ip6_is_link_local(destination)))
		return route_scoped(f, family, destination, interface, route);
	reason = route_lookup(f, family, destination, hash, route);
	// What is not to be sent at all has no interface.
	if (reason == DROP_NONE && (route->out == NULL || route->kind == NEXTHOP_LOCAL || route->out->index == interface))
		return DROP_NONE;
	if (interface != 0)
		return route_pinned(f, family, destination, interface, hash, route);
	if (reason == DROP_NONE && group)
		on_link(route->out, family, destination, route);
	return reason;
}

void header_trace(struct forward *f, const struct packet *packet, uint8_t family, const uint8_t *source,
	const uint8_t *destination, uint8_t ttl, uint8_t protocol)
{
	int inet = family == FAMILY_IPV4 ? AF_INET : AF_INET6;
	char from[INET6_ADDRSTRLEN] = "", to[INET6_ADDRSTRLEN] = "";

	if (!packet_traced(packet))
		return;
	inet_ntop(inet, source, from, sizeof from);
	inet_ntop(inet, destination, to, sizeof to);
	forward_trace(f, packet, family == FAMILY_IPV4 ? "ip4" : "ip6", "%s > %s, ttl %u, protocol %u", from, to, ttl,
		protocol);
}

void route_trace(struct forward *f, const struct packet *packet, const struct route *route)
{
	static const char *const kinds[] = {
		"none", "forward", "connected", "local", "broadcast", "blackhole", "unreachable"
	};
	char text[INET6_ADDRSTRLEN] = "";

	if (!packet_traced(packet))
		return;
	if (route->kind == NEXTHOP_FORWARD)
		inet_ntop(route->family == FAMILY_IPV4 ? AF_INET : AF_INET6, route->nexthop, text, sizeof text);
	forward_trace(f, packet, "fib", "group %u, %s%s%s%s%s", route->group, kinds[route->kind],
		text[0] != '\0' ? " via " : "", text, route->out != NULL ? " on " : "", route->out != NULL
			? route->out->name : "");
}

uint32_t ip_path_mtu(const struct forward *f, uint8_t family, const uint8_t *destination, uint16_t interface)
{
	struct route route;

	if (route_output(f, family, destination, interface, 0, &route) != DROP_NONE)
		return 0;
	if (route.kind == NEXTHOP_LOCAL)
		return UINT16_MAX;
	return route.out != NULL ? route.out->mtu : 0;
}

static uint32_t common_prefix(const uint8_t *a, const uint8_t *b, uint32_t limit)
{
	uint32_t bits = 0;

	while (bits < limit && ((a[bits / 8] ^ b[bits / 8]) & (0x80 >> bits % 8)) == 0)
		bits++;
	return bits;
}

static bool source_ip4(const struct forward *f, const struct route *route, uint8_t *source)
{
	const struct address_entry *best = NULL;
	int best_rank = 0;

	for (uint32_t i = 0; i < f->tables.address_count; i++) {
		const struct address_entry *entry = &f->tables.addresses[i];
		int rank = 1;

		if (entry->family != FAMILY_IPV4 || ip4_is_loopback(entry->address)
		    || !address_usable(f, FAMILY_IPV4, entry->address, entry->interface))
			continue;
		if (entry->interface == route->out->index) {
			bool covers = route->family == FAMILY_IPV4
				&& common_prefix(entry->address, route->nexthop, entry->length) == entry->length;
			rank = covers ? 3 : 2;
		}
		if (rank > best_rank) {
			best = entry;
			best_rank = rank;
		}
	}
	if (best != NULL)
		memcpy(source, best->address, 4);
	return best != NULL;
}

// RFC 4291 section 2.7 numbers; unique local addresses are global here (RFC 6724 section 3.1).
static uint32_t scope_of(const uint8_t *address)
{
	if (ip6_is_multicast(address))
		return ip6_multicast_scope(address);
	if (address[0] == 0xfe && (address[1] & 0xc0) == 0xc0)
		return 5; // site-local: deprecated (RFC 3879), but it has its scope
	return ip6_is_link_local(address) || ip6_is_loopback(address) ? 2 : 14;
}

// The labels of RFC 6724 section 2.1, most specific prefix first.
static uint32_t label_of(const uint8_t *address)
{
	static const struct {
		uint8_t prefix[16];
		uint8_t length;
		uint8_t label;
	} policies[] = {
		{{[15] = 1}, 128, 0},
		{{[10] = 0xff, [11] = 0xff}, 96, 4},
		{{0}, 96, 3},
		{{0x20, 1}, 32, 5},
		{{0x20, 2}, 16, 2},
		{{0x3f, 0xfe}, 16, 12},
		{{0xfe, 0xc0}, 10, 11},
		{{0xfc}, 7, 13},
	};

	for (unsigned i = 0; i < sizeof policies / sizeof policies[0]; i++) {
		if (common_prefix(address, policies[i].prefix, policies[i].length) == policies[i].length)
			return policies[i].label;
	}
	return 1;
}

// Is candidate a better than b?
static bool better_ip6(const struct address_entry *a, const struct address_entry *b, const uint8_t *destination,
	uint16_t out)
{
	uint32_t scope_a = scope_of(a->address), scope_b = scope_of(b->address), scope = scope_of(destination);
	uint32_t match_a, match_b;

	if (memcmp(a->address, destination, 16) == 0 || memcmp(b->address, destination, 16) == 0) // rule 1
		return memcmp(b->address, destination, 16) != 0;
	if (scope_a != scope_b) // rule 2
		return scope_a < scope_b ? scope_a >= scope : scope_b < scope;
	if ((a->interface == out) != (b->interface == out)) // rule 5
		return a->interface == out;
	bool label_a = label_of(a->address) == label_of(destination);
	bool label_b = label_of(b->address) == label_of(destination);
	if (label_a != label_b) // rule 6
		return label_a;
	match_a = common_prefix(a->address, destination, a->length);
	match_b = common_prefix(b->address, destination, b->length);
	return match_a > match_b; // rule 8
}

static bool source_ip6(const struct forward *f, const struct route *route, const uint8_t *destination, uint8_t *source)
{
	const struct address_entry *best = NULL;
	bool here_only = ip6_is_multicast(destination) || ip6_is_link_local(destination);

	for (uint32_t i = 0; i < f->tables.address_count; i++) {
		const struct address_entry *entry = &f->tables.addresses[i];
		bool here = entry->interface == route->out->index;

		// RFC 6724 section 4: a scope is tied to its link.
		if (entry->family != FAMILY_IPV6 || (!here && (here_only || ip6_is_link_local(entry->address))))
			continue;
		if (ip6_is_loopback(entry->address) || !address_usable(f, FAMILY_IPV6, entry->address, entry->interface))
			continue;
		if (best == NULL || better_ip6(entry, best, destination, route->out->index))
			best = entry;
	}
	if (best != NULL)
		memcpy(source, best->address, 16);
	return best != NULL;
}

bool ip_source(struct forward *f, uint8_t family, const uint8_t *destination, uint16_t interface, uint8_t *source,
	uint16_t *egress)
{
	struct route route;

	if (route_output(f, family, destination, interface, 0, &route) != DROP_NONE)
		return false;
	if (route.kind == NEXTHOP_LOCAL) {
		*egress = route.out != NULL ? route.out->index : 0;
		memcpy(source, destination, address_size(family));
		return true;
	}
	if (route.out == NULL)
		return false;
	*egress = route.out->index;
	return family == FAMILY_IPV4 ? source_ip4(f, &route, source) : source_ip6(f, &route, destination, source);
}
