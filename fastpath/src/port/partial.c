// Unfinished checksums of frames that come without a vnet header.
//
// A sender that leaves the checksum of TCP or UDP to its network card writes the sum of the pseudo header in the
// field.  A veth, which has no card, hands such a frame to XDP as it is.  So a field that holds just that sum is
// taken for an unfinished one.  A finished one that happens to be equal (one in 65,535) belongs to a frame whose
// checksum, finished again, comes out the same.
//
// Not supported: IPv6 extension headers, which hosts rarely send before TCP and UDP; super-packets, which do not
// come this way.
#include "port/port.h"

#include <netinet/in.h>
#include <stddef.h>

#include "base/bytes.h"
#include "base/cksum.h"
#include "wire/ethernet.h"
#include "wire/ip4.h"
#include "wire/ip6.h"
#include "wire/tcp.h"
#include "wire/udp.h"

// What of a packet its transport checksum is made of; false for what is not plain TCP or UDP, whole.
struct transport {
	uint32_t start;      // of the transport header, from the IP header
	uint32_t length;     // with the data
	uint16_t field;      // place of the checksum in the transport header
};

static bool find_transport(const uint8_t *ip, uint32_t length, struct transport *found)
{
	const struct ip4_header *ip4 = (const void *)ip;
	const struct ip6_header *ip6 = (const void *)ip;
	uint8_t protocol;
	uint32_t total;

	if (length >= IP4_HEADER && ip[0] >> 4 == 4 && !ip4_is_fragment(ip4)) {
		protocol = ip4->protocol;
		total = ip4_total_length(ip4);
		found->start = ip4_header_length(ip4);
	} else if (length >= IP6_HEADER && ip[0] >> 4 == 6) {
		protocol = ip6->next;
		total = IP6_HEADER + ip6_payload_length(ip6);
		found->start = IP6_HEADER;
	} else {
		return false;
	}
	if ((protocol != IPPROTO_TCP && protocol != IPPROTO_UDP) || found->start < IP4_HEADER || total > length)
		return false;
	found->field = protocol == IPPROTO_TCP ? TCP_CHECKSUM : UDP_CHECKSUM;
	if (total < found->start + found->field + 2u)
		return false;
	found->length = total - found->start;
	return true;
}

static uint16_t pseudo_header(const uint8_t *ip, const struct transport *found)
{
	const struct ip4_header *ip4 = (const void *)ip;
	const struct ip6_header *ip6 = (const void *)ip;

	if (ip[0] >> 4 == 4)
		return cksum_fold(cksum_pseudo4(ip4->source, ip4->destination, ip4->protocol, found->length));
	return cksum_fold(cksum_pseudo6(ip6->source, ip6->destination, ip6->next, found->length));
}

void port_vnet_guess(struct packet *packet)
{
	const uint8_t *data = packet->buffer + packet->offset;
	uint32_t header = ETHERNET_HEADER;
	struct transport found;
	uint16_t checksum;

	if (packet->length >= ETHERNET_HEADER + VLAN_TAG && load16(data + 12) == ETHERNET_VLAN)
		header += VLAN_TAG;
	if (packet->length < header || !find_transport(data + header, packet->length - header, &found))
		return;
	memcpy(&checksum, data + header + found.start + found.field, sizeof(checksum));
	if (checksum == 0 || checksum != pseudo_header(data + header, &found))
		return;
	packet->vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	packet->vnet.csum_start = (uint16_t)(header + found.start);
	packet->vnet.csum_offset = found.field;
}
