// UDP headers (RFC 768).
#ifndef WIRE_UDP_H
#define WIRE_UDP_H

#include <stdint.h>

enum { UDP_HEADER = 8, UDP_CHECKSUM = 6 }; // offset of the checksum

struct udp_header {
	uint16_t source;      // all in network order
	uint16_t destination;
	uint16_t length;
	uint16_t checksum;
} __attribute__((packed));

#endif
