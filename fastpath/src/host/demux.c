// Finding sockets by port, identifier or protocol, and giving out ports.
//
// The table is private and rebuilt from the socket entries after a restart.  Conflicts
// follow Linux UDP: two sockets may share a port where both set SO_REUSEADDR, or both set
// SO_REUSEPORT and belong to one user; ephemeral ports are random (RFC 6056 section 3.3.1).
#include "host/internal.h"

#include <errno.h>
#include "base/siphash.h"

enum demux_kind demux_kind(const struct socket_entry *entry)
{
	if (entry->type == SOCK_RAW)
		return entry->family == AF_INET ? DEMUX_RAW4 : DEMUX_RAW6;
	if (entry->protocol == IPPROTO_UDP)
		return DEMUX_UDP;
	return entry->family == AF_INET ? DEMUX_PING4 : DEMUX_PING6;
}

static uint16_t demux_key(const struct socket_entry *entry)
{
	return entry->type == SOCK_RAW ? entry->protocol : entry->local_port;
}

static uint32_t demux_bucket(enum demux_kind kind, uint16_t key)
{
	return ((uint32_t)key + (uint32_t)kind * 211) % DEMUX_HEADS;
}

void demux_add(struct host *host, uint32_t slot)
{
	const struct socket_entry *entry = &host->state->sockets[slot];
	if (host->listed[slot])
		return;
	uint16_t *head = &host->heads[demux_bucket(demux_kind(entry), demux_key(entry))];
	host->next[slot] = *head;
	*head = (uint16_t)(slot + 1);
	host->listed[slot] = true;
}

void demux_remove(struct host *host, uint32_t slot)
{
	const struct socket_entry *entry = &host->state->sockets[slot];
	if (!host->listed[slot])
		return;
	uint16_t *at = &host->heads[demux_bucket(demux_kind(entry), demux_key(entry))];
	while (*at != 0 && *at != slot + 1)
		at = &host->next[*at - 1];
	if (*at != 0)
		*at = host->next[slot];
	host->listed[slot] = false;
}

uint16_t demux_first(const struct host *host, enum demux_kind kind, uint16_t key)
{
	return host->heads[demux_bucket(kind, key)];
}

bool demux_is(const struct socket_entry *entry, enum demux_kind kind, uint16_t key)
{
	return demux_kind(entry) == kind && demux_key(entry) == key;
}

// Keyed, so that no peer can choose the socket that takes its flow.
static uint32_t flow_spread(const struct host *host, const struct flow *flow)
{
	uint8_t input[36];
	store16(input, flow->remote_port);
	store16(input + 2, flow->local_port);
	memcpy(input + 4, flow->remote, 16);
	memcpy(input + 20, flow->local, 16);
	return (uint32_t)siphash24(host->state->random_key, input, sizeof(input));
}

int demux_find(const struct host *host, enum demux_kind kind, uint16_t key, const struct flow *flow)
{
	int best = -1;
	int best_score = -1;
	uint32_t sharers = 0;
	uint32_t hash = 0;
	bool shared = false;
	for (uint16_t at = demux_first(host, kind, key); at != 0; at = host->next[at - 1]) {
		const struct socket_entry *entry = &host->state->sockets[at - 1];
		if (!demux_is(entry, kind, key))
			continue;
		int score = endpoint_score(entry, flow);
		if (score > best_score) {
			best = at - 1;
			best_score = score;
			sharers = 1;
			shared = entry->flags & SOCKET_REUSE_PORT;
		} else if (score >= 0 && score == best_score && shared && (entry->flags & SOCKET_REUSE_PORT)) {
			if (sharers == 1)
				hash = flow_spread(host, flow);
			// The n-th sharer takes over with probability 1/n: an even choice in one
			// pass that is the same for every packet of a flow.
			sharers++;
			hash = hash * 1664525 + 1013904223;
			if ((uint32_t)((uint64_t)hash * sharers >> 32) == 0)
				best = at - 1;
		}
	}
	return best;
}

static bool locals_overlap(const struct socket_entry *a, const struct socket_entry *b)
{
	if (a->interface != 0 && b->interface != 0 && a->interface != b->interface)
		return false;
	if (a->family == b->family) {
		if (!address_any(a->local) && !address_any(b->local))
			return address_equal(a->local, b->local);
		if (a->family == AF_INET)
			return true;
		// One of two AF_INET6 sockets is open to all, or to all of IPv6.
		const struct socket_entry *open = address_any(a->local) ? a : b;
		const struct socket_entry *other = open == a ? b : a;
		return !((open->flags & SOCKET_V6ONLY) && address_mapped(other->local));
	}
	const struct socket_entry *four = a->family == AF_INET ? a : b;
	const struct socket_entry *six = four == a ? b : a;
	if (address_any(six->local))
		return !(six->flags & SOCKET_V6ONLY);
	if (!address_mapped(six->local))
		return false;
	return address_any(four->local) || memcmp(six->local + 12, four->local, 4) == 0;
}

static bool port_taken(const struct host *host, uint32_t slot, uint16_t port, bool exclusive)
{
	const struct socket_entry *mine = &host->state->sockets[slot];
	enum demux_kind kind = demux_kind(mine);
	for (uint16_t at = demux_first(host, kind, port); at != 0; at = host->next[at - 1]) {
		const struct socket_entry *other = &host->state->sockets[at - 1];
		if (other == mine || !demux_is(other, kind, port) || !locals_overlap(mine, other))
			continue;
		if (exclusive)
			return true;
		uint32_t both = mine->flags & other->flags;
		if (both & SOCKET_REUSE_ADDRESS)
			continue;
		if ((both & SOCKET_REUSE_PORT) && mine->uid == other->uid)
			continue;
		return true;
	}
	return false;
}

int demux_bind_port(struct host *host, uint32_t slot, uint16_t port)
{
	struct socket_entry *entry = &host->state->sockets[slot];
	if (port != 0) {
		if (port_taken(host, slot, port, false))
			return -EADDRINUSE;
	} else {
		// An ephemeral port is never shared, whatever the app allows.
		uint32_t count = EPHEMERAL_LAST - EPHEMERAL_FIRST + 1;
		uint32_t start = (uint32_t)(host_random(host) % count);
		uint32_t i = 0;
		while (i < count && port_taken(host, slot, (uint16_t)(EPHEMERAL_FIRST + (start + i) % count), true))
			i++;
		if (i == count)
			return -EADDRINUSE;
		port = (uint16_t)(EPHEMERAL_FIRST + (start + i) % count);
	}
	demux_remove(host, slot);
	entry->local_port = port;
	entry->flags |= SOCKET_BOUND;
	demux_add(host, slot);
	return 0;
}
