// The flow hash: equal for all packets of a flow, keyed so that nobody outside can aim at
// one path, and different in each VR so that routers in a row do not all choose alike.
#include "forward/forward.h"

#include "base/bytes.h"
#include "wire/ip4.h"
#include "wire/ip6.h"

#include <netinet/in.h>

static uint64_t mix(uint64_t hash, uint64_t word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15;
	return hash ^ (hash >> 32);
}

static uint64_t word_at(const uint8_t *at)
{
	uint64_t word;
	memcpy(&word, at, sizeof word);
	return word;
}

static uint32_t ports_at(const uint8_t *ip, uint32_t length, uint8_t protocol, uint32_t offset)
{
	bool has_ports = protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP
		|| protocol == IPPROTO_DCCP || protocol == IPPROTO_UDPLITE;

	return has_ports && length >= 4 && offset <= length - 4 ? load32(ip + offset) : 0;
}

// All fragments of a packet must take one path, and only the first of them has ports.
static uint64_t hash_ip4(uint64_t hash, const uint8_t *data, uint32_t length)
{
	const struct ip4_header *ip = (const void *)data;
	uint32_t ports = ip4_is_fragment(ip) ? 0 : ports_at(data, length, ip->protocol, ip4_header_length(ip));

	hash = mix(hash, word_at(data + offsetof(struct ip4_header, source)));
	return mix(hash, (uint64_t)ports << 8 | ip->protocol);
}

// RFC 6437 section 2: a flow label that is set stands for the ports.
static uint64_t hash_ip6(uint64_t hash, const uint8_t *data, uint32_t length)
{
	uint32_t label = load32(data) & 0xfffff;
	struct ip6_walk walk;
	uint32_t ports;

	for (uint32_t i = 0; i < 32; i += 8)
		hash = mix(hash, word_at(data + offsetof(struct ip6_header, source) + i));
	if (label != 0)
		return mix(hash, label);
	if (!ip6_walk(data, length, &walk))
		return hash;
	ports = walk.fragment != 0 ? 0 : ports_at(data, length, walk.next, walk.offset);
	return mix(hash, (uint64_t)ports << 8 | walk.next);
}

uint32_t flow_hash(const struct forward *f, const struct packet *packet)
{
	const uint8_t *ip = packet->buffer + packet->offset + packet->l3;
	uint32_t length = packet->length - packet->l3;
	uint64_t hash = f->state->random_key[0];

	if (length >= IP6_HEADER && ip[0] >> 4 == 6)
		hash = hash_ip6(hash, ip, length);
	else if (length >= IP4_HEADER && ip[0] >> 4 == 4)
		hash = hash_ip4(hash, ip, length);
	return (uint32_t)(mix(hash, f->state->random_key[1]) >> 32);
}
