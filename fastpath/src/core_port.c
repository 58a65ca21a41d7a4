// The ports of a core: coming and going, transmission, observers.
#include "core_worker.h"
#include "forward/bypass.h"

#include <errno.h>
#include <string.h>

static struct port *port_find(struct core *core, uint16_t id)
{
	return id < MAX_PORTS ? core->ports[id] : NULL;
}

// --- transmission ---

static enum drop_reason transmit_reason(int error)
{
	switch (error) {
	case EMSGSIZE:
		return DROP_TX_TOO_BIG;
	case ENETDOWN:
	case ENXIO:
	case ENODEV:
		return DROP_EGRESS_DOWN;
	default:
		return DROP_TX_ERROR;
	}
}

int port_flush(struct forward *f, struct port *port, uint16_t id)
{
	struct egress_queue *queue = f->queues[id];
	int failure = 0;
	if (queue == NULL || queue->count == 0)
		return 0;

	int done = 0;
	while (done < queue->count) {
		int sent = port != NULL ? port->ops->transmit(port, queue->packets + done, queue->count - done) : -ENXIO;
		for (int i = 0; i < sent; i++)
			egress_sent(f, queue->packets[done++]);
		if (sent > 0)
			continue;
		if (sent == 0) {
			while (done < queue->count)
				egress_lost(f, queue->packets[done++], DROP_TX_FULL);
			break;
		}
		// The device was moved or deleted: only the manager can bind the socket again.
		if (port != NULL && (sent == -ENXIO || sent == -ENODEV) && (port->state->flags & PORT_FAILED) == 0) {
			port->state->flags |= PORT_FAILED;
			failure = -sent;
		}
		egress_lost(f, queue->packets[done++], transmit_reason(-sent));
	}
	queue->count = 0;
	return failure;
}

void core_flush(void *user, uint16_t id)
{
	struct core *core = user;
	struct port *port = core->ports[id];
	if (core->running && port != NULL && core->forward.queues[id] != NULL)
		watch_passed(&core->watch, core->epoll_fd, port, core->forward.queues[id]->count);
	int failure = port_flush(&core->forward, port, id);
	if (failure != 0)
		log_event(&core->log, core->forward.now, "port-failed", "port=%u ifindex=%u errno=%d", id, port->spec.ifindex, failure);
}

// --- observers: captures and packet traces ---

static uint16_t frame_vlan(const struct packet *packet)
{
	const uint8_t *data = packet->buffer + packet->offset;
	if (packet->vlan_present)
		return packet->vlan_tci & 0x0fff;
	if (packet->length >= 18 && data[12] == 0x81 && data[13] == 0x00)
		return (uint16_t)((data[14] & 0x0f) << 8 | data[15]);
	return 0;
}

uint32_t core_trace_next(struct core *core)
{
	core->trace_id = core->trace_id % TRACE_ID + 1;
	return core->trace_id;
}

void core_observe_received(void *user, struct packet *packet)
{
	struct core *core = user;
	const struct interface_entry *interface = view_interface_of(&core->forward.tables, packet->port, frame_vlan(packet));
	uint16_t index = interface != NULL ? interface->index : 0;
	packet->trace = core_trace_next(core);
	if (!core->traced || !server_wants_trace(core->server, index, packet, true, packet->trace))
		packet->trace |= TRACE_FATE;
	server_capture(core->server, index, false, packet, core->forward.now);
}

static void observe_frame(void *user, const struct port *port, struct packet *packet, bool outgoing)
{
	struct core *core = user;
	(void)port;
	if (outgoing)
		server_capture(core->server, packet->egress, true, packet, core->forward.now);
	else
		core_observe_received(core, packet);
}

void core_observe(void *user, bool trace, bool capture)
{
	struct core *core = user;
	// Applied between iterations: this may be called while a port is being observed.
	core->observe = trace || capture;
	core->traced = trace;
}

static int port_wrap(struct core *core, struct port *port, struct port **out)
{
	struct port_observer observer = { .frame = observe_frame, .user = core };
	return trace_wrap(port, &observer, out);
}

void core_observe_apply(struct core *core)
{
	if (core->observe == core->observed)
		return;
	__atomic_store_n(&core->hands_all, core->observe, __ATOMIC_RELEASE);
	for (int i = 0; i < core->port_count; i++) {
		struct port **slot = &core->ports[core->port_ids[i]];
		if (!core->observe)
			*slot = trace_unwrap(*slot);
		else if (port_wrap(core, *slot, slot) < 0)
			log_event(&core->log, core->forward.now, "observe-failed", "port=%u errno=%d", core->port_ids[i], ENOMEM);
	}
	core->observed = core->observe;
	bypass_observe(&core->forward, core->observe);
}

// --- coming and going ---

static const uint64_t await_ns = 1000000000u;

void core_ports_await(struct core *core)
{
	for (int id = 1; id < MAX_PORTS; id++) {
		core->awaited[id] = (core->state->ports[id].flags & PORT_PRESENT) != 0;
		if (core->awaited[id])
			core->awaited_until_ns = UINT64_MAX; // the clock starts with the first iteration
	}
}

bool core_ports_complete(struct core *core, uint64_t now)
{
	if (core->awaited_until_ns == 0) {
		if (!core->complete)
			__atomic_store_n(&core->complete, true, __ATOMIC_RELEASE);
		return true;
	}
	if (core->awaited_until_ns == UINT64_MAX)
		core->awaited_until_ns = now + await_ns;
	for (int id = 1; id < MAX_PORTS; id++) {
		if (core->awaited[id] && now < core->awaited_until_ns)
			return false;
		if (core->awaited[id])
			core->state->ports[id].flags = 0;
		core->awaited[id] = false;
	}
	core->awaited_until_ns = 0;
	return true;
}

static void port_publish(struct port *port)
{
	port->state->driver = port->spec.driver;
	port->state->ifindex = port->spec.ifindex;
	port->state->mode = port->spec.mode;
	port->state->flags = PORT_PRESENT | (port->spec.link_up != 0 ? PORT_LINK_UP : 0u);
}

void port_change(struct port *port, uint32_t link_up, uint32_t mtu)
{
	port->spec.link_up = link_up;
	port->spec.mtu = mtu;
	port_publish(port);
}

int core_port_add(struct core *core, const struct port_spec *spec, const int *fds, int fd_count)
{
	if (spec->port == 0 || spec->port >= MAX_PORTS)
		return -EINVAL;
	if (spec->queue != 0)
		return core_hands_port_add(core, spec, fds, fd_count);
	if (core->ports[spec->port] != NULL)
		return -EEXIST;

	struct port *port;
	int error = port_open(spec, fds, fd_count, &core->state->ports[spec->port], &port);
	if (error < 0)
		return error;
	if (core->observed)
		error = port_wrap(core, port, &port);
	if (error == 0)
		error = watch_begin(core->epoll_fd, port);
	if (error < 0) {
		port = trace_unwrap(port);
		port->fd_count = 0; // the fds stay the caller's
		port->ops->close(port);
		return error;
	}
	core->awaited[spec->port] = false;
	core->ports[spec->port] = port;
	core->port_ids[core->port_count++] = spec->port;
	port_publish(port);
	forward_port(&core->forward, spec->port, &port->spec);
	core_hands_port(core, spec->port, &port->spec);
	return 0;
}

int core_port_remove(struct core *core, uint16_t id)
{
	struct port *port = port_find(core, id);
	if (id < MAX_PORTS && core->awaited[id]) {
		core->awaited[id] = false;
		core->state->ports[id].flags = 0;
	}
	if (port == NULL)
		return -ENOENT;
	core_hands_port(core, id, NULL);
	core_flush(core, id);
	forward_port(&core->forward, id, NULL);
	watch_end(core->epoll_fd, port);
	watch_forget(&core->watch, id);
	port->state->flags = 0;
	core->ports[id] = NULL;
	int at = 0;
	while (core->port_ids[at] != id)
		at++;
	core->port_count--;
	memmove(&core->port_ids[at], &core->port_ids[at + 1], (size_t)(core->port_count - at) * sizeof(core->port_ids[0]));
	port->ops->close(port);
	return 0;
}

int core_port_link(struct core *core, uint16_t id, uint32_t link_up, uint32_t mtu)
{
	struct port *port = port_find(core, id);
	if (port == NULL)
		return -ENOENT;
	port_change(port, link_up, mtu);
	forward_port(&core->forward, id, &port->spec);
	core_hands_port(core, id, &port->spec);
	return 0;
}

_Static_assert((int)PORT_FDS <= (int)SERVER_MAX_FDS, "a port's fds fit one answer");

bool core_port_at(void *user, int n, struct port_spec *spec, int *fds, int *fd_count)
{
	struct core *core = user;
	if (n >= core->port_count)
		return core_hands_port_at(core, n - core->port_count, spec, fds, fd_count);
	if (n < 0)
		return false;
	const struct port *port = core->ports[core->port_ids[n]];
	*spec = port->spec;
	*fd_count = port->fd_count;
	for (int i = 0; i < port->fd_count; i++)
		fds[i] = port->fds[i];
	return true;
}

void core_ports_close(struct core *core)
{
	while (core->port_count > 0)
		core_port_remove(core, core->port_ids[core->port_count - 1]);
}
