// Structured log lines on a file descriptor, rate-limited, never blocking the caller.
//
//   event=port-failed router=red suppressed=0 port=3 error=100
//
// A reader that does not read costs lines, which are counted, never time.
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdint.h>
#include "abi/limits.h"

struct log {
	int fd;
	char router[ROUTER_NAME_SIZE];
	uint64_t refilled_ns; // when `tokens` was last topped up
	uint32_t tokens;      // lines that may be written now
	uint32_t suppressed;  // lines left out since the last one written
};

void log_init(struct log *log, int fd, const char *router);
// `event` and the formatted key=value pairs must not contain newlines.
void log_event(struct log *log, uint64_t now, const char *event, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

#endif
