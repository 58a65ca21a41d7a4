// Shared by icmp4.c, icmp6.c and icmp_limit.c.
#ifndef FORWARD_ICMP_H
#define FORWARD_ICMP_H

#include "forward/forward.h"

enum { ICMP_TTL = 64, PROTOCOL_ICMP4 = 1, PROTOCOL_ICMP6 = 58 };

// May an error message go to this destination now?  Counts the refusal.
bool icmp_limit_allow(struct forward *f, uint8_t family, const uint8_t *destination);
// Make a received packet whose message begins at `offset` ours: `header` bytes of room for
// a new IP header before the message of `length` bytes, and nothing else.
void icmp_turn(struct forward *f, struct packet *packet, uint32_t offset, uint32_t header, uint32_t length);
// Check the message; a partial checksum is finished, so that the message may be sent on.
bool icmp_checksum_good(struct packet *packet, uint64_t pseudo, uint32_t offset, uint32_t length);

#endif
