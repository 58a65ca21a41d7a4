// Which packets an operator wants to see: a short program over what a packet's headers say.
#ifndef SERVER_FILTER_H
#define SERVER_FILTER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/packet.h"
#include "rsock_wire.h"

enum { FILTER_TERMS = 64 };

// Terms in postfix order; none of them: everything.
struct filter {
	uint32_t count;
	struct rsock_filter_term terms[FILTER_TERMS];
};

// What the terms ask about.
struct filter_subject {
	uint16_t ethertype;     // 0: unknown
	uint16_t vlan;
	bool tagged;
	bool has_ports;
	uint8_t family;         // of the addresses, those of ARP included; 0: none
	uint8_t protocol;
	uint8_t address[2][16]; // source, destination
	uint16_t port[2];
};

// Take a program of a request, which may be hostile; 0 or an errno.
int filter_load(struct filter *filter, const uint8_t *body, uint32_t length);
// Look at a packet: a frame, or where `link` is false an IP packet of ours.
void filter_look(const struct packet *packet, bool link, struct filter_subject *view);
bool filter_matches(const struct filter *filter, const struct filter_subject *view);

#endif
