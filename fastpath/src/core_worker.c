// Transit workers: threads that forward beside worker 0, which does all else (core_run.c).
//
//   worker n: ports' queue n -> forward_receive -> own sockets
//                                    |-> hand_ring -> worker 0: host stack, ARP, ICMP errors, what waits
//
// A worker shares with worker 0 the two segments, the neighbors (neighbor_worker.c) and the policers;
// all else it has for itself.  It holds its lock while it works, so that worker 0 can change its ports
// in peace: `wanted` makes it give way between two iterations.
//
// Threads are made before the process is confined (crew_new) and get their work later (core_man):
// afterwards no thread can be made.
#define _GNU_SOURCE
#include "core_worker.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
	STACK_BYTES = 512 * 1024,
	AWAIT_NS = 20000,      // between two looks whether worker 0 has caught up
	EVENTS = 16
};

// epoll data that is no port's.
static const uint64_t wake_event = MAX_PORTS;

// --- ports ---

static void worker_flush(void *user, uint16_t id)
{
	struct worker *worker = user;
	if (worker->ports[id] != NULL && worker->forward.queues[id] != NULL)
		watch_passed(&worker->watch, worker->epoll_fd, worker->ports[id], worker->forward.queues[id]->count);
	port_flush(&worker->forward, worker->ports[id], id);
}

static int take_batch(struct worker *worker, struct port *port)
{
	struct packet *packets[BATCH_SIZE];
	struct forward *f = &worker->forward;
	int handled, count = turn_receive(f, port, packets, &handled);

	if (count > 0 && worker->observed)
		hand_batch(f, port->spec.port, packets, count);
	else if (count > 0)
		forward_receive(f, port->spec.port, packets, count);
	__atomic_store_n(&worker->state->packets, worker->state->packets + (uint64_t)handled, __ATOMIC_RELAXED);
	watch_passed(&worker->watch, worker->epoll_fd, port, handled);
	return handled;
}

// What was handed over may be seen by worker 0 once what came before it has been sent.
static void worker_publish(struct worker *worker)
{
	forward_flush(&worker->forward);
	if (!hand_publish(&worker->forward))
		return;
	__atomic_store_n(&worker->state->handed, worker->forward.hands->filled, __ATOMIC_RELAXED);
	core_hands_wake(worker->core);
}

static int iterate_port(struct worker *worker, struct port *port)
{
	int handled = 0, batches = 0;

	do {
		handled += take_batch(worker, port);
		worker_publish(worker);
		port->ops->release(port);
	} while (handled < BATCH_SIZE && ++batches < TURN_BATCHES && !hand_behind(&worker->forward) && port->ops->pending(port));
	return handled;
}

static int iterate_ports(struct worker *worker)
{
	int handled = 0;

	for (int round = 0; round < TURN_ROUNDS; round++) {
		int before = handled;
		for (int i = 0; i < worker->port_count && !hand_behind(&worker->forward); i++) {
			struct port *port = worker->ports[worker->port_ids[i]];
			if (port->ops->pending(port))
				handled += iterate_port(worker, port);
		}
		if (handled == before)
			break;
	}
	return handled;
}

static int iterate(struct worker *worker, uint64_t now)
{
	struct forward *f = &worker->forward;
	bool observed = __atomic_load_n(&worker->core->hands_all, __ATOMIC_ACQUIRE);
	int handled = 0;

	__atomic_store_n(&worker->state->busy_since_ns, now, __ATOMIC_RELAXED);
	f->now = now;
	if (worker->observed && !observed) // what comes now must not overtake what worker 0 has yet to send
		f->hands->barrier = true;
	worker->observed = observed;
	view_enter(&f->tables, worker->state);
	if (__atomic_load_n(&worker->core->complete, __ATOMIC_ACQUIRE))
		handled = iterate_ports(worker);
	worker_publish(worker);
	view_leave(worker->state);
	__atomic_store_n(&worker->state->batches, worker->state->batches + 1, __ATOMIC_RELAXED);
	return handled;
}

// --- waiting ---

static bool pending(const struct worker *worker)
{
	return turn_pending(worker->ports, worker->port_ids, worker->port_count);
}

static bool called(const struct worker *worker)
{
	return __atomic_load_n(&worker->wanted, __ATOMIC_ACQUIRE) != 0 || __atomic_load_n(&worker->stop, __ATOMIC_ACQUIRE);
}

// Look for frames a little longer where that has paid lately, as worker 0 does.
static bool spin(struct worker *worker)
{
	uint64_t until = core_clock() + SPIN_NS;
	if (spin_is_left_out(&worker->spin))
		return false;
	while (core_clock() < until) {
		turn_poke(worker->ports, worker->port_ids, worker->port_count);
		if (pending(worker) || called(worker)) {
			worker->spin.failures = 0;
			return true;
		}
		spin_relax();
	}
	spin_failed(&worker->spin);
	return false;
}

static void take_events(struct worker *worker, const struct epoll_event *events, int count)
{
	for (int i = 0; i < count; i++) {
		uint64_t data = events[i].data.u64, drained;
		if (data == wake_event) {
			(void)!read(worker->event_fd, &drained, sizeof(drained));
		} else if (data < MAX_PORTS && worker->ports[data] != NULL) {
			turn_event(worker->ports[data], events[i].events);
		}
	}
}

// Until frames come, or worker 0 calls.  The ports may be other ones afterwards.
static void sleep_events(struct worker *worker)
{
	struct epoll_event events[EVENTS];
	bool watched = watch_all(&worker->watch, worker->epoll_fd, worker->ports, worker->port_ids, worker->port_count);
	turn_sleeping(worker->ports, worker->port_ids, worker->port_count, true);
	bool wait = !pending(worker);
	if (wait)
		__atomic_store_n(&worker->state->busy_since_ns, 0, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&worker->lock);
	int count = epoll_wait(worker->epoll_fd, events, EVENTS, !wait ? 0 : watched ? -1 : 1);
	pthread_mutex_lock(&worker->lock);
	turn_sleeping(worker->ports, worker->port_ids, worker->port_count, false);
	take_events(worker, events, count);
}

// Worker 0 has yet to send what it was given, or awaits ports: nothing is taken in meanwhile.
static void await_main(struct worker *worker)
{
	const struct timespec moment = { .tv_nsec = AWAIT_NS };
	pthread_mutex_unlock(&worker->lock);
	nanosleep(&moment, NULL);
	pthread_mutex_lock(&worker->lock);
}

static void wait_events(struct worker *worker, bool worked)
{
	if (hand_behind(&worker->forward) || !__atomic_load_n(&worker->core->complete, __ATOMIC_ACQUIRE))
		await_main(worker);
	else if (!worked || !(pending(worker) || spin(worker)))
		sleep_events(worker);
	while (__atomic_load_n(&worker->wanted, __ATOMIC_ACQUIRE) != 0)
		pthread_cond_wait(&worker->resume, &worker->lock);
}

static void worker_run(struct worker *worker)
{
	pthread_mutex_lock(&worker->lock);
	while (!__atomic_load_n(&worker->stop, __ATOMIC_ACQUIRE)) {
		int handled = iterate(worker, core_clock());
		wait_events(worker, handled > 0);
	}
	__atomic_store_n(&worker->state->busy_since_ns, 0, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&worker->lock);
}

// --- threads ---

static void pin(int32_t cpu)
{
	cpu_set_t set;
	if (cpu < 0 || cpu >= CPU_SETSIZE)
		return;
	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	// A processor that is not there, or not ours: then any.
	(void)sched_setaffinity(0, sizeof(set), &set);
}

static void *worker_main(void *argument)
{
	struct worker *worker = argument;
	char name[16];
	snprintf(name, sizeof(name), "worker %u", worker->number);
	prctl(PR_SET_NAME, name, 0, 0, 0);
	pin(worker->cpu);
	pthread_mutex_lock(&worker->lock);
	worker->thread_id = (uint64_t)syscall(SYS_gettid);
	pthread_cond_broadcast(&worker->resume);
	while (worker->core == NULL && !__atomic_load_n(&worker->stop, __ATOMIC_ACQUIRE))
		pthread_cond_wait(&worker->resume, &worker->lock);
	pthread_mutex_unlock(&worker->lock);
	if (worker->core != NULL)
		worker_run(worker);
	return NULL;
}

static int worker_start(struct worker *worker)
{
	pthread_attr_t attributes;
	sigset_t all, before;
	pthread_mutex_init(&worker->lock, NULL);
	pthread_cond_init(&worker->resume, NULL);
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int error = pthread_create(&worker->thread, &attributes, worker_main, worker);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	if (error != 0)
		return -error;
	worker->started = true;
	pthread_mutex_lock(&worker->lock);
	while (worker->thread_id == 0)
		pthread_cond_wait(&worker->resume, &worker->lock);
	pthread_mutex_unlock(&worker->lock);
	return 0;
}

int crew_new(uint32_t count, const int32_t *cpus, struct crew **out)
{
	if (count < 1 || count > MAX_WORKERS)
		return -EINVAL;
	struct crew *crew = count > 1 ? calloc(1, sizeof(*crew)) : NULL;
	if (crew == NULL && count > 1)
		return -ENOMEM;
	for (uint32_t number = 1; number < count; number++) {
		struct worker *worker = &crew->workers[number];
		crew->count = number + 1;
		worker->number = number;
		worker->cpu = cpus != NULL ? cpus[number] : -1;
		worker->epoll_fd = worker->event_fd = -1;
		int error = worker_start(worker);
		if (error < 0) {
			crew_free(crew);
			return error;
		}
	}
	// Last: threads inherit where their maker may run.
	if (cpus != NULL)
		pin(cpus[0]);
	*out = crew;
	return 0;
}

static void worker_close(struct worker *worker)
{
	if (!worker->started)
		return;
	__atomic_store_n(&worker->stop, true, __ATOMIC_RELEASE);
	worker_call(worker);
	worker_release(worker);
	pthread_join(worker->thread, NULL);
	for (int i = 0; i < worker->port_count; i++) {
		struct port *port = worker->ports[worker->port_ids[i]];
		port->state->flags = 0;
		port->ops->close(port);
	}
	if (worker->forward.pool != NULL)
		forward_fini(&worker->forward);
	if (worker->epoll_fd >= 0)
		close(worker->epoll_fd);
	if (worker->event_fd >= 0)
		close(worker->event_fd);
	pthread_cond_destroy(&worker->resume);
	pthread_mutex_destroy(&worker->lock);
}

void crew_free(struct crew *crew)
{
	for (uint32_t number = 1; crew != NULL && number < crew->count; number++)
		worker_close(&crew->workers[number]);
	free(crew);
}

void worker_call(struct worker *worker)
{
	const uint64_t one = 1;
	__atomic_store_n(&worker->wanted, 1, __ATOMIC_RELEASE);
	if (worker->event_fd >= 0)
		(void)!write(worker->event_fd, &one, sizeof(one));
	pthread_mutex_lock(&worker->lock);
}

void worker_release(struct worker *worker)
{
	__atomic_store_n(&worker->wanted, 0, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&worker->resume);
	pthread_mutex_unlock(&worker->lock);
}

static int worker_man(struct worker *worker, struct core *core)
{
	const struct forward_ops ops = { .flush = worker_flush, .user = worker };
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = wake_event };
	int error = forward_init_worker(&worker->forward, &core->forward, worker->number, &ops);
	if (error < 0)
		return error;
	worker->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	worker->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (worker->epoll_fd < 0 || worker->event_fd < 0 ||
	    epoll_ctl(worker->epoll_fd, EPOLL_CTL_ADD, worker->event_fd, &event) < 0)
		return -errno;
	worker->state = &core->state->workers[worker->number];
	worker->state->thread = worker->thread_id;
	return 0;
}

int core_man(struct core *core, struct crew *crew)
{
	if (crew == NULL)
		return 0;
	if (core->crew != NULL || core->port_count != 0)
		return -EINVAL;
	core->crew = crew;
	int error = core_hands_open(core);
	for (uint32_t number = 1; error == 0 && number < crew->count; number++)
		error = worker_man(&crew->workers[number], core);
	if (error < 0)
		return error;
	if (core->state->workers_used < crew->count)
		core->state->workers_used = crew->count;
	for (uint32_t number = 1; number < crew->count; number++) {
		struct worker *worker = &crew->workers[number];
		worker_call(worker);
		worker->core = core;
		worker_release(worker);
	}
	return 0;
}

int core_workers(struct core *core, uint32_t count, const int32_t *cpus)
{
	struct crew *crew;
	int error = crew_new(count, cpus, &crew);
	if (error < 0)
		return error;
	error = core_man(core, crew);
	if (error < 0 && core->crew != crew)
		crew_free(crew);
	return error;
}
