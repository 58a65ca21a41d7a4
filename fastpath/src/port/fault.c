// A wrapper that damages what a port receives, from a seed: the same seed and the same
// frames give the same faults.  In permille of the frames: drop (counted as
// DROP_INJECTED), duplicate, reorder (with the neighbor in the batch), corrupt one bit.
#include "port/port.h"

#include <errno.h>
#include <stdlib.h>

enum fault { FAULT_DROP = 0, FAULT_DUPLICATE = 1, FAULT_REORDER = 2, FAULT_CORRUPT = 3 };

struct fault_port {
	struct port port;
	struct port *inner;
	uint64_t random;
};

static struct fault_port *fault_of(struct port *port)
{
	return (struct fault_port *)port;
}

// splitmix64: any seed will do, zero included.
static uint64_t fault_random(struct fault_port *fault)
{
	uint64_t z = fault->random += 0x9e3779b97f4a7c15u;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static bool fault_strikes(struct fault_port *fault, enum fault kind)
{
	uint32_t permille = fault->port.spec.fault_permille[kind];
	return permille != 0 && fault_random(fault) % 1000 < permille;
}

static void fault_corrupt(struct fault_port *fault, struct packet *packet)
{
	if (packet->length == 0)
		return;
	uint64_t bit = fault_random(fault) % ((uint64_t)packet->length * 8);
	packet_data(packet)[bit / 8] ^= (uint8_t)(1u << (bit % 8));
}

static int fault_receive(struct port *port, struct packet_pool *pool, struct packet **packets, int max, uint64_t *lost)
{
	struct fault_port *fault = fault_of(port);
	struct packet *received[BATCH_SIZE];
	int half = max / 2 > BATCH_SIZE ? BATCH_SIZE : max / 2; // room for a duplicate of each
	int taken = fault->inner->ops->receive(fault->inner, pool, received, half, lost);
	int count = 0;

	for (int i = 0; i < taken; i++) {
		struct packet *packet = received[i];
		if (fault_strikes(fault, FAULT_DROP)) {
			packet_put(pool, packet);
			lost[DROP_INJECTED]++;
			continue;
		}
		if (fault_strikes(fault, FAULT_CORRUPT))
			fault_corrupt(fault, packet);
		packets[count++] = packet;
		if (fault_strikes(fault, FAULT_DUPLICATE)) {
			struct packet *twin = packet_clone(pool, packet);
			if (twin != NULL)
				packets[count++] = twin;
		}
		if (count >= 2 && fault_strikes(fault, FAULT_REORDER)) {
			struct packet *last = packets[count - 1];
			packets[count - 1] = packets[count - 2];
			packets[count - 2] = last;
		}
	}
	return count;
}

static void fault_release(struct port *port)
{
	struct port *inner = fault_of(port)->inner;
	inner->ops->release(inner);
}

static int fault_transmit(struct port *port, struct packet **packets, int count)
{
	struct port *inner = fault_of(port)->inner;
	return inner->ops->transmit(inner, packets, count);
}

static bool fault_pending(const struct port *port)
{
	const struct port *inner = ((const struct fault_port *)port)->inner;
	return inner->ops->pending(inner);
}

static void fault_sleeping(struct port *port, bool sleeping)
{
	struct port *inner = fault_of(port)->inner;
	inner->ops->sleeping(inner, sleeping);
}

static void fault_event(struct port *port)
{
	struct port *inner = fault_of(port)->inner;
	inner->ops->event(inner);
}

static void fault_close(struct port *port)
{
	struct port *inner = fault_of(port)->inner;
	inner->ops->close(inner);
	free(port);
}

static void fault_poke(struct port *port)
{
	struct port *inner = fault_of(port)->inner;
	if (inner->ops->poke != NULL)
		inner->ops->poke(inner);
}

static const struct port_ops fault_ops = {
	.name = "fault",
	.receive = fault_receive,
	.release = fault_release,
	.transmit = fault_transmit,
	.pending = fault_pending,
	.sleeping = fault_sleeping,
	.event = fault_event,
	.close = fault_close,
	.poke = fault_poke,
};

int fault_wrap(struct port *inner, struct port **out)
{
	struct fault_port *fault = calloc(1, sizeof(*fault));
	if (fault == NULL)
		return -ENOMEM;
	fault->port = *inner;
	fault->port.ops = &fault_ops;
	fault->inner = inner;
	fault->random = inner->spec.fault_seed;
	*out = &fault->port;
	return 0;
}
