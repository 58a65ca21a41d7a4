// Local ports of TCP: who may hold one, and which one connect chooses.
//
// Conflicts follow Linux: sockets whose addresses overlap share a port where both set SO_REUSEADDR
// and neither listens, or both set SO_REUSEPORT and belong to one user.  Ports that connect chooses
// are shared among destinations: only the four-tuple must be new.  They are found by RFC 6056
// section 3.3.4 (double-hash port selection): the next connect to a destination begins behind
// the last one, so that no search goes over ports that were tried a moment ago.
#include "host/tcp_internal.h"

#include <errno.h>
#include <limits.h>

enum { USE_PORT_FIRST = 4, USE_PORT_TABLE = 5, ISS_DISTANCE = 65535 + 2 };

// --- the chain of a port ---

void tcp_bound_add(struct tcp *tcp, struct tcp_socket *s)
{
	uint32_t *head = &tcp->bound[s->local_port];
	s->bind_next = *head;
	s->bind_previous = 0;
	if (*head != 0)
		tcp->sockets[*head - 1].bind_previous = tcp_index(tcp, s) + 1;
	*head = tcp_index(tcp, s) + 1;
	s->flags |= TCP_BOUND;
}

void tcp_unbind(struct tcp *tcp, struct tcp_socket *s)
{
	if (!(s->flags & TCP_BOUND))
		return;
	*(s->bind_previous != 0 ? &tcp->sockets[s->bind_previous - 1].bind_next : &tcp->bound[s->local_port]) = s->bind_next;
	if (s->bind_next != 0)
		tcp->sockets[s->bind_next - 1].bind_previous = s->bind_previous;
	s->bind_next = s->bind_previous = 0;
	s->flags &= ~(uint32_t)(TCP_BOUND | TCP_PORT_LOCKED);
	s->engine &= ~(uint32_t)TCP_AUTOBOUND;
	s->local_port = 0;
}

// --- conflicts ---

// Which addresses a socket may be reached by.
enum { REACH_4 = 1, REACH_6 = 2 };

static unsigned int reach(const struct tcp_socket *s, bool *wild)
{
	*wild = address_any(s->local) || (address_mapped(s->local) && load32(s->local + 12) == 0);
	if (address_mapped(s->local) || s->family == AF_INET)
		return REACH_4;
	return address_any(s->local) && !(s->flags & TCP_V6ONLY) ? REACH_4 | REACH_6 : REACH_6;
}

static bool overlap(const struct tcp_socket *a, const struct tcp_socket *b)
{
	bool wild_a, wild_b;
	if (a->interface != 0 && b->interface != 0 && a->interface != b->interface)
		return false;
	if (!(reach(a, &wild_a) & reach(b, &wild_b)))
		return false;
	return wild_a || wild_b || address_equal(a->local, b->local);
}

static bool timewait_overlaps(const struct tcp_socket *s, const struct tcp_timewait *t)
{
	return t->state != 0 && (address_any(s->local) || address_equal(s->local, t->local));
}

static bool timewait_holds(const struct tcp *tcp, const struct tcp_socket *s, uint16_t port)
{
	if (tcp->timewait_count == 0 || (s->flags & TCP_REUSE_ADDRESS))
		return false;
	for (uint64_t i = 0; i < tcp->host->state->tcp_timewaits_used; i++)
		if (tcp->timewaits[i].local_port == port && timewait_overlaps(s, &tcp->timewaits[i]))
			return true;
	return false;
}

// The ports that connections in TIME-WAIT hold against s, a bit each.
static void timewait_ports(const struct tcp *tcp, const struct tcp_socket *s, uint8_t held[(UINT16_MAX + 1) / 8])
{
	memset(held, 0, (UINT16_MAX + 1) / 8);
	if (tcp->timewait_count == 0 || (s->flags & TCP_REUSE_ADDRESS))
		return;
	for (uint64_t i = 0; i < tcp->host->state->tcp_timewaits_used; i++)
		if (timewait_overlaps(s, &tcp->timewaits[i]))
			held[tcp->timewaits[i].local_port / 8] |= (uint8_t)(1 << tcp->timewaits[i].local_port % 8);
}

bool tcp_port_taken(const struct tcp *tcp, const struct tcp_socket *s, uint16_t port, bool exclusive)
{
	for (uint32_t at = tcp->bound[port]; at != 0; at = tcp->sockets[at - 1].bind_next) {
		const struct tcp_socket *other = &tcp->sockets[at - 1];
		if (other == s)
			continue;
		if (exclusive)
			return true;
		if (!overlap(s, other))
			continue;
		uint32_t both = s->flags & other->flags;
		if ((both & TCP_REUSE_ADDRESS) && other->state != TCP_STATE_LISTEN)
			continue;
		if ((both & TCP_REUSE_PORT) && s->uid == other->uid)
			continue;
		return true;
	}
	return exclusive ? false : timewait_holds(tcp, s, port);
}

// A port that nobody holds, not even by a connection in TIME-WAIT: listen would be refused there.  0: there is none.
static uint16_t free_port(const struct tcp *tcp, const struct tcp_socket *s)
{
	uint32_t count = EPHEMERAL_LAST - EPHEMERAL_FIRST + 1;
	uint32_t start = (uint32_t)(host_random(tcp->host) % count);
	uint8_t held[(UINT16_MAX + 1) / 8];

	timewait_ports(tcp, s, held);
	for (uint32_t i = 0; i < count; i++) {
		uint16_t port = (uint16_t)(EPHEMERAL_FIRST + (start + i) % count);
		if (tcp->bound[port] == 0 && !(held[port / 8] & 1 << port % 8))
			return port;
	}
	return 0;
}

int tcp_bind_port(struct tcp *tcp, struct tcp_socket *s, uint16_t port)
{
	if (port == 0)
		port = free_port(tcp, s);
	else if (tcp_port_taken(tcp, s, port, false))
		return -EADDRINUSE;
	if (port == 0)
		return -EADDRINUSE;
	tcp_unbind(tcp, s);
	s->local_port = port;
	tcp_bound_add(tcp, s);
	return 0;
}

// --- connect ---

// Is the four-tuple of s free?  A connection in TIME-WAIT may give way, and then says where the next one begins.
static bool tuple_free(struct tcp *tcp, struct tcp_socket *s)
{
	if (tcp_find(tcp, s->local, s->local_port, s->remote, s->remote_port, s->interface) != NULL)
		return false;
	const struct tcp_timewait *record = tcp->timewait_count == 0 ? NULL :
		tcp_find_timewait(tcp, s->local, s->local_port, s->remote, s->remote_port);
	if (record == NULL)
		return true;
	uint32_t iss = record->snd_nxt + ISS_DISTANCE, recent = record->ts_recent;
	if (!tcp_timewait_reuse(tcp, s))
		return false;
	s->iss = iss != 0 ? iss : 1;
	s->ts_recent = recent;
	s->ts_recent_s = (uint32_t)(tcp_now(tcp) / (1000 * TCP_MS));
	return true;
}

// Ports that connect chose before may be shared, others may not.
static bool shareable(const struct tcp *tcp, uint16_t port)
{
	uint32_t first = tcp->bound[port];
	return first == 0 || (tcp->sockets[first - 1].engine & TCP_AUTOBOUND);
}

int tcp_connect_port(struct tcp *tcp, struct tcp_socket *s)
{
	if (s->flags & TCP_BOUND)
		return tuple_free(tcp, s) ? 0 : -EADDRNOTAVAIL;
	uint32_t count = EPHEMERAL_LAST - EPHEMERAL_FIRST + 1;
	uint64_t first = tcp_secret_hash(tcp, s->local, 0, s->remote, s->remote_port, USE_PORT_FIRST);
	uint16_t *next = &tcp->port_offsets[tcp_secret_hash(tcp, s->local, 0, s->remote, s->remote_port, USE_PORT_TABLE) % TCP_PORT_OFFSETS];
	uint32_t start = (uint32_t)((first % count + *next) % count);
	for (uint32_t i = 0; i < count; i++) {
		uint16_t port = (uint16_t)(EPHEMERAL_FIRST + (start + i) % count);
		if (!shareable(tcp, port))
			continue;
		s->local_port = port;
		if (tuple_free(tcp, s)) {
			*next = (uint16_t)((*next + i + 1) % count);
			tcp_bound_add(tcp, s);
			s->engine |= TCP_AUTOBOUND;
			return 0;
		}
	}
	s->local_port = 0;
	return -EADDRNOTAVAIL;
}
