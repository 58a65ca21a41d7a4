// What the two programs of `offload: tc` say to each other: words in the control block of a frame (skb->cb).
//
// A packet socket gets each frame before tc does, in the same run of the kernel.  So the filter of the socket
// (tap.bpf.c) decides, refuses what it wants forwarded and says so in the frame; the program at tc (pass.bpf.c) does as
// it is told, and drops the rest as ever.  There is one decision for each frame, and it stands with the frame:
// whatever happens to maps and programs in between, no frame goes both ways or neither.
//
//   cb[0]  bypass_links.mark: it is ours.  The kernel clears the block before the filter runs
//   cb[1]  the first 12 bytes that it leaves with, as they lie in memory: the neighbor's link address, and ours
//   cb[2]
//   cb[3]
//   cb[4]  interface that it came by, interface << 8 and port << 16 that it leaves by
#ifndef BPF_TAP_H
#define BPF_TAP_H

#include "transit.h"

_Static_assert(MAX_INTERFACES <= 256 && MAX_PORTS <= 256, "each has its byte in cb[4]");

INLINE void say(struct skb *skb, const struct transit *t, uint32_t mark)
{
	skb->cb[0] = mark;
	skb->cb[1] = (uint32_t)t->header;
	skb->cb[2] = (uint32_t)(t->header >> 32);
	skb->cb[3] = t->header_end;
	skb->cb[4] = t->ingress | t->egress << 8 | (t->port & UINT16_MAX) << 16;
}

// The word of the interfaces is the caller's to take apart, where the verifier sees it.
INLINE uint32_t hear(const struct skb *skb, struct transit *t)
{
	uint32_t where = skb->cb[4];

	t->header = skb->cb[1] | (uint64_t)skb->cb[2] << 32;
	t->header_end = skb->cb[3];
	t->port = where >> 16;
	return where;
}

#endif
