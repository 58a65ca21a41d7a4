// The books on who uses this VR (abi/account.h): who he is, what he has, what he was denied.
//
// They lie in the state segment, where operators read them and a successor goes on with them; what
// somebody has now is counted anew by a successor.  Place 0 is root's.  Of those who have nothing
// the one that was heard of least recently makes room; while nobody does, a newcomer is turned away.
#include "server/internal.h"

#include <errno.h>

#define TELL_NS (1000 * 1000000ull)

static uint32_t used(const struct server *server)
{
	uint64_t count = server->state->accounts_used;
	return count < MAX_ACCOUNTS ? (uint32_t)count : (uint32_t)MAX_ACCOUNTS;
}

void accounts_open(struct server *server)
{
	for (uint32_t i = 0; i < used(server); i++) {
		struct account *account = &server->state->accounts[i];
		account->datagrams = 0;
		account->streams = 0;
		account->connections = 0;
		account->memory = 0;
	}
	if (used(server) == 0) {
		server->state->accounts[0] = (struct account){.identity = RULE_UID};
		server->state->accounts_used = 1;
	}
	for (uint32_t slot = 0; slot < host_slots(server->state); slot++)
		if (server->state->sockets[slot].cookie != 0)
			quota_charge(server, server->state->sockets[slot].account, false);
}

static bool is(const struct account *account, uint32_t uid, const uint8_t *key)
{
	if (key == NULL)
		return account->identity == RULE_UID && account->uid == uid;
	return account->identity == RULE_CURVE && memcmp(account->curve_key, key, sizeof(account->curve_key)) == 0;
}

static bool idle(const struct account *account)
{
	return account->streams == 0 && account->datagrams == 0 && account->connections == 0;
}

// A place for a newcomer: a new one, else that of who has left; -1: there is none.
static int place(const struct server *server)
{
	int found = -1;
	if (used(server) < MAX_ACCOUNTS)
		return (int)server->state->accounts_used++;
	for (uint32_t i = 1; i < MAX_ACCOUNTS; i++) {
		const struct account *account = &server->state->accounts[i];
		if (idle(account) && (found < 0 || account->used_ns < server->state->accounts[found].used_ns))
			found = (int)i;
	}
	return found;
}

int accounts_of(struct server *server, uint32_t uid, const uint8_t *key)
{
	int index = -1;
	for (uint32_t i = 0; i < used(server) && index < 0; i++)
		if (is(&server->state->accounts[i], uid, key))
			index = (int)i;
	if (index < 0) {
		index = place(server);
		if (index < 0)
			return -1;
		struct account *account = &server->state->accounts[index];
		*account = (struct account){.identity = key == NULL ? RULE_UID : RULE_CURVE, .uid = uid};
		if (key != NULL)
			memcpy(account->curve_key, key, sizeof(account->curve_key));
	}
	server->state->accounts[index].used_ns = server->now;
	return index;
}

const uint8_t *accounts_key(const struct server *server, uint32_t index)
{
	const struct account *account = account_at(server, index);
	return account->identity == RULE_CURVE ? account->curve_key : NULL;
}

static void tell(const struct server *server, const struct account *account, enum denial denial, int error)
{
	struct rsock_header header = {.magic = RSOCK_MAGIC, .op = RSOCK_OP_DENIED, .flags = RSOCK_FLAG_DATA};
	struct rsock_denied body = {
		.kind = account->identity,
		.uid = account->uid,
		.denial = denial,
		.error = (uint32_t)error,
		.suppressed = account->untold,
	};
	memcpy(body.key, account->curve_key, sizeof(body.key));
	(void)connection_send(server->holder, &header, sizeof(header), &body, sizeof(body), NULL, 0);
}

int accounts_deny(const struct server *server, uint32_t index, enum denial denial, int error)
{
	struct account *account = account_at(server, index);
	account->denials[denial]++;
	if (server->holder == NULL || (account->told_ns != 0 && server->now < account->told_ns + TELL_NS)) {
		account->untold++;
		return -error;
	}
	tell(server, account, denial, error);
	account->told_ns = server->now;
	account->untold = 0;
	return -error;
}
