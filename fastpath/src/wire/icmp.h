// ICMP (RFC 792) and ICMPv6 (RFC 4443, RFC 4861) messages.
#ifndef WIRE_ICMP_H
#define WIRE_ICMP_H

#include <stdint.h>

enum { ICMP_HEADER = 8, ICMP_CHECKSUM = 2 }; // offset of the checksum

enum icmp4_type {
	ICMP4_ECHO_REPLY = 0, ICMP4_UNREACHABLE = 3, ICMP4_SOURCE_QUENCH = 4, ICMP4_REDIRECT = 5, ICMP4_ECHO = 8,
	ICMP4_ROUTER_ADVERTISEMENT = 9, ICMP4_ROUTER_SOLICITATION = 10, ICMP4_TIME_EXCEEDED = 11,
	ICMP4_PARAMETER_PROBLEM = 12, ICMP4_TIMESTAMP = 13, ICMP4_TIMESTAMP_REPLY = 14
};

enum icmp4_unreachable {
	ICMP4_NET_UNREACHABLE = 0, ICMP4_HOST_UNREACHABLE = 1, ICMP4_PROTOCOL_UNREACHABLE = 2,
	ICMP4_PORT_UNREACHABLE = 3, ICMP4_FRAGMENTATION_NEEDED = 4, ICMP4_SOURCE_ROUTE_FAILED = 5
};

enum icmp6_type {
	ICMP6_UNREACHABLE = 1, ICMP6_TOO_BIG = 2, ICMP6_TIME_EXCEEDED = 3, ICMP6_PARAMETER_PROBLEM = 4,
	ICMP6_ECHO = 128, ICMP6_ECHO_REPLY = 129,
	ICMP6_ROUTER_SOLICITATION = 133, ICMP6_ROUTER_ADVERTISEMENT = 134,
	ICMP6_NEIGHBOR_SOLICITATION = 135, ICMP6_NEIGHBOR_ADVERTISEMENT = 136, ICMP6_REDIRECT = 137
};

enum icmp6_unreachable {
	ICMP6_NO_ROUTE = 0, ICMP6_PROHIBITED = 1, ICMP6_BEYOND_SCOPE = 2, ICMP6_ADDRESS_UNREACHABLE = 3,
	ICMP6_PORT_UNREACHABLE = 4
};

enum icmp6_problem { ICMP6_BAD_HEADER_FIELD = 0, ICMP6_UNKNOWN_NEXT_HEADER = 1, ICMP6_UNKNOWN_OPTION = 2 };

// Codes of both time-exceeded messages.
enum icmp_exceeded { ICMP_HOP_LIMIT_EXCEEDED = 0, ICMP_REASSEMBLY_EXCEEDED = 1 };

struct icmp_header {
	uint8_t type;
	uint8_t code;
	uint16_t checksum;    // numbers in network order
	union {
		uint32_t info;
		struct {
			uint16_t id;
			uint16_t sequence;
		} echo;
		struct {
			uint16_t unused;
			uint16_t mtu;
		} too_big;
		uint8_t pointer;
	};
} __attribute__((packed));

#endif
