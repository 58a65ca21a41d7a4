// Random frames for both sides of a router, good and bad, over patch links: for the counter laws.
//
// A module for tests: it holds the far ends of links whose near ends a VR's core holds.  Hosts .2 to .5 of 10.0.SIDE.0/24
// and 2001:db8:a::/64 or b:: speak IPv4, IPv6 and ARP with each other, with the router and with strangers; a part of
// their frames is cut, bent or tagged, or claims an offload.  They answer about half of what they are asked by ARP.
#include <stdlib.h>
#include <string.h>

#include "abi/core.h"
#include "base/bytes.h"
#include "base/cksum.h"
#include "port/link_end.h"
#include "random_frames.h"
#include "wire/arp.h"
#include "wire/ethernet.h"
#include "wire/ip4.h"
#include "wire/ip6.h"
#include "wire/udp.h"

#include <linux/virtio_net.h>
#include <netinet/in.h>

enum { HOSTS = 4, FRAME_ROOM = 1600, ODD = 16 };

struct traffic {
	struct link_end *end;
	uint8_t side;
	uint64_t random;
	uint8_t *room;           // of the longest frame that comes out
};

struct traffic *traffic_open(uint32_t side, uint64_t seed, int own, int peer, int own_event, int peer_event)
{
	struct traffic *traffic = calloc(1, sizeof(*traffic));
	if (traffic == NULL)
		return NULL;
	traffic->side = (uint8_t)side;
	traffic->random = seed * 2 + 1;
	traffic->room = malloc(SUPER_ROOM);
	if (traffic->room == NULL || link_end_open(own, peer, own_event, peer_event, &traffic->end) != 0) {
		free(traffic->room);
		free(traffic);
		return NULL;
	}
	return traffic;
}

uint64_t traffic_answers;

void traffic_close(struct traffic *traffic)
{
	link_end_close(traffic->end);
	free(traffic->room);
	free(traffic);
}

static uint32_t below(struct traffic *traffic, uint32_t limit)
{
	traffic->random ^= traffic->random << 13;
	traffic->random ^= traffic->random >> 7;
	traffic->random ^= traffic->random << 17;
	return (uint32_t)((traffic->random >> 16) % limit);
}

// One in so many.
static bool chance(struct traffic *traffic, uint32_t of)
{
	return below(traffic, of) == 0;
}

static void link_header(struct traffic *traffic, uint8_t *frame, uint16_t type, uint32_t host)
{
	const uint8_t router[6] = {2, 0, 0, 0, traffic->side == 0 ? 0x0a : 0x0b, 1};
	const uint8_t sender[6] = {2, 0, 0, 0, traffic->side == 0 ? 0x0a : 0x0b, (uint8_t)host};
	memcpy(frame, router, 6);
	memcpy(frame + 6, sender, 6);
	store16(frame + 12, type);
}

static void udp_fill(struct traffic *traffic, uint8_t *udp, uint32_t payload)
{
	store16(udp, 1000);
	store16(udp + 2, (uint16_t)(1 + below(traffic, 3000)));
	store16(udp + 4, (uint16_t)(UDP_HEADER + payload));
	store16(udp + 6, 0);
}

static uint32_t make_ip4(struct traffic *traffic, uint8_t *frame)
{
	static const uint8_t places[][4] = {
		{10, 0, 0, 2}, {10, 0, 1, 2}, {10, 0, 1, 3}, {10, 0, 0, 3}, {172, 16, 0, 1}, {172, 16, 9, 9}, {172, 17, 0, 1},
		{10, 0, 1, 77}, {10, 0, 0, 1}, {192, 0, 2, 1}, {10, 0, 1, 255}, {255, 255, 255, 255}, {224, 0, 0, 5}, {239, 1, 1, 1},
		{198, 51, 100, 1}, {203, 0, 113, 1}, {127, 0, 0, 1}, {0, 0, 0, 0},
	};
	struct ip4_header *ip = (void *)(frame + ETHERNET_HEADER);
	uint32_t host = 2 + below(traffic, HOSTS), payload = chance(traffic, 4) ? 100 + below(traffic, 1300) : 18;
	uint32_t where = chance(traffic, 4) ? below(traffic, sizeof(places) / 4) : below(traffic, 6);
	uint32_t options = chance(traffic, 20) ? 4 * (1 + below(traffic, 10)) : 0, header = IP4_HEADER + options;
	link_header(traffic, frame, ETHERNET_IP4, host);
	*ip = (struct ip4_header){.version_length = (uint8_t)(0x40 | header / 4),
		.ttl = chance(traffic, 12) ? (uint8_t)below(traffic, 3) : 64,
		.protocol = chance(traffic, 10) ? (uint8_t)below(traffic, 140) : IPPROTO_UDP,
		.source = {10, 0, traffic->side, (uint8_t)host}};
	ip->total_length = htons((uint16_t)(header + UDP_HEADER + payload));
	ip->id = (uint16_t)below(traffic, 1 << 16);
	ip->fragment = htons(chance(traffic, 10) ? (uint16_t)below(traffic, 1 << 16) : below(traffic, 2) != 0 ? IP4_DF : 0);
	memcpy(ip->destination, places[where], 4);
	for (uint32_t i = 0; i < options; i++)
		((uint8_t *)ip)[IP4_HEADER + i] = chance(traffic, 3) ? (uint8_t)below(traffic, 256) : IP4_OPTION_NOP;
	if (chance(traffic, 40))
		ip->source[0] = (uint8_t)below(traffic, 256);
	udp_fill(traffic, (uint8_t *)ip + header, payload);
	ip->checksum = 0;
	ip->checksum = cksum(ip, header);
	return ETHERNET_HEADER + header + UDP_HEADER + payload;
}

static uint32_t make_ip6(struct traffic *traffic, uint8_t *frame)
{
	static const uint8_t places[][16] = {
		{0x20, 1, 0xd, 0xb8, 0, 0xb, [15] = 2}, {0x20, 1, 0xd, 0xb8, 0, 0xa, [15] = 2}, {0x20, 1, 0xd, 0xb8, 0, 0xc, [15] = 9},
		{0x20, 1, 0xd, 0xb8, 0, 0xb, [15] = 9}, {0x20, 1, 0xd, 0xb8, 0, 0xa, [15] = 1}, {0xff, 2, [15] = 1},
		{0xfe, 0x80, [15] = 0xa}, {0x20, 2, [15] = 1}, {[15] = 1}, {0},
	};
	struct ip6_header *ip = (void *)(frame + ETHERNET_HEADER);
	uint32_t host = 2 + below(traffic, HOSTS), payload = chance(traffic, 4) ? 100 + below(traffic, 1380) : 12;
	uint32_t where = chance(traffic, 4) ? below(traffic, sizeof(places) / 16) : below(traffic, 3);
	link_header(traffic, frame, ETHERNET_IP6, host);
	*ip = (struct ip6_header){.version_flow = htonl(0x60000000), .payload_length = htons((uint16_t)(UDP_HEADER + payload)),
		.next = chance(traffic, 10) ? (uint8_t)below(traffic, 140) : IPPROTO_UDP,
		.hop_limit = chance(traffic, 12) ? (uint8_t)below(traffic, 3) : 64,
		.source = {0x20, 1, 0xd, 0xb8, 0, traffic->side == 0 ? 0xa : 0xb, [15] = (uint8_t)host}};
	memcpy(ip->destination, places[where], 16);
	if (chance(traffic, 40))
		ip->source[0] = (uint8_t)below(traffic, 256);
	udp_fill(traffic, (uint8_t *)ip + IP6_HEADER, payload);
	return ETHERNET_HEADER + IP6_HEADER + UDP_HEADER + payload;
}

static uint32_t make_arp(struct traffic *traffic, uint8_t *frame)
{
	struct arp_packet *arp = (void *)(frame + ETHERNET_HEADER);
	uint32_t host = 2 + below(traffic, HOSTS);
	link_header(traffic, frame, ETHERNET_ARP, host);
	*arp = (struct arp_packet){.hardware = htons(ARP_HARDWARE_ETHERNET), .protocol = htons(ETHERNET_IP4),
		.hardware_length = 6, .protocol_length = 4, .operation = htons((uint16_t)(1 + below(traffic, 3))),
		.sender = {10, 0, traffic->side, (uint8_t)host},
		.target = {10, 0, traffic->side, (uint8_t)(1 + below(traffic, 3))}};
	memcpy(arp->sender_mac, frame + 6, 6);
	return ETHERNET_HEADER + ARP_PACKET;
}

// Cut, bend or tag a frame; gives its length.
static uint32_t spoil(struct traffic *traffic, uint8_t *frame, uint32_t length)
{
	switch (below(traffic, 4)) {
	case 0:
		return 1 + below(traffic, length);
	case 1:
		memmove(frame + 16, frame + 12, length - 12);
		store16(frame + 12, ETHERNET_VLAN);
		store16(frame + 14, (uint16_t)(chance(traffic, 2) ? 7 : below(traffic, 4096)));
		return length + VLAN_TAG;
	case 2:
		frame[below(traffic, ETHERNET_HEADER)] = (uint8_t)below(traffic, 256);
		return length;
	default:
		frame[below(traffic, length < 64 ? length : 64)] = (uint8_t)below(traffic, 256);
		return length;
	}
}

static void claim_offload(struct traffic *traffic, struct virtio_net_hdr *vnet)
{
	*vnet = (struct virtio_net_hdr){.flags = (uint8_t)below(traffic, 2), .gso_type = (uint8_t)below(traffic, 6),
		.gso_size = (uint16_t)below(traffic, 600), .hdr_len = (uint16_t)below(traffic, 100),
		.csum_start = (uint16_t)below(traffic, 80), .csum_offset = (uint16_t)below(traffic, 20)};
}

uint64_t traffic_fill(struct traffic *traffic, uint64_t count)
{
	uint8_t frame[FRAME_ROOM];
	uint64_t filled = 0;
	while (filled < count) {
		struct virtio_net_hdr vnet = {0};
		uint32_t kind = below(traffic, ODD), length;
		length = kind == 0 ? make_arp(traffic, frame) : kind < 4 ? make_ip6(traffic, frame) : make_ip4(traffic, frame);
		if (chance(traffic, 8))
			length = spoil(traffic, frame, length);
		if (chance(traffic, 50))
			claim_offload(traffic, &vnet);
		const struct iovec whole = {.iov_base = frame, .iov_len = length};
		if (!link_end_fill(traffic->end, &whole, length, &vnet))
			break;
		filled++;
	}
	link_end_publish(traffic->end);
	return filled;
}

static void answer(struct traffic *traffic, const uint8_t *asked)
{
	uint8_t frame[ETHERNET_HEADER + ARP_PACKET];
	struct arp_packet *arp = (void *)(frame + ETHERNET_HEADER);
	memcpy(frame, asked, sizeof(frame));
	link_header(traffic, frame, ETHERNET_ARP, asked[ETHERNET_HEADER + 27]);
	arp->operation = htons(ARP_REPLY);
	memcpy(arp->target_mac, asked + 6, 6);
	memcpy(arp->target, asked + ETHERNET_HEADER + 14, 4);
	memcpy(arp->sender, asked + ETHERNET_HEADER + 24, 4);
	memcpy(arp->sender_mac, frame + 6, 6);
	traffic_answers += link_end_send(traffic->end, frame, sizeof(frame), NULL) == 0;
}

uint64_t traffic_drain(struct traffic *traffic)
{
	struct link_frame frame;
	uint8_t vnet[16];
	uint64_t count = 0;
	while (link_end_next(traffic->end, &frame)) {
		link_end_take(traffic->end, &frame, traffic->room, vnet);
		const uint8_t *target = traffic->room + ETHERNET_HEADER + 24;
		bool request = frame.length >= ETHERNET_HEADER + ARP_PACKET && load16(traffic->room + 12) == ETHERNET_ARP
			&& load16(traffic->room + ETHERNET_HEADER + 6) == ARP_REQUEST;
		if (request && target[3] >= 2 && target[3] < 2 + HOSTS && chance(traffic, 2))
			answer(traffic, traffic->room);
		count++;
	}
	link_end_record(traffic->end);
	return count;
}
