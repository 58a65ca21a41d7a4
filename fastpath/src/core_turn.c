// What all workers do with their ports in the same way: take a batch in, look whether more waits, and how long to
// look before they sleep.  What comes in is forwarded by core_run.c (worker 0) and core_worker.c (the others).
#include "core.h"

enum { SPIN_FAILURES = 8 }; // of which each doubles the times that are left out

int turn_receive(struct forward *f, struct port *port, struct packet **packets, int *handled)
{
	uint64_t lost[DROP_REASON_COUNT] = { 0 };
	int count = port->ops->receive(port, f->pool, packets, BATCH_SIZE, lost);

	*handled = count;
	for (int reason = 0; reason < DROP_REASON_COUNT; reason++) {
		if (lost[reason] != 0) {
			forward_lost(f, port->spec.port, (enum drop_reason)reason, lost[reason]);
			*handled += (int)lost[reason];
		}
	}
	return count;
}

bool turn_pending(struct port *const *ports, const uint16_t *ids, int count)
{
	for (int i = 0; i < count; i++) {
		const struct port *port = ports[ids[i]];
		if (port->ops->pending(port))
			return true;
	}
	return false;
}

void turn_sleeping(struct port *const *ports, const uint16_t *ids, int count, bool sleeping)
{
	for (int i = 0; i < count; i++)
		ports[ids[i]]->ops->sleeping(ports[ids[i]], sleeping);
}

void turn_poke(struct port *const *ports, const uint16_t *ids, int count)
{
	for (int i = 0; i < count; i++) {
		struct port *port = ports[ids[i]];
		if (port->ops->poke != NULL)
			port->ops->poke(port);
	}
}

void turn_event(struct port *port, uint32_t events)
{
	// Frames alone need no event, they are looked for anyway.
	if (events != EPOLLIN || !port->ops->pending(port))
		port->ops->event(port);
}

bool spin_is_left_out(struct spin *spin)
{
	if (spin->skip == 0)
		return false;
	spin->skip--;
	return true;
}

void spin_failed(struct spin *spin)
{
	if (spin->failures < SPIN_FAILURES)
		spin->failures++;
	spin->skip = (1u << spin->failures) - 1;
}
