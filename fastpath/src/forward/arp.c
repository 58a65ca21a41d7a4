// ARP (RFC 826) with address probes, announcements and defence (RFC 5227).
//
// We answer for the addresses of the interface that is asked, no others, learn from those
// who ask us or answer us, and take announcements only as news of a neighbor that we
// already know.  Not supported: proxy ARP, RARP.
#include <string.h>
#include "forward/neighbor.h"
#include "wire/arp.h"
#include "wire/ip4.h"

static const uint8_t BROADCAST[ETHERNET_ADDRESS] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

struct arp_fields {
	uint16_t operation;
	const uint8_t *sender;
	const uint8_t *target_mac; // NULL: zero
	const uint8_t *target;
};

static void arp_send(struct forward *f, const struct interface_entry *out, const uint8_t *destination,
	const struct arp_fields *fields)
{
	struct packet *packet = packet_own(f, ARP_PACKET);
	if (packet == NULL)
		return;
	struct arp_packet *arp = (void *)packet_data(packet);
	store16(&packet_data(packet)[0], ARP_HARDWARE_ETHERNET);
	store16(&packet_data(packet)[2], ETHERNET_IP4);
	arp->hardware_length = ETHERNET_ADDRESS;
	arp->protocol_length = 4;
	store16(&packet_data(packet)[6], fields->operation);
	memcpy(arp->sender_mac, out->mac, ETHERNET_ADDRESS);
	memcpy(arp->sender, fields->sender, 4);
	if (fields->target_mac != NULL)
		memcpy(arp->target_mac, fields->target_mac, ETHERNET_ADDRESS);
	memcpy(arp->target, fields->target, 4);
	packet_send_own(f, out, destination, ETHERNET_ARP, packet);
}

void arp_request(struct forward *f, const struct interface_entry *out, const uint8_t *target, const uint8_t *mac,
	const uint8_t *source)
{
	static const uint8_t none[16];
	if (source == NULL)
		source = dad_source(f, FAMILY_IPV4, out->index, target);
	if (source == NULL) // an unnumbered interface borrows an address
		source = dad_source(f, FAMILY_IPV4, 0, target);
	const struct arp_fields fields = {.operation = ARP_REQUEST, .sender = source != NULL ? source : none,
		.target = target};
	arp_send(f, out, mac != NULL ? mac : BROADCAST, &fields);
}

void arp_announce(struct forward *f, const struct interface_entry *out, const uint8_t *address)
{
	const struct arp_fields fields = {.operation = ARP_REQUEST, .sender = address, .target = address};
	arp_send(f, out, BROADCAST, &fields);
}

static bool sender_impossible(const struct interface_entry *in, const struct arp_packet *arp)
{
	return ethernet_is_group(arp->sender_mac) || ethernet_is_zero(arp->sender_mac) ||
	       memcmp(arp->sender_mac, in->mac, ETHERNET_ADDRESS) == 0 || ip4_is_multicast(arp->sender) ||
	       ip4_is_limited_broadcast(arp->sender) || ip4_is_loopback(arp->sender);
}

static void arp_reply(struct forward *f, const struct interface_entry *in, const struct arp_packet *arp)
{
	const struct arp_fields fields = {.operation = ARP_REPLY, .sender = arp->target, .target_mac = arp->sender_mac,
		.target = arp->sender};
	arp_send(f, in, arp->sender_mac, &fields);
}

// A message whose sender and target are plausible and whose sender is not us.
static enum drop_reason arp_process(struct forward *f, const struct interface_entry *in, uint16_t operation,
	const struct arp_packet *arp)
{
	uint8_t sender[16] = {0};
	uint8_t target[16] = {0};
	memcpy(sender, arp->sender, 4);
	memcpy(target, arp->target, 4);
	bool probe = ip4_is_any(sender); // RFC 5227 section 2.1.1: it claims nothing yet
	const struct neighbor_entry *known = neighbor_find(f, in->index, FAMILY_IPV4, sender);
	if (address_usable(f, FAMILY_IPV4, target, in->index)) {
		if (!neighbor_admit(f, in->index, known, arp->sender_mac, operation == ARP_REPLY))
			return DROP_CONTROL_PLANE;
		enum neighbor_evidence evidence = operation == ARP_REQUEST ? EVIDENCE_ASKED_US : EVIDENCE_ANSWER;
		if (!probe)
			neighbor_learn(f, in->index, FAMILY_IPV4, sender, arp->sender_mac, evidence);
		if (operation == ARP_REQUEST)
			arp_reply(f, in, arp);
		return DROP_NONE;
	}
	if (probe || known == NULL)
		return DROP_ARP_NOT_FOR_US;
	if (!neighbor_admit(f, in->index, known, arp->sender_mac, false))
		return DROP_CONTROL_PLANE;
	neighbor_learn(f, in->index, FAMILY_IPV4, sender, arp->sender_mac, EVIDENCE_UNSOLICITED);
	return DROP_NONE;
}

enum drop_reason arp_input(struct forward *f, const struct interface_entry *in, struct packet *packet)
{
	if (packet->l3 > packet->length)
		return DROP_ARP_MALFORMED;
	const uint8_t *data = packet_data(packet) + packet->l3;
	const struct arp_packet *arp = arp_at(data, packet->length - packet->l3);
	uint16_t operation = arp != NULL ? load16(&data[6]) : 0;
	if (operation != ARP_REQUEST && operation != ARP_REPLY)
		return DROP_ARP_MALFORMED;
	if (sender_impossible(in, arp))
		return DROP_ARP_SPOOFED;
	uint8_t sender[16] = {0};
	memcpy(sender, arp->sender, 4);
	struct dad_entry *ours = dad_find(f, FAMILY_IPV4, sender, in->index);
	if (ours != NULL)
		dad_conflict(f, ours);
	if (ours != NULL || address_usable(f, FAMILY_IPV4, sender, 0))
		return DROP_ARP_SPOOFED;
	enum drop_reason reason = arp_process(f, in, operation, arp);
	if (reason == DROP_NONE) {
		packet_punt(f, packet);
		packet_put(f->pool, packet);
	}
	return reason;
}
