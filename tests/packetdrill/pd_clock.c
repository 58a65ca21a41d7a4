// Virtual time, and packetdrill's second thread in it.
//
// The script's thread moves the clock.  When something happens that may let a blocked call of
// the second thread go on, the first one hands over and stands still until that thread sleeps
// again, or has read the clock: the first thing it does after a call is to take the time at
// which the call ended.  So the order of all events is the same in each run.
#include "pd_so.h"

#include <sys/time.h>
#include <unistd.h>

static bool is_main(const struct pd_world *w)
{
	return pthread_equal(pthread_self(), w->main);
}

static void await_guest(struct pd_world *w)
{
	while (w->guest == PD_CHECKING || w->guest == PD_RETURNING)
		pthread_cond_wait(&w->guest_moved, &w->lock);
}

void pd_enter(struct pd_world *w)
{
	pthread_mutex_lock(&w->lock);
	if (is_main(w))
		await_guest(w);
	pd_knobs_refresh(w);
	host_clock(w->host, w->now);
}

void pd_leave(struct pd_world *w)
{
	if (is_main(w)) {
		pd_settle(w);
	} else {
		host_flush(w->host, w->now);
		w->guest = PD_RETURNING;
	}
	pthread_mutex_unlock(&w->lock);
}

void pd_settle(struct pd_world *w)
{
	host_flush(w->host, w->now);
	if (w->guest != PD_WAITING)
		return;
	w->guest = PD_CHECKING;
	pthread_cond_broadcast(&w->host_moved);
	await_guest(w);
}

static uint64_t next_deadline(const struct pd_world *w)
{
	uint64_t deadline = host_deadline(w->host);
	if (w->guest == PD_WAITING && w->guest_deadline < deadline)
		deadline = w->guest_deadline;
	// A timer that is due already runs at the next instant, so that time always moves on.
	return deadline <= w->now ? w->now + 1 : deadline;
}

static void move(struct pd_world *w, uint64_t to)
{
	w->now = to;
	host_clock(w->host, to);
	host_tick(w->host, to);
	pd_settle(w);
}

void pd_advance(struct pd_world *w, uint64_t to)
{
	while (w->now < to) {
		uint64_t deadline = next_deadline(w);
		move(w, deadline < to ? deadline : to);
	}
}

bool pd_step(struct pd_world *w)
{
	uint64_t deadline = next_deadline(w);
	if (deadline == PD_NEVER)
		return false;
	move(w, deadline);
	return true;
}

void pd_block(struct pd_world *w, uint64_t deadline)
{
	host_flush(w->host, w->now);
	if (is_main(w)) {
		uint64_t due = next_deadline(w);
		if (due == PD_NEVER && deadline == PD_NEVER)
			pd_give_up("a call blocks for ever");
		move(w, due < deadline ? due : deadline);
		return;
	}
	w->guest = PD_WAITING;
	w->guest_deadline = deadline;
	pthread_cond_broadcast(&w->guest_moved);
	while (w->guest == PD_WAITING)
		pthread_cond_wait(&w->host_moved, &w->lock);
}

// The thread of blocking calls, too, waits for the time of its call; it alone runs then.
static void lock_clock(struct pd_world *w)
{
	pthread_mutex_lock(&w->lock);
	if (is_main(w))
		await_guest(w);
}

int pd_usleep(void *user, useconds_t us)
{
	struct pd_world *w = user;
	lock_clock(w);
	pd_advance(w, w->now + us * PD_US);
	pthread_mutex_unlock(&w->lock);
	return 0;
}

// packetdrill spins on this clock while the next event is near: it must move by itself.
int pd_gettimeofday(void *user, struct timeval *tv, struct timezone *tz)
{
	struct pd_world *w = user;
	lock_clock(w);
	if (!is_main(w) && w->guest == PD_RETURNING) {
		w->guest = PD_AWAY;
		pthread_cond_broadcast(&w->guest_moved);
	} else {
		pd_advance(w, w->now + PD_US);
	}
	tv->tv_sec = (time_t)(w->now / PD_S);
	tv->tv_usec = (suseconds_t)(w->now % PD_S / PD_US);
	pthread_mutex_unlock(&w->lock);
	(void)tz;
	return 0;
}
