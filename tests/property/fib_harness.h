// Test entries of the FIB; fib_harness.py gives this text to cffi as well.
#ifndef FIB_HARNESS_H
#define FIB_HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "abi/core.h"
#include "abi/state.h"
#include "abi/tables.h"
#include "table/fib.h"

// A reader in a thread of its own: each address must always lead to a hop of the interface that
// is written beside it.  It counts rounds and wrong answers until it is stopped.
struct harness_reader {
	struct tables_view *view;
	struct worker_state *worker;
	const uint8_t *addresses;
	const uint16_t *interfaces;
	uint32_t count;
	uint8_t family;
	uint32_t stop;
	uint64_t rounds;
	uint64_t wrong;
	unsigned long thread;
};

// Each of these dies at the store of that number, counted from 1, and then returns -EINTR: the
// writer must be neither used nor closed after that.  0: it lives.
int harness_apply(struct table_writer *w, const struct route_change *changes, uint32_t count, uint64_t store);
int harness_group(struct table_writer *w, const struct nexthop *hops, uint32_t count, uint64_t store);
int harness_open(int tables_fd, int state_fd, struct table_writer **out, uint64_t store);
const char *harness_crash_name(void);

struct tables_view *harness_view(int fd);
void harness_view_close(struct tables_view *view);
// The groups of `count` addresses side by side, of 4 or 16 bytes each.  Returns the first one for
// which the ways to look it up do not agree, or -1.
int harness_agree(const struct tables_view *view, uint8_t family, const uint8_t *addresses, uint32_t count,
	uint16_t *groups);
int harness_reader_start(struct harness_reader *r);
void harness_reader_stop(struct harness_reader *r);
struct worker_state *harness_worker(int state_fd);
uint64_t harness_siphash(const uint64_t *key, const uint8_t *data, size_t bytes);
uint32_t harness_crc32(const uint8_t *data, size_t bytes);

#endif
