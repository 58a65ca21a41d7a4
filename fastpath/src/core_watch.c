// Ports that are busy leave their worker's epoll set until it sleeps.
//
// For each frame that comes in, and for each that has been sent, the kernel calls whoever waits for
// the fd of a packet or XDP socket, and an epoll set waits also while nobody sleeps in it: that is a
// few percent of a busy port's time, for nothing, since the rings are looked at anyway.  Only taking
// the fd out ends it (EPOLL_CTL_MOD keeps the wait queue entry).
//
// An error on such an fd is seen once it is back: events are told by level.
#define _GNU_SOURCE
#include "core.h"

#include <errno.h>

enum {
	BUSY = 128 // frames since the last sleep: two system calls are little beside them
};

// The n-th fd of a port that is to be polled.
static int polled_fd(const struct port *port, int n)
{
	return n == 0 ? port->fd : port->fds[port->more_first + n - 1];
}

int watch_begin(int epoll_fd, const struct port *port)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = port->spec.port };
	for (int n = 0; n <= port->more_count; n++) {
		if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, polled_fd(port, n), &event) == 0 || errno == EEXIST)
			continue;
		int error = -errno;
		watch_end(epoll_fd, port);
		return error;
	}
	return 0;
}

void watch_end(int epoll_fd, const struct port *port)
{
	for (int n = 0; n <= port->more_count; n++)
		epoll_ctl(epoll_fd, EPOLL_CTL_DEL, polled_fd(port, n), NULL);
}

void watch_passed(struct watch *watch, int epoll_fd, const struct port *port, int frames)
{
	uint16_t id = port->spec.port;
	uint64_t bit = 1ull << id % 64;
	if ((watch->out[id / 64] & bit) != 0 || port->spec.driver == DRIVER_LINK)
		return; // a link's peer rings only while we sleep
	watch->passed[id] += (uint32_t)frames;
	if (watch->passed[id] < BUSY)
		return;
	watch_end(epoll_fd, port);
	watch->out[id / 64] |= bit;
}

bool watch_all(struct watch *watch, int epoll_fd, struct port *const *ports, const uint16_t *ids, int count)
{
	bool all = true;
	for (int i = 0; i < count; i++) {
		uint64_t *word = &watch->out[ids[i] / 64];
		uint64_t bit = 1ull << ids[i] % 64;
		watch->passed[ids[i]] = 0;
		if ((*word & bit) == 0)
			continue;
		if (watch_begin(epoll_fd, ports[ids[i]]) == 0)
			*word &= ~bit;
		else
			all = false;
	}
	return all;
}

void watch_forget(struct watch *watch, uint16_t id)
{
	watch->out[id / 64] &= ~(1ull << id % 64);
	watch->passed[id] = 0;
}
