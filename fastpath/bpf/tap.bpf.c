// Filter of a port's packet socket: refuses what pass.bpf.c is to forward, and takes all other frames.
//
//   plain transit (transit.h), of a super-frame its packets -> said in skb->cb, not taken
//   anything else, untouched -> the packet ring
//
// A filter cannot read the frame itself: it looks at a copy of the headers.  Unlike XDP it sees tags beside the frame,
// and what a device has yet to finish (checksums, segments) stays with the frame on its way.
//
// Super-frames are forwarded whole if they are TCP: of others it cannot be known here what their packets will be.
#define PROGRAM "socket"
#include "tap.h"

enum {
	TAKEN = 0x40000,         // all of it: no frame is longer
	HEADERS = 128,           // for each processor
	LOOKED_AT = ETHERNET + IP6 + 20,
	IP6_NEXT = ETHERNET + 6, IP4_PROTOCOL = ETHERNET + 9, IP4_FRAGMENT = ETHERNET + 6,
	TCP_OFFSET = 12
};

struct map SECTION("maps") ways = {MAP_ARRAY, sizeof(uint32_t), sizeof(uint32_t), MAX_PORTS, 0};
struct map SECTION("maps") headers = {MAP_ARRAY, sizeof(uint32_t), HEADERS * BYPASS_CPUS, 1, 0};

MAP_VALUE(headers);

// The largest packet of a super-frame, as offload_unit() has it; 0: not to be told.
INLINE uint32_t unit_of(const uint8_t *data, uint32_t gso_size)
{
	uint32_t header;

	if (U16(data + 12) == TYPE_IP4 && data[ETHERNET] == 0x45 && data[IP4_PROTOCOL] == TCP
	    && (U16(data + IP4_FRAGMENT) & 0xff3f) == 0)
		header = IP4;
	else if (U16(data + 12) == TYPE_IP6 && data[IP6_NEXT] == TCP)
		header = IP6;
	else
		return 0;
	return header + (uint32_t)(data[ETHERNET + header + TCP_OFFSET] >> 4) * 4 + gso_size;
}

INLINE int refused(struct skb *skb, uint32_t processor)
{
	uint8_t *data = (uint8_t *)value_headers + processor * HEADERS;
	struct transit t = {.data = data, .in = &LINKS->ports[VALUE(port)], .processor = processor};
	uint32_t mark = (uint32_t)ONCE(LINKS->mark), gso_size = skb->gso_size, room = LOOKED_AT, *way, leaves;

	t.frame = skb->len;
	if (t.frame < room)
		room = t.frame;
	if (mark == 0 || skb->vlan_present != 0 || room < ETHERNET + IP4 || load_bytes(skb, 0, data, room) != 0)
		return 0;
	t.end = data + room;
	if (gso_size != 0) {
		t.unit = unit_of(data, gso_size);
		if (room < LOOKED_AT || t.unit == 0)
			return 0;
	}
	// Padding would have to be cut off, and with it the frame's segments.
	if (!transit(&t) || (gso_size != 0 && t.length + ETHERNET != t.frame))
		return 0;
	leaves = t.port & UINT16_MAX;
	way = map_lookup(&ways, &leaves);
	if (way == NULL || *way == 0)
		return 0;
	say(skb, &t, mark);
	return 1;
}

SECTION(PROGRAM) int tap(struct skb *skb)
{
	uint32_t processor = processor_id();
	int refuse = 0;

	if (processor < VALUE(processors) && processor < BYPASS_CPUS) {
		if (read_begin(processor))
			refuse = refused(skb, processor);
		read_end(processor);
	}
	return refuse ? 0 : TAKEN;
}
