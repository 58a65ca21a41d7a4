// Queues of packets that leave, one for each port, and the accounting of every packet's end.
//
// Two laws hold at rest, for each interface:
//   rx_packets = forwarded_packets + punt_packets + sum of drops + held_packets
//   tx_packets = forwarded_out_packets + originated_packets + fragments_created
// So each received packet is counted on its ingress exactly once more after its arrival:
// by egress_sent, packet_punt, packet_drop, or as held.  Of the pieces that a packet is cut
// into, the first inherits its account; what becomes of the others is no matter of the
// first law, and where they are lost, host_drops tells.
#include "forward/forward.h"

#include <stdarg.h>
#include <stdio.h>

#include "drop_names.h"

enum { TRACE_DETAIL_SIZE = 160 };

static const char *const drop_names[DROP_REASON_COUNT] = {DROP_NAMES};

static struct interface_counters *counters_of(struct forward *f, uint16_t interface)
{
	return &f->counters[interface < MAX_INTERFACES ? interface : 0];
}

void forward_trace(struct forward *f, const struct packet *packet, const char *stage, const char *format, ...)
{
	char detail[TRACE_DETAIL_SIZE];
	va_list arguments;

	if (!packet_traced(packet) || f->ops.trace == NULL)
		return;
	va_start(arguments, format);
	vsnprintf(detail, sizeof detail, format, arguments);
	va_end(arguments);
	f->ops.trace(f->ops.user, packet, stage, detail);
}

void packet_drop(struct forward *f, struct packet *packet, enum drop_reason reason)
{
	if (reason >= DROP_REASON_COUNT)
		reason = DROP_NONE;
	if (packet->account == ACCOUNT_FORWARDED && packet->ingress != 0)
		counters_of(f, packet->ingress)->drops[reason]++;
	else
		f->host_drops[reason]++;
	if (packet->trace != 0 && f->ops.trace != NULL)
		f->ops.trace(f->ops.user, packet, "drop", drop_names[reason]);
	packet_put(f->pool, packet);
}

static void flush_port(struct forward *f, uint16_t port)
{
	f->ops.flush(f->ops.user, port);
	if (f->queues[port] == NULL || f->queues[port]->count == 0)
		f->egress_pending[port / 64] &= ~(1ull << port % 64);
}

enum drop_reason egress_queue(struct forward *f, const struct interface_entry *interface, struct packet *packet)
{
	uint16_t port = interface->port;
	struct egress_queue *queue;

	packet->egress = interface->index;
	if (interface->kind == INTERFACE_LOOPBACK || !interface_up(f, interface))
		return DROP_EGRESS_DOWN;
	queue = f->queues[port];
	if (queue->count == EGRESS_QUEUE) {
		flush_port(f, port);
		if (queue->count == EGRESS_QUEUE)
			return DROP_TX_FULL;
	}
	if (packet_traced(packet))
		forward_trace(f, packet, "transmit", "interface %s, %u bytes", interface->name, packet_bytes(packet));
	queue->packets[queue->count++] = packet;
	f->egress_pending[port / 64] |= 1ull << port % 64;
	return DROP_NONE;
}

void forward_flush(struct forward *f)
{
	for (uint16_t word = 0; word < MAX_PORTS / 64; word++) {
		// What a driver leaves in its queue waits for the next flush, not for another turn.
		for (uint64_t pending = f->egress_pending[word]; pending != 0; pending &= pending - 1)
			flush_port(f, (uint16_t)(word * 64 + __builtin_ctzll(pending)));
	}
}

void egress_sent(struct forward *f, struct packet *packet)
{
	struct interface_counters *out = counters_of(f, packet->egress);

	out->tx_packets++;
	out->tx_bytes += packet_bytes(packet);
	if (packet->account == ACCOUNT_FRAGMENT) {
		out->fragments_created++;
	} else if (packet->account == ACCOUNT_FORWARDED && packet->ingress != 0) {
		out->forwarded_out_packets++;
		counters_of(f, packet->ingress)->forwarded_packets++;
	} else {
		out->originated_packets++;
	}
	packet_put(f->pool, packet);
}

void egress_lost(struct forward *f, struct packet *packet, enum drop_reason reason)
{
	packet_drop(f, packet, reason);
}
