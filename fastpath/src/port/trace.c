// A wrapper that shows every frame of a port to an observer: captures, packet traces.
//
// It is put round a port while somebody looks and taken off afterwards, so that nobody
// pays for what nobody sees.
#include "port/port.h"

#include <errno.h>
#include <stdlib.h>

struct trace_port {
	struct port port;
	struct port *inner;
	struct port_observer observer;
};

static struct trace_port *trace_of(struct port *port)
{
	return (struct trace_port *)port;
}

static int trace_receive(struct port *port, struct packet_pool *pool, struct packet **packets, int max, uint64_t *lost)
{
	struct trace_port *trace = trace_of(port);
	int count = trace->inner->ops->receive(trace->inner, pool, packets, max, lost);
	for (int i = 0; i < count; i++)
		trace->observer.frame(trace->observer.user, port, packets[i], false);
	return count;
}

static void trace_release(struct port *port)
{
	struct port *inner = trace_of(port)->inner;
	inner->ops->release(inner);
}

static int trace_transmit(struct port *port, struct packet **packets, int count)
{
	struct trace_port *trace = trace_of(port);
	for (int i = 0; i < count; i++)
		packet_gather(packets[i]);
	int sent = trace->inner->ops->transmit(trace->inner, packets, count);
	for (int i = 0; i < sent; i++)
		trace->observer.frame(trace->observer.user, port, packets[i], true);
	return sent;
}

static bool trace_pending(const struct port *port)
{
	const struct port *inner = ((const struct trace_port *)port)->inner;
	return inner->ops->pending(inner);
}

static void trace_sleeping(struct port *port, bool sleeping)
{
	struct port *inner = trace_of(port)->inner;
	inner->ops->sleeping(inner, sleeping);
}

static void trace_event(struct port *port)
{
	struct port *inner = trace_of(port)->inner;
	inner->ops->event(inner);
}

static void trace_close(struct port *port)
{
	struct port *inner = trace_unwrap(port);
	inner->ops->close(inner);
}

static void trace_poke(struct port *port)
{
	struct port *inner = trace_of(port)->inner;
	if (inner->ops->poke != NULL)
		inner->ops->poke(inner);
}

static const struct port_ops trace_ops = {
	.name = "trace",
	.receive = trace_receive,
	.release = trace_release,
	.transmit = trace_transmit,
	.pending = trace_pending,
	.sleeping = trace_sleeping,
	.event = trace_event,
	.close = trace_close,
	.poke = trace_poke,
};

int trace_wrap(struct port *inner, const struct port_observer *observer, struct port **out)
{
	struct trace_port *trace = calloc(1, sizeof(*trace));
	if (trace == NULL)
		return -ENOMEM;
	trace->port = *inner;
	trace->port.ops = &trace_ops;
	trace->inner = inner;
	trace->observer = *observer;
	*out = &trace->port;
	return 0;
}

struct port *trace_unwrap(struct port *port)
{
	if (port->ops != &trace_ops)
		return port;
	struct port *inner = trace_of(port)->inner;
	inner->spec = port->spec; // link state and MTU may have changed meanwhile
	free(port);
	return inner;
}
