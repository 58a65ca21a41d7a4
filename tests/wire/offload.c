// Segmentation and checksums in software; see offload.h.
#include "offload.h"

#include <arpa/inet.h>
#include <net/ethernet.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stddef.h>
#include <string.h>

enum { TCP_CWR = 0x80, TCP_PSH = 0x08, TCP_FIN = 0x01, TCP_FLAGS = 13 };
enum { ETHERTYPE_SERVICE_VLAN = 0x88a8, GSO_UDP_L4 = 5 }; // virtio 1.3; older headers lack it

// Where the headers of a super-segment are.
struct layout {
	uint32_t network, transport, payload; // offsets in the frame
	bool ip4, tcp;
};

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static void put16(uint8_t *p, uint32_t value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put32(uint8_t *p, uint32_t value)
{
	put16(p, value >> 16);
	put16(p + 2, value);
}

// RFC 1071, on top of a sum so far; for frames shorter than 2^17 no carry is lost.
static uint32_t sum(const uint8_t *p, uint32_t length, uint32_t so_far)
{
	for (; length > 1; p += 2, length -= 2)
		so_far += get16(p);
	return length != 0 ? so_far + ((uint32_t)p[0] << 8) : so_far;
}

static uint16_t finish(uint32_t so_far)
{
	so_far = (so_far & 0xffff) + (so_far >> 16);
	return (uint16_t)~(so_far + (so_far >> 16));
}

bool offload_checksum(const struct virtio_net_hdr *vnet, uint8_t *frame, uint32_t length)
{
	uint32_t start = vnet->csum_start, place = start + vnet->csum_offset;
	if (place + 2 > length)
		return false;
	uint16_t value = finish(sum(frame + start, length - start, 0)); // the field holds the pseudo-header's
	bool udp = vnet->csum_offset == offsetof(struct udphdr, uh_sum);
	put16(frame + place, udp && value == 0 ? 0xffff : value);
	return true;
}

static bool find_headers(const struct virtio_net_hdr *vnet, const uint8_t *frame, uint32_t length, struct layout *out)
{
	uint32_t at = 2 * ETH_ALEN;
	if (length < ETH_HLEN)
		return false;
	while (at + 2 + 4 <= length && (get16(frame + at) == ETHERTYPE_VLAN || get16(frame + at) == ETHERTYPE_SERVICE_VLAN))
		at += 4;
	out->network = at + 2;
	out->transport = vnet->csum_start;
	uint8_t type = vnet->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
	uint16_t ethertype = get16(frame + at);
	out->ip4 = ethertype == ETHERTYPE_IP;
	out->tcp = type == VIRTIO_NET_HDR_GSO_TCPV4 || type == VIRTIO_NET_HDR_GSO_TCPV6;
	if ((!out->ip4 && ethertype != ETHERTYPE_IPV6) || (!out->tcp && type != GSO_UDP_L4))
		return false;
	uint32_t shortest = out->ip4 ? sizeof(struct ip) : sizeof(struct ip6_hdr);
	uint32_t fixed = out->tcp ? sizeof(struct tcphdr) : sizeof(struct udphdr);
	if (out->transport < out->network + shortest || out->transport + fixed > length)
		return false;
	if (out->ip4 && out->network + (frame[out->network] & 15u) * 4 != out->transport)
		return false;
	out->payload = out->transport + (out->tcp ? (frame[out->transport + 12] >> 4) * 4u : fixed);
	return out->payload >= out->transport + fixed && out->payload < length;
}

static void fix_network(const struct layout *layout, uint8_t *frame, uint32_t length, uint32_t number)
{
	uint8_t *ip = frame + layout->network;
	if (!layout->ip4) {
		put16(ip + 4, length - layout->network - (uint32_t)sizeof(struct ip6_hdr));
		return;
	}
	put16(ip + 2, length - layout->network);
	put16(ip + 4, get16(ip + 4) + number);
	put16(ip + 10, 0);
	put16(ip + 10, finish(sum(ip, layout->transport - layout->network, 0)));
}

static void fix_transport(const struct layout *layout, uint8_t *frame, uint32_t length, uint32_t offset, bool last)
{
	uint8_t *segment = frame + layout->transport;
	uint32_t size = length - layout->transport;
	if (layout->tcp) {
		put32(segment + 4, get32(segment + 4) + offset);
		if (!last)
			segment[TCP_FLAGS] &= (uint8_t)~(TCP_FIN | TCP_PSH);
		if (offset != 0)
			segment[TCP_FLAGS] &= (uint8_t)~TCP_CWR; // RFC 3168, section 6.1.2: once
	} else {
		put16(segment + 4, size);
	}
	uint8_t *field = segment + (layout->tcp ? offsetof(struct tcphdr, th_sum) : offsetof(struct udphdr, uh_sum));
	uint32_t addresses = layout->ip4 ? 8 : 32;
	size_t from = layout->network + (layout->ip4 ? offsetof(struct ip, ip_src) : offsetof(struct ip6_hdr, ip6_src));
	uint32_t pseudo = sum(frame + from, addresses, size + (layout->tcp ? IPPROTO_TCP : IPPROTO_UDP));
	put16(field, 0);
	uint16_t value = finish(sum(segment, size, pseudo));
	put16(field, !layout->tcp && value == 0 ? 0xffff : value);
}

uint32_t offload_split(const struct virtio_net_hdr *vnet, const uint8_t *frame, uint32_t length, uint8_t *scratch,
		       offload_take *take, void *user)
{
	struct layout layout;
	if (vnet->gso_size == 0 || !find_headers(vnet, frame, length, &layout))
		return 0;
	uint32_t number = 0, payload = length - layout.payload;
	for (uint32_t offset = 0; offset < payload; offset += vnet->gso_size) {
		bool last = payload - offset <= vnet->gso_size;
		uint32_t piece = last ? payload - offset : vnet->gso_size;
		memcpy(scratch, frame, layout.payload);
		memcpy(scratch + layout.payload, frame + layout.payload + offset, piece);
		fix_network(&layout, scratch, layout.payload + piece, number++);
		fix_transport(&layout, scratch, layout.payload + piece, offset, last);
		take(user, scratch, layout.payload + piece);
	}
	return number;
}
