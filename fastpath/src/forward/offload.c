// What a sender left to its network card: checksums and the splitting of super-packets.
//
// Packets carry the virtio_net_hdr with which the kernel or a patch link handed them over.
// It is passed on with a packet wherever that is possible; this is for where it is not.
// Not supported: UDP fragmentation offload (VIRTIO_NET_HDR_GSO_UDP), which kernels have
// given up, and encapsulated super-packets, which virtio cannot describe.
#include "forward/forward.h"

#include "base/bytes.h"
#include "base/cksum.h"
#include "wire/ip4.h"
#include "wire/ip6.h"
#include "wire/tcp.h"
#include "wire/udp.h"

#include <netinet/in.h>

// The headers of a super-packet, which every piece repeats.
struct headers {
	uint8_t family;
	uint8_t protocol;
	uint32_t transport;  // offset of the transport header from the IP header
	uint32_t length;     // of all of them
};

bool offload_finish_checksum(struct packet *packet)
{
	return packet_finish_checksum(packet);
}

static bool find_transport(const uint8_t *ip, uint32_t length, struct headers *headers)
{
	const struct ip4_header *ip4 = (const void *)ip;
	struct ip6_walk walk;

	if (length < IP4_HEADER)
		return false;
	if (ip[0] >> 4 == 4) {
		headers->family = FAMILY_IPV4;
		headers->protocol = ip4->protocol;
		headers->transport = ip4_header_length(ip4);
		return headers->transport >= IP4_HEADER && headers->transport <= length && !ip4_is_fragment(ip4);
	}
	headers->family = FAMILY_IPV6;
	if (ip[0] >> 4 != 6 || !ip6_walk(ip, length, &walk))
		return false;
	headers->protocol = walk.next;
	headers->transport = walk.offset;
	return walk.fragment == 0;
}

// The vnet header may come from another VR: it must fit what the packet itself says.
static bool find_headers(const struct packet *packet, struct headers *headers)
{
	const uint8_t *ip = packet->buffer + packet->offset + packet->l3;
	uint32_t length = packet->length - packet->l3;
	uint32_t transport = 0;

	if (packet->vnet.gso_size == 0 || !find_transport(ip, length, headers))
		return false;
	switch (packet->vnet.gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
	case VIRTIO_NET_HDR_GSO_TCPV4:
	case VIRTIO_NET_HDR_GSO_TCPV6:
		if (headers->protocol == IPPROTO_TCP)
			transport = tcp_header_length(ip + headers->transport, length - headers->transport);
		break;
	case VIRTIO_NET_HDR_GSO_UDP_L4:
		if (headers->protocol == IPPROTO_UDP && length - headers->transport >= UDP_HEADER)
			transport = UDP_HEADER;
		break;
	default:
		break;
	}
	headers->length = headers->transport + transport;
	return transport != 0 && headers->length < packet_bytes(packet) - packet->l3;
}

uint32_t offload_unit(const struct packet *packet)
{
	uint32_t length = packet_bytes(packet) - packet->l3;
	struct headers headers;

	if (packet->vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE || !find_headers(packet, &headers))
		return length;
	return headers.length + packet->vnet.gso_size < length ? headers.length + packet->vnet.gso_size : length;
}

static uint64_t pseudo_header(const struct headers *headers, const uint8_t *ip, uint32_t length)
{
	if (headers->family == FAMILY_IPV4)
		return cksum_pseudo4(ip + offsetof(struct ip4_header, source), ip + offsetof(struct ip4_header, destination),
			headers->protocol, length);
	return cksum_pseudo6(ip + offsetof(struct ip6_header, source), ip + offsetof(struct ip6_header, destination),
		headers->protocol, length);
}

static void finish_ip(const struct headers *headers, uint8_t *ip, uint32_t length, uint32_t number)
{
	struct ip4_header *ip4 = (void *)ip;

	if (headers->family == FAMILY_IPV4) {
		ip4->total_length = htons((uint16_t)length);
		ip4->id = htons((uint16_t)(ntohs(ip4->id) + number));
		ip4->checksum = 0;
		ip4->checksum = cksum(ip4, headers->transport);
	} else {
		store16(ip + offsetof(struct ip6_header, payload_length), (uint16_t)(length - IP6_HEADER));
	}
}

// Flags of one segment: what ends the data belongs to the last, CWR to the first
// (RFC 3168 section 6.1.2).
static void finish_tcp(struct tcp_header *tcp, uint32_t advance, bool first, bool last)
{
	tcp->sequence = htonl(ntohl(tcp->sequence) + advance);
	if (!first)
		tcp->flags &= (uint8_t)~TCP_CWR;
	if (!last)
		tcp->flags &= (uint8_t)~(TCP_FIN | TCP_PSH);
}

static void finish_segment(const struct headers *headers, struct packet *segment, uint32_t number, uint32_t advance,
	bool last, bool checksummed)
{
	uint8_t *ip = packet_data(segment);
	uint8_t *transport = ip + headers->transport;
	uint32_t length = segment->length - headers->transport;
	uint32_t field = headers->protocol == IPPROTO_TCP ? TCP_CHECKSUM : UDP_CHECKSUM;
	uint16_t checksum = 0;
	uint64_t sum;

	finish_ip(headers, ip, segment->length, number);
	if (headers->protocol == IPPROTO_TCP)
		finish_tcp((void *)transport, advance, number == 0, last);
	else
		store16(transport + offsetof(struct udp_header, length), (uint16_t)length);
	memcpy(transport + field, &checksum, sizeof checksum);
	if (!checksummed)
		return;
	sum = cksum_add(pseudo_header(headers, ip, length), transport, length);
	checksum = headers->protocol == IPPROTO_TCP ? cksum_finish(sum) : cksum_finish_udp(sum);
	memcpy(transport + field, &checksum, sizeof checksum);
}

struct packet *offload_segment(struct forward *f, struct packet *packet)
{
	struct packet *chain = NULL, **tail = &chain;
	struct headers headers;
	bool checksummed;
	uint32_t number = 0;

	packet_gather(packet);
	if (!find_headers(packet, &headers))
		return NULL;
	// UDP over IPv4 may come without a checksum and then stays so.
	checksummed = headers.protocol == IPPROTO_TCP || (packet->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0
		|| load16(packet_data(packet) + headers.transport + UDP_CHECKSUM) != 0;
	for (uint32_t at = headers.length, length; at < packet->length; at += length) {
		struct packet *segment;

		length = packet->length - at < packet->vnet.gso_size ? packet->length - at : packet->vnet.gso_size;
		segment = packet_piece(f, packet, headers.length, 0, at, length);
		if (segment == NULL) {
			packet_put_chain(f, chain);
			return NULL;
		}
		finish_segment(&headers, segment, number++, at - headers.length, at + length == packet->length, checksummed);
		*tail = segment;
		tail = &segment->next;
	}
	chain->account = packet->account;
	packet_put(f->pool, packet);
	return chain;
}
