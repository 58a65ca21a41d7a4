// The short way of plain packets in transit, beside the general one that takes all.
#ifndef FORWARD_TRANSIT_H
#define FORWARD_TRANSIT_H

#include "forward/forward.h"

// NULL without memory; then all packets go the general way.
struct transit *transit_new(void);
void transit_free(struct transit *transit);
// Run a batch of at most BATCH_SIZE packets to its fate: what is plain the short way, the others by ethernet_input, in
// the order in which they came.  port, ingress and account of the packets are set.
void transit_receive(struct forward *f, uint16_t port, struct packet **packets, int count);
// Whether an IPv4 address is one of ours; `transit` is of the same tables as the view.
bool transit_own4(const struct transit *transit, const struct tables_view *view, const uint8_t *address);

#endif
