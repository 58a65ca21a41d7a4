// The forwarder's part in the XDP offload: what the program at the driver may know, and what it did (abi/bypass.h).
#ifndef FORWARD_BYPASS_H
#define FORWARD_BYPASS_H

#include "abi/bypass.h"
#include "forward/forward.h"

enum { BYPASS_FDS = 2 }; // the maps: struct bypass_links, struct bypass_fib

// The maps as the manager describes them.
struct bypass_maps {
	int fds[BYPASS_FDS];
	uint64_t links_bytes;
	uint64_t fib_bytes;
	uint32_t processors; // places in bypass_links.processors
};

// Serve these maps, instead of others; owns the fds on success only.
int bypass_attach(struct forward *f, const struct bypass_maps *maps);
// Forget them; what the program did is counted.
void bypass_detach(struct forward *f);
// The maps that are served, or NULL.
const struct bypass_maps *bypass_maps(const struct forward *f);
// Traces or captures begin to see packets, or end.
void bypass_observe(struct forward *f, bool observed);
// Interfaces, addresses, features or links may be other ones.
void bypass_changed(struct forward *f);
// The state of a neighbor is another one.
void bypass_neighbor(struct forward *f, const struct neighbor_entry *entry);
// An iteration begins: has control become another one, or ready?
void bypass_begin(struct forward *f);
void bypass_tick(struct forward *f);
uint64_t bypass_deadline(const struct forward *f);

#endif
