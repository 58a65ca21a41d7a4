// Worker 0's side of the other workers: it goes on with what they give it, and tells them of ports.
#define _GNU_SOURCE
#include "core_worker.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static struct worker *worker_at(struct core *core, uint32_t number)
{
	return core->crew != NULL && number > 0 && number < core->crew->count ? &core->crew->workers[number] : NULL;
}

// --- what they give ---

int core_hands_open(struct core *core)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = core_hands_event };
	core->hands_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (core->hands_fd < 0 || epoll_ctl(core->epoll_fd, EPOLL_CTL_ADD, core->hands_fd, &event) < 0)
		return -errno;
	return 0;
}

void core_hands_wake(struct core *core)
{
	const uint64_t one = 1;
	if (__atomic_load_n(&core->hands_sleeping, __ATOMIC_SEQ_CST))
		(void)!write(core->hands_fd, &one, sizeof(one));
}

void core_hands_woken(struct core *core)
{
	uint64_t drained;
	(void)!read(core->hands_fd, &drained, sizeof(drained));
}

void core_hands_sleeping(struct core *core, bool sleeping)
{
	if (core->crew != NULL)
		__atomic_store_n(&core->hands_sleeping, sleeping, __ATOMIC_SEQ_CST);
}

bool core_hands_pending(const struct core *core)
{
	for (uint32_t number = 1; core->crew != NULL && number < core->crew->count; number++) {
		if (hand_waiting(core->crew->workers[number].forward.hands))
			return true;
	}
	return false;
}

int core_hands_take(struct core *core)
{
	int handled = 0;
	for (uint32_t number = 1; core->crew != NULL && number < core->crew->count; number++)
		handled += hand_take(&core->forward, core->crew->workers[number].forward.hands, BATCH_SIZE);
	return handled;
}

void core_hands_settle(struct core *core)
{
	for (uint32_t number = 1; core->crew != NULL && number < core->crew->count; number++)
		hand_settle(core->crew->workers[number].forward.hands);
}

// --- what they are told ---

void core_hands_hold(struct core *core)
{
	struct worker *worker;
	for (uint32_t number = 1; (worker = worker_at(core, number)) != NULL; number++)
		worker_call(worker);
}

void core_hands_release(struct core *core)
{
	struct worker *worker;
	for (uint32_t number = 1; (worker = worker_at(core, number)) != NULL; number++)
		worker_release(worker);
}

static void set_served(struct worker *worker, uint16_t port, bool served)
{
	uint64_t bit = 1ull << port % 64;
	uint64_t *word = &worker->forward.served[port / 64];
	*word = served ? *word | bit : *word & ~bit;
}

// The worker is held.
static void part_remove(struct worker *worker, uint16_t id)
{
	struct port *port = worker->ports[id];
	int at = 0;
	if (port == NULL)
		return;
	watch_end(worker->epoll_fd, port);
	watch_forget(&worker->watch, id);
	port->state->flags = 0;
	set_served(worker, id, false);
	worker->ports[id] = NULL;
	while (worker->port_ids[at] != id)
		at++;
	worker->port_count--;
	memmove(&worker->port_ids[at], &worker->port_ids[at + 1],
	        (size_t)(worker->port_count - at) * sizeof(worker->port_ids[0]));
	port->ops->close(port);
}

void core_hands_port(struct core *core, uint16_t id, const struct port_spec *spec)
{
	struct worker *worker;
	for (uint32_t number = 1; (worker = worker_at(core, number)) != NULL; number++) {
		worker_call(worker);
		if (spec == NULL)
			part_remove(worker, id);
		else if (worker->ports[id] != NULL)
			port_change(worker->ports[id], spec->link_up, spec->mtu);
		forward_port(&worker->forward, id, spec);
		worker_release(worker);
	}
}

// The worker is held.
static int part_add(struct worker *worker, struct core *core, const struct port_spec *spec, const int *fds,
                    int fd_count)
{
	struct port_state *state = &core->state->ports[(size_t)worker->number * MAX_PORTS + spec->port];
	struct port *port;
	if (worker->ports[spec->port] != NULL)
		return -EEXIST;
	int error = port_open(spec, fds, fd_count, state, &port);
	if (error < 0)
		return error;
	error = watch_begin(worker->epoll_fd, port);
	if (error < 0) {
		port->fd_count = 0; // the fds stay the caller's
		port->ops->close(port);
		return error;
	}
	worker->ports[spec->port] = port;
	worker->port_ids[worker->port_count++] = spec->port;
	port_change(port, spec->link_up, spec->mtu);
	forward_port(&worker->forward, spec->port, &port->spec);
	set_served(worker, spec->port, true);
	return 0;
}

int core_hands_port_add(struct core *core, const struct port_spec *spec, const int *fds, int fd_count)
{
	struct worker *worker = worker_at(core, spec->queue);
	if (worker == NULL)
		return -EINVAL;
	worker_call(worker);
	int error = part_add(worker, core, spec, fds, fd_count);
	worker_release(worker);
	return error;
}

// Only worker 0 changes this, so it need not hold the others.
bool core_hands_port_at(struct core *core, int n, struct port_spec *spec, int *fds, int *fd_count)
{
	struct worker *worker;
	for (uint32_t number = 1; (worker = worker_at(core, number)) != NULL; n -= worker->port_count, number++) {
		if (n >= worker->port_count)
			continue;
		const struct port *port = worker->ports[worker->port_ids[n]];
		*spec = port->spec;
		*fd_count = port->fd_count;
		memcpy(fds, port->fds, (size_t)port->fd_count * sizeof(*fds));
		return true;
	}
	return false;
}
