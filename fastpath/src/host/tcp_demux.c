// Finding connections and listeners, and what is derived from a four-tuple under the VR's secret:
// initial sequence numbers (RFC 6528), timestamp offsets (RFC 7323 section 5.4), ports (RFC 6056).
//
// Connections are hashed by SipHash over the four-tuple, since a stranger chooses most of it.
// Listeners are hashed by port; their sockets on one port compete as in Linux: the interface counts
// most, then the address, then the family.
#include "host/tcp_internal.h"

#include <errno.h>
#include "base/siphash.h"
#include "wire/ip4.h"
#include "wire/ip6.h"

enum { DEFAULT_MSS = 536, USE_SEQUENCE = 1, USE_TIMESTAMP = 2, USE_LOOKUP = 3 };

struct four_tuple {
	uint8_t local[16];
	uint8_t remote[16];
	uint16_t local_port;
	uint16_t remote_port;
	uint32_t use;
};

static struct four_tuple tuple(const uint8_t *local, uint16_t local_port, const uint8_t *remote, uint16_t remote_port, uint32_t use)
{
	struct four_tuple t = {.local_port = local_port, .remote_port = remote_port, .use = use};
	memcpy(t.local, local, sizeof(t.local));
	memcpy(t.remote, remote, sizeof(t.remote));
	return t;
}

uint32_t tcp_hash(const struct tcp *tcp, const uint8_t *local, uint16_t local_port, const uint8_t *remote, uint16_t remote_port)
{
	struct four_tuple t = tuple(local, local_port, remote, remote_port, USE_LOOKUP);
	return (uint32_t)siphash24(tcp->host->state->random_key, &t, sizeof(t));
}

uint64_t tcp_secret_hash(const struct tcp *tcp, const uint8_t *local, uint16_t local_port, const uint8_t *remote, uint16_t remote_port,
	uint32_t use)
{
	struct four_tuple t = tuple(local, local_port, remote, remote_port, use);
	return siphash24(tcp->secret, &t, sizeof(t));
}

uint32_t tcp_initial_sequence(const struct tcp *tcp, const uint8_t *local, uint16_t local_port, const uint8_t *remote, uint16_t remote_port)
{
	// The clock of RFC 6528 section 3, M, ticks every 64 ns: it wraps in 275 s, longer than a segment lives.
	uint32_t clock = (uint32_t)(tcp_now(tcp) >> 6);
	return clock + (uint32_t)tcp_secret_hash(tcp, local, local_port, remote, remote_port, USE_SEQUENCE);
}

uint32_t tcp_timestamp_offset(const struct tcp *tcp, const uint8_t *local, const uint8_t *remote)
{
	if (tcp->config.timestamps != 1)
		return 0;
	return (uint32_t)tcp_secret_hash(tcp, local, 0, remote, 0, USE_TIMESTAMP);
}

// --- hashes ---

static uint32_t *connection_head(const struct tcp *tcp, const struct tcp_socket *s)
{
	return &tcp->connections[tcp_hash(tcp, s->local, s->local_port, s->remote, s->remote_port) % TCP_HASH];
}

static uint32_t *head_of(const struct tcp *tcp, const struct tcp_socket *s)
{
	return s->state == TCP_STATE_LISTEN ? &tcp->listeners[s->local_port] : connection_head(tcp, s);
}

void tcp_hash_add(struct tcp *tcp, struct tcp_socket *s)
{
	uint32_t *head = head_of(tcp, s);
	s->hash_next = *head;
	*head = tcp_index(tcp, s) + 1;
}

void tcp_hash_remove(struct tcp *tcp, struct tcp_socket *s)
{
	uint32_t number = tcp_index(tcp, s) + 1;
	for (uint32_t *at = head_of(tcp, s); *at != 0; at = &tcp->sockets[*at - 1].hash_next) {
		if (*at == number) {
			*at = s->hash_next;
			s->hash_next = 0;
			return;
		}
	}
}

struct tcp_socket *tcp_find(const struct tcp *tcp, const uint8_t *local, uint16_t local_port, const uint8_t *remote,
	uint16_t remote_port, uint16_t interface)
{
	uint32_t head = tcp_hash(tcp, local, local_port, remote, remote_port) % TCP_HASH;
	for (uint32_t at = tcp->connections[head]; at != 0; at = tcp->sockets[at - 1].hash_next) {
		struct tcp_socket *s = &tcp->sockets[at - 1];
		if (s->remote_port == remote_port && s->local_port == local_port && address_equal(s->remote, remote) &&
		    address_equal(s->local, local) && (s->interface == 0 || interface == 0 || s->interface == interface))
			return s;
	}
	return NULL;
}

// ::ffff:0.0.0.0: an AF_INET6 socket that was bound to any address of IPv4.
static bool any_mapped(const uint8_t *address)
{
	return address_mapped(address) && load32(address + 12) == 0;
}

// How well a listener fits; -1: not at all.
static int listener_score(const struct tcp_socket *s, const uint8_t *local, uint16_t port, uint16_t interface)
{
	bool four = address_mapped(local);
	int score = 0;
	if (s->local_port != port)
		return -1;
	if (four ? s->family == AF_INET6 && (s->flags & TCP_V6ONLY) : s->family == AF_INET)
		return -1;
	if (four == (s->family == AF_INET))
		score += 1;
	if (!address_any(s->local)) {
		if (any_mapped(s->local) ? !four : !address_equal(s->local, local))
			return -1;
		score += any_mapped(s->local) ? 0 : 2;
	}
	if (s->interface != 0) {
		if (s->interface != interface)
			return -1;
		score += 4;
	}
	return score;
}

struct tcp_socket *tcp_find_listener(const struct tcp *tcp, const uint8_t *local, uint16_t port, uint16_t interface, uint32_t hash)
{
	struct tcp_socket *best = NULL;
	int best_score = -1;
	uint32_t sharers = 0;
	for (uint32_t at = tcp->listeners[port]; at != 0; at = tcp->sockets[at - 1].hash_next) {
		struct tcp_socket *s = &tcp->sockets[at - 1];
		int score = listener_score(s, local, port, interface);
		if (score > best_score) {
			best = s;
			best_score = score;
			sharers = 1;
			hash = mix32(hash);
		} else if (score >= 0 && score == best_score && (s->flags & TCP_REUSE_PORT)) {
			// The n-th sharer takes over with probability 1/n: an even choice in one pass, the
			// same for every segment of a handshake.
			sharers++;
			hash = hash * 1664525 + 1013904223;
			if ((uint32_t)((uint64_t)hash * sharers >> 32) == 0)
				best = s;
		}
	}
	return best;
}

// --- the path ---

static int choose_local(struct host *host, struct tcp_socket *s, uint8_t family, const uint8_t *remote)
{
	uint8_t local[16] = {0}, local_family;
	uint16_t egress = s->interface;
	if (!address_any(s->local) && !any_mapped(s->local)) {
		address_unmap(AF_INET6, s->local, &local_family, local);
		if (local_family != family)
			return -ENETUNREACH;
		if (view_address(host->tables, family, local, 0) == NULL && !(s->engine & TCP_FREE_BIND))
			return -EADDRNOTAVAIL;
		return 0;
	}
	if (!host->ops.source(host->ops.user, family, remote, s->interface, local, &egress))
		return -ENETUNREACH;
	address_map(family, local, s->local);
	return 0;
}

int tcp_route(struct tcp *tcp, struct tcp_socket *s)
{
	struct host *host = tcp->host;
	uint8_t remote[16], family;
	address_unmap(AF_INET6, s->remote, &family, remote);
	if (address_link_local(family, remote) && s->interface == 0)
		return -EINVAL;
	int error = choose_local(host, s, family, remote);
	if (error < 0)
		return error;
	uint32_t mtu = host->ops.path_mtu(host->ops.user, family, remote, s->interface);
	uint32_t header = (family == FAMILY_IPV4 ? IP4_HEADER : IP6_HEADER) + TCP_HEADER;
	if (mtu == 0)
		return -ENETUNREACH;
	if (mtu > LARGEST_PACKET)
		mtu = LARGEST_PACKET;
	// What we can take has nothing to do with what routers said of the way out (RFC 6691).
	uint32_t mss = mtu > header + TCP_MIN_MSS ? mtu - header : TCP_MIN_MSS;
	if (s->user_mss != 0 && s->user_mss < mss)
		mss = s->user_mss;
	s->advertised_mss = (uint16_t)mss;
	if (s->mss_clamp == 0)
		s->mss_clamp = s->user_mss != 0 ? s->user_mss : DEFAULT_MSS;
	bool told = s->pmtu_discover != IP_PMTUDISC_PROBE && s->pmtu_discover != IP_PMTUDISC_INTERFACE;
	s->wire_family = family;
	tcp_sync_mss(tcp, s, told ? path_mtu_clamp(host, family, remote, mtu) : mtu);
	return 0;
}
