// The last step above the link: fit a packet to the egress MTU and give it to its neighbor.
//
//   fits, or is a super-packet whose segments fit -> as it is
//   super-packet with larger segments, or one for
//   a port that takes plain frames only           -> segments -> each fits or fragments
//   else                                          -> fragments, where that is allowed
#include "forward/stage.h"

#include "wire/ip4.h"

static bool may_fragment(const struct packet *packet)
{
	const uint8_t *data = packet->buffer + packet->offset;

	if (data[0] >> 4 == 6)
		return packet->ingress == 0; // RFC 8200 section 5: only the source
	return (ip4_fragment((const void *)data) & IP4_DF) == 0;
}

static enum drop_reason fit(struct forward *f, const struct interface_entry *out, uint8_t family,
	const uint8_t *nexthop, struct packet *packet);

// Give each piece to the neighbor.  What becomes of one is its own matter.
static void output_chain(struct forward *f, const struct interface_entry *out, uint8_t family, const uint8_t *nexthop,
	struct packet *chain)
{
	while (chain != NULL) {
		struct packet *next = chain->next;
		enum drop_reason reason;

		chain->next = NULL;
		reason = neighbor_output(f, out, family, nexthop, chain);
		if (reason != DROP_NONE)
			packet_drop(f, chain, reason);
		chain = next;
	}
}

static enum drop_reason fragment(struct forward *f, const struct interface_entry *out, uint8_t family,
	const uint8_t *nexthop, struct packet *packet)
{
	bool ip6 = packet_data(packet)[0] >> 4 == 6;
	struct packet *chain;

	if (!may_fragment(packet))
		return DROP_FRAGMENTATION_NEEDED;
	if (!offload_finish_checksum(packet))
		return DROP_FRAGMENT_FAILED;
	forward_trace(f, packet, "fragment", "%u bytes to %u", packet_bytes(packet), out->mtu);
	chain = ip6 ? fragment6(f, packet, out->mtu) : fragment4(f, packet, out->mtu);
	if (chain == NULL)
		return DROP_FRAGMENT_FAILED;
	output_chain(f, out, family, nexthop, chain);
	return DROP_NONE;
}

// Each segment is on its own from here: it is sent, cut further, or dropped and counted.
static enum drop_reason split(struct forward *f, const struct interface_entry *out, uint8_t family,
	const uint8_t *nexthop, struct packet *packet)
{
	struct packet *chain;

	if (offload_unit(packet) > out->mtu && !may_fragment(packet))
		return DROP_FRAGMENTATION_NEEDED;
	chain = offload_segment(f, packet);
	if (chain == NULL)
		return DROP_GSO_UNSUPPORTED;
	while (chain != NULL) {
		struct packet *next = chain->next;
		enum drop_reason reason;

		chain->next = NULL;
		reason = fit(f, out, family, nexthop, chain);
		if (reason != DROP_NONE)
			packet_drop(f, chain, reason);
		chain = next;
	}
	return DROP_NONE;
}

static enum drop_reason fit(struct forward *f, const struct interface_entry *out, uint8_t family,
	const uint8_t *nexthop, struct packet *packet)
{
	bool super = packet->vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE;

	if (offload_unit(packet) <= out->mtu && !(super && f->ports[out->port].plain != 0))
		return neighbor_output(f, out, family, nexthop, packet);
	if (super)
		return split(f, out, family, nexthop, packet);
	return fragment(f, out, family, nexthop, packet);
}

enum drop_reason ip_transmit(struct forward *f, const struct interface_entry *out, uint8_t family,
	const uint8_t *nexthop, struct packet *packet)
{
	packet->egress = out->index;
	if ((out->features & FEATURES_EGRESS) != 0) {
		enum drop_reason reason = stages_egress(f, out, packet);
		if (reason != DROP_NONE)
			return reason;
	}
	return fit(f, out, family, nexthop, packet);
}
