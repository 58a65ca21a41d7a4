// Ethernet II frames and 802.1Q tags.
#ifndef WIRE_ETHERNET_H
#define WIRE_ETHERNET_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum {
	ETHERNET_HEADER = 14,
	ETHERNET_ADDRESS = 6,
	VLAN_TAG = 4,         // bytes between the source address and the type
	VLAN_ID_MASK = 0x0fff
};

enum ethernet_type {
	ETHERNET_IP4 = 0x0800, ETHERNET_ARP = 0x0806, ETHERNET_VLAN = 0x8100, ETHERNET_IP6 = 0x86dd
};

struct ethernet_header {
	uint8_t destination[6];
	uint8_t source[6];
	uint16_t type;        // network order
} __attribute__((packed));

// The group bit: multicast or broadcast.
static inline bool ethernet_is_group(const uint8_t *address)
{
	return (address[0] & 1) != 0;
}

static inline bool ethernet_is_zero(const uint8_t *address)
{
	return memcmp(address, "\0\0\0\0\0\0", ETHERNET_ADDRESS) == 0;
}

#endif
