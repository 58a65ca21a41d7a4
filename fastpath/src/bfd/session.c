// One BFD session: the state machine (RFC 5880 section 6.2), the Poll Sequence (6.5), and the rules of
// section 6.8 for timers, intervals, reception and transmission.
//
// Each word that a successor needs is stored before the packet that depends on it is sent.
#include "bfd/internal.h"

enum { START_SPREAD_US = 100000, LOOK_AGAIN_NS = 1000000, FAREWELLS = 3 };

static uint64_t nanoseconds(uint64_t microseconds)
{
	return microseconds * 1000;
}

static uint32_t greater(uint32_t a, uint32_t b)
{
	return a > b ? a : b;
}

uint64_t session_jitter(const struct bfd *bfd, uint32_t interval_us, uint8_t multiplier)
{
	// 75 to 100 percent; with a multiplier of 1 at most 90, or a single late packet would be a failure.
	uint64_t least = nanoseconds(interval_us) / 100 * 75;
	uint64_t range = nanoseconds(interval_us) / 100 * (multiplier == 1 ? 15 : 25);
	return least + (range == 0 ? 0 : bfd->ops.random(bfd->ops.user) % (range + 1));
}

bool session_source(const struct bfd *bfd, const struct bfd_session *session, uint8_t *source)
{
	static const uint8_t any[16];
	memcpy(source, session->local, 16);
	if (memcmp(source, any, sizeof(any)) != 0)
		return true;
	return bfd->ops.source(bfd->ops.user, session->family, session->remote, session->interface, source);
}

bool session_heard(const struct bfd *bfd, uint64_t until)
{
	return bfd->ops.heard_until == NULL || bfd->ops.heard_until(bfd->ops.user, bfd->now) >= until;
}

// --- transmission: sections 6.8.2 and 6.8.7 ---

static uint32_t transmit_interval(const struct bfd_session *session)
{
	return greater(session->desired_in_force_us, session->remote_required_us);
}

static bool transmits(const struct bfd *bfd, uint32_t slot)
{
	const struct bfd_session *session = session_at(bfd, slot);
	const struct bfd_entry *entry = entry_at(bfd, slot);
	if (entry == NULL || ((entry->flags & BFD_PASSIVE) && session->remote_discriminator == 0) || session->remote_required_us == 0)
		return false;
	return !(session->remote_demand && session->state == BFD_UP && session->remote_state == BFD_UP && !session->polling);
}

static void transmit(struct bfd *bfd, uint32_t slot, bool final)
{
	struct bfd_session *session = session_at(bfd, slot);
	const struct bfd_entry *entry = entry_at(bfd, slot);
	bool multihop = session->flags & BFD_MULTIHOP;
	uint8_t bytes[CONTROL_ROOM] = {0};
	struct control control = {
		.diagnostic = session->diagnostic,
		.state = session->state,
		.poll = session->polling && !final,
		.final = final,
		.multiplier = session->multiplier,
		.my_discriminator = session->discriminator,
		.your_discriminator = session->remote_discriminator,
		.desired_us = session->desired_us,
		.required_us = session->required_us,
		.echo_us = multihop ? 0 : entry->echo_us,
	};
	struct bfd_datagram datagram = {
		.payload = bytes,
		.family = session->family,
		.ttl = BFD_TTL,
		.interface = session->interface,
		.source_port = (uint16_t)(49152 + slot),
		.destination_port = multihop ? BFD_MULTIHOP_PORT : BFD_PORT,
	};
	if (authentication_meticulous(session->authentication))
		__atomic_store_n(&session->sent_sequence, session->sent_sequence + 1, __ATOMIC_RELAXED);
	datagram.length = control_build(&control, entry, session, bytes);
	memcpy(datagram.destination, session->remote, sizeof(datagram.destination));
	if (!session_source(bfd, session, datagram.source))
		return;
	session->tx_packets++;
	session->tx_last_ns = bfd->now;
	bfd->ops.output(bfd->ops.user, &datagram);
}

static void transmit_next(struct bfd *bfd, uint32_t slot)
{
	struct bfd_session *session = session_at(bfd, slot);
	session->transmit_ns = bfd->now + session_jitter(bfd, transmit_interval(session), session->multiplier);
}

// Something that the peer should know has changed: do not wait for the next turn.
static void transmit_now(struct bfd *bfd, uint32_t slot)
{
	if (!bfd->begun || !transmits(bfd, slot))
		return;
	transmit(bfd, slot, false);
	transmit_next(bfd, slot);
}

// The interval may be another one than the one by which the next packet was scheduled.
static void transmit_again(struct bfd *bfd, uint32_t slot, uint32_t before_us)
{
	struct bfd_session *session = session_at(bfd, slot);
	uint32_t interval = transmit_interval(session);
	if (interval == before_us && session->transmit_ns != 0)
		return;
	session->transmit_ns = session->tx_last_ns + session_jitter(bfd, interval, session->multiplier);
	if (session->transmit_ns < bfd->now)
		session->transmit_ns = bfd->now;
}

// --- intervals: section 6.8.3 ---

// What is announced may only be used at once where that cannot make the peer miss packets; else when a
// Poll Sequence has shown that it knows.
static void announce(struct bfd_session *session, uint32_t desired_us, uint32_t required_us)
{
	bool up = session->state == BFD_UP;
	bool changed = desired_us != session->desired_us || required_us != session->required_us;
	session->desired_us = desired_us;
	session->required_us = required_us;
	if (!up || desired_us < session->desired_in_force_us)
		session->desired_in_force_us = desired_us;
	if (!up || required_us > session->required_in_force_us)
		session->required_in_force_us = required_us;
	if (!up)
		session->polling = 0;
	else if (changed)
		session->polling = session->polling ? 2 : 1;
}

static void announce_entry(struct bfd_session *session, const struct bfd_entry *entry)
{
	uint32_t desired = session->state == BFD_UP ? entry->transmit_us : greater(entry->transmit_us, SLOW_US);
	announce(session, desired, entry->receive_us);
}

static void poll_ended(struct bfd_session *session)
{
	if (session->polling == 2) {
		session->polling = 1; // the answer may be one to what was announced before
		return;
	}
	session->polling = 0;
	session->desired_in_force_us = session->desired_us;
	session->required_in_force_us = session->required_us;
}

// Section 6.8.4, in nanoseconds.
static uint64_t detection_time(const struct bfd_session *session)
{
	return nanoseconds((uint64_t)session->remote_multiplier * greater(session->required_in_force_us, session->remote_desired_us));
}

// --- states ---

static void enter(struct bfd *bfd, uint32_t slot, uint8_t state, uint8_t diagnostic)
{
	struct bfd_session *session = session_at(bfd, slot);
	const struct bfd_entry *entry = entry_at(bfd, slot);
	if (session->state == state)
		return;
	if (session->state == BFD_UP) {
		session->downs++;
		session->failure = diagnostic;
	}
	session->ups += state == BFD_UP;
	session->changes++;
	session->changed_ns = bfd->now;
	// From Down to Init the reason of the failure stands.
	if (state != BFD_INIT)
		session->diagnostic = diagnostic;
	__atomic_store_n(&session->state, state, __ATOMIC_RELEASE);
	__atomic_store_n(&bfd->state->bfd_events, bfd->state->bfd_events + 1, __ATOMIC_RELEASE);
	if (session->authentication != BFD_AUTH_NONE && !authentication_meticulous(session->authentication))
		session->sent_sequence++;
	announce_entry(session, entry);
	echo_update(bfd, slot);
	transmit_now(bfd, slot);
	bfd->ops.changed(bfd->ops.user, slot);
}

// Nothing is known of the peer any more: section 6.8.1, and as at the beginning.
static void forget_peer(struct bfd_session *session)
{
	session->remote_discriminator = 0;
	session->remote_state = BFD_DOWN;
	session->remote_diagnostic = 0;
	session->remote_multiplier = 0;
	session->remote_demand = 0;
	session->remote_desired_us = 0;
	session->remote_required_us = 1;
	session->remote_echo_us = 0;
	session->detect_ns = 0;
}

void session_start(struct bfd *bfd, uint32_t slot, const struct bfd_entry *entry)
{
	struct bfd_session *session = session_at(bfd, slot);
	struct bfd_session new = {
		.family = entry->family,
		.flags = entry->flags & BFD_MULTIHOP,
		.interface = entry->interface,
		.state = BFD_DOWN,
		.multiplier = entry->multiplier,
		.authentication = entry->authentication,
		.changed_ns = bfd->now,
		.sent_sequence = (uint32_t)bfd->ops.random(bfd->ops.user),
		.echo_sequence = (uint32_t)bfd->ops.random(bfd->ops.user),
	};
	memcpy(new.remote, entry->remote, sizeof(new.remote));
	memcpy(new.local, entry->local, sizeof(new.local));
	forget_peer(&new);
	announce_entry(&new, entry);
	new.transmit_ns = bfd->now + session_jitter(bfd, START_SPREAD_US, 2);
	*session = new;
	uint32_t discriminator = ((uint32_t)bfd->ops.random(bfd->ops.user) & ~(uint32_t)SLOT_MASK) | slot;
	if (discriminator <= SLOT_MASK)
		discriminator |= SLOT_MASK + 1u;
	// From here on the slot is in use.
	__atomic_store_n(&session->discriminator, discriminator, __ATOMIC_RELEASE);
}

void session_configure(struct bfd *bfd, uint32_t slot)
{
	struct bfd_session *session = session_at(bfd, slot);
	const struct bfd_entry *entry = entry_at(bfd, slot);
	uint32_t before = transmit_interval(session);
	if (session->authentication != entry->authentication)
		session->sequence_known = 0;
	session->authentication = entry->authentication;
	session->multiplier = entry->multiplier;
	announce_entry(session, entry);
	if (session->detect_ns != 0 && session->rx_last_ns + detection_time(session) > session->detect_ns)
		session->detect_ns = session->rx_last_ns + detection_time(session);
	transmit_again(bfd, slot, before);
	echo_update(bfd, slot);
}

void session_resume(struct bfd *bfd, uint32_t slot)
{
	struct bfd_session *session = session_at(bfd, slot);
	uint64_t whole = bfd->now + detection_time(session);
	if (session->detect_ns != 0 && session->detect_ns < whole)
		session->detect_ns = whole;
	if (session->forget_ns != 0 && session->forget_ns < whole)
		session->forget_ns = whole;
	session->echo_missing = 0;
	// A number that the predecessor had drawn but not sent must not be sent by us a second time.
	session->sent_sequence += session->tx_packets != 0;
	if (session->transmit_ns < bfd->now)
		session->transmit_ns = bfd->now;
}

void session_close(struct bfd *bfd, uint32_t slot)
{
	struct bfd_session *session = session_at(bfd, slot);
	// Section 6.8.16; the peer then knows that nothing has failed (RFC 5882 section 3.2).
	if (bfd->begun && entry_at(bfd, slot) != NULL && session->remote_discriminator != 0) {
		session->state = BFD_ADMIN_DOWN;
		session->diagnostic = BFD_CLOSED;
		session->polling = 0;
		for (int i = 0; i < FAREWELLS; i++)
			transmit(bfd, slot, false);
	}
	echo_stop(bfd, slot);
	__atomic_store_n(&session->discriminator, 0, __ATOMIC_RELEASE);
}

void session_fail(struct bfd *bfd, uint32_t slot, uint8_t diagnostic)
{
	enter(bfd, slot, BFD_DOWN, diagnostic);
}

// --- reception: section 6.8.6, from the session's choice on ---

static void next_state(struct bfd *bfd, uint32_t slot, uint8_t received)
{
	struct bfd_session *session = session_at(bfd, slot);
	switch (session->state) {
	case BFD_DOWN:
		if (received == BFD_DOWN)
			enter(bfd, slot, BFD_INIT, BFD_NO_DIAGNOSTIC);
		else if (received == BFD_INIT)
			enter(bfd, slot, BFD_UP, BFD_NO_DIAGNOSTIC);
		break;
	case BFD_INIT:
		if (received == BFD_ADMIN_DOWN)
			enter(bfd, slot, BFD_DOWN, BFD_NEIGHBOR_DOWN);
		else if (received != BFD_DOWN)
			enter(bfd, slot, BFD_UP, BFD_NO_DIAGNOSTIC);
		break;
	default:
		if (received == BFD_ADMIN_DOWN || received == BFD_DOWN)
			enter(bfd, slot, BFD_DOWN, BFD_NEIGHBOR_DOWN);
		break;
	}
}

static void note_peer(struct bfd *bfd, struct bfd_session *session, const struct control *control)
{
	session->remote_discriminator = control->my_discriminator;
	session->remote_state = control->state;
	session->remote_diagnostic = control->diagnostic;
	session->remote_demand = control->demand;
	session->remote_multiplier = control->multiplier;
	session->remote_desired_us = control->desired_us;
	session->remote_required_us = control->required_us;
	session->remote_echo_us = control->echo_us;
	if (session->state == BFD_UP && session->rx_last_ns != 0 && bfd->now - session->rx_last_ns > session->longest_gap_ns)
		session->longest_gap_ns = bfd->now - session->rx_last_ns;
	session->rx_packets++;
	session->rx_last_ns = bfd->now;
}

void session_receive(struct bfd *bfd, uint32_t slot, const struct control *control)
{
	struct bfd_session *session = session_at(bfd, slot);
	uint32_t before = transmit_interval(session);
	bool put_down = control->state == BFD_ADMIN_DOWN && session->remote_state != BFD_ADMIN_DOWN;
	note_peer(bfd, session, control);
	if (control->final && session->polling)
		poll_ended(session);
	session->detect_ns = bfd->now + detection_time(session);
	session->forget_ns = bfd->now + 2 * detection_time(session);
	if (put_down && session->state == BFD_DOWN)
		bfd->ops.changed(bfd->ops.user, slot); // no other state, but no failure any more
	next_state(bfd, slot, control->state);
	transmit_again(bfd, slot, before);
	echo_update(bfd, slot);
	if (control->poll)
		transmit(bfd, slot, true);
	session_schedule(bfd, slot);
}

// --- time ---

void session_schedule(struct bfd *bfd, uint32_t slot)
{
	const struct bfd_session *session = session_at(bfd, slot);
	uint64_t deadline = transmits(bfd, slot) ? session->transmit_ns : BFD_NEVER;
	const uint64_t others[] = {session->detect_ns, session->forget_ns, session->echo_ns};
	for (int i = 0; i < 3; i++)
		if (others[i] != 0 && others[i] < deadline)
			deadline = others[i];
	schedule_set(bfd, slot, deadline);
}

static void detect(struct bfd *bfd, uint32_t slot)
{
	struct bfd_session *session = session_at(bfd, slot);
	forget_peer(session);
	if (session->state == BFD_INIT || session->state == BFD_UP)
		enter(bfd, slot, BFD_DOWN, BFD_TIME_EXPIRED);
}

void session_tick(struct bfd *bfd, uint32_t slot)
{
	struct bfd_session *session = session_at(bfd, slot);
	bool late = session->detect_ns != 0 && bfd->now >= session->detect_ns;
	bool waiting = late && !session_heard(bfd, session->detect_ns);
	if (late && !waiting)
		detect(bfd, slot);
	if (session->forget_ns != 0 && bfd->now >= session->forget_ns && !waiting) {
		session->forget_ns = 0;
		session->sequence_known = 0;
	}
	if (bfd->now >= session->transmit_ns && transmits(bfd, slot)) {
		transmit(bfd, slot, false);
		transmit_next(bfd, slot);
	}
	if (session->echo_ns != 0 && bfd->now >= session->echo_ns)
		echo_tick(bfd, slot);
	session_schedule(bfd, slot);
	if (waiting && bfd->deadline[slot] < bfd->now + LOOK_AGAIN_NS)
		schedule_set(bfd, slot, bfd->now + LOOK_AGAIN_NS);
}
