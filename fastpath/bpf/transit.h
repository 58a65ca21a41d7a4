// What a program of the offload makes of a frame: is it plain transit, where does it go, its new header, its counts.
//
//   ours, untagged, IPv4 or IPv6 without options -> longest prefix match -> next hop by the flow hash -> neighbor
//     -> TTL, checksum, MAC addresses
//
// What a group of one next hop leads to is remembered: a ready link header, as long as no group, interface or neighbor
// has changed.  Each processor and port has a memory of its own.
//
// A packet is forwarded by a program only if forward/ip4.c or ip6.c would forward it, and leaves as it would leave there
// (RFC 1812 section 5.2, RFC 8200): what is not certain goes on.  Its maps: abi/bypass.h.
//
// A frame of a veth may lack its checksum, which the sender left to a device (CHECKSUM_PARTIAL); XDP loses that.  The
// field then holds the sum of the pseudo-header: such packets go on as well, and with them all that may carry such a
// packet inside.
#ifndef BPF_TRANSIT_H
#define BPF_TRANSIT_H

#include "bypass_fib.h"
#include "table/bypass.h"

enum {
	ETHERNET = 14, IP4 = 20, IP6 = 40,
	TYPE_IP4 = 0x0008, TYPE_IP6 = 0xdd86, // as they lie in memory
	ICMP = 1, TCP = 6, UDP = 17, DCCP = 33, ICMP6 = 58, SCTP = 132, UDPLITE = 136,
	TCP_CHECKSUM = 16, UDP_CHECKSUM = 6,
	VXLAN = 4789, VXLAN_LINUX = 8472, GENEVE = 6081,
	MIN_MTU_IP6 = 1280
};

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "network order is the other one");

struct map SECTION("maps") links = {MAP_ARRAY, sizeof(uint32_t), 0, 1, MAP_MMAPABLE};
struct map SECTION("maps") fib = {MAP_ARRAY, sizeof(uint32_t), 0, 1, MAP_MMAPABLE};
// To be mapped by nobody; but the value then begins at a page, and so each entry at a line of the cache.
struct map SECTION("maps") memory = {MAP_ARRAY, sizeof(uint32_t), 0, 1, MAP_MMAPABLE};

MAP_VALUE(links);
MAP_VALUE(memory);
CONSTANT(port);       // whose frames these are
CONSTANT(processors); // with a place in struct bypass_links
CONSTANT(partial);    // 1: checksums may be left to a device

#define MEMORY ((struct bypass_memory *)(void *)value_memory)

// What is known of a packet, and what becomes of it.
struct transit {
	uint8_t *data;
	uint8_t *end;           // of what can be read
	uint32_t frame;         // bytes of it all
	uint32_t unit;          // of a super-frame, its largest IP packet; 0: it is none
	const struct bypass_port *in;
	struct bypass_memory *memory;
	uint64_t header;        // that it leaves with, as in struct bypass_adjacency
	uint32_t header_end;
	uint32_t port;          // that it leaves by
	uint32_t processor;     // that we are on
	uint64_t now;
	uint32_t length;        // of the IP packet
	uint32_t ingress, egress; // interfaces
	uint32_t family;
	uint32_t protocol;
	uint32_t whole;         // no fragment
};

_Static_assert(__builtin_offsetof(struct bypass_port, mac) % 8 == 2
	&& __builtin_offsetof(struct bypass_port, interface) % 8 == 0, "one word");

#define LINKS ((struct bypass_links *)(void *)value_links)
#define FIB ((struct bypass_fib *)(void *)value_fib)

// Numbers at any address.  Where the processor is no good at it, they are put together of bytes.
#ifdef UNALIGNED_LOADS
#define AT_ANY __attribute__((may_alias))
#else
#define AT_ANY __attribute__((packed, may_alias))
#endif
struct AT_ANY u16_at { uint16_t value; };
struct AT_ANY u32_at { uint32_t value; };
struct AT_ANY u64_at { uint64_t value; };
#define U16(at) (((struct u16_at *)(void *)(at))->value)
#define U32(at) (((struct u32_at *)(void *)(at))->value)
#define U64(at) (((struct u64_at *)(void *)(at))->value)

// A processor that lets loads pass each other needs more than the compiler's order.
INLINE void ordered(void)
{
#ifdef ORDERED_LOADS
	__asm__ volatile("" ::: "memory");
#else
	uint64_t word = 0;
	__sync_lock_test_and_set((volatile uint64_t *)&word, 1);
#endif
}

// A sum of at most eight words of 32 bits as one of their halves, below 0x3fffe: congruent modulo 0xffff.
INLINE uint32_t halves(uint64_t sum)
{
	return (uint32_t)((sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32));
}

INLINE int has_ports(uint32_t protocol)
{
	return protocol == TCP || protocol == UDP || protocol == SCTP || protocol == DCCP || protocol == UDPLITE;
}

INLINE int is_tunnel(uint16_t port)
{
	return port == __builtin_bswap16(VXLAN) || port == __builtin_bswap16(VXLAN_LINUX)
		|| port == __builtin_bswap16(GENEVE);
}

// Could the checksum of this packet, or of one inside, be unfinished?  `sum` is that of the addresses.
INLINE int maybe_partial(const struct transit *t, uint32_t header, uint32_t protocol, uint64_t sum)
{
	const uint8_t *transport = t->data + ETHERNET + header;
	uint32_t length = t->length - header;
	uint32_t found, difference;

	if (VALUE(partial) == 0 || protocol == ICMP || protocol == ICMP6)
		return 0;
	if (protocol == TCP) {
		if (transport + TCP_CHECKSUM + 2 > t->end || length < TCP_CHECKSUM + 2)
			return 1;
		found = U16(transport + TCP_CHECKSUM);
	} else if (protocol == UDP) {
		if (transport + UDP_CHECKSUM + 2 > t->end || length < UDP_CHECKSUM + 2 || is_tunnel(U16(transport + 2)))
			return 1;
		found = U16(transport + UDP_CHECKSUM);
	} else {
		return 1;
	}
	// A sum that is not all zeros is not folded to zero.
	difference = halves(sum + __builtin_bswap16((uint16_t)length) + (protocol << 8)) - found;
	return found != 0 && (difference == 0 || difference == 0xffff || difference == 0x1fffe);
}

// Multicast, broadcast, loopback and 0.0.0.0/8: the slow path has much to say of them.
INLINE int is_special(uint32_t address)
{
	uint32_t first = address & 0xff;

	return first - 1 >= 223 || first == 127;
}

// Of the IPv4 packet, its group; 0: it goes on.
INLINE uint32_t route_ip4(struct transit *t)
{
	const uint8_t *ip = t->data + ETHERNET;
	uint32_t first, second, third, source, destination, bit, sum;

	if (ip + IP4 > t->end)
		return 0;
	first = U32(ip); // version, header length, TOS, length
	third = U32(ip + 8); // TTL, protocol, checksum
	if ((first & 0xff) != 0x45 || (third & 0xfe) == 0)
		return 0;
	t->length = __builtin_bswap16((uint16_t)(first >> 16));
	if (t->length < IP4 || t->length > t->frame - ETHERNET)
		return 0;
	second = U32(ip + 4); // identification, fragment
	source = U32(ip + 12);
	destination = U32(ip + 16);
	sum = halves((uint64_t)first + second + third + source + destination);
	if ((sum != 0xffff && sum != 0x1fffe) || is_special(source) || is_special(destination))
		return 0;
	bit = bypass_source_bit(source);
	if (ONCE(LINKS->sources[bit / 64 & (BYPASS_SOURCES / 64 - 1)]) >> (bit & 63) & 1)
		return 0;
	t->protocol = third >> 8 & 0xff;
	t->whole = (second & 0xff3f0000) == 0; // no fragment
	if (t->whole && maybe_partial(t, IP4, t->protocol, (uint64_t)source + destination))
		return 0;
	return fib_lookup(0, (uint64_t)__builtin_bswap32(destination) << 32, 0, STEPS_IP4);
}

INLINE uint32_t route_ip6(struct transit *t)
{
	const uint8_t *ip = t->data + ETHERNET;
	uint64_t source, source_low, first, second, sum;

	if (ip + IP6 > t->end || ip[0] >> 4 != 6 || ip[7] <= 1)
		return 0;
	t->length = IP6 + (uint32_t)__builtin_bswap16(U16(ip + 4));
	if (t->length > t->frame - ETHERNET)
		return 0;
	t->protocol = ip[6];
	t->whole = 1;
	if (t->protocol == 0 || t->protocol == 43 || t->protocol == 44 || t->protocol == 60) // extension headers
		return 0;
	source = U64(ip + 8);
	source_low = U64(ip + 16);
	first = U64(ip + 24);
	second = U64(ip + 32);
	// Multicast, link-local, and ::/64 with what has a meaning of its own.
	if (ip[8] == 0xff || ip[24] == 0xff || source == 0 || first == 0)
		return 0;
	if ((U16(ip + 8) & 0xc0ff) == 0x80fe || (U16(ip + 24) & 0xc0ff) == 0x80fe)
		return 0;
	sum = (source >> 32) + (uint32_t)source + (source_low >> 32) + (uint32_t)source_low + (first >> 32)
		+ (uint32_t)first + (second >> 32) + (uint32_t)second;
	if (maybe_partial(t, IP6, t->protocol, sum))
		return 0;
	return fib_lookup(1, __builtin_bswap64(first), __builtin_bswap64(second), STEPS_IP6);
}

// An IP packet whose next hop has to be found, as far as it can be read.
struct flow {
	const uint8_t *ip;
	const uint8_t *end;
	uint32_t family;
};

// forward/flow.c: source and destination port as one number.
INLINE uint64_t ports_of(const struct flow *flow, uint32_t header, uint32_t length, uint32_t protocol, int *failed)
{
	const uint8_t *transport = flow->ip + header;

	if (!has_ports(protocol) || length < header + 4)
		return 0;
	if (transport + 4 > flow->end) {
		*failed = 1;
		return 0;
	}
	return __builtin_bswap32(U32(transport));
}

INLINE uint32_t flow_hash(const struct flow *flow, int *failed)
{
	const uint8_t *ip = flow->ip;
	uint64_t hash = LINKS->hash_key[0], last;

	if (flow->family == FAMILY_IPV4) {
		uint32_t whole = (U16(ip + 6) & 0xff3f) == 0; // no fragment

		hash = hash_step(hash, (uint64_t)U32(ip + 16) << 32 | U32(ip + 12));
		last = whole ? ports_of(flow, IP4, __builtin_bswap16(U16(ip + 2)), ip[9], failed) << 8 : 0;
		last |= ip[9];
	} else if (ip + IP6 <= flow->end) {
		uint32_t label = __builtin_bswap32(U32(ip)) & 0xfffff, length = IP6 + (uint32_t)__builtin_bswap16(U16(ip + 4));

		hash = hash_step(hash_step(hash, U64(ip + 8)), U64(ip + 16));
		hash = hash_step(hash_step(hash, U64(ip + 24)), U64(ip + 32));
		last = label != 0 ? label : ports_of(flow, IP6, length, ip[6], failed) << 8 | ip[6];
	} else {
		*failed = 1;
		return 0;
	}
	return hash_end(hash_step(hash, last), LINKS->hash_key[1]);
}

enum { ONLY = 1 }; // added to the offset of a hop that is the group's only one

// Where the hop of a group lies that the flow's hash picks; 0: there is none.
APART uint64_t choose(const uint8_t *ip, const uint8_t *end, uint32_t group, uint32_t family)
{
	struct flow flow = {.ip = ip, .end = end, .family = family};
	uint64_t offset = ONCE(FIB->tables.groups[group & (MAX_GROUPS - 1)]), at;
	const struct nexthop_group *set;
	uint32_t count, point;
	int failed = 0;

	OPAQUE(offset);
	if (offset == 0 || FIB_ENDS(offset, sizeof(*set) + sizeof(struct nexthop)) || ip + IP4 > end)
		return 0;
	set = FIB_AT(offset);
	at = offset + sizeof(*set);
	count = set->count;
	if (count == 1)
		return at | ONLY;
	if (count > MAX_GROUP_HOPS)
		return 0;
	point = nexthop_point(flow_hash(&flow, &failed), set->total_weight);
	if (failed)
		return 0;
#pragma clang loop unroll(disable)
	for (uint32_t i = 0; i < MAX_GROUP_HOPS; i++, at += sizeof(struct nexthop)) {
		const struct nexthop *hop;

		if (i >= count)
			return 0;
		OPAQUE(at);
		if (FIB_ENDS(at, sizeof(*hop)))
			return 0;
		hop = FIB_AT(at);
		if (point < hop->weight_end)
			return at;
	}
	return 0;
}

// The place of a neighbor, and its link address; 0: not known.  It is looked at before and after the rest, which
// changes only while it is 0.
INLINE uint64_t neighbor(uint32_t interface, uint32_t family, uint64_t first, uint64_t second, uint32_t *where)
{
	uint32_t place = bypass_place(LINKS->neighbor_key, interface, family, first, second);

#pragma clang loop unroll(disable)
	for (uint32_t i = 0; i < BYPASS_WINDOW; i++) {
		struct bypass_neighbor *entry = &LINKS->neighbors[(place + i) & (BYPASS_NEIGHBORS - 1)];
		uint64_t link = ONCE(entry->link);

		ordered();
		if ((link & BYPASS_LINK_VALID) == 0 || U64(entry->address) != first || U64(entry->address + 8) != second
		    || entry->interface != interface || entry->family != family)
			continue;
		ordered();
		*where = (place + i) & (BYPASS_NEIGHBORS - 1);
		return ONCE(entry->link) == link ? link & ~BYPASS_LINK_VALID : 0;
	}
	return 0;
}

// What the packet's group leads to.  It is to be remembered if it is the only hop, whatever the packet; of others
// `group` is 0.
INLINE int find(const struct transit *t, uint32_t group, struct bypass_adjacency *found)
{
	const uint8_t *ip = t->data + ETHERNET;
	uint64_t offset = choose(ip, t->end, group, t->family), first, second = 0, link, mac;
	uint32_t only = offset & ONLY, family = t->family;
	const struct bypass_interface *out;
	const struct nexthop *hop;

	found->group = 0;
	offset &= ~(uint64_t)ONLY;
	OPAQUE(offset);
	if (offset == 0 || FIB_ENDS(offset, sizeof(*hop)))
		return 0;
	hop = FIB_AT(offset);
	if (hop->kind == NEXTHOP_FORWARD) {
		first = U64(hop->via);
		second = U64(hop->via + 8);
		family = hop->family;
	} else if (hop->kind != NEXTHOP_CONNECTED) {
		return 0;
	} else if (family == FAMILY_IPV4) {
		first = U32(ip + 16);
		only = 0;
	} else {
		first = U64(ip + 24);
		second = U64(ip + 32);
		only = 0;
	}
	found->egress = hop->interface & (MAX_INTERFACES - 1);
	link = neighbor(hop->interface & (MAX_INTERFACES - 1), family, first, second, &found->neighbor);
	out = &LINKS->interfaces[hop->interface & (MAX_INTERFACES - 1)];
	found->port = ONCE(out->port);
	ordered();
	found->mtu = out->mtu;
	mac = (uint64_t)U16(out->mac + 4) << 32 | U32(out->mac);
	ordered();
	if (link == 0 || (found->port & UINT16_MAX) == 0 || ONCE(out->port) != found->port)
		return 0;
	found->header = link | mac << 48;
	found->header_end = (uint32_t)(mac >> 16);
	found->used_ns = 0;
	found->group = only ? group : 0;
	return 1;
}

// The same, with what it depends on.
INLINE int recall(const struct transit *t, uint32_t group, struct bypass_adjacency *known)
{
	uint64_t routes = ONCE(FIB->changes), changes = ONCE(LINKS->changes);

	ordered();
	if (!find(t, group, known))
		return 0;
	if (routes == 0 || changes >> 32 != (uint32_t)ONCE(LINKS->attaches))
		known->group = 0; // nobody tells of changes
	known->routes = routes;
	known->links = changes;
	return 1;
}

// Where the packet goes: false, and it goes on.
INLINE int resolve(struct transit *t, uint32_t group)
{
	struct bypass_adjacency *known = &t->memory->adjacencies[group & (BYPASS_ADJACENCIES - 1)];
	uint64_t changes = ONCE(LINKS->changes);
	uint32_t unit = t->unit != 0 && t->unit < t->length ? t->unit : t->length;

	OPAQUE(known);
	if (known->group != group || known->routes != ONCE(FIB->changes) || known->links != changes
	    || changes >> 32 != (uint32_t)ONCE(LINKS->attaches)) {
		if (!recall(t, group, known))
			return 0;
	}
	if (unit > known->mtu || (t->family == FAMILY_IPV6 && known->mtu < MIN_MTU_IP6))
		return 0;
	t->egress = known->egress & (MAX_INTERFACES - 1);
	t->port = known->port;
	t->header = known->header;
	t->header_end = known->header_end;
	if (known->used_ns != t->now) {
		known->used_ns = t->now;
		LINKS->neighbors[known->neighbor & (BYPASS_NEIGHBORS - 1)].used_ns = t->now;
	}
	return 1;
}

// The header that it leaves with.
INLINE void rewrite(struct transit *t)
{
	uint8_t *data = t->data, *ip = data + ETHERNET;

	U64(data) = t->header;
	U32(data + 8) = t->header_end;
	if (t->family == FAMILY_IPV4) {
		// RFC 1624: the TTL shares its word with the protocol, and the sum grows by what the word loses.
		uint32_t before = U32(ip + 8), sum = (before >> 16) + 1;

		U32(ip + 8) = (before - 1 & 0xffff) | (sum + (sum >= 0xffff)) << 16;
	} else {
		ip[7]--;
	}
}

INLINE void count(const struct transit *t, uint32_t received, uint32_t sent)
{
	struct bypass_processor *own = &LINKS->processors[t->processor];

	own->counts[t->ingress].rx_packets++;
	own->counts[t->ingress].rx_bytes += received;
	own->counts[t->egress].tx_packets++;
	own->counts[t->egress].tx_bytes += sent;
}

// Both clocks go on together, but one of them costs a load.
INLINE uint64_t clock(struct bypass_memory *own)
{
	uint64_t tick = ticks();

	if (own->tick != tick) {
		own->now_ns = coarse_clock();
		own->tick = tick;
	}
	return own->now_ns;
}

// Where a frame goes that came by t->in: true, and it may have its new header.
INLINE int transit(struct transit *t)
{
	uint64_t ours, by; // MAC addresses
	uint32_t group;

	if (t->data + ETHERNET + IP4 > t->end)
		return 0;
	t->memory = &MEMORY[t->processor];
	t->now = clock(t->memory);
	if (t->now >= ONCE(t->in->until_ns))
		return 0;
	ordered();
	ours = ONCE(*(const uint64_t *)(const void *)&t->in->interface);
	t->ingress = ours & (MAX_INTERFACES - 1);
	ours >>= 16;
	if (U64(t->data) << 16 != ours << 16)
		return 0;
	// A source that no frame can have: a group, none, or ourselves.
	by = U64(t->data + 4) >> 16;
	if ((by & 1) != 0 || by == 0 || by == ours)
		return 0;
	if (U16(t->data + 12) == TYPE_IP4) {
		t->family = FAMILY_IPV4;
		group = route_ip4(t);
	} else if (U16(t->data + 12) == TYPE_IP6) {
		t->family = FAMILY_IPV6;
		group = route_ip6(t);
	} else {
		return 0;
	}
	return group != 0 && resolve(t, group);
}

// Announce that routes are read, by the processor that the number belongs to; true where there are any.  What is followed
// from here on is not given back before read_end.
//
// The announcement may still wait in the processor when the first of what it announces is read.  A barrier would cost
// more than all the rest; so the writer waits instead, until no processor can be holding back a store (mirror.c).
// Where loads pass loads there has to be one, and it is for both.
INLINE int read_begin(uint32_t processor)
{
	volatile uint64_t *epoch = &FIB->readers[processor].epoch;

#ifdef ORDERED_LOADS
	*epoch = ONCE(FIB->tables.epoch);
#else
	__sync_lock_test_and_set(epoch, ONCE(FIB->tables.epoch));
#endif
	ordered();
	return ONCE(FIB->ready) == 1;
}

INLINE void read_end(uint32_t processor)
{
	ordered();
	*(volatile uint64_t *)&FIB->readers[processor].epoch = 0;
}

#endif
