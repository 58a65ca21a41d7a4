#include "base/log.h"

#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
	LOG_BURST = 20,     // lines in a row
	LOG_LINE = 512      // below PIPE_BUF: a line is written whole or not at all
};

static const uint64_t log_refill_ns = 500000000; // one more line each

void log_init(struct log *log, int fd, const char *router)
{
	*log = (struct log){ .fd = fd, .tokens = LOG_BURST };
	snprintf(log->router, sizeof(log->router), "%s", router);
}

static bool log_allowed(struct log *log, uint64_t now)
{
	if (now > log->refilled_ns) {
		uint64_t refill = (now - log->refilled_ns) / log_refill_ns;
		uint64_t tokens = log->tokens + refill;
		log->tokens = tokens < LOG_BURST ? (uint32_t)tokens : LOG_BURST;
		log->refilled_ns += refill * log_refill_ns;
	}
	if (log->tokens == 0)
		return false;
	// A pipe or terminal whose reader is stopped must not stop the forwarder.
	struct pollfd writable = { .fd = log->fd, .events = POLLOUT };
	return poll(&writable, 1, 0) == 1 && (writable.revents & POLLOUT) != 0;
}

void log_event(struct log *log, uint64_t now, const char *event, const char *format, ...)
{
	if (!log_allowed(log, now)) {
		log->suppressed++;
		return;
	}
	log->tokens--;

	char line[LOG_LINE];
	int length = snprintf(line, sizeof(line), "event=%s router=%s suppressed=%u ", event, log->router, log->suppressed);
	va_list arguments;
	va_start(arguments, format);
	length += vsnprintf(line + length, sizeof(line) - (size_t)length, format, arguments);
	va_end(arguments);
	if (length > LOG_LINE - 1)
		length = LOG_LINE - 1;
	line[length] = '\n';
	if (write(log->fd, line, (size_t)length + 1) >= 0)
		log->suppressed = 0;
	else
		log->suppressed++;
}
