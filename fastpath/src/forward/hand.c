// What a transit worker gives to worker 0: see hand.h.
#include "forward/hand.h"

#include <string.h>

enum hand_mark { MARK_NONE = 0, MARK_HANDED = 1, MARK_SETTLING = 2 };

static bool is_super(const struct packet *packet)
{
	return packet->room > PACKET_HEADROOM + PACKET_ROOM;
}

// --- the producer ---

static void reclaim(struct forward *f)
{
	struct hand_ring *ring = f->hands;
	uint64_t copied = __atomic_load_n(&ring->copied, __ATOMIC_ACQUIRE);

	for (; ring->reclaimed != copied; ring->reclaimed++) {
		struct packet *packet = ring->slots[ring->reclaimed % HAND_SLOTS].packet;
		ring->supers -= is_super(packet);
		packet_put(f->pool, packet);
	}
}

static struct hand *slot_take(struct forward *f, struct packet *packet)
{
	struct hand_ring *ring = f->hands;
	struct hand *slot;

	if (ring->filled - ring->reclaimed == HAND_SLOTS || (is_super(packet) && ring->supers == HAND_SUPERS))
		reclaim(f);
	if (ring->filled - ring->reclaimed == HAND_SLOTS || (is_super(packet) && ring->supers == HAND_SUPERS))
		return NULL;
	slot = &ring->slots[ring->filled++ % HAND_SLOTS];
	ring->supers += is_super(packet);
	*slot = (struct hand){.packet = packet};
	return slot;
}

enum drop_reason hand_frame(struct forward *f, struct packet *packet)
{
	struct hand *slot = slot_take(f, packet);

	if (slot == NULL)
		return DROP_HANDOVER_FULL;
	slot->kind = HAND_FRAME;
	return DROP_NONE;
}

void hand_batch(struct forward *f, uint16_t port, struct packet **packets, int count)
{
	for (int i = 0; i < count; i++) {
		enum drop_reason reason;

		packets[i]->port = port;
		packets[i]->ingress = 0;
		packets[i]->account = ACCOUNT_FORWARDED;
		reason = hand_frame(f, packets[i]);
		if (reason != DROP_NONE)
			packet_drop(f, packets[i], reason);
	}
}

bool hand_marked(const struct forward *f, uint64_t hash)
{
	return f->hands->marks[hash % HAND_MARKS] != MARK_NONE;
}

enum drop_reason hand_neighbor(struct forward *f, const struct interface_entry *out, uint8_t family,
	const uint8_t *nexthop, uint64_t hash, struct packet *packet)
{
	struct hand *slot = slot_take(f, packet);

	if (slot == NULL)
		return DROP_HANDOVER_FULL;
	slot->kind = HAND_NEIGHBOR;
	slot->family = family;
	slot->interface = out->index;
	memcpy(slot->nexthop, nexthop, family == FAMILY_IPV4 ? 4 : 16);
	if (f->hands->marks[hash % HAND_MARKS] == MARK_NONE)
		f->hands->marks[hash % HAND_MARKS] = MARK_HANDED;
	return DROP_NONE;
}

void hand_error(struct forward *f, const struct packet *packet, uint8_t family, uint8_t type, uint8_t code,
	uint32_t info)
{
	struct packet *copy = packet_clone(f->pool, packet);
	struct hand *slot = copy != NULL ? slot_take(f, copy) : NULL;

	if (slot == NULL) {
		f->host_drops[copy != NULL ? DROP_HANDOVER_FULL : DROP_NO_BUFFER]++;
		if (copy != NULL)
			packet_put(f->pool, copy);
		return;
	}
	slot->kind = HAND_ERROR;
	slot->family = family;
	slot->type = type;
	slot->code = code;
	slot->info = info;
}

void hand_await(struct forward *f, uint64_t hash)
{
	f->hands->marks[hash % HAND_MARKS] = MARK_SETTLING;
	f->hands->barrier = true;
}

bool hand_publish(struct forward *f)
{
	struct hand_ring *ring = f->hands;

	if (ring->produced == ring->filled)
		return false;
	// Against the flag of core_hands.c that worker 0 sleeps: one of us sees what the other one did.
	__atomic_store_n(&ring->produced, ring->filled, __ATOMIC_SEQ_CST);
	return true;
}

bool hand_behind(struct forward *f)
{
	struct hand_ring *ring = f->hands;

	reclaim(f);
	if (!ring->barrier)
		return false;
	if (__atomic_load_n(&ring->settled, __ATOMIC_ACQUIRE) != ring->filled)
		return true;
	ring->barrier = false;
	for (uint32_t i = 0; i < HAND_MARKS; i++) {
		if (ring->marks[i] == MARK_SETTLING)
			ring->marks[i] = MARK_NONE;
	}
	return false;
}

// --- worker 0 ---

bool hand_waiting(const struct hand_ring *ring)
{
	return __atomic_load_n(&ring->produced, __ATOMIC_SEQ_CST) != ring->copied;
}

// Worker 0 counts the fate of a packet that another one has counted in; so also that of one it has no buffer for.
static void lose(struct forward *f, const struct hand *hand, enum drop_reason reason)
{
	bool counted = hand->packet->account == ACCOUNT_FORWARDED && hand->kind != HAND_ERROR;
	uint16_t ingress = counted ? hand->packet->ingress : 0;

	if (ingress != 0 && ingress < MAX_INTERFACES)
		f->counters[ingress].drops[reason]++;
	else
		f->host_drops[reason]++;
}

static void go_on(struct forward *f, const struct hand *hand, struct packet *packet)
{
	const struct interface_entry *out;
	enum drop_reason reason;

	switch (hand->kind) {
	case HAND_FRAME:
		if (f->observed && f->ops.handed != NULL)
			f->ops.handed(f->ops.user, packet);
		reason = ethernet_input(f, packet);
		break;
	case HAND_NEIGHBOR:
		out = view_interface(&f->tables, hand->interface);
		reason = out != NULL ? neighbor_output(f, out, hand->family, hand->nexthop, packet) : DROP_EGRESS_DOWN;
		break;
	default:
		if (hand->family == FAMILY_IPV4)
			icmp4_error(f, packet, hand->type, hand->code, hand->info);
		else
			icmp6_error(f, packet, hand->type, hand->code, hand->info);
		packet_put(f->pool, packet);
		return;
	}
	if (reason != DROP_NONE)
		packet_drop(f, packet, reason);
}

int hand_take(struct forward *f, struct hand_ring *ring, int max)
{
	uint64_t produced = __atomic_load_n(&ring->produced, __ATOMIC_ACQUIRE);
	uint64_t at = ring->copied;
	int count = 0;

	for (; at != produced && count < max; count++) {
		const struct hand hand = ring->slots[at % HAND_SLOTS];
		struct packet *packet = packet_clone(f->pool, hand.packet);

		if (packet == NULL)
			lose(f, &hand, DROP_NO_BUFFER);
		__atomic_store_n(&ring->copied, ++at, __ATOMIC_RELEASE);
		if (packet != NULL)
			go_on(f, &hand, packet);
	}
	return count;
}

void hand_settle(struct hand_ring *ring)
{
	if (ring->settled != ring->copied)
		__atomic_store_n(&ring->settled, ring->copied, __ATOMIC_RELEASE);
}
