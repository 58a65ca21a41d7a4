// One VR's data plane: the only place that sees all columns, and wires them together.
//
//   ports --> forward --deliver--> host --upcall--> server --> apps
//     ^          ^                  |                 |
//     +--flush---+------output------+      port_add, observe, shutdown
//     ^          +--deliver--> bfd --changed--> server
//     +--------------output----+
//
// A core is made over two segments.  What its predecessor left in the state segment goes on:
// neighbors and waiting packets in forward_init, sockets in host_attach, rings in
// core_port_add; the counters are reconciled first.
#define _GNU_SOURCE
#include "core.h"
#include "forward/bypass.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include "base/segment.h"
#include "rsock_wire.h"

// --- what forwarding asks for ---

static enum drop_reason wire_deliver(void *user, struct packet *packet, uint64_t now)
{
	struct core *core = user;
	enum drop_reason reason;
	if (core_bfd_deliver(core, packet, &reason))
		return reason;
	return host_input(core->host, packet, now);
}

static bool wire_group_joined(void *user, uint16_t interface, uint8_t family, const uint8_t *group)
{
	struct core *core = user;
	return host_group_joined(core->host, interface, family, group);
}

static void wire_interfaces_changed(void *user)
{
	struct core *core = user;
	if (core->host != NULL)
		host_interfaces_changed(core->host);
}

static void wire_trace(void *user, const struct packet *packet, const char *stage, const char *detail)
{
	struct core *core = user;
	server_trace(core->server, packet, stage, detail, core->forward.now);
}

// --- what the host stack asks for ---

static enum drop_reason wire_output(void *user, uint16_t interface, uint8_t family, struct packet *packet)
{
	struct core *core = user;
	if (core->traced) {
		uint32_t trace = core_trace_next(core);
		packet->trace = server_wants_trace(core->server, 0, packet, false, trace) ? trace : 0;
	}
	return family == FAMILY_IPV4 ? ip4_output(&core->forward, interface, packet) : ip6_output(&core->forward, interface, packet);
}

static bool wire_source(void *user, uint8_t family, const uint8_t *destination, uint16_t interface, uint8_t *source, uint16_t *egress)
{
	struct core *core = user;
	return ip_source(&core->forward, family, destination, interface, source, egress);
}

static bool wire_overheard(void *user, struct packet *packet, uint64_t now)
{
	struct core *core = user;
	return host_overhear(core->host, packet, now);
}

static uint32_t wire_known_mtu(void *user, uint8_t family, const uint8_t *destination, uint32_t mtu)
{
	struct core *core = user;
	return host_known_mtu(core->host, family, destination, mtu, core->forward.now);
}

static uint32_t wire_path_mtu(void *user, uint8_t family, const uint8_t *destination, uint16_t interface)
{
	struct core *core = user;
	return ip_path_mtu(&core->forward, family, destination, interface);
}

static void wire_unreachable(void *user, struct packet *packet, uint8_t code)
{
	struct core *core = user;
	ip_unreachable(&core->forward, packet, code == HOST_PROTOCOL_UNREACHABLE);
}

static enum drop_reason wire_icmp(void *user, uint16_t interface, struct packet *packet, uint32_t icmp_offset)
{
	struct core *core = user;
	return ip_icmp(&core->forward, interface, packet, icmp_offset);
}

static bool wire_interface_up(void *user, uint16_t index)
{
	struct core *core = user;
	const struct interface_entry *interface = view_interface(&core->forward.tables, index);
	return interface != NULL && interface_up(&core->forward, interface);
}

static bool wire_upcall(void *user, uint32_t slot, const void *header, const uint8_t *payload, uint32_t length)
{
	struct core *core = user;
	return server_upcall(core->server, slot, header, payload, length);
}

static void wire_error(void *user, uint32_t slot, int error)
{
	struct core *core = user;
	server_error(core->server, slot, error);
}

static uint32_t wire_stream_deliver(void *user, uint32_t slot, const struct iovec *parts, int count)
{
	struct core *core = user;
	return server_deliver(core->server, slot, parts, count);
}

static void wire_stream(void *user, uint32_t slot, uint32_t events)
{
	struct core *core = user;
	server_stream(core->server, slot, events);
}

static struct packet *wire_packet_get(void *user, uint32_t room)
{
	struct core *core = user;
	return packet_get(core->forward.pool, room);
}

static void wire_packet_put(void *user, struct packet *packet)
{
	struct core *core = user;
	packet_put(core->forward.pool, packet);
}

// --- what the server asks for ---

static int wire_port_add(void *user, const struct port_spec *spec, const int *fds, int fd_count)
{
	return core_port_add(user, spec, fds, fd_count);
}

static int wire_port_remove(void *user, uint16_t port)
{
	return core_port_remove(user, port);
}

static int wire_port_link(void *user, uint16_t port, uint32_t link_up, uint32_t mtu)
{
	return core_port_link(user, port, link_up, mtu);
}

int core_offload(struct core *core, const int *fds, uint64_t links_bytes, uint64_t fib_bytes, uint32_t processors)
{
	if (fds == NULL) {
		bypass_detach(&core->forward);
		return 0;
	}
	const struct bypass_maps maps = {
		.fds = { fds[0], fds[1] }, .links_bytes = links_bytes, .fib_bytes = fib_bytes, .processors = processors,
	};
	return bypass_attach(&core->forward, &maps);
}

static int wire_offload(void *user, const struct rsock_offload *wanted, const int *fds)
{
	return core_offload(user, fds, wanted->links_bytes, wanted->fib_bytes, wanted->processors);
}

static bool wire_offload_maps(void *user, struct rsock_offload *found, int *fds)
{
	const struct core *core = user;
	const struct bypass_maps *maps = bypass_maps(&core->forward);
	if (maps == NULL)
		return false;
	*found = (struct rsock_offload){
		.links_bytes = maps->links_bytes, .fib_bytes = maps->fib_bytes, .processors = maps->processors,
	};
	for (int i = 0; i < BYPASS_FDS; i++)
		fds[i] = maps->fds[i];
	return true;
}

static void wire_shutdown(void *user)
{
	struct core *core = user;
	core->stop = true;
}

// --- life ---

static int core_map(struct core *core, int tables_fd, int state_fd)
{
	void *state;
	int error = segment_map(tables_fd, SEGMENT_TABLES, sizeof(struct tables_segment), false, &core->tables, &core->tables_size);
	if (error < 0)
		return error;
	error = segment_map(state_fd, SEGMENT_STATE, sizeof(struct state_segment), true, &state, &core->state_size);
	if (error < 0)
		return error;
	core->state = state;
	core->worker = &core->state->workers[0];
	return 0;
}

// Take the state segment over: from here on it is ours to write.
static int core_take_state(struct core *core)
{
	struct state_segment *state = core->state;
	struct timespec now;
	clock_gettime(CLOCK_BOOTTIME, &now);

	__atomic_store_n(&state->ready, 0, __ATOMIC_RELEASE);
	state->started_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	state->forwarder_pid = (uint64_t)getpid();
	// The dead readers' epochs would hold back the table writer for ever.
	for (int i = 0; i < MAX_WORKERS; i++) {
		view_leave(&state->workers[i]);
		state->workers[i].busy_since_ns = 0;
		state->workers[i].thread = 0;
	}
	core->worker->thread = (uint64_t)gettid();
	// Ports that a predecessor served are awaited: core_ports_await.
	for (int i = 0; i < MAX_PORTS; i++) {
		if ((state->ports[i].flags & ~(uint32_t)PORT_PRESENT) != 0)
			state->ports[i].flags &= PORT_PRESENT;
	}
	for (uint64_t i = MAX_PORTS; i < state->workers_used * MAX_PORTS && i < MAX_WORKERS * MAX_PORTS; i++)
		state->ports[i].flags = 0;
	if (state->random_key[0] == 0 && state->random_key[1] == 0 &&
	    getrandom(state->random_key, sizeof(state->random_key), 0) != (ssize_t)sizeof(state->random_key))
		return -EIO;
	state->attaches++;
	return 0;
}

static int core_wire(struct core *core)
{
	const struct forward_ops forward_ops = {
		.deliver = wire_deliver,
		.group_joined = wire_group_joined,
		.interfaces_changed = wire_interfaces_changed,
		.overheard = wire_overheard,
		.path_mtu = wire_known_mtu,
		.flush = core_flush,
		.handed = core_observe_received,
		.trace = wire_trace,
		.user = core,
	};
	const struct host_ops host_ops = {
		.output = wire_output,
		.source = wire_source,
		.path_mtu = wire_path_mtu,
		.unreachable = wire_unreachable,
		.upcall = wire_upcall,
		.error = wire_error,
		.icmp = wire_icmp,
		.deliver = wire_stream_deliver,
		.stream = wire_stream,
		.interface_up = wire_interface_up,
		.packet_get = wire_packet_get,
		.packet_put = wire_packet_put,
		.takes_parts = true,
		.user = core,
	};
	const struct server_ops server_ops = {
		.port_add = wire_port_add,
		.port_remove = wire_port_remove,
		.port_link = wire_port_link,
		.offload = wire_offload,
		.offload_maps = wire_offload_maps,
		.port_at = core_port_at,
		.observe = core_observe,
		.shutdown = wire_shutdown,
		.user = core,
	};

	int error = forward_init(&core->forward, core->tables, core->tables_size, core->state, &forward_ops);
	if (error < 0)
		return error;
	core->host = host_new(core->state, &core->forward.tables, &host_ops);
	if (core->host == NULL)
		return -ENOMEM;
	core->server = server_new(core->host, core->state, &core->forward.tables, &server_ops, core->epoll_fd);
	if (core->server == NULL)
		return -ENOMEM;
	error = core_bfd_open(core);
	if (error < 0)
		return error;
	host_attach(core->host);
	if (core->state->attaches > 1) {
		core_reconcile(core->state);
		core_ports_await(core);
	}
	return 0;
}

int core_create(int tables_fd, int state_fd, struct core **out)
{
	struct core *core = calloc(1, sizeof(*core));
	if (core == NULL)
		return -ENOMEM;
	core->signal_fd = core->hands_fd = -1;
	core->processors = (uint32_t)get_nprocs();
	core->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	int error = core->epoll_fd < 0 ? -errno : core_map(core, tables_fd, state_fd);
	if (error == 0)
		error = core_take_state(core);
	if (error == 0) {
		log_init(&core->log, STDERR_FILENO, core->state->header.router_name);
		error = core_wire(core);
	}
	if (error < 0) {
		core_destroy(core);
		return error;
	}
	*out = core;
	return 0;
}

void core_destroy(struct core *core)
{
	core_ports_close(core);
	crew_free(core->crew);
	if (core->server != NULL)
		server_free(core->server);
	bfd_free(core->bfd);
	if (core->host != NULL)
		host_free(core->host);
	if (core->forward.pool != NULL)
		forward_fini(&core->forward);
	if (core->state != NULL) {
		__atomic_store_n(&core->state->ready, 0, __ATOMIC_RELEASE);
		munmap(core->state, core->state_size);
	}
	if (core->tables != NULL)
		munmap(core->tables, core->tables_size);
	if (core->epoll_fd >= 0)
		close(core->epoll_fd);
	if (core->signal_fd >= 0)
		close(core->signal_fd);
	if (core->hands_fd >= 0)
		close(core->hands_fd);
	free(core);
}

int core_serve(struct core *core, int listener_fd, int tables_ro_fd, int state_ro_fd)
{
	int error = server_listen(core->server, listener_fd, tables_ro_fd, state_ro_fd);
	if (error < 0)
		return error;
	__atomic_store_n(&core->state->ready, 1, __ATOMIC_RELEASE);
	return 0;
}
