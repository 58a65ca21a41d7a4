// How much of a VR one identity may have: sockets, their buffers, connections to vr/NAME.sock; and how
// much it may do in a second.
//
// The rule that lets it in says how much (abi/tables.h).  Beyond that nobody gets more than as much as is
// left for all others: among any number of hogs something stays free for a newcomer, and the
// greediest is stopped first.  Root and the VR's own uid are only counted.
//
// Our own time is shared in rounds: each account has a turn in it, however many sockets and connections
// are its.
//
// A rate is a leaky bucket (GCRA, ITU-T I.371) that holds one second's worth.
#include "server/internal.h"

#include <errno.h>
#include <sys/socket.h>
#include <time.h>

#define SECOND_NS 1000000000ull

static bool due(uint64_t at, uint64_t now)
{
	return at <= now + SECOND_NS;
}

static void take(uint64_t *at, uint64_t now, uint64_t rate, uint32_t count)
{
	if (rate != 0)
		*at = (*at > now ? *at : now) + count * SECOND_NS / rate;
}

// --- turns ---

uint64_t quota_clock(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

bool quota_turn_over(const struct server *server, uint32_t index)
{
	const struct turn *turn = &server->turns[account_slot(index)];
	return turn->number == server->turn && turn->spent_ns >= TURN_NS;
}

static void spend(struct server *server, uint32_t index, uint64_t ns)
{
	struct turn *turn = &server->turns[account_slot(index)];
	if (turn->number != server->turn)
		*turn = (struct turn){.number = server->turn};
	turn->spent_ns += ns;
}

void quota_turn(struct server *server, uint32_t index, uint64_t start)
{
	spend(server, index, quota_clock() - start);
}

// --- connections ---

bool quota_connection(const struct server *server, uint32_t index)
{
	const struct account *account = account_at(server, index);
	uint32_t left = MAX_CONNECTIONS - server->connection_count;
	// The last places are for those who could repair things.
	return left > CONNECTIONS_KEPT && account->connections < MAX_CONNECTIONS_PER_USER &&
	       account->connections < (left - CONNECTIONS_KEPT + 1) / 2;
}

void quota_connected(struct server *server, uint32_t index)
{
	account_at(server, index)->connections++;
	server->connection_count++;
}

void quota_disconnected(struct server *server, uint32_t index)
{
	account_at(server, index)->connections--;
	server->connection_count--;
}

// --- sockets ---

static bool place_left(const struct server *server, const struct owner *owner, const struct quota *quota)
{
	const struct account *account = account_at(server, owner->account);
	if (quota->sockets != 0 && account->streams + account->datagrams >= quota->sockets)
		return false;
	if (owner->type == SOCK_STREAM)
		return account->streams + server->stream_count < MAX_TCP_SOCKETS;
	return account->datagrams < MAX_DATAGRAMS_PER_USER && account->datagrams + server->datagram_count < MAX_SOCKETS;
}

int quota_open(struct server *server, const struct owner *owner)
{
	struct account *account = account_at(server, owner->account);
	const struct quota *quota = rights_quota(server, owner);
	if (quota != NULL && !place_left(server, owner, quota))
		return accounts_deny(server, owner->account, DENIAL_SOCKETS, EMFILE);
	if (quota != NULL && quota->memory != 0 && account->memory >= quota->memory)
		return accounts_deny(server, owner->account, DENIAL_MEMORY, ENOBUFS);
	if (quota != NULL && quota->opens != 0) {
		if (!due(account->open_at, server->now))
			return accounts_deny(server, owner->account, DENIAL_OPEN_RATE, EAGAIN);
		take(&account->open_at, server->now, quota->opens, 1);
	}
	account->opens++;
	return 0;
}

bool quota_accept(struct server *server, const struct owner *owner, bool again)
{
	struct account *account = account_at(server, owner->account);
	const struct quota *quota = rights_quota(server, owner);
	enum denial denial = DENIAL_COUNT;
	if (quota != NULL && !place_left(server, owner, quota))
		denial = DENIAL_SOCKETS;
	else if (quota != NULL && quota->memory != 0 && account->memory >= quota->memory)
		denial = DENIAL_MEMORY;
	else if (quota != NULL && quota->accepts != 0 && !due(account->accept_at, server->now))
		denial = DENIAL_ACCEPT_RATE;
	if (denial != DENIAL_COUNT) {
		if (!again)
			(void)accounts_deny(server, owner->account, denial, EAGAIN);
		return false;
	}
	if (quota != NULL)
		take(&account->accept_at, server->now, quota->accepts, 1);
	account->accepts++;
	return true;
}

void quota_charge(struct server *server, uint32_t index, bool stream)
{
	struct account *account = account_at(server, index);
	*(stream ? &account->streams : &account->datagrams) += 1;
	*(stream ? &server->stream_count : &server->datagram_count) += 1;
}

void quota_discharge(struct server *server, uint32_t index, bool stream, uint32_t buffer)
{
	struct account *account = account_at(server, index);
	*(stream ? &account->streams : &account->datagrams) -= 1;
	*(stream ? &server->stream_count : &server->datagram_count) -= 1;
	account->memory -= buffer;
}

// --- buffers ---

uint32_t quota_buffer(struct server *server, const struct owner *owner, uint32_t have, uint32_t wanted)
{
	struct account *account = account_at(server, owner->account);
	const struct quota *quota = rights_quota(server, owner);
	uint64_t others = account->memory - have;
	uint64_t given = wanted;
	// Who has little gets all he wants, and the more somebody has the less is added.
	if (quota != NULL && quota->memory != 0) {
		uint64_t left = quota->memory > others ? quota->memory - others : 0;
		uint64_t share = left / BUFFER_SHARE;
		given = share < BUFFER_LEAST ? BUFFER_LEAST : share;
		given = given < wanted ? given : wanted;
	}
	account->memory = others + given;
	return (uint32_t)given;
}

// --- bytes ---

uint64_t quota_byte_rate(const struct server *server, const struct owner *owner)
{
	const struct quota *quota = rights_quota(server, owner);
	return quota == NULL ? 0 : quota->bytes;
}

bool quota_may_send(const struct server *server, uint32_t index, uint64_t rate)
{
	return rate == 0 || due(account_at(server, index)->byte_at, server->now);
}

void quota_sent(struct server *server, uint32_t index, uint64_t rate, uint32_t bytes)
{
	take(&account_at(server, index)->byte_at, server->now, rate, bytes);
	spend(server, index, bytes); // the kernel will take a nanosecond or so for each on its way out
}
