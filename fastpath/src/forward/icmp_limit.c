// How many ICMP errors we send: RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f).
//
// The figures are Linux's defaults: all together 1000 a second and 50 at once; to one
// destination 6 at once, then one a second (IPv4) or ten a second (IPv6).  Destinations
// live in a small table; where a flood of forged ones turns it over, the first limit holds.
// What never leaves, to a loopback address, is not limited.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/cksum.h"
#include "base/siphash.h"
#include "forward/icmp.h"
#include "wire/ip4.h"
#include "wire/ip6.h"

enum { PEER_SETS = 256, PEER_WAYS = 4, GLOBAL_BURST = 50, PEER_BURST = 6 };

#define GLOBAL_INTERVAL_NS 1000000ull
#define PEER4_INTERVAL_NS 1000000000ull
#define PEER6_INTERVAL_NS 100000000ull

struct icmp_peer {
	uint8_t address[16];
	uint8_t family;      // 0: free
	uint64_t due_ns;     // see bucket_ready
};

struct icmp_limiter {
	uint64_t due_ns;
	struct icmp_peer peers[PEER_SETS][PEER_WAYS];
};

// A token bucket as one time: when the bucket will be full again.
static bool bucket_ready(uint64_t due_ns, uint64_t now, uint64_t interval, uint32_t burst)
{
	return due_ns <= now || due_ns - now <= interval * (burst - 1);
}

static void bucket_take(uint64_t *due_ns, uint64_t now, uint64_t interval)
{
	*due_ns = (*due_ns > now ? *due_ns : now) + interval;
}

static struct icmp_peer *peer_find(struct forward *f, uint8_t family, const uint8_t *destination)
{
	size_t size = family == FAMILY_IPV4 ? 4 : 16;
	struct icmp_peer *set = f->icmp->peers[siphash24(f->state->random_key, destination, size) % PEER_SETS];
	struct icmp_peer *victim = &set[0];
	for (int way = 0; way < PEER_WAYS; way++) {
		if (set[way].family == family && memcmp(set[way].address, destination, size) == 0)
			return &set[way];
		if (set[way].due_ns < victim->due_ns)
			victim = &set[way];
	}
	memset(victim, 0, sizeof(*victim));
	memcpy(victim->address, destination, size);
	victim->family = family;
	return victim;
}

bool icmp_limit_allow(struct forward *f, uint8_t family, const uint8_t *destination)
{
	uint64_t interval = family == FAMILY_IPV4 ? PEER4_INTERVAL_NS : PEER6_INTERVAL_NS;
	if (family == FAMILY_IPV4 ? ip4_is_loopback(destination) : ip6_is_loopback(destination))
		return true;
	if (bucket_ready(f->icmp->due_ns, f->now, GLOBAL_INTERVAL_NS, GLOBAL_BURST)) {
		struct icmp_peer *peer = peer_find(f, family, destination);
		if (bucket_ready(peer->due_ns, f->now, interval, PEER_BURST)) {
			bucket_take(&peer->due_ns, f->now, interval);
			bucket_take(&f->icmp->due_ns, f->now, GLOBAL_INTERVAL_NS);
			return true;
		}
	}
	f->host_drops[DROP_ICMP_RATE_LIMITED]++;
	return false;
}

void icmp_turn(struct forward *f, struct packet *packet, uint32_t offset, uint32_t header, uint32_t length)
{
	packet_punt(f, packet);
	memset(&packet->vnet, 0, sizeof(packet->vnet));
	packet_pull(packet, offset - header);
	packet->length = header + length;
	packet->l3 = 0;
	packet->port = 0;
	packet->egress = 0;
	packet->vlan_present = false;
	packet->link_broadcast = false;
	memset(packet_data(packet), 0, header);
}

bool icmp_checksum_good(struct packet *packet, uint64_t pseudo, uint32_t offset, uint32_t length)
{
	// Bytes that never crossed a wire: the sender's kernel left the sum to us.
	if (packet->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
		return offload_finish_checksum(packet);
	uint16_t sum = cksum_fold(cksum_add(pseudo, packet_data(packet) + offset, length));
	return sum == 0xffff || (packet->vnet.flags & VIRTIO_NET_HDR_F_DATA_VALID) != 0;
}

int icmp_limit_init(struct forward *f)
{
	f->icmp = calloc(1, sizeof(*f->icmp));
	return f->icmp != NULL ? 0 : -ENOMEM;
}

void icmp_limit_fini(struct forward *f)
{
	free(f->icmp);
	f->icmp = NULL;
}
