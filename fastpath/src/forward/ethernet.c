// Ethernet II and 802.1Q, in and out.
//
// A tag stands in the frame or beside it (packet->vlan_tci, where the driver took it off);
// VLAN 0 is a priority tag, which means untagged.  Not supported: stacked tags (802.1ad)
// and 802.3 LLC frames, which are unknown types here.
#include "forward/hand.h"

#include "base/bytes.h"
#include "wire/ethernet.h"

static void count_received(struct forward *f, const struct interface_entry *in, struct packet *packet)
{
	struct interface_counters *counters = &f->counters[in->index];

	if (packet->ingress != 0) // by the worker that it came from
		return;
	packet->ingress = in->index;
	counters->rx_packets++;
	counters->rx_bytes += packet->length;
}

// The interface whose counters a frame belongs to, which is the untagged one of the port
// where no interface takes it; NULL and *reason where it is nobody's.
static const struct interface_entry *claim(struct forward *f, struct packet *packet, uint16_t vlan,
	enum drop_reason *reason)
{
	const struct interface_entry *in = view_interface_of(&f->tables, packet->port, vlan);

	if (in == NULL) {
		*reason = vlan != 0 ? DROP_UNKNOWN_VLAN : DROP_NO_INTERFACE;
		in = vlan != 0 ? view_interface_of(&f->tables, packet->port, 0) : NULL;
	}
	if (in != NULL)
		count_received(f, in, packet);
	return in;
}

static enum drop_reason check_addresses(const struct interface_entry *in, const struct ethernet_header *header,
	struct packet *packet)
{
	if (ethernet_is_group(header->source) || ethernet_is_zero(header->source))
		return DROP_SOURCE_MAC;
	if (memcmp(header->source, in->mac, ETHERNET_ADDRESS) == 0)
		return DROP_OWN_MAC;
	// All groups pass: the IP layers know which of them somebody listens to.
	packet->link_broadcast = ethernet_is_group(header->destination);
	if (!packet->link_broadcast && memcmp(header->destination, in->mac, ETHERNET_ADDRESS) != 0)
		return DROP_NOT_FOR_US;
	return DROP_NONE;
}

// Find the type behind at most one tag, and the VLAN.  False for a runt.
static bool read_type(struct packet *packet, uint16_t *type, uint16_t *vlan)
{
	const uint8_t *data = packet_data(packet);

	packet->l3 = ETHERNET_HEADER;
	*type = 0;
	*vlan = packet->vlan_present ? packet->vlan_tci & VLAN_ID_MASK : 0;
	if (packet->length < packet->l3)
		return false;
	*type = load16(data + packet->l3 - 2);
	if (*type != ETHERNET_VLAN || packet->vlan_present)
		return true;
	packet->l3 += VLAN_TAG;
	if (packet->length < packet->l3)
		return false;
	*vlan = load16(data + ETHERNET_HEADER) & VLAN_ID_MASK;
	*type = load16(data + packet->l3 - 2);
	return true;
}

enum drop_reason ethernet_input(struct forward *f, struct packet *packet)
{
	const struct ethernet_header *header = (const void *)packet_data(packet);
	const struct interface_entry *in;
	enum drop_reason reason;
	uint16_t type, vlan;

	reason = read_type(packet, &type, &vlan) ? DROP_NONE : DROP_RUNT;
	in = claim(f, packet, vlan, &reason);
	if (in == NULL || reason != DROP_NONE)
		return reason;
	forward_trace(f, packet, "ethernet", "interface %s, type 0x%04x, %u bytes", in->name, type, packet->length);
	if (!interface_up(f, in))
		return DROP_INTERFACE_DOWN;
	reason = check_addresses(in, header, packet);
	if (reason != DROP_NONE)
		return reason;
	switch (type) {
	case ETHERNET_IP4:
		packet->family = FAMILY_IPV4;
		return ip4_input(f, in, packet);
	case ETHERNET_IP6:
		packet->family = FAMILY_IPV6;
		return ip6_input(f, in, packet);
	case ETHERNET_ARP:
		if (f->hands != NULL)
			return hand_frame(f, packet);
		return arp_input(f, in, packet);
	default:
		return DROP_UNKNOWN_ETHERTYPE;
	}
}

enum drop_reason ethernet_output(struct forward *f, const struct interface_entry *interface,
	const uint8_t *destination, uint16_t ethertype, struct packet *packet)
{
	uint16_t length = interface->vlan != 0 ? ETHERNET_HEADER + VLAN_TAG : ETHERNET_HEADER;
	struct ethernet_header *header;

	if (!packet_push(packet, length))
		return DROP_NO_BUFFER;
	packet->l3 = length;
	packet->vlan_present = false;
	header = (void *)packet_data(packet);
	memcpy(header->destination, destination, ETHERNET_ADDRESS);
	memcpy(header->source, interface->mac, ETHERNET_ADDRESS);
	if (interface->vlan != 0) {
		store16(&header->type, ETHERNET_VLAN);
		store16(packet_data(packet) + ETHERNET_HEADER, interface->vlan);
	}
	store16(packet_data(packet) + length - 2, ethertype);
	return egress_queue(f, interface, packet);
}
