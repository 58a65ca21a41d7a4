// What routers told about the largest packets a path takes (RFC 1191, RFC 8201).
//
// A small direct-mapped cache: forgetting an entry costs one more ICMP error.
#include "host/internal.h"

enum { SMALLEST4 = 552, SMALLEST6 = 1280 }; // below: as Linux, an attack more likely than a link
#define PATH_MTU_LIFE (600 * 1000000000ull) // RFC 1191 section 6.3: ten minutes

static uint32_t path_slot(uint8_t family, const uint8_t *address)
{
	uint32_t hash = family;
	for (int i = 0; i < 16; i += 4)
		hash = (hash ^ load32(address + i)) * 0x9e3779b1;
	return (hash >> 16) % PATH_MTUS;
}

uint32_t path_mtu_clamp(const struct host *host, uint8_t family, const uint8_t *address, uint32_t mtu)
{
	const struct path_mtu *path = &host->paths[path_slot(family, address)];
	if (path->family == family && path->expires > host->now && address_equal(path->address, address) && path->mtu < mtu)
		return path->mtu;
	return mtu;
}

uint32_t host_known_mtu(struct host *host, uint8_t family, const uint8_t *destination, uint32_t mtu, uint64_t now)
{
	uint8_t address[16] = {0};

	host->now = now;
	memcpy(address, destination, family == FAMILY_IPV4 ? 4 : 16);
	return path_mtu_clamp(host, family, address, mtu);
}

void path_mtu_learn(struct host *host, uint8_t family, const uint8_t *address, uint32_t mtu)
{
	uint32_t smallest = family == FAMILY_IPV4 ? SMALLEST4 : SMALLEST6;
	struct path_mtu *path = &host->paths[path_slot(family, address)];
	memcpy(path->address, address, 16);
	path->family = family;
	path->mtu = mtu < smallest ? smallest : mtu;
	path->expires = host->now + PATH_MTU_LIFE;
}
