// Sockets that exist while the rules change: what is no longer allowed is closed, the others see nothing.
//
// A new set of rules is noticed at the next tick, and all sockets are judged by it, some at a time.  A
// socket stays while it could be opened again, and where it is connected could be connected again (or
// accepted).  Its port is not asked for again: who holds it had the right when he took it.
#include "server/internal.h"

#include <errno.h>
#include <sys/socket.h>
#include "base/crc32.h"

static bool datagram_allowed(const struct server *server, const struct socket_entry *entry)
{
	const struct owner owner = sockets_owner(entry);
	return rights_open(rights_of_socket(server, &owner), entry->type, entry->protocol) == 0;
}

static void review_datagram(struct server *server, uint32_t slot)
{
	const struct socket_entry *entry = &server->state->sockets[slot];
	if (entry->cookie == 0)
		return;
	if (!datagram_allowed(server, entry)) {
		(void)accounts_deny(server, entry->account, DENIAL_OPEN, EACCES);
		sockets_close(server, slot);
		return;
	}
	// Where it sends to is judged with each datagram; no verdict outlives the rules.
	const struct owner owner = sockets_owner(entry);
	server->apps[slot].judged_root = 0;
	server->apps[slot].byte_rate = quota_byte_rate(server, &owner);
}

static bool stream_allowed(const struct server *server, const struct stream *stream, const struct tcp_socket *s)
{
	uint8_t plain[16];
	const struct owner owner = stream_owner(s);
	uint32_t rights = rights_of_socket(server, &owner);
	if (stream->state == STREAM_LISTENING)
		return rights & RULE_LISTEN;
	if (s->remote_port == 0)
		return rights_open(rights, SOCK_STREAM, 0) == 0;
	uint8_t family = request_plain_address(AF_INET6, s->remote, plain);
	return rights_destination(server, &owner, stream->accepted ? RULE_LISTEN : RULE_CONNECT, family, plain);
}

static void review_stream(struct server *server, uint32_t slot)
{
	struct stream *stream = stream_at(server, slot);
	const struct tcp_socket *s = host_stream(server->host, slot);
	if (stream->state == STREAM_NONE || s == NULL)
		return;
	if (stream_allowed(server, stream, s)) {
		const struct owner owner = stream_owner(s);
		stream->byte_rate = quota_byte_rate(server, &owner);
		return;
	}
	enum denial denial = stream->accepted ? DENIAL_ACCEPT : stream->state == STREAM_LISTENING ? DENIAL_LISTEN : DENIAL_CONNECT;
	(void)accounts_deny(server, stream->account, denial, EACCES);
	stream_reset(server, slot);
}

static bool unseen(const struct server *server)
{
	return server->rules_root != server->tables->root || server->rules_epoch != server->tables->epoch;
}

void review_tick(struct server *server)
{
	const struct tables_view *tables = server->tables;
	if (unseen(server)) {
		uint32_t checksum = crc32_update(0, tables->rules, tables->rule_count * sizeof(*tables->rules));
		// A publication without a root: a predecessor's sockets wait for the first one.
		if (tables->root != 0 && checksum != server->rules_checksum)
			server->review_next = 0;
		server->rules_root = tables->root;
		server->rules_epoch = tables->epoch;
		server->rules_checksum = checksum;
	}
	for (uint32_t i = 0; i < REVIEWS_PER_TICK && server->review_next != REVIEW_OVER; i++) {
		uint32_t slot = server->review_next++;
		if (slot < host_slots(server->state))
			review_datagram(server, slot);
		else if (slot < MAX_SOCKETS)
			server->review_next = MAX_SOCKETS;
		else if (slot - MAX_SOCKETS < server->streams.used)
			review_stream(server, slot);
		else
			server->review_next = REVIEW_OVER;
	}
}

uint64_t review_deadline(const struct server *server)
{
	return unseen(server) || server->review_next != REVIEW_OVER ? 1 : 0;
}
