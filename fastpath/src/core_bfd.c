// BFD in a core: what it is given and what it asks for, and when its turn is.
//
// Its timers are looked at between batches and between the apps' events, by the clock of that moment, since an
// iteration may last as long as a short detection time.
#include "core.h"

#include <errno.h>

#include "base/siphash.h"
#include "forward/neighbor.h"

enum {
	LATE_NS = 5000000,           // behind a deadline
	LENIENT_NS = 50000000,       // at most
	LENIENT_AGAIN_NS = 200000000 // after the last time
};

uint64_t core_now(const struct core *core)
{
	return core->running ? core_clock() : core->forward.now;
}

// --- what BFD asks for ---

static enum drop_reason send_packet(struct core *core, const struct bfd_datagram *datagram, struct packet *packet)
{
	struct forward *f = &core->forward;
	if (datagram->neighbor != NULL) {
		const struct interface_entry *out = view_interface(&f->tables, datagram->interface);
		if (out == NULL)
			return DROP_NO_INTERFACE;
		return ip_transmit(f, out, datagram->family, datagram->neighbor, packet);
	}
	if (datagram->family == FAMILY_IPV4)
		return ip4_output(f, datagram->interface, packet);
	return ip6_output(f, datagram->interface, packet);
}

static void wire_output(void *user, const struct bfd_datagram *datagram)
{
	struct core *core = user;
	struct packet *packet = packet_get(core->forward.pool, datagram->length + IP6_HEADER + UDP_HEADER);
	if (packet == NULL) {
		core->state->host_drops[DROP_NO_BUFFER]++;
		return;
	}
	bfd_encapsulate(datagram, packet);
	packet->urgent = true;
	core->bfd_sending = true;
	enum drop_reason reason = send_packet(core, datagram, packet);
	core->bfd_sending = false;
	if (reason != DROP_NONE)
		packet_drop(&core->forward, packet, reason);
}

static bool wire_source(void *user, uint8_t family, const uint8_t *destination, uint16_t interface, uint8_t *source)
{
	struct core *core = user;
	uint16_t egress;
	return ip_source(&core->forward, family, destination, interface, source, &egress);
}

// By as much as we are late, the neighbor may be too: it may share our processors, and its packets those of the
// kernel.  But only once, or who is always late would never notice a failure.
static void note_lateness(struct core *core, uint64_t now, uint64_t due)
{
	uint64_t late = now - due;
	if (late >= LATE_NS && now >= core->lenient_until_ns + LENIENT_AGAIN_NS)
		core->lenient_until_ns = now + (late < LENIENT_NS ? late : (uint64_t)LENIENT_NS);
}

// A mark is set on each ring that holds frames; once the ring is empty, or as many frames as it has room for were
// taken, all that lay in it then has been seen.
static uint64_t wire_heard_until(void *user, uint64_t now)
{
	struct core *core = user;
	bool pending = false, passed = true;
	if (now < core->lenient_until_ns)
		return core->heard_ns;
	for (int i = 0; i < core->port_count; i++) {
		const struct port *port = core->ports[core->port_ids[i]];
		struct core_mark *mark = &core->marks[port->spec.port];
		bool waits = port->ops->pending(port);
		pending |= waits;
		passed &= !waits || !mark->set || port->state->progress - mark->progress >= mark->room;
	}
	if (!pending) {
		core->heard_ns = now;
		core->mark_ns = 0;
		return now;
	}
	if (core->mark_ns != 0 && !passed)
		return core->heard_ns;
	if (core->mark_ns != 0)
		core->heard_ns = core->mark_ns;
	core->mark_ns = now;
	for (int i = 0; i < core->port_count; i++) {
		const struct port *port = core->ports[core->port_ids[i]];
		core->marks[port->spec.port] = (struct core_mark){
			.set = port->ops->pending(port),
			.progress = port->state->progress,
			.room = port->spec.driver == DRIVER_AF_PACKET ? port->spec.frame_count : (uint64_t)LINK_UNITS,
		};
	}
	return core->heard_ns;
}

static void wire_changed(void *user, uint32_t slot)
{
	struct core *core = user;
	const struct bfd_session *session = &core->state->bfd[slot];
	if (bfd_lost(core->bfd, slot))
		neighbor_silence(&core->forward, session->interface, session->family, session->remote, true);
	else if (bfd_cleared(core->bfd, slot))
		neighbor_silence(&core->forward, session->interface, session->family, session->remote, false);
	server_bfd_changed(core->server, slot, session->discriminator == 0 ? (uint32_t)BFD_ADMIN_DOWN : session->state);
}

// A keyed function of a counter that no predecessor used.
static uint64_t wire_random(void *user)
{
	struct core *core = user;
	uint64_t input[3] = {core->state->attaches, ++core->bfd_random, BFD_PORT};
	return siphash24(core->state->random_key, input, sizeof(input));
}

// --- what BFD is given ---

int core_bfd_open(struct core *core)
{
	const struct bfd_ops ops = {
		.output = wire_output,
		.source = wire_source,
		.heard_until = wire_heard_until,
		.changed = wire_changed,
		.random = wire_random,
		.user = core,
	};
	core->bfd = bfd_new(core->state, &core->forward.tables, &ops);
	return core->bfd == NULL ? -ENOMEM : 0;
}

void core_bfd_begin(struct core *core)
{
	bfd_follow(core->bfd, core_now(core));
	core->forward.own_echoes = bfd_echoes(core->bfd);
}

bool core_bfd_deliver(struct core *core, struct packet *packet, enum drop_reason *reason)
{
	struct bfd_datagram datagram;
	if (!bfd_active(core->bfd) || !bfd_parse(packet, &datagram, reason))
		return false;
	if (core->bfd_sending)
		*reason = DROP_LOOP; // a session with ourselves
	if (*reason == DROP_NONE)
		*reason = bfd_receive(core->bfd, &datagram, core_now(core));
	if (*reason == DROP_NONE)
		packet_put(core->forward.pool, packet);
	core->forward.own_echoes = bfd_echoes(core->bfd);
	return true;
}

void core_bfd_serve(struct core *core)
{
	if (!bfd_active(core->bfd))
		return;
	uint64_t now = core_now(core), due = bfd_deadline(core->bfd);
	if (now < due)
		return;
	note_lateness(core, now, due);
	bfd_tick(core->bfd, now);
	forward_flush(&core->forward);
}
