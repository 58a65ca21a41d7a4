// The forwarding plane of one VR: its life, its ports, and the batch that runs through it.
#include "forward/forward.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

// Buffers in flight at once: a batch, what egress queues hold between flushes, and the
// pieces that super-packets are cut into.  Untouched ones cost nothing.
enum { ORDINARY_PACKETS = 4096, SUPER_PACKETS = 4 * BATCH_SIZE };

static uint64_t seed(const struct state_segment *state)
{
	// A successor must not repeat the numbers of the one before it.
	return state->random_key[0] ^ (state->random_key[1] << 1) ^ state->started_ns ^ (state->attaches << 48);
}

int forward_init(struct forward *f, const uint8_t *tables, size_t tables_size, struct state_segment *state,
	const struct forward_ops *ops)
{
	int result;

	*f = (struct forward){.state = state, .ops = *ops, .random = seed(state)};
	f->ip4_id = (uint16_t)forward_random(f);
	f->pool = packet_pool_new(ORDINARY_PACKETS, SUPER_PACKETS);
	if (f->pool == NULL)
		return -ENOMEM;
	view_open(&f->tables, tables, tables_size);
	view_refresh(&f->tables);
	result = icmp_limit_init(f);
	if (result == 0) {
		result = neighbor_init(f);
		if (result == 0)
			return 0;
		icmp_limit_fini(f);
	}
	view_close(&f->tables);
	packet_pool_free(f->pool);
	return result;
}

void forward_fini(struct forward *f)
{
	for (uint16_t port = 0; port < MAX_PORTS; port++) {
		if (f->queues[port] != NULL)
			forward_port(f, port, NULL);
	}
	neighbor_fini(f);
	icmp_limit_fini(f);
	view_close(&f->tables);
	packet_pool_free(f->pool);
	f->pool = NULL;
}

static void port_gone(struct forward *f, uint16_t port)
{
	struct egress_queue *queue = f->queues[port];

	f->queues[port] = NULL;
	f->egress_pending[port / 64] &= ~(1ull << port % 64);
	memset(&f->ports[port], 0, sizeof f->ports[port]);
	neighbor_link(f, port, false);
	for (int i = 0; queue != NULL && i < queue->count; i++)
		egress_lost(f, queue->packets[i], DROP_EGRESS_DOWN);
	free(queue);
}

void forward_port(struct forward *f, uint16_t port, const struct port_spec *spec)
{
	if (port == 0 || port >= MAX_PORTS)
		return;
	if (spec == NULL) {
		port_gone(f, port);
		return;
	}
	if (f->queues[port] == NULL)
		f->queues[port] = calloc(1, sizeof *f->queues[port]);
	// Without memory for its queue a port is one that has no carrier.
	f->ports[port] = *spec;
	neighbor_link(f, port, f->queues[port] != NULL && spec->link_up);
}

void forward_tables_changed(struct forward *f)
{
	neighbor_tables_changed(f);
	dad_tables_changed(f);
	forward_interfaces_changed(f);
}

static void refresh(struct forward *f)
{
	if (view_refresh(&f->tables))
		forward_tables_changed(f);
}

void forward_receive(struct forward *f, uint16_t port, struct packet **packets, int count)
{
	refresh(f);
	for (int i = 0; i < count; i++) {
		struct packet *packet = packets[i];
		enum drop_reason reason;

		if (i + 1 < count)
			__builtin_prefetch(packet_data(packets[i + 1]));
		packet->port = port;
		packet->ingress = 0;
		packet->account = ACCOUNT_FORWARDED;
		reason = ethernet_input(f, packet);
		if (reason != DROP_NONE)
			packet_drop(f, packet, reason);
	}
	forward_flush(f);
}

void forward_lost(struct forward *f, uint16_t port, enum drop_reason reason, uint64_t count)
{
	const struct interface_entry *in = view_interface_of(&f->tables, port, 0);

	if (in != NULL) {
		f->state->counters[in->index].rx_packets += count;
		f->state->counters[in->index].drops[reason] += count;
	} else {
		f->state->host_drops[reason] += count;
	}
}

void forward_tick(struct forward *f)
{
	refresh(f);
	if (neighbor_deadline(f) <= f->now)
		neighbor_tick(f);
	if (dad_deadline(f) <= f->now)
		dad_tick(f);
	forward_flush(f);
}

uint64_t forward_deadline(const struct forward *f)
{
	uint64_t neighbor = neighbor_deadline(f);
	uint64_t dad = dad_deadline(f);

	return neighbor < dad ? neighbor : dad;
}
