// Reconciling the counters that a dead forwarder left.
//
//   law 1, ingress:  rx = forwarded + punt + sum(drops) + held
//   law 2, egress:   tx = forwarded_out + originated + fragments_created
//
// A crash falls between two stores, so one side may lack the packets of a batch.  Frames
// whose fate was not recorded are received again and counted again; what they were counted
// before is a drop with the reason "restart".  Counters only ever grow.
#include "core.h"

static uint64_t counted_drops(const uint64_t *drops)
{
	uint64_t sum = 0;
	for (int reason = 0; reason < DROP_REASON_COUNT; reason++)
		sum += drops[reason];
	return sum;
}

static bool interface_used(const struct interface_counters *counters)
{
	return counters->rx_packets != 0 || counters->tx_packets != 0 || counters->originated_packets != 0 ||
		counters->forwarded_out_packets != 0 || counters->held_packets != 0;
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

static void reconcile_interface(struct interface_counters *counters)
{
	uint64_t known = counters->forwarded_packets + counters->punt_packets + counted_drops(counters->drops) + counters->held_packets;
	if (counters->rx_packets > known)
		counters->drops[DROP_RESTART] += counters->rx_packets - known;
	else
		counters->rx_packets = known;

	uint64_t accounted = counters->forwarded_out_packets + counters->originated_packets + counters->fragments_created;
	if (counters->tx_packets > accounted)
		counters->forwarded_out_packets += counters->tx_packets - accounted;
	else
		counters->tx_packets = accounted;
}

void core_reconcile(struct state_segment *state)
{
	bool held = false;
	for (int i = 1; i < MAX_INTERFACES; i++)
		held |= state->counters[i].held_packets != 0;
	// The pending slots are 2 MiB that an idle VR never touched: look only where needed.
	if (held)
		recount_held(state);
	for (int i = 1; i < MAX_INTERFACES; i++) {
		if (interface_used(&state->counters[i]))
			reconcile_interface(&state->counters[i]);
	}
}
