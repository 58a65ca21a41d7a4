// The forwarding plane of one VR: its life, its ports, and the batch that runs through it.
#include "forward/bypass.h"
#include "forward/hand.h"
#include "forward/police.h"
#include "forward/transit.h"

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
	f->counters = state->counters;
	f->filter_counters = state->filter_counters;
	f->host_drops = state->host_drops;
	f->ip4_id = (uint16_t)forward_random(f);
	f->pool = packet_pool_new(ORDINARY_PACKETS, SUPER_PACKETS);
	if (f->pool == NULL)
		return -ENOMEM;
	view_open(&f->tables, tables, tables_size);
	view_refresh(&f->tables);
	result = icmp_limit_init(f);
	if (result == 0) {
		result = police_init(f);
		if (result == 0)
			result = neighbor_init(f);
		if (result == 0) {
			f->transit = transit_new();
			return 0;
		}
		police_fini(f);
		icmp_limit_fini(f);
	}
	filter_close(&f->filters);
	view_close(&f->tables);
	packet_pool_free(f->pool);
	return result;
}

int forward_init_worker(struct forward *f, const struct forward *main, uint32_t number, const struct forward_ops *ops)
{
	*f = (struct forward){.state = main->state, .ops = *ops, .worker = number};
	f->random = seed(main->state) ^ (uint64_t)number << 32;
	f->counters = main->state->counters + (size_t)number * MAX_INTERFACES;
	f->host_drops = main->state->host_drops + (size_t)number * DROP_REASON_COUNT;
	f->filter_counters = main->state->filter_counters + (size_t)number * MAX_FILTER_COUNTERS;
	f->neighbors = main->neighbors;
	f->police = main->police;
	f->own_echoes = true; // that may be: worker 0 knows
	f->hands = calloc(1, sizeof *f->hands);
	f->pool = packet_pool_new(ORDINARY_PACKETS, SUPER_PACKETS);
	if (f->hands == NULL || f->pool == NULL) {
		free(f->hands);
		packet_pool_free(f->pool);
		return -ENOMEM;
	}
	view_open(&f->tables, main->tables.base, main->tables.size);
	view_refresh(&f->tables);
	f->transit = transit_new();
	return 0;
}

static void fini_worker(struct forward *f)
{
	transit_free(f->transit);
	filter_close(&f->filters);
	view_close(&f->tables);
	packet_pool_free(f->pool);
	free(f->hands);
	*f = (struct forward){.worker = f->worker};
}

void forward_fini(struct forward *f)
{
	for (uint16_t port = 0; port < MAX_PORTS; port++) {
		if (f->queues[port] != NULL)
			forward_port(f, port, NULL);
	}
	if (f->hands != NULL) {
		fini_worker(f);
		return;
	}
	bypass_detach(f);
	transit_free(f->transit);
	neighbor_fini(f);
	police_fini(f);
	icmp_limit_fini(f);
	filter_close(&f->filters);
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
	if (f->hands == NULL)
		neighbor_link(f, port, false);
	bypass_changed(f);
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
	if (f->hands == NULL)
		neighbor_link(f, port, f->queues[port] != NULL && spec->link_up);
	bypass_changed(f);
}

void forward_tables_changed(struct forward *f)
{
	neighbor_tables_changed(f);
	dad_tables_changed(f);
	bypass_changed(f);
	forward_interfaces_changed(f);
}

static void refresh(struct forward *f)
{
	if (view_refresh(&f->tables) && f->hands == NULL)
		forward_tables_changed(f);
	// After the features that refer to them, before which control has published them.
	filter_refresh(&f->filters, &f->tables);
}

void forward_receive(struct forward *f, uint16_t port, struct packet **packets, int count)
{
	refresh(f);
	for (int i = 0; i < count; i++) {
		packets[i]->port = port;
		packets[i]->ingress = 0;
		packets[i]->account = ACCOUNT_FORWARDED;
	}
	transit_receive(f, port, packets, count);
	forward_flush(f);
}

void forward_lost(struct forward *f, uint16_t port, enum drop_reason reason, uint64_t count)
{
	const struct interface_entry *in = view_interface_of(&f->tables, port, 0);

	if (in != NULL) {
		f->counters[in->index].rx_packets += count;
		f->counters[in->index].drops[reason] += count;
	} else {
		f->host_drops[reason] += count;
	}
}

void forward_tick(struct forward *f)
{
	refresh(f);
	if (neighbor_deadline(f) <= f->now)
		neighbor_tick(f);
	if (dad_deadline(f) <= f->now)
		dad_tick(f);
	bypass_tick(f);
	forward_flush(f);
}

uint64_t forward_deadline(const struct forward *f)
{
	uint64_t neighbor = neighbor_deadline(f);
	uint64_t dad = dad_deadline(f);
	uint64_t bypass = bypass_deadline(f);
	uint64_t first = neighbor < dad ? neighbor : dad;

	return first < bypass ? first : bypass;
}
