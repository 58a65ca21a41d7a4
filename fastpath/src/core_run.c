// The loop of a forwarder: iterations, and how it waits between them.
//
//   iteration: tables -> sockets -> each port { batches { receive, forward, release }, flush all } ->
//              timers -> flush all
//
// Sockets come one event at a time, each a bounded piece of work, and frames that arrived
// meanwhile have their turn before the next one: however many apps flood, a frame waits for
// one of their pieces.
//
// A batch is released only after all packets that it led to were sent: the crash rule of the
// drivers rests on that order.  Between iterations the worker looks for more a little while
// longer, if that has paid lately, and then sleeps until a frame, a message or a deadline.
#define _GNU_SOURCE
#include "core.h"
#include "forward/bypass.h"

#include <errno.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "forward/police.h"

enum {
	LOOKS = 4,                // at the rings, between two questions for events
	POLL_INTERVAL_NS = 50000, // how often busy iterations ask for sockets' events
	SLEEP_MAX_MS = 4000,      // whoever publishes tables rings (vr/NAME.sock); should that ever get lost, look now and then
	MS = 1000000
};

static const struct timespec early_nap = { .tv_nsec = 100000 };

uint64_t core_clock(void)
{
	struct timespec now;
	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

// --- iteration ---

// One batch of one port, from the ring into forwarding.
static int take_batch(struct core *core, struct port *port)
{
	struct packet *packets[BATCH_SIZE];
	struct forward *f = &core->forward;
	int handled, count = turn_receive(f, port, packets, &handled);

	if (count > 0)
		forward_receive(f, port->spec.port, packets, count);
	core->worker->batches++;
	core->worker->packets += (uint64_t)handled;
	if (core->running)
		watch_passed(&core->watch, core->epoll_fd, port, handled);
	return handled;
}

// What the host stack owes, then all packets.  Flushed, no packet waits any more: drivers take or lose them.
static void flush(struct core *core)
{
	host_flush(core->host, core->forward.now);
	forward_flush(&core->forward);
	host_sent(core->host);
}

// Some batches of one port, to their fate.  What forwarding made of a batch has been sent when it can be released;
// what the host stack still owes are the bytes and the ACKs of connections, which end with this process.  So it is
// flushed once for all of them: super-frames, each a batch of its own, are acknowledged by several at once, and of small
// ones so many that neither the peer nor the app is asked to move for each handful.
static int iterate_port(struct core *core, struct port *port)
{
	int handled = 0, batches = 0;

	do {
		handled += take_batch(core, port);
		port->ops->release(port);
	} while ((handled < BATCH_SIZE || host_owes(core->host)) && ++batches < TURN_BATCHES && port->ops->pending(port));
	flush(core);
	core_bfd_serve(core);
	return handled;
}

// What other workers gave us, to its fate.
static int iterate_hands(struct core *core)
{
	int handled = core_hands_take(core);
	if (handled > 0) {
		flush(core);
		core_bfd_serve(core);
	}
	core_hands_settle(core);
	return handled;
}

static int iterate_ports(struct core *core)
{
	int handled = 0;
	if (!core_ports_complete(core, core->forward.now))
		return 0;
	host_attach_ready(core->host);
	bfd_begin(core->bfd, core_now(core));
	for (int round = 0; round < TURN_ROUNDS; round++) {
		int before = handled;
		for (int i = 0; i < core->port_count; i++) {
			struct port *port = core->ports[core->port_ids[i]];
			if (port->ops->pending(port))
				handled += iterate_port(core, port);
		}
		handled += iterate_hands(core);
		if (handled == before)
			break;
	}
	return handled;
}

static void iterate_timers(struct core *core, uint64_t now)
{
	// The host stack first: it reports the solicited-node group of an address before the
	// probe that asks whether somebody else has it (RFC 4862 section 5.4.2).
	if (now >= host_deadline(core->host))
		host_tick(core->host, now);
	if (now >= forward_deadline(&core->forward))
		forward_tick(&core->forward);
	if (now >= server_deadline(core->server))
		server_tick(core->server, now);
	core_bfd_serve(core);
}

static void iterate_begin(struct core *core, uint64_t now)
{
	struct forward *f = &core->forward;
	__atomic_store_n(&core->worker->busy_since_ns, now, __ATOMIC_RELAXED);
	f->now = now;
	host_clock(core->host, now);
	core_observe_apply(core);
	view_enter(&f->tables, core->worker);
	// What was published before we came has been read already, but nobody has acted on it.
	if (view_refresh(&f->tables) || !core->begun)
		forward_tables_changed(f);
	if (police_stale(f)) {
		core_hands_hold(core);
		police_follow(f);
		core_hands_release(core);
	}
	bypass_begin(f);
	neighbor_collect(f);
	core_bfd_begin(core);
	core->begun = true;
}

static void iterate_end(struct core *core)
{
	flush(core);
	if (core->observed)
		server_capture_flush(core->server);
	if (core->state->tables_epoch != core->forward.tables.epoch)
		__atomic_store_n(&core->state->tables_epoch, core->forward.tables.epoch, __ATOMIC_RELEASE);
	view_leave(core->worker);
	__atomic_store_n(&core->worker->batches, core->worker->batches + 1, __ATOMIC_RELAXED);
}

int core_poll(struct core *core, uint64_t now_ns)
{
	iterate_begin(core, now_ns);
	int handled = iterate_ports(core);
	iterate_timers(core, now_ns);
	handled += server_poll(core->server, now_ns);
	iterate_end(core);
	__atomic_store_n(&core->worker->busy_since_ns, 0, __ATOMIC_RELAXED);
	return handled;
}

uint64_t core_deadline(struct core *core)
{
	uint64_t others = least(forward_deadline(&core->forward), least(host_deadline(core->host), server_deadline(core->server)));
	return least(others, bfd_deadline(core->bfd));
}

// --- waiting ---

static bool ports_pending(const struct core *core)
{
	return turn_pending(core->ports, core->port_ids, core->port_count) || core_hands_pending(core);
}

static void ports_sleeping(struct core *core, bool sleeping)
{
	core_hands_sleeping(core, sleeping);
	turn_sleeping(core->ports, core->port_ids, core->port_count, sleeping);
}

static int ask_events(struct core *core, uint64_t now, struct epoll_event *events)
{
	core->polled_ns = now;
	int count = epoll_wait(core->epoll_fd, events, CORE_EVENTS, 0);
	return count > 0 ? count : 0;
}

// Look for frames and events a little longer; true where there are some.  Where nothing came, or whoever we wait for
// needs this very processor, it is left out the next times: twice as many of them after each failure.
static bool spin(struct core *core, uint64_t now, struct epoll_event *events, int *count)
{
	uint32_t owed = server_owed(core->server, now);
	struct spin *spin = owed > 0 ? &core->spin_owed : &core->spin;
	uint64_t until = now + SPIN_NS;
	if (owed >= core->processors || spin_is_left_out(spin))
		return false;
	for (; now < until; now = core_clock()) {
		turn_poke(core->ports, core->port_ids, core->port_count);
		for (int i = 0; i < LOOKS; i++) {
			if (ports_pending(core))
				break;
			spin_relax();
		}
		*count = ports_pending(core) ? 0 : ask_events(core, now, events);
		if (*count > 0 || ports_pending(core)) {
			spin->failures = 0;
			return true;
		}
	}
	spin_failed(spin);
	return false;
}

static uint64_t in_milliseconds(uint64_t deadline, uint64_t now)
{
	return deadline <= now ? 0 : least((deadline - now - 1) / MS + 1, SLEEP_MAX_MS) * MS;
}

// Nanoseconds to sleep at most: whole milliseconds, so that timers meet, but for what BFD and who rests wait for.
static uint64_t sleep_timeout(struct core *core, uint64_t now)
{
	uint64_t deadline = core_deadline(core), exact = least(bfd_deadline(core->bfd), server_deadline_exact(core->server));
	if (core->coarse || exact > deadline)
		return in_milliseconds(deadline, now);
	return exact <= now ? 0 : least(exact - now, in_milliseconds(deadline, now));
}

static int sleep_until(struct core *core, uint64_t timeout, struct epoll_event *events)
{
	if (!core->coarse && timeout % MS != 0) {
		struct timespec wait = { .tv_sec = (time_t)(timeout / (1000 * MS)), .tv_nsec = (long)(timeout % (1000 * MS)) };
		int count = epoll_pwait2(core->epoll_fd, events, CORE_EVENTS, &wait, NULL);
		if (count >= 0 || (errno != ENOSYS && errno != EPERM))
			return count;
		core->coarse = true; // older than Linux 5.11
	}
	return epoll_wait(core->epoll_fd, events, CORE_EVENTS, (int)((timeout + MS - 1) / MS));
}

// Sleep until something is to do.  The flags go up before the last look at the rings, so a
// peer that sends after that look sees them and wakes us.
static int sleep_events(struct core *core, uint64_t now, struct epoll_event *events)
{
	bool watched = watch_all(&core->watch, core->epoll_fd, core->ports, core->port_ids, core->port_count);
	ports_sleeping(core, true);
	uint64_t timeout = ports_pending(core) ? 0 : sleep_timeout(core, now);
	if (!watched)
		timeout = least(timeout, MS);
	if (timeout != 0)
		__atomic_store_n(&core->worker->busy_since_ns, 0, __ATOMIC_RELAXED);
	int count = sleep_until(core, timeout, events);
	ports_sleeping(core, false);
	core->polled_ns = now;
	return count > 0 ? count : 0;
}

static int wait_events(struct core *core, bool worked, uint64_t now, struct epoll_event *events)
{
	int count = 0;
	// Frames are there: ask for the sockets' events now and then only.
	if (ports_pending(core))
		return now - core->polled_ns < POLL_INTERVAL_NS ? 0 : ask_events(core, now, events);
	if (worked && spin(core, now, events, &count))
		return count;
	return sleep_events(core, now, events);
}

// --- running ---

static int take_signal(struct core *core)
{
	struct signalfd_siginfo info;
	if (read(core->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
		core->stop = true;
	return 1;
}

// One event of the socket server.  It counts as progress: a supervisor must not take many
// apps at once for a hang.
static int take_server_event(struct core *core, const struct epoll_event *event)
{
	int handled = server_event(core->server, event->data.u64, event->events, core->forward.now);
	__atomic_store_n(&core->worker->batches, core->worker->batches + 1, __ATOMIC_RELAXED);
	if (ports_pending(core)) {
		core->forward.now = core_clock();
		host_clock(core->host, core->forward.now);
		handled += iterate_ports(core);
	}
	core_bfd_serve(core);
	return handled;
}

// Ports of a dead predecessor are on their way: what apps send would find its way out down.  It waits where it is.
static bool too_early(const struct core *core, uint64_t data)
{
	return core->awaited_until_ns != 0 && server_is_datagrams(data);
}

static int take_events(struct core *core, const struct epoll_event *events, int count)
{
	int handled = 0, early = 0;
	for (int i = 0; i < count; i++) {
		uint64_t data = events[i].data.u64;
		if (too_early(core, data)) {
			early++;
		} else if ((data & SERVER_EVENT) != 0) {
			handled += take_server_event(core, &events[i]);
		} else if (data == core_signal_event) {
			handled += take_signal(core);
		} else if (data == core_hands_event) {
			core_hands_woken(core);
		} else if (data < MAX_PORTS && core->ports[data] != NULL) {
			turn_event(core->ports[data], events[i].events);
		}
	}
	if (early > 0 && early == count)
		clock_nanosleep(CLOCK_MONOTONIC, 0, &early_nap, NULL); // they are told again at once
	return handled;
}

static int open_signals(struct core *core)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	core->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (core->signal_fd < 0)
		return -errno;
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = core_signal_event };
	return epoll_ctl(core->epoll_fd, EPOLL_CTL_ADD, core->signal_fd, &event) < 0 ? -errno : 0;
}

int core_run(struct core *core)
{
	struct epoll_event events[CORE_EVENTS];
	int error = open_signals(core);
	if (error < 0)
		return error;
	int count = 0;
	core->running = true;
	while (!core->stop) {
		uint64_t now = core_clock();
		iterate_begin(core, now);
		server_turn(core->server);
		int handled = take_events(core, events, count);
		handled += iterate_ports(core);
		iterate_timers(core, now);
		iterate_end(core);
		if (!core->stop)
			count = wait_events(core, handled > 0, core_clock(), events);
	}
	__atomic_store_n(&core->worker->busy_since_ns, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&core->state->ready, 0, __ATOMIC_RELEASE);
	return 0;
}
