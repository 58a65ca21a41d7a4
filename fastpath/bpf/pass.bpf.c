// tc, at the entry of a device: forwards what the filter of its packet socket has refused (tap.h), drops the rest, which
// the socket has.
//
// The kernel sends a frame on as it is: super-frames whole, with what a device has yet to finish.  It is lost here only
// without memory for its headers, or when its way out has gone since the filter ran.
#define PROGRAM "tc"
#include "tap.h"

enum { READ = ETHERNET + IP6 };

struct map SECTION("maps") ways = {MAP_ARRAY, sizeof(uint32_t), sizeof(uint32_t), MAX_PORTS, 0};

// Our view of the frame's first bytes; false: it is shorter, or there is no memory.
INLINE int view(struct skb *skb, struct transit *t)
{
	t->data = (void *)(uintptr_t)skb->data;
	t->end = (void *)(uintptr_t)skb->data_end;
	return t->data + ETHERNET + IP4 <= t->end;
}

INLINE int forward(struct skb *skb)
{
	struct transit t = {.frame = skb->len};
	uint32_t sent, processor, where, *way;

	where = hear(skb, &t);
	skb->cb[0] = 0;
	way = map_lookup(&ways, &t.port);
	if (way == NULL || *way == 0)
		return TC_ACT_SHOT;
	if (!view(skb, &t) && (pull_data(skb, t.frame < READ ? t.frame : READ) != 0 || !view(skb, &t)))
		return TC_ACT_SHOT;
	if (U16(t.data + 12) == TYPE_IP4) {
		t.family = FAMILY_IPV4;
		sent = ETHERNET + (uint32_t)__builtin_bswap16(U16(t.data + ETHERNET + 2));
	} else {
		t.family = FAMILY_IPV6;
		sent = ETHERNET + IP6 + (uint32_t)__builtin_bswap16(U16(t.data + ETHERNET + 4));
		checksum_update(skb, 0xfeff); // the hop limit, one less
	}
	rewrite(&t);
	if (sent < t.frame && change_tail(skb, sent, 0) != 0) // what the link padded
		return TC_ACT_SHOT;
	processor = processor_id();
	OPAQUE(where);
	t.ingress = where & (MAX_INTERFACES - 1);
	t.egress = where >> 8 & (MAX_INTERFACES - 1);
	if (processor < VALUE(processors) && processor < BYPASS_CPUS) { // as the filter has found
		t.processor = processor;
		count(&t, t.frame, sent);
	}
	return (int)redirect_to(*way, 0);
}

SECTION(PROGRAM) int pass(struct skb *skb)
{
	uint32_t mark = (uint32_t)ONCE(LINKS->mark);

	return mark != 0 && skb->cb[0] == mark ? forward(skb) : TC_ACT_SHOT;
}
