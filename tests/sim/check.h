// What must hold between any two events of a stack, looked up in its own records; for the simulator and the fuzzers.
#pragma once

#include "host/tcp_internal.h"

struct check {
	const struct tcp *tcp;
	void (*fail)(void *user, const char *what);
	void *user;
};

// Each connection for itself, and the heap of timers.
void check_connections(const struct check *check);
// Pools, lists and hashes: what is in use is what somebody holds.  Looks at every record.
void check_records(const struct check *check);
// All that connections held has been given back.
void check_released(const struct check *check);
