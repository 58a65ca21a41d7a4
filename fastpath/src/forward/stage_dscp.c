// DSCP marking (RFC 2474).  The two bits of ECN are not touched (RFC 3168).
#include "forward/stage.h"

#include "base/cksum.h"
#include "wire/ip4.h"

#include <string.h>

enum { ECN = 3 };

static void write4(uint8_t *ip, uint8_t dscp)
{
	struct ip4_header *header = (void *)ip;
	uint16_t before, after;

	memcpy(&before, ip, sizeof before);
	header->tos = (uint8_t)(dscp << 2 | (header->tos & ECN));
	memcpy(&after, ip, sizeof after);
	header->checksum = cksum_replace16(header->checksum, before, after);
}

// Version, traffic class and flow label share a word.
static void write6(uint8_t *ip, uint8_t dscp)
{
	ip[0] = (uint8_t)((ip[0] & 0xf0) | dscp >> 2);
	ip[1] = (uint8_t)(dscp << 6 | (ip[1] & 0x3f));
}

void stage_dscp(struct forward *f, struct stage *stage)
{
	const struct filter_interface *bound = f->filters.by_index[stage->interface->index];
	uint8_t before = (uint8_t)((load16(stage->ip) >> (stage->family == FAMILY_IPV4 ? 2 : 6)) & 0x3f);
	uint8_t after = stage->mark;

	if (stage->own)
		return;
	if (after == STAGE_NO_MARK)
		after = bound == NULL ? before : bound->dscp[stage->direction][before];
	if (after == before)
		return;
	if (stage->family == FAMILY_IPV4)
		write4(stage->ip, after);
	else
		write6(stage->ip, after);
	forward_trace(f, stage->packet, "dscp", "%u to %u", before, after);
}
