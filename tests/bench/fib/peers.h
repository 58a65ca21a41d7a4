// What the FIB is measured beside: one look-up function for each structure.
#ifndef BENCH_FIB_PEERS_H
#define BENCH_FIB_PEERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { BATCH = 64 };

struct route {
	uint8_t address[16];
	uint8_t family;
	uint8_t length;
	uint16_t value; // 1..VALUES: of the next hop
};

// What one key set is looked up in.  `keys` are addresses in network order, 4 or 16 bytes each; `host` the same IPv4
// addresses as numbers, for those who want them so.
struct keys {
	const uint8_t *keys;
	const uint32_t *host;
	uint32_t count;
};

struct contender {
	const char *name;
	uint8_t family;
	void *state;
	size_t memory;  // bytes of what a look-up reads
	uint64_t (*run)(const struct contender *self, const struct keys *keys); // the sum of all values found
};

// DPDK's: false where it cannot be had.  `routes` are `count` of both families; others are skipped.
bool peers_start(void);
bool peer_lpm(const struct route *routes, uint32_t count, struct contender *out);
bool peer_fib(const struct route *routes, uint32_t count, struct contender *out);
bool peer_lpm6(const struct route *routes, uint32_t count, struct contender *out);

#endif
