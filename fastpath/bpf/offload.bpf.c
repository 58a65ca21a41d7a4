// XDP: forwards plain transit packets between the ports of a virtual router; all others go on to its forwarder.
//
//   plain transit (transit.h), out of a port that takes redirected frames -> devmap
//   anything else, untouched -> the AF_XDP socket of the queue, or the packet ring
#define PROGRAM "xdp"
#include "transit.h"

struct map SECTION("maps") devices = {MAP_DEVMAP, sizeof(uint32_t), sizeof(uint32_t), MAX_PORTS, 0};
struct map SECTION("maps") sockets = {MAP_XSKMAP, sizeof(uint32_t), sizeof(uint32_t), 0, 0};

// XDP_REDIRECT, and the frame has its new header, or it goes on as it came.
INLINE int forward(struct xdp_md *context, uint32_t processor)
{
	struct transit t = {
		.data = (void *)(uintptr_t)context->data,
		.end = (void *)(uintptr_t)context->data_end,
		.in = &LINKS->ports[VALUE(port)],
		.processor = processor,
	};
	uint32_t sent;

	t.frame = (uint32_t)(t.end - t.data);
	// redirect_map notes where to; the frame stays ours until we return.
	if (!transit(&t) || redirect_map(&devices, t.port & UINT16_MAX, XDP_PASS) != XDP_REDIRECT)
		return XDP_PASS;
	rewrite(&t);
	sent = t.length + ETHERNET;
	count(&t, t.frame, sent);
	if (sent < t.frame) // what the link padded
		adjust_tail(context, (int)(sent - t.frame));
	return XDP_REDIRECT;
}

SECTION(PROGRAM) int offload(struct xdp_md *context)
{
	uint32_t processor = processor_id();
	int verdict = XDP_PASS;

	if (processor < VALUE(processors) && processor < BYPASS_CPUS) {
		if (read_begin(processor))
			verdict = forward(context, processor);
		read_end(processor);
	}
	if (verdict == XDP_REDIRECT)
		return verdict;
	return (int)redirect_map(&sockets, context->rx_queue_index, XDP_PASS);
}
