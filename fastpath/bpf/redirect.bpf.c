// XDP: hands all frames of a queue to its AF_XDP socket, where there is one; else they go on to the kernel, and so to
// the packet ring.
#include "bpf.h"

struct map SECTION("maps") sockets = {MAP_XSKMAP, sizeof(uint32_t), sizeof(uint32_t), 0, 0};

SECTION("xdp") int redirect(struct xdp_md *context)
{
	return (int)redirect_map(&sockets, context->rx_queue_index, XDP_PASS);
}
