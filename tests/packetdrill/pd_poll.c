// poll(2) and epoll(7) over the stack's readiness.
//
// An epoll entry is looked at when an edge of its socket was told, or while it is level-triggered
// and was ready the last time; what it reports is always the readiness of that moment.
#include "pd_so.h"

#include <errno.h>
#include <poll.h>

uint32_t pd_ready(struct pd_world *w, const struct pd_handle *handle)
{
	struct host_stream_status status;
	const struct tcp_socket *s = host_stream(w->host, handle->slot);
	if (s == NULL || host_stream_status(w->host, handle->slot, &status) < 0)
		return POLLHUP;
	uint32_t ready = 0;
	if (status.readable)
		ready |= POLLIN | POLLRDNORM;
	if (status.writable)
		ready |= POLLOUT | POLLWRNORM;
	if (status.hung_up)
		ready |= POLLHUP;
	if (status.peer_closed)
		ready |= (uint32_t)EPOLLRDHUP;
	if (s->error != 0)
		ready |= POLLERR;
	return ready;
}

static uint32_t interests(const struct pd_watch *watch)
{
	const uint32_t input = EPOLLET | EPOLLONESHOT | EPOLLEXCLUSIVE | EPOLLWAKEUP;
	return (watch->event.events & ~input) | EPOLLERR | EPOLLHUP;
}

static uint32_t edges_of(uint32_t events)
{
	uint32_t edges = 0;
	if (events & (HOST_STREAM_CONNECTED | HOST_STREAM_WRITABLE))
		edges |= EPOLLOUT | EPOLLWRNORM;
	if (events & (HOST_STREAM_READABLE | HOST_STREAM_ACCEPTABLE))
		edges |= EPOLLIN | EPOLLRDNORM;
	if (events & HOST_STREAM_PEER_CLOSED)
		edges |= EPOLLIN | EPOLLRDNORM | EPOLLRDHUP;
	if (events & (HOST_STREAM_FAILED | HOST_STREAM_CLOSED))
		edges |= EPOLLERR | EPOLLHUP | EPOLLIN | EPOLLOUT | EPOLLRDHUP;
	return edges;
}

void pd_stream_event(void *user, uint32_t slot, uint32_t events)
{
	struct pd_world *w = user;
	uint32_t edges = edges_of(events);
	for (int i = 0; i < PD_HANDLES; i++) {
		if (w->handles[i].kind != PD_STREAM || w->handles[i].slot != slot)
			continue;
		w->handles[i].writable |= (edges & EPOLLOUT) != 0;
		for (int k = 0; k < PD_WATCHES; k++) {
			struct pd_watch *watch = &w->watches[k];
			if (watch->epoll != 0 && watch->fd == PD_FIRST + i && (interests(watch) & edges))
				watch->ready = true;
		}
	}
}

void pd_watch_forget(struct pd_world *w, int fd)
{
	for (int i = 0; i < PD_WATCHES; i++)
		if (w->watches[i].fd == fd || w->watches[i].epoll == fd)
			w->watches[i] = (struct pd_watch){0};
}

static uint64_t timeout_at(const struct pd_world *w, int timeout)
{
	return timeout < 0 ? PD_NEVER : w->now + (uint64_t)timeout * 1000 * PD_US;
}

static int poll_once(struct pd_world *w, struct pollfd *fds, nfds_t count)
{
	int found = 0;
	for (nfds_t i = 0; i < count; i++) {
		const struct pd_handle *handle = pd_handle(w, fds[i].fd, PD_STREAM);
		if (fds[i].fd < 0)
			fds[i].revents = 0;
		else if (handle == NULL)
			fds[i].revents = POLLNVAL;
		else
			fds[i].revents = (short)(pd_ready(w, handle) & ((uint32_t)(uint16_t)fds[i].events | POLLERR | POLLHUP));
		found += fds[i].revents != 0;
	}
	return found;
}

int pd_poll(void *user, struct pollfd *fds, nfds_t count, int timeout)
{
	struct pd_world *w = user;
	int found;
	pd_enter(w);
	uint64_t deadline = timeout_at(w, timeout);
	while ((found = poll_once(w, fds, count)) == 0 && w->now < deadline)
		pd_block(w, deadline);
	pd_leave(w);
	return found;
}

int pd_epoll_create(void *user, int size)
{
	struct pd_world *w = user;
	struct pd_handle *handle;
	if (size <= 0) {
		errno = EINVAL;
		return -1;
	}
	pd_enter(w);
	int fd = pd_handle_new(w, PD_EPOLL, &handle);
	pd_leave(w);
	return fd;
}

static struct pd_watch *watch_find(struct pd_world *w, int epoll, int fd)
{
	for (int i = 0; i < PD_WATCHES; i++)
		if (w->watches[i].epoll == epoll && w->watches[i].fd == fd)
			return &w->watches[i];
	return NULL;
}

static int epoll_change(struct pd_world *w, int epoll, int op, int fd, const struct epoll_event *event)
{
	const struct pd_handle *handle = pd_handle(w, fd, PD_STREAM);
	if (handle == NULL || pd_handle(w, epoll, PD_EPOLL) == NULL)
		return -1;
	struct pd_watch *watch = watch_find(w, epoll, fd);
	if ((watch != NULL) == (op == EPOLL_CTL_ADD)) {
		errno = op == EPOLL_CTL_ADD ? EEXIST : ENOENT;
		return -1;
	}
	if (op == EPOLL_CTL_DEL) {
		*watch = (struct pd_watch){0};
		return 0;
	}
	if (watch == NULL && (watch = watch_find(w, 0, 0)) == NULL) {
		errno = ENOSPC;
		return -1;
	}
	*watch = (struct pd_watch){.epoll = epoll, .fd = fd, .event = *event};
	watch->ready = (pd_ready(w, handle) & interests(watch)) != 0;
	return 0;
}

int pd_epoll_ctl(void *user, int epoll, int op, int fd, struct epoll_event *event)
{
	struct pd_world *w = user;
	pd_enter(w);
	int result = epoll_change(w, epoll, op, fd, event);
	int error = errno;
	pd_leave(w);
	errno = error;
	return result;
}

static int epoll_collect(struct pd_world *w, int epoll, struct epoll_event *events, int most)
{
	int found = 0;
	for (int i = 0; i < PD_WATCHES && found < most; i++) {
		struct pd_watch *watch = &w->watches[i];
		if (watch->epoll != epoll || !watch->ready || watch->spent)
			continue;
		uint32_t ready = pd_ready(w, &w->handles[watch->fd - PD_FIRST]) & interests(watch);
		watch->ready = ready != 0 && (watch->event.events & EPOLLET) == 0;
		watch->spent = ready != 0 && (watch->event.events & EPOLLONESHOT) != 0;
		if (ready != 0)
			events[found++] = (struct epoll_event){.events = ready, .data = watch->event.data};
	}
	return found;
}

int pd_epoll_wait(void *user, int epoll, struct epoll_event *events, int most, int timeout)
{
	struct pd_world *w = user;
	int found = -1;
	pd_enter(w);
	if (pd_handle(w, epoll, PD_EPOLL) != NULL) {
		uint64_t deadline = timeout_at(w, timeout);
		while ((found = epoll_collect(w, epoll, events, most)) == 0 && w->now < deadline)
			pd_block(w, deadline);
	}
	int error = errno;
	pd_leave(w);
	errno = error;
	return found;
}
