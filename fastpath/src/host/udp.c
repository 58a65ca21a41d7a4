// UDP (RFC 768, RFC 1122 section 4.1, RFC 8200 section 8.1).
//
// A frame from a local peer may be a super-packet of many datagrams of gso_size bytes
// (VIRTIO_NET_HDR_GSO_UDP_L4), which are told apart here.
// Not supported: UDP-Lite; zero checksums over IPv6 (RFC 6935).
#include "host/internal.h"

#include <errno.h>
#include <linux/virtio_net.h>
#include "wire/udp.h"

// Hand a payload, or each datagram of a super-packet, to one socket.
static bool deliver_parts(struct host *host, uint32_t slot, const struct inbound *in, const uint8_t *payload, uint32_t length, uint32_t part)
{
	bool taken = false;
	do {
		uint32_t piece = part != 0 && length > part ? part : length;
		taken |= deliver_payload(host, slot, in, payload, piece);
		payload += piece;
		length -= piece;
	} while (length > 0);
	return taken;
}

// Broadcast and multicast: every socket that fits gets a copy.
static enum drop_reason deliver_many(struct host *host, const struct inbound *in, const uint8_t *payload, uint32_t length, uint32_t part)
{
	uint16_t port = in->flow.local_port;
	enum drop_reason reason = DROP_NO_SOCKET;
	for (uint16_t at = demux_first(host, DEMUX_UDP, port); at != 0; at = host->next[at - 1]) {
		const struct socket_entry *entry = &host->state->sockets[at - 1];
		if (!demux_is(entry, DEMUX_UDP, port) || endpoint_score(entry, &in->flow) < 0)
			continue;
		if (in->flow.multicast && !membership_accepts(host, at - 1u, &in->flow)) {
			if (reason == DROP_NO_SOCKET)
				reason = DROP_SOURCE_FILTERED;
			continue;
		}
		if (deliver_parts(host, at - 1u, in, payload, length, part))
			reason = DROP_NONE;
		else if (reason != DROP_NONE)
			reason = DROP_SOCKET_QUEUE_FULL;
	}
	return reason;
}

static bool checksum_right(const struct inbound *in, const uint8_t *udp, uint32_t length)
{
	if (in->verified)
		return true;
	if (load16(udp + UDP_CHECKSUM) == 0)
		return in->flow.family == FAMILY_IPV4;
	return transport_checksum(in->flow.family, in->flow.remote, in->flow.local, IPPROTO_UDP, udp, length) == 0;
}

enum drop_reason udp_input(struct host *host, struct inbound *in)
{
	const uint8_t *udp = in->ip + in->transport;
	uint32_t available = in->length - in->transport;
	if (available < UDP_HEADER)
		return DROP_UDP_MALFORMED;
	const struct virtio_net_hdr *vnet = &in->packet->vnet;
	uint32_t part = 0;
	uint32_t length = load16(udp + 4);
	if ((vnet->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) == VIRTIO_NET_HDR_GSO_UDP_L4 && vnet->gso_size != 0) {
		part = vnet->gso_size;
		length = available; // the header's length may be that of one part
	}
	if (length < UDP_HEADER || length > available)
		return DROP_UDP_MALFORMED;
	if (!checksum_right(in, udp, length))
		return DROP_UDP_CHECKSUM;
	in->flow.remote_port = load16(udp);
	in->flow.local_port = load16(udp + 2);

	const uint8_t *payload = udp + UDP_HEADER;
	length -= UDP_HEADER;
	if (in->flow.multicast || in->flow.broadcast)
		return deliver_many(host, in, payload, length, part);
	int slot = demux_find(host, DEMUX_UDP, in->flow.local_port, &in->flow);
	if (slot >= 0)
		return deliver_parts(host, (uint32_t)slot, in, payload, length, part) ? DROP_NONE : DROP_SOCKET_QUEUE_FULL;
	if (!in->packet->link_broadcast)
		host->ops.unreachable(host->ops.user, in->packet, HOST_PORT_UNREACHABLE);
	return DROP_NO_SOCKET;
}

int udp_send(struct host *host, uint32_t slot, struct outbound *out, const uint8_t *payload, uint32_t length)
{
	const struct socket_entry *entry = &host->state->sockets[slot];
	if (out->port == 0)
		return -EINVAL;
	out->protocol = IPPROTO_UDP;
	uint32_t total = length + UDP_HEADER;
	int error = outbound_fit(entry, out, total);
	if (error < 0)
		return error;
	uint8_t *udp;
	struct packet *packet = outbound_packet(host, out, total, &udp);
	if (packet == NULL)
		return -ENOBUFS;
	store16(udp, entry->local_port);
	store16(udp + 2, out->port);
	store16(udp + 4, (uint16_t)total);
	store16(udp + UDP_CHECKSUM, 0);
	memcpy(udp + UDP_HEADER, payload, length);
	uint16_t sum = transport_checksum(out->family, out->source, out->destination, IPPROTO_UDP, udp, total);
	if (sum == 0)
		sum = 0xffff; // zero would say that there is none
	memcpy(udp + UDP_CHECKSUM, &sum, sizeof(sum));
	return outbound_send(host, out, entry, packet);
}
