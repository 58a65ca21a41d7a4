// Who takes more than his share of our time while others are about rests: what it wants waits where it is.
//
// Turns (quota.c) keep a request from waiting behind more than a round of others' work.  But a forwarder that works
// without end for one identity takes a processor, and it is the scheduler that others then wait for.  So the time that
// an identity uses is a leaky bucket too (GCRA, ITU-T I.371): it may use one part in REST_SHARE of our time, a little of
// it at once.  Beyond that its fds leave the epoll set, until the time is paid for: nothing of what it has sent is lost,
// and it gets no answer meanwhile.  Nobody rests while nobody else is heard, nor where a processor is free, which shows
// in that we never have to wait for ours; and neither root, nor the VR's own user, nor the relay, which speaks for many,
// ever does.  Bytes of streams are not counted: TCP and the peer pace those.
//
// Accepting is counted on who was accepted; while he rests vr/NAME.sock does, for a millisecond at most.
#include "server/internal.h"

#include <errno.h>
#include <sys/epoll.h>
#include <time.h>

enum { REST_SHARE = 4, PRESSED_SHARE = 20, CALM_LEAST = 4, CALM_MOST = 64 };

#define REST_AT_ONCE (REST_SHARE * TURN_NS)
#define REST_MOST (20 * 1000000ull)     // that a single long request costs
#define REST_LISTENER (1000 * 1000ull)
#define ABOUT_NS (20 * 1000000ull)      // who was heard within it is about
#define PARK_NS 1500                    // that taking a fd out of the epoll set, and back into it, takes
#define PRESSED_NS (4 * 1000000ull)     // of work, in which it shows whether we wait for the processor

static struct turn *turn_of(struct server *server, uint32_t index)
{
	return &server->turns[account_slot(index)];
}

void rest_heard(struct server *server, uint32_t index)
{
	struct heard *heard = server->heard;
	if (heard[0].account != index)
		heard[1] = heard[0];
	heard[0] = (struct heard){.account = index, .at = server->now};
}

static bool others_about(const struct server *server, uint32_t index)
{
	const struct heard *other = &server->heard[server->heard[0].account == index];
	return other->at != 0 && server->now < other->at + ABOUT_NS;
}

static uint64_t processor_clock(void)
{
	struct timespec now;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

struct stint rest_begin(const struct server *server, uint32_t index)
{
	bool asked = server->now < server->turns[account_slot(index)].heavy_until && others_about(server, index);
	return (struct stint){.processor = asked ? processor_clock() : 0, .start = quota_clock()};
}

// While somebody rests there may be room for all, since he does: where we wait again as soon as he goes on, that is tried
// less and less often.
static void press(struct server *server, bool waited)
{
	if (!server->pressed) {
		if (waited)
			server->calm_wanted = !server->relieved ? CALM_LEAST : server->calm_wanted < CALM_MOST ? 4 * server->calm_wanted : CALM_MOST;
		server->calm = 0;
		server->pressed = waited;
		server->relieved = false;
	} else {
		server->calm = waited ? 0 : server->calm + 1;
		server->relieved = server->calm >= server->calm_wanted;
		server->pressed = !server->relieved;
	}
}

void rest_end(struct server *server, uint32_t index, const struct stint *stint)
{
	uint64_t wall = quota_clock() - stint->start;
	rest_spend(server, index, wall);
	if (stint->processor == 0)
		return;
	// Nothing here blocks: what the processor did meanwhile, and not for us, it did for others.
	uint64_t own = processor_clock() - stint->processor;
	server->wanted_ns += wall;
	server->waited_ns += wall > own ? wall - own : 0;
	if (server->wanted_ns < PRESSED_NS)
		return;
	press(server, server->waited_ns * PRESSED_SHARE > server->wanted_ns);
	server->wanted_ns = server->waited_ns = 0;
}

void rest_spend(struct server *server, uint32_t index, uint64_t ns)
{
	struct turn *turn = turn_of(server, index);
	uint64_t begin = turn->paid_at > server->now ? turn->paid_at : server->now;
	uint64_t most = server->now + REST_MOST;
	turn->paid_at = begin + REST_SHARE * ns < most ? begin + REST_SHARE * ns : most;
}

static void wake_at(struct server *server, uint64_t at)
{
	if (server->rest_at == 0 || at < server->rest_at)
		server->rest_at = at;
}

bool rest_due(struct server *server, uint32_t index)
{
	struct turn *turn = turn_of(server, index);
	if (turn->rests && server->now >= turn->paid_at)
		turn->rests = false;
	if (turn->rests || turn->paid_at <= server->now + REST_AT_ONCE)
		return turn->rests;
	turn->heavy_until = server->now + ABOUT_NS;
	if (server->pressed && others_about(server, index)) {
		turn->rests = true;
		account_at(server, index)->rests++;
	}
	return turn->rests;
}

bool rest_owes(const struct server *server, uint32_t index)
{
	return server->turns[account_slot(index)].paid_at > server->now;
}

void rest_park(struct server *server, uint32_t index, int fd, uint64_t data)
{
	if (server->parked_count == MAX_PARKED || epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, fd, NULL) < 0)
		return;
	server->parked[server->parked_count++] = (struct parked){.data = data, .account = index};
	rest_spend(server, index, PARK_NS);
	wake_at(server, turn_of(server, index)->paid_at);
}

// A fd that still is what it was takes part again; false: not yet.
static bool unpark(struct server *server, const struct parked *parked)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = parked->data};
	uint32_t index = parked->data & 0xffffff;
	uint32_t generation = (uint32_t)(parked->data >> 24);
	int fd = -1;
	if (((parked->data >> 56) & 0x7f) == EVENT_CONNECTION) {
		const struct connection *connection = server->connections[index];
		if (connection != NULL && connection->generation == generation)
			fd = connection->fd;
	} else if (server->apps[index].generation == generation) {
		fd = server->apps[index].fd;
		event.events = server->apps[index].deaf ? 0 : EPOLLIN;
	}
	return fd < 0 || epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 || errno == EEXIST;
}

void rest_tick(struct server *server)
{
	uint32_t kept = 0;
	if (server->rest_at == 0 || server->now < server->rest_at)
		return;
	server->rest_at = 0;
	for (uint32_t i = 0; i < server->parked_count; i++) {
		const struct parked parked = server->parked[i];
		bool rests = rest_due(server, parked.account);
		if (!rests && unpark(server, &parked))
			continue;
		server->parked[kept++] = parked;
		wake_at(server, rests ? turn_of(server, parked.account)->paid_at : server->now + RETRY_NS);
	}
	server->parked_count = kept;
}

bool rest_accepted(struct server *server, uint32_t index, uint64_t start)
{
	rest_spend(server, index, quota_clock() - start);
	if (!rest_due(server, index))
		return false;
	uint64_t paid = turn_of(server, index)->paid_at;
	uint64_t latest = server->now + REST_LISTENER;
	epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, server->listener, NULL);
	server->listen_at = paid < latest ? paid : latest;
	return true;
}
