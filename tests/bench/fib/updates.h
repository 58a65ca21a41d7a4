// Look-ups while routes change.
#ifndef BENCH_FIB_UPDATES_H
#define BENCH_FIB_UPDATES_H

#include "abi/core.h"
#include "abi/state.h"
#include "table/view.h"

enum { UPDATES_A_SECOND = 100000, WINDOWS = 12 };

struct updates {
	struct table_writer *writer;
	struct tables_view *view;
	struct worker_state *worker;
	struct route_change *changes; // installed routes, next to each other in no order
	uint32_t change_count;
	const uint16_t *groups;       // for other next hops
	uint32_t group_count;
	const uint8_t *keys;          // IPv4 addresses
	uint32_t key_count;
};

// Windows of 0.2 s by turns without and with UPDATES_A_SECOND changes.  Prints what the median of the ratios is, and
// how many changes there were.
void updates_run(struct updates *u);

#endif
