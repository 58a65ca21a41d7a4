// Multicast groups that apps have joined, with their source filters (RFC 1112 section 6.1,
// RFC 3493 section 5.2, RFC 3678, RFC 3376 sections 3.1 and 3.2).
//
//   socket option -> membership of the socket -+-> membership_accepts: what it is given
//                                              +-> membership_merge: what routers are told
//
// Memberships and their sources lie in the state segment, the lists through them are private
// and rebuilt by membership_attach.  A membership of a group excludes the sources of its
// list, or includes them alone; errors are those of Linux.
#include "host/internal.h"

#include <errno.h>
#include "host/listener.h"

// What one user may take of a table that all of a VR's users share.
enum { SOURCES_PER_USER = MAX_MEMBERSHIP_SOURCES / 4 };

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

// The first membership of a group from list position `at` on; 0 at the end, else number + 1.
static uint32_t join_seek(const struct host *host, uint32_t at, uint16_t interface, uint8_t family, const uint8_t *group)
{
	for (; at != 0; at = host->join_next[at - 1]) {
		const struct socket_membership *m = join_at(host, at - 1);
		if (m->interface == interface && m->family == family && address_equal(m->group, group))
			return at;
	}
	return 0;
}

static uint32_t join_first(const struct host *host, uint16_t interface, uint8_t family, const uint8_t *group)
{
	return join_seek(host, host->join_heads[join_bucket(interface, family, group)], interface, family, group);
}

bool host_group_joined(const struct host *host, uint16_t interface, uint8_t family, const uint8_t *group)
{
	uint8_t plain[16] = {0};
	memcpy(plain, group, family == FAMILY_IPV4 ? 4 : 16);
	return join_first(host, interface, family, plain) != 0;
}

// --- the sources of a membership ---

static const uint8_t *source_address(const struct host *host, uint16_t at)
{
	return host->state->membership_sources[at - 1].address;
}

static void source_list(struct host *host, uint32_t number, uint32_t place)
{
	host->source_next[place] = host->source_heads[number];
	host->source_heads[number] = (uint16_t)(place + 1);
}

// Where in its list a source stands; NULL: nowhere.
static uint16_t *source_find(struct host *host, uint32_t number, const uint8_t *source)
{
	for (uint16_t *at = &host->source_heads[number]; *at != 0; at = &host->source_next[*at - 1])
		if (address_equal(source_address(host, *at), source))
			return at;
	return NULL;
}

static bool source_in(const struct host *host, uint32_t number, const uint8_t *source)
{
	for (uint16_t at = host->source_heads[number]; at != 0; at = host->source_next[at - 1])
		if (address_equal(source_address(host, at), source))
			return true;
	return false;
}

static uint32_t source_count(const struct host *host, uint32_t number)
{
	uint32_t count = 0;
	for (uint16_t at = host->source_heads[number]; at != 0; at = host->source_next[at - 1])
		count++;
	return count;
}

static uint32_t sources_used(const struct host *host)
{
	uint64_t used = host->state->membership_sources_used;
	return used < MAX_MEMBERSHIP_SOURCES ? (uint32_t)used : MAX_MEMBERSHIP_SOURCES;
}

// May the user of this membership take `more` places, and are they there?
static bool sources_left(const struct host *host, uint32_t number, uint32_t more)
{
	uint32_t uid = host->state->sockets[number / SOCKET_MEMBERSHIPS].uid;
	uint32_t taken = 0;
	uint32_t of_user = 0;
	for (uint32_t place = 0; place < sources_used(host); place++) {
		uint32_t owner = host->state->membership_sources[place].membership;
		if (owner == 0 || owner > MAX_SOCKETS * SOCKET_MEMBERSHIPS)
			continue;
		taken++;
		of_user += host->state->sockets[(owner - 1) / SOCKET_MEMBERSHIPS].uid == uid;
	}
	return taken + more <= MAX_MEMBERSHIP_SOURCES && (uid == 0 || of_user + more <= SOURCES_PER_USER);
}

// sources_left said that there is a place.
static void source_add(struct host *host, uint32_t number, const uint8_t *source)
{
	struct state_segment *state = host->state;
	while (host->source_hint < MAX_MEMBERSHIP_SOURCES && state->membership_sources[host->source_hint].membership != 0)
		host->source_hint++;
	if (host->source_hint == MAX_MEMBERSHIP_SOURCES)
		return;
	uint32_t place = host->source_hint++;
	if (state->membership_sources_used <= place)
		__atomic_store_n(&state->membership_sources_used, place + 1, __ATOMIC_RELEASE);
	memcpy(state->membership_sources[place].address, source, 16);
	__atomic_store_n(&state->membership_sources[place].membership, number + 1, __ATOMIC_RELEASE);
	source_list(host, number, place);
}

static void source_remove(struct host *host, uint16_t *at)
{
	uint32_t place = *at - 1u;
	*at = host->source_next[place];
	__atomic_store_n(&host->state->membership_sources[place].membership, 0, __ATOMIC_RELEASE);
	if (place < host->source_hint)
		host->source_hint = place;
}

static void sources_clear(struct host *host, uint32_t number)
{
	while (host->source_heads[number] != 0)
		source_remove(host, &host->source_heads[number]);
}

// --- what a socket is given, and what an interface wants ---

bool membership_accepts(const struct host *host, uint32_t slot, const struct flow *flow)
{
	const struct socket_entry *entry = &host->state->sockets[slot];
	for (uint32_t i = 0; i < SOCKET_MEMBERSHIPS; i++) {
		const struct socket_membership *m = &entry->memberships[i];
		if (m->family == flow->family && m->interface == flow->interface && address_equal(m->group, flow->local))
			return source_in(host, slot * SOCKET_MEMBERSHIPS + i, flow->remote) == (m->mode == MEMBERSHIP_INCLUDE);
	}
	return !(entry->multicast_only & (flow->family == FAMILY_IPV4 ? MULTICAST_ONLY4 : MULTICAST_ONLY6));
}

static int filter_find(const struct source_filter *filter, const uint8_t *source)
{
	for (int i = 0; i < filter->count; i++)
		if (address_equal(filter->sources[i], source))
			return i;
	return -1;
}

static void filter_remove(struct source_filter *filter, int i)
{
	memcpy(filter->sources[i], filter->sources[--filter->count], 16);
}

// One more member that excludes: what remains is what all exclude.
static void filter_intersect(const struct host *host, struct source_filter *filter, uint32_t number)
{
	for (int i = filter->count - 1; i >= 0; i--)
		if (!source_in(host, number, filter->sources[i]))
			filter_remove(filter, i);
}

// One more member that includes: it takes from what is excluded, or adds to what is included.
// An interface that cannot list all of them wants everything.
static void filter_unite(const struct host *host, struct source_filter *filter, uint32_t number)
{
	for (uint16_t at = host->source_heads[number]; at != 0; at = host->source_next[at - 1]) {
		int known = filter_find(filter, source_address(host, at));
		if (filter->mode == MEMBERSHIP_EXCLUDE && known >= 0) {
			filter_remove(filter, known);
		} else if (filter->mode == MEMBERSHIP_INCLUDE && known < 0) {
			if (filter->count == MEMBERSHIP_SOURCES) {
				*filter = (struct source_filter){.mode = MEMBERSHIP_EXCLUDE};
				return;
			}
			memcpy(filter->sources[filter->count++], source_address(host, at), 16);
		}
	}
}

void membership_merge(const struct host *host, uint8_t family, uint16_t interface, const uint8_t *group, struct source_filter *filter)
{
	uint32_t first = join_first(host, interface, family, group);
	*filter = (struct source_filter){.mode = MEMBERSHIP_INCLUDE};
	for (uint32_t at = first; at != 0; at = join_seek(host, host->join_next[at - 1], interface, family, group)) {
		if (join_at(host, at - 1)->mode != MEMBERSHIP_EXCLUDE)
			continue;
		if (filter->mode == MEMBERSHIP_EXCLUDE) {
			filter_intersect(host, filter, at - 1);
			continue;
		}
		filter->mode = MEMBERSHIP_EXCLUDE;
		for (uint16_t source = host->source_heads[at - 1]; source != 0; source = host->source_next[source - 1])
			if (filter->count < MEMBERSHIP_SOURCES)
				memcpy(filter->sources[filter->count++], source_address(host, source), 16);
	}
	for (uint32_t at = first; at != 0; at = join_seek(host, host->join_next[at - 1], interface, family, group))
		if (join_at(host, at - 1)->mode == MEMBERSHIP_INCLUDE)
			filter_unite(host, filter, at - 1);
}

// --- joining and leaving ---

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

static int choose_interface(struct host *host, const struct membership_name *name, uint16_t *interface)
{
	if (!address_multicast(name->family, name->group))
		return -EINVAL;
	*interface = name->interface != 0 ? name->interface : membership_interface(host, name->family, name->group);
	return *interface == 0 || view_interface(host->tables, *interface) == NULL ? -ENODEV : 0;
}

int membership_join(struct host *host, uint32_t slot, const struct membership_name *name, enum membership_mode mode)
{
	struct socket_entry *entry = &host->state->sockets[slot];
	uint16_t interface;
	int error = choose_interface(host, name, &interface);
	if (error < 0)
		return error;
	if (membership_find(entry, name->family, name->group, interface) >= 0)
		return -EADDRINUSE;
	for (uint32_t i = 0; i < SOCKET_MEMBERSHIPS; i++) {
		struct socket_membership *m = &entry->memberships[i];
		if (m->family != FAMILY_NONE)
			continue;
		memcpy(m->group, name->group, 16);
		m->interface = interface;
		m->mode = (uint8_t)mode;
		__atomic_store_n(&m->family, name->family, __ATOMIC_RELEASE);
		join_list(host, slot * SOCKET_MEMBERSHIPS + i);
		listener_update(host, name->family, interface, name->group);
		return 0;
	}
	return -ENOBUFS;
}

static void membership_end(struct host *host, uint32_t number)
{
	struct socket_membership *m = join_at(host, number);
	struct socket_membership was = *m;
	join_unlist(host, number);
	sources_clear(host, number);
	memset(m, 0, sizeof(*m));
	listener_update(host, was.family, was.interface, was.group);
}

int membership_leave(struct host *host, uint32_t slot, const struct membership_name *name)
{
	if (name->family == FAMILY_IPV6 && !address_multicast(FAMILY_IPV6, name->group))
		return -EINVAL;
	int i = membership_find(&host->state->sockets[slot], name->family, name->group, name->interface);
	if (i < 0)
		return -EADDRNOTAVAIL;
	membership_end(host, slot * SOCKET_MEMBERSHIPS + (uint32_t)i);
	return 0;
}

// --- filters ---

// The membership that a filter call is about.
static int filter_target(struct host *host, uint32_t slot, const struct membership_name *name, int missing, uint32_t *number)
{
	uint16_t interface;
	int error = choose_interface(host, name, &interface);
	if (error < 0)
		return error;
	int i = membership_find(&host->state->sockets[slot], name->family, name->group, interface);
	if (i < 0)
		return missing;
	*number = slot * SOCKET_MEMBERSHIPS + (uint32_t)i;
	return 0;
}

// The same for a call that adds or removes one source: only a filter without sources may change its sense.
static int delta_target(struct host *host, uint32_t slot, const struct membership_name *name, enum membership_mode mode, uint32_t *number)
{
	int error = filter_target(host, slot, name, -EINVAL, number);
	if (error < 0)
		return error;
	return join_at(host, *number)->mode != mode && host->source_heads[*number] != 0 ? -EINVAL : 0;
}

static void filter_changed(struct host *host, uint32_t number)
{
	const struct socket_membership *m = join_at(host, number);
	listener_update(host, m->family, m->interface, m->group);
}

int membership_add_source(struct host *host, uint32_t slot, const struct membership_name *name, enum membership_mode mode, const uint8_t *source)
{
	uint32_t number;
	int error = delta_target(host, slot, name, mode, &number);
	if (error < 0)
		return error;
	if (source_find(host, number, source) != NULL)
		return -EADDRNOTAVAIL;
	if (source_count(host, number) >= MEMBERSHIP_SOURCES || !sources_left(host, number, 1))
		return -ENOBUFS;
	join_at(host, number)->mode = (uint8_t)mode;
	source_add(host, number, source);
	filter_changed(host, number);
	return 0;
}

int membership_remove_source(struct host *host, uint32_t slot, const struct membership_name *name, enum membership_mode mode, const uint8_t *source)
{
	uint32_t number;
	int error = delta_target(host, slot, name, mode, &number);
	if (error < 0)
		return error;
	uint16_t *at = source_find(host, number, source);
	if (at == NULL) {
		join_at(host, number)->mode = (uint8_t)mode;
		filter_changed(host, number);
		return -EADDRNOTAVAIL;
	}
	source_remove(host, at);
	// RFC 3376 section 3.1: who includes nobody is no member.
	if (mode == MEMBERSHIP_INCLUDE && host->source_heads[number] == 0)
		membership_end(host, number);
	else
		filter_changed(host, number);
	return 0;
}

int membership_set_filter(struct host *host, uint32_t slot, const struct membership_name *name, const struct source_filter *filter)
{
	uint32_t number;
	if (filter->mode == MEMBERSHIP_INCLUDE && filter->count == 0)
		return membership_leave(host, slot, name);
	int error = filter_target(host, slot, name, -EINVAL, &number);
	if (error < 0)
		return error;
	if (!sources_left(host, number, filter->count))
		return -ENOBUFS;
	sources_clear(host, number);
	join_at(host, number)->mode = filter->mode;
	for (int i = 0; i < filter->count; i++)
		if (!source_in(host, number, filter->sources[i]))
			source_add(host, number, filter->sources[i]);
	filter_changed(host, number);
	return 0;
}

int membership_get_filter(struct host *host, uint32_t slot, const struct membership_name *name, struct source_filter *filter)
{
	uint32_t number;
	int error = filter_target(host, slot, name, -EADDRNOTAVAIL, &number);
	if (error < 0)
		return error;
	*filter = (struct source_filter){.mode = join_at(host, number)->mode};
	for (uint16_t at = host->source_heads[number]; at != 0 && filter->count < MEMBERSHIP_SOURCES; at = host->source_next[at - 1])
		memcpy(filter->sources[filter->count++], source_address(host, at), 16);
	return 0;
}

// --- taking over, ending ---

static bool membership_sane(const struct host *host, uint32_t number)
{
	const struct socket_membership *m = join_at(host, number);
	return host->state->sockets[number / SOCKET_MEMBERSHIPS].cookie != 0 && (m->family == FAMILY_IPV4 || m->family == FAMILY_IPV6) &&
		m->interface < MAX_INTERFACES && m->mode <= MEMBERSHIP_INCLUDE && address_multicast(m->family, m->group);
}

void membership_attach(struct host *host)
{
	memset(host->join_heads, 0, sizeof(host->join_heads));
	memset(host->source_heads, 0, host_slots(host->state) * SOCKET_MEMBERSHIPS * sizeof(host->source_heads[0]));
	for (uint32_t number = 0; number < host_slots(host->state) * SOCKET_MEMBERSHIPS; number++) {
		struct socket_membership *m = join_at(host, number);
		if (membership_sane(host, number))
			join_list(host, number);
		else if (m->family != FAMILY_NONE)
			memset(m, 0, sizeof(*m));
	}
	for (uint32_t place = 0; place < sources_used(host); place++) {
		struct membership_source *source = &host->state->membership_sources[place];
		uint32_t owner = source->membership;
		if (owner == 0)
			continue;
		// Of one that is gone, or more than its membership may have: a predecessor died in between.
		if (owner > host_slots(host->state) * SOCKET_MEMBERSHIPS || !membership_sane(host, owner - 1) ||
		    source_count(host, owner - 1) >= MEMBERSHIP_SOURCES || source_in(host, owner - 1, source->address))
			source->membership = 0;
		else
			source_list(host, owner - 1, place);
	}
	for (uint32_t number = 0; number < host_slots(host->state) * SOCKET_MEMBERSHIPS; number++) {
		const struct socket_membership *m = join_at(host, number);
		if (m->family != FAMILY_NONE)
			listener_update(host, m->family, m->interface, m->group);
	}
}

void membership_close(struct host *host, uint32_t slot)
{
	for (uint32_t i = 0; i < SOCKET_MEMBERSHIPS; i++)
		if (host->state->sockets[slot].memberships[i].family != FAMILY_NONE)
			membership_end(host, slot * SOCKET_MEMBERSHIPS + i);
}
