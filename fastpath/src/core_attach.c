// Reconciling the counters that a dead forwarder left.
//
//   law 1, ingress:  rx = forwarded + punt + sum(drops) + held
//   law 2, egress:   tx = forwarded_out + originated + fragments_created
//
// A crash falls between two stores, so one side may lack the packets of a batch.  Frames
// whose fate was not recorded are received again and counted again; what they were counted
// before is a drop with the reason "restart".  Counters only ever grow.
//
// One worker may count the arrival of a packet and another one its fate: the laws hold for the
// sums over all workers, and what is missing is added to the counters of worker 0.
#include "core.h"

static uint64_t counted_drops(const uint64_t *drops)
{
	uint64_t sum = 0;
	for (int reason = 0; reason < DROP_REASON_COUNT; reason++)
		sum += drops[reason];
	return sum;
}

// What the laws compare, of one interface and all workers.
struct sums {
	uint64_t rx;
	uint64_t fates;     // of what came in
	uint64_t tx;
	uint64_t accounted; // of what went out
};

static void sums_add(struct sums *sums, const struct interface_counters *counters)
{
	sums->rx += counters->rx_packets;
	sums->fates += counters->forwarded_packets + counters->punt_packets + counted_drops(counters->drops) + counters->held_packets;
	sums->tx += counters->tx_packets;
	sums->accounted += counters->forwarded_out_packets + counters->originated_packets + counters->fragments_created;
}

static uint64_t workers_used(const struct state_segment *state)
{
	return state->workers_used > 0 && state->workers_used <= MAX_WORKERS ? state->workers_used : 1;
}

// Held is what lies in the pending slots, whatever the counter says.
static void recount_held(struct state_segment *state)
{
	uint64_t held[MAX_INTERFACES] = { 0 };
	for (int i = 0; i < MAX_PENDING; i++) {
		const struct pending_packet *pending = &state->pending[i];
		if (pending->length != 0 && pending->ingress != 0 && pending->ingress < MAX_INTERFACES)
			held[pending->ingress]++;
	}
	for (int i = 1; i < MAX_INTERFACES; i++) {
		if (state->counters[i].held_packets != held[i])
			state->counters[i].held_packets = held[i];
	}
}

static void reconcile_interface(struct state_segment *state, int interface)
{
	struct interface_counters *own = &state->counters[interface];
	struct sums sums = { 0 };
	for (uint64_t worker = 0; worker < workers_used(state); worker++)
		sums_add(&sums, &state->counters[worker * MAX_INTERFACES + (uint64_t)interface]);
	if (sums.rx > sums.fates)
		own->drops[DROP_RESTART] += sums.rx - sums.fates;
	else if (sums.rx < sums.fates)
		own->rx_packets += sums.fates - sums.rx;
	if (sums.tx > sums.accounted)
		own->forwarded_out_packets += sums.tx - sums.accounted;
	else if (sums.tx < sums.accounted)
		own->tx_packets += sums.accounted - sums.tx;
}

void core_reconcile(struct state_segment *state)
{
	bool held = false;
	for (int i = 1; i < MAX_INTERFACES; i++)
		held |= state->counters[i].held_packets != 0;
	// The pending slots are 2 MiB that an idle VR never touched: look only where needed.
	if (held)
		recount_held(state);
	for (int i = 1; i < MAX_INTERFACES; i++)
		reconcile_interface(state, i);
}
