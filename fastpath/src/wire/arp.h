// ARP for IPv4 over Ethernet (RFC 826).
#ifndef WIRE_ARP_H
#define WIRE_ARP_H

#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

enum { ARP_REQUEST = 1, ARP_REPLY = 2, ARP_HARDWARE_ETHERNET = 1, ARP_PACKET = 28 };

struct arp_packet {
	uint16_t hardware;    // numbers in network order
	uint16_t protocol;    // an Ethernet type
	uint8_t hardware_length;
	uint8_t protocol_length;
	uint16_t operation;
	uint8_t sender_mac[6];
	uint8_t sender[4];
	uint8_t target_mac[6];
	uint8_t target[4];
} __attribute__((packed));

// The packet where it is complete and speaks of IPv4 over Ethernet, else NULL.
static inline const struct arp_packet *arp_at(const uint8_t *data, size_t available)
{
	const struct arp_packet *arp = (const void *)data;

	if (available < sizeof *arp || load16(&data[0]) != ARP_HARDWARE_ETHERNET || load16(&data[2]) != 0x0800)
		return NULL;
	return arp->hardware_length == 6 && arp->protocol_length == 4 ? arp : NULL;
}

#endif
