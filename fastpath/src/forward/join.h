// Segments of one TCP stream to us, that follow each other in a batch, as one super-packet.
#ifndef FORWARD_JOIN_H
#define FORWARD_JOIN_H

#include "forward/forward.h"

// Join what can be joined of a batch that came in on an untagged interface; packets[0..result) are left, in order.  The
// caller counts `joined` packets more, where each of those ends.
int join_batch(struct forward *f, const struct interface_entry *in, struct packet **packets, int count);

#endif
