// The calls of stream sockets, by slot.
#include "host/tcp_internal.h"

#include <errno.h>

struct tcp_socket *host_stream(const struct host *host, uint32_t slot)
{
	if (slot < MAX_SOCKETS || slot - MAX_SOCKETS >= host->state->tcp_used)
		return NULL;
	struct tcp_socket *s = &host->state->tcp[slot - MAX_SOCKETS];
	// Children are nobody's before they are accepted, orphans nobody's any more.
	if (s->cookie == 0 || (s->flags & TCP_ORPHAN) || (s->engine & TCP_IN_ACCEPT_QUEUE))
		return NULL;
	return s;
}

int host_listen(struct host *host, uint32_t slot, int backlog)
{
	struct tcp_socket *s = host_stream(host, slot);
	return s == NULL ? -EBADF : tcp_listen(host->tcp, s, backlog);
}

int host_accept(struct host *host, uint32_t slot, uint32_t *child)
{
	struct tcp_socket *s = host_stream(host, slot);
	return s == NULL ? -EBADF : tcp_accept(host->tcp, s, child);
}

int host_shutdown(struct host *host, uint32_t slot, int how)
{
	struct tcp_socket *s = host_stream(host, slot);
	return s == NULL ? -EBADF : tcp_shutdown(host->tcp, s, how);
}

int host_stream_read(struct host *host, uint32_t slot, uint8_t *buffer, uint32_t length, int flags)
{
	struct tcp_socket *s = host_stream(host, slot);
	return s == NULL ? -EBADF : tcp_read(host->tcp, s, buffer, length, flags);
}

int host_stream_write(struct host *host, uint32_t slot, const uint8_t *data, uint32_t length, int flags)
{
	struct tcp_socket *s = host_stream(host, slot);
	return s == NULL ? -EBADF : tcp_write(host->tcp, s, data, length, flags);
}

int host_stream_reserve(struct host *host, uint32_t slot, uint32_t most, struct iovec *parts, int count)
{
	struct tcp_socket *s = host_stream(host, slot);
	return s == NULL ? -EBADF : tcp_reserve(host->tcp, s, most, parts, count);
}

void host_stream_commit(struct host *host, uint32_t slot, uint32_t bytes, int flags)
{
	struct tcp_socket *s = host_stream(host, slot);
	if (s != NULL)
		tcp_commit(host->tcp, s, bytes, flags);
}

void host_stream_resume(struct host *host, uint32_t slot)
{
	struct tcp_socket *s = host_stream(host, slot);
	if (s == NULL)
		return;
	s->engine &= ~(uint32_t)TCP_READ_BLOCKED;
	tcp_dirty(host->tcp, s);
}

void host_abort(struct host *host, uint32_t slot)
{
	struct tcp_socket *s = host_stream(host, slot);
	if (s != NULL)
		tcp_abort(host->tcp, s);
}

int host_stream_status(const struct host *host, uint32_t slot, struct host_stream_status *status)
{
	const struct tcp_socket *s = host_stream(host, slot);
	if (s == NULL)
		return -EBADF;
	tcp_status(host->tcp, s, status);
	return 0;
}
