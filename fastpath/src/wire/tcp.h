// TCP headers (RFC 9293).
#ifndef WIRE_TCP_H
#define WIRE_TCP_H

#include <stddef.h>
#include <stdint.h>

enum { TCP_HEADER = 20, TCP_CHECKSUM = 16 }; // offset of the checksum
enum tcp_flag {
	TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_PSH = 8, TCP_ACK = 16, TCP_URG = 32, TCP_ECE = 64, TCP_CWR = 128
};

struct tcp_header {
	uint16_t source;      // all in network order
	uint16_t destination;
	uint32_t sequence;
	uint32_t acknowledgment;
	uint8_t offset;       // header length in words, in the upper half
	uint8_t flags;
	uint16_t window;
	uint16_t checksum;
	uint16_t urgent;
} __attribute__((packed));

// Bytes of the header with its options, 0 where they do not lie in the data.
static inline uint32_t tcp_header_length(const uint8_t *data, size_t available)
{
	uint32_t length = available < TCP_HEADER ? 0 : (uint32_t)(data[12] >> 4) * 4;
	return length >= TCP_HEADER && length <= available ? length : 0;
}

#endif
