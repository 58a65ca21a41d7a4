// BFD's datagrams and the packets that carry them: UDP over IPv4 and IPv6 (RFC 5881 section 4, RFC 5883 section 5).
#include "bfd/bfd.h"

#include "base/bytes.h"
#include "base/cksum.h"
#include "wire/ip4.h"
#include "wire/ip6.h"
#include "wire/udp.h"

#include <netinet/in.h>

enum { NETWORK_CONTROL = 0xc0 }; // class selector 6

static bool is_ours(uint16_t port)
{
	return port == BFD_PORT || port == BFD_ECHO_PORT || port == BFD_MULTIHOP_PORT;
}

// Where the UDP header lies, from the IP header; 0: it is no whole UDP datagram.
static uint32_t find_udp(const uint8_t *ip, uint32_t available, struct bfd_datagram *datagram)
{
	if (available >= IP4_HEADER && ip[0] >> 4 == 4) {
		const struct ip4_header *header = (const void *)ip;
		if (header->protocol != IPPROTO_UDP || ip4_is_fragment(header))
			return 0;
		datagram->family = FAMILY_IPV4;
		datagram->ttl = header->ttl;
		memcpy(datagram->source, header->source, 4);
		memcpy(datagram->destination, header->destination, 4);
		return ip4_header_length(header) + UDP_HEADER <= available ? ip4_header_length(header) : 0;
	}
	if (available >= IP6_HEADER + UDP_HEADER && ip[0] >> 4 == 6) {
		const struct ip6_header *header = (const void *)ip;
		if (header->next != IPPROTO_UDP)
			return 0;
		datagram->family = FAMILY_IPV6;
		datagram->ttl = header->hop_limit;
		memcpy(datagram->source, header->source, 16);
		memcpy(datagram->destination, header->destination, 16);
		return IP6_HEADER;
	}
	return 0;
}

static uint16_t checksum(const struct bfd_datagram *datagram, const uint8_t *udp, uint32_t length)
{
	uint64_t sum = datagram->family == FAMILY_IPV4
		? cksum_pseudo4(datagram->source, datagram->destination, IPPROTO_UDP, length)
		: cksum_pseudo6(datagram->source, datagram->destination, IPPROTO_UDP, length);
	return cksum_finish(cksum_add(sum, udp, length));
}

static bool checksum_right(const struct packet *packet, const struct bfd_datagram *datagram, const uint8_t *udp, uint32_t length)
{
	if (packet->vnet.flags & (VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID))
		return true;
	if (load16(udp + UDP_CHECKSUM) == 0)
		return datagram->family == FAMILY_IPV4;
	return checksum(datagram, udp, length) == 0;
}

bool bfd_parse(struct packet *packet, struct bfd_datagram *datagram, enum drop_reason *reason)
{
	uint8_t *ip = packet_data(packet) + packet->l3;
	*datagram = (struct bfd_datagram){.interface = packet->ingress};
	if (packet->length <= packet->l3 || packet->part_count != 0)
		return false;
	uint32_t available = packet->length - packet->l3;
	uint32_t offset = find_udp(ip, available, datagram);
	if (offset == 0 || !is_ours(load16(ip + offset + 2)))
		return false;
	const uint8_t *udp = ip + offset;
	uint32_t length = load16(udp + 4);
	datagram->source_port = load16(udp);
	datagram->destination_port = load16(udp + 2);
	*reason = DROP_NONE;
	if (length < UDP_HEADER || length > available - offset) {
		*reason = DROP_UDP_MALFORMED;
	} else if (!checksum_right(packet, datagram, udp, length)) {
		*reason = DROP_UDP_CHECKSUM;
	} else {
		datagram->payload = udp + UDP_HEADER;
		datagram->length = length - UDP_HEADER;
	}
	return true;
}

static void write4(const struct bfd_datagram *datagram, uint8_t *ip, uint32_t length)
{
	memset(ip, 0, IP4_HEADER);
	ip[0] = 0x45;
	ip[1] = NETWORK_CONTROL;
	store16(ip + 2, (uint16_t)(IP4_HEADER + length));
	ip[8] = datagram->ttl;
	ip[9] = IPPROTO_UDP;
	memcpy(ip + 12, datagram->source, 4);
	memcpy(ip + 16, datagram->destination, 4);
	uint16_t sum = cksum(ip, IP4_HEADER);
	memcpy(ip + 10, &sum, sizeof(sum));
}

static void write6(const struct bfd_datagram *datagram, uint8_t *ip, uint32_t length)
{
	memset(ip, 0, IP6_HEADER);
	store16(ip, (uint16_t)(0x6000u | (uint32_t)NETWORK_CONTROL << 4));
	store16(ip + 4, (uint16_t)length);
	ip[6] = IPPROTO_UDP;
	ip[7] = datagram->ttl;
	memcpy(ip + 8, datagram->source, 16);
	memcpy(ip + 24, datagram->destination, 16);
}

void bfd_encapsulate(const struct bfd_datagram *datagram, struct packet *packet)
{
	uint32_t header = datagram->family == FAMILY_IPV4 ? IP4_HEADER : IP6_HEADER;
	uint32_t length = UDP_HEADER + datagram->length;
	packet->offset = PACKET_HEADROOM;
	packet->length = header + length;
	packet->family = datagram->family;
	packet->l3 = 0;
	packet->ingress = 0;
	packet->account = ACCOUNT_ORIGINATED;

	uint8_t *ip = packet_data(packet), *udp = ip + header;
	if (datagram->family == FAMILY_IPV4)
		write4(datagram, ip, length);
	else
		write6(datagram, ip, length);
	store16(udp, datagram->source_port);
	store16(udp + 2, datagram->destination_port);
	store16(udp + 4, (uint16_t)length);
	store16(udp + UDP_CHECKSUM, 0);
	memcpy(udp + UDP_HEADER, datagram->payload, datagram->length);
	uint16_t sum = checksum(datagram, udp, length);
	if (sum == 0)
		sum = 0xffff; // zero would say that there is none
	memcpy(udp + UDP_CHECKSUM, &sum, sizeof(sum));
}
