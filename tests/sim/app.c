// What the two sides of the simulated connections do, and whether they got what was sent.
//
// Byte n of a direction is a function of n: what arrives twice, out of order or altered is seen.
#include "sim.h"

#include <errno.h>
#include "base/siphash.h"

enum { CHUNK = 70000 };

static uint8_t pattern(const struct sim_connection *connection, bool sent, uint32_t offset)
{
	bool first = (connection->end == &connection->end->world->ends[0]) == sent;
	return (uint8_t)mix32((offset >> 2) + 77u * connection->number + first) ^ (uint8_t)offset;
}

static struct sim_connection *find(struct sim_end *end, uint32_t slot)
{
	for (uint32_t i = 0; i < end->world->count; i++)
		if (end->connections[i].open && end->connections[i].slot == slot)
			return &end->connections[i];
	return NULL;
}

static void take(struct sim_connection *connection, const uint8_t *bytes, uint32_t length)
{
	struct sim_world *world = connection->end->world;

	for (uint32_t i = 0; i < length; i++) {
		if (bytes[i] != pattern(connection, false, connection->received + i)) {
			sim_fail(world, "connection %u: byte %u is not the one that was sent", connection->number, connection->received + i);
			return;
		}
	}
	connection->received += length;
	if (connection->received > end_other(connection->end)->connections[connection->number].sent)
		sim_fail(world, "connection %u: more bytes than were sent", connection->number);
}

static void release(struct sim_connection *connection, bool abortive)
{
	connection->open = false;
	connection->closed = true;
	if (abortive)
		host_abort(connection->end->host, connection->slot);
	else
		host_close(connection->end->host, connection->slot);
}

// The key of the run for all peers.
static void sign(struct sim_end *end, uint32_t slot)
{
	const struct tcp_key key = {.prefix = 0, .length = 7, .key = "secret."};

	if (end->world->keyed && tcp_auth_set(end->host->tcp, host_stream(end->host, slot), &key) != 0)
		sim_fail(end->world, "no key");
}

void app_listen(struct sim_end *end)
{
	uint8_t address[16];

	end_address(end, address);
	if (host_socket(end->host, end->world->six ? AF_INET6 : AF_INET, SOCK_STREAM, 0, &end->listener) < 0 ||
	    host_bind(end->host, end->listener, address, SIM_PORT, 0) < 0 || host_listen(end->host, end->listener, end->backlog) < 0)
		sim_fail(end->world, "listening is not possible");
	sign(end, end->listener);
	end->listening = true;
}

static void set_options(struct sim_connection *connection)
{
	const int on = 1;

	if (connection->script.nodelay)
		(void)host_setopt(connection->end->host, connection->slot, IPPROTO_TCP, 1 /* TCP_NODELAY */, (const uint8_t *)&on, sizeof(on));
}

void app_connect(struct sim_connection *connection, uint16_t port, uint16_t remote_port)
{
	struct sim_end *end = connection->end;
	uint8_t local[16], remote[16];

	end_address(end, local);
	end_address(end_other(end), remote);
	if (host_socket(end->host, end->world->six ? AF_INET6 : AF_INET, SOCK_STREAM, 0, &connection->slot) < 0)
		sim_fail(end->world, "no socket");
	if (port != 0 && host_bind(end->host, connection->slot, local, port, 0) < 0)
		sim_fail(end->world, "port %u cannot be bound", port);
	sign(end, connection->slot);
	connection->open = true;
	int error = host_connect(end->host, connection->slot, remote, remote_port, 0);
	if (error != -EINPROGRESS && error != 0)
		sim_fail(end->world, "connect: %d", error);
	const struct tcp_socket *s = host_stream(end->host, connection->slot);
	connection->port = s != NULL ? s->local_port : 0;
	set_options(connection);
}

// --- what the stack tells ---

uint32_t app_deliver(struct sim_end *end, uint32_t slot, const struct iovec *parts, int count)
{
	struct sim_connection *connection = find(end, slot);
	uint32_t taken = 0;

	if (connection == NULL)
		return 0;
	if (end->world->now < connection->read_at) {
		connection->readable = true; // later
		return 0;
	}
	for (int i = 0; i < count && taken < connection->script.read_most; i++) {
		uint32_t part = connection->script.read_most - taken;
		if (part > parts[i].iov_len)
			part = (uint32_t)parts[i].iov_len;
		take(connection, parts[i].iov_base, part);
		taken += part;
	}
	if (connection->script.read_pause != 0)
		connection->read_at = end->world->now + connection->script.read_pause;
	connection->readable = true; // there may be more: it is asked for when it may be taken
	return taken;
}

void app_event(struct sim_end *end, uint32_t slot, uint32_t events)
{
	if (end->listening && slot == end->listener) {
		end->acceptable = true;
		return;
	}
	struct sim_connection *connection = find(end, slot);
	if (connection == NULL)
		return;
	connection->told = true;
	if (events & HOST_STREAM_CONNECTED)
		connection->connected = connection->writable = true;
	if (events & HOST_STREAM_WRITABLE)
		connection->writable = true;
	if (events & (HOST_STREAM_READABLE | HOST_STREAM_PEER_CLOSED))
		connection->readable = true;
	if (end->direct && (events & HOST_STREAM_PEER_CLOSED))
		connection->ended = true;
	if (events & HOST_STREAM_FAILED) {
		const struct tcp_socket *s = host_stream(end->host, slot);
		connection->error = s != NULL ? s->error : 0;
		connection->failed = true;
	}
}

// --- what the apps do ---

static void accept_one(struct sim_end *end, uint32_t slot)
{
	const struct tcp_socket *s = host_stream(end->host, slot);
	struct sim_end *other = end_other(end);

	for (uint32_t i = 0; s != NULL && i < end->world->count; i++) {
		struct sim_connection *connection = &end->connections[i];
		if (other->connections[i].port != s->remote_port || connection->open || connection->closed)
			continue;
		connection->slot = slot;
		connection->open = connection->connected = connection->writable = connection->readable = true;
		connection->failed = s->error != 0 || s->state == TCP_STATE_CLOSED;
		set_options(connection);
		if (end->direct)
			host_stream_resume(end->host, slot);
		return;
	}
	sim_fail(end->world, "a connection that nobody made");
}

static bool read_some(struct sim_connection *connection)
{
	struct sim_end *end = connection->end;
	uint8_t bytes[CHUNK];

	if (!connection->readable || connection->ended || end->world->now < connection->read_at)
		return false;
	if (end->direct) {
		connection->readable = false;
		host_stream_resume(end->host, connection->slot);
		return true;
	}
	uint32_t most = connection->script.read_most < CHUNK ? connection->script.read_most : CHUNK;
	int got = host_stream_read(end->host, connection->slot, bytes, most, 0);
	if (got > 0)
		take(connection, bytes, (uint32_t)got);
	else if (got == 0)
		connection->ended = true;
	else {
		connection->readable = false;
		if (got != -EAGAIN && !connection->failed) {
			connection->failed = true;
			connection->error = -got;
		}
	}
	if (connection->script.read_pause != 0)
		connection->read_at = end->world->now + connection->script.read_pause;
	return true;
}

// How many bytes the script lets it write now.
static uint32_t writable_bytes(const struct sim_connection *connection)
{
	const struct sim_script *script = &connection->script;
	uint32_t limit = script->send;

	if (script->after_peer && !connection->ended)
		return 0;
	if (script->answer != 0 && script->answering && !connection->ended) {
		uint64_t owed = (uint64_t)(connection->received / script->ask) * script->answer;
		limit = owed < limit ? (uint32_t)owed : limit;
	} else if (script->answer != 0 && !script->answering && !connection->ended) {
		uint64_t asked = ((uint64_t)connection->received / script->answer + 1) * script->ask;
		limit = asked < limit ? (uint32_t)asked : limit;
	}
	return limit - connection->sent < script->write_most ? limit - connection->sent : script->write_most;
}

static bool write_some(struct sim_connection *connection)
{
	struct sim_end *end = connection->end;
	uint8_t bytes[CHUNK];
	uint32_t most = writable_bytes(connection);

	if (!connection->writable || connection->shut || most == 0 || end->world->now < connection->write_at)
		return false;
	for (uint32_t i = 0; i < most; i++)
		bytes[i] = pattern(connection, true, connection->sent + i);
	int put = host_stream_write(end->host, connection->slot, bytes, most, 0);
	if (put > 0)
		connection->sent += (uint32_t)put;
	if (put < (int)most)
		connection->writable = false;
	if (put < 0 && put != -EAGAIN && !connection->failed) {
		connection->failed = true;
		connection->error = -put;
	}
	if (connection->script.write_pause != 0)
		connection->write_at = end->world->now + connection->script.write_pause;
	return true;
}

static bool finish_some(struct sim_connection *connection)
{
	const struct sim_script *script = &connection->script;
	bool all = connection->sent == script->send;

	if (connection->failed) {
		if (!connection->may_fail)
			sim_fail(connection->end->world, "connection %u: end %d: error %d after %u sent, %u received", connection->number,
				(int)(connection->end - connection->end->world->ends), connection->error, connection->sent, connection->received);
		release(connection, false);
		return true;
	}
	if (script->ending == SIM_ABORT && connection->sent + connection->received >= script->abort_at) {
		release(connection, true);
		return true;
	}
	if (all && connection->connected && (connection->ended || script->ending == SIM_CLOSE)) {
		release(connection, false);
		return true;
	}
	if (all && connection->connected && !connection->shut) {
		connection->shut = true;
		int error = host_shutdown(connection->end->host, connection->slot, SHUT_WR);
		if (error < 0 && !connection->may_fail)
			sim_fail(connection->end->world, "connection %u: shutdown: %d", connection->number, error);
		return true;
	}
	return false;
}

bool app_run(struct sim_end *end)
{
	bool busy = false;
	uint32_t slot;

	if (end->acceptable && end->world->now >= end->accept_at) {
		end->acceptable = host_accept(end->host, end->listener, &slot) == 0;
		if (end->acceptable)
			accept_one(end, slot);
		end->accept_at = end->world->now + end->accept_pause;
		busy = true;
	}
	for (uint32_t i = 0; i < end->world->count; i++) {
		struct sim_connection *connection = &end->connections[i];
		connection->told = false;
		if (connection->open)
			busy |= read_some(connection);
		if (connection->open && connection->connected)
			busy |= write_some(connection);
		if (connection->open)
			busy |= finish_some(connection);
	}
	if (end->listening && end_other(end)->world->failure[0] == '\0' && app_done(end_other(end)) && app_done(end)) {
		end->listening = false;
		host_close(end->host, end->listener);
		busy = true;
	}
	return busy;
}

uint64_t app_deadline(const struct sim_end *end)
{
	uint64_t at = end->acceptable ? end->accept_at : UINT64_MAX;

	for (uint32_t i = 0; i < end->world->count; i++) {
		const struct sim_connection *connection = &end->connections[i];
		if (connection->open && connection->told)
			return 0;
		if (connection->open && connection->readable && !connection->ended && connection->read_at < at)
			at = connection->read_at;
		if (connection->open && connection->writable && connection->connected && !connection->shut &&
		    writable_bytes(connection) > 0 && connection->write_at < at)
			at = connection->write_at;
	}
	return at;
}

// A side that never heard of its connection has nothing to do once the other one has given it up.
bool app_done(const struct sim_end *end)
{
	const struct sim_end *other = &end->world->ends[end == &end->world->ends[0]];

	for (uint32_t i = 0; i < end->world->count; i++) {
		const struct sim_connection *connection = &end->connections[i];
		if (connection->open || (!connection->closed && !other->connections[i].closed))
			return false;
	}
	return true;
}

bool app_give_up(struct sim_end *end)
{
	bool any = false;

	for (uint32_t i = 0; i < end->world->count; i++) {
		struct sim_connection *connection = &end->connections[i];
		if (connection->open && connection->may_fail) {
			release(connection, true);
			any = true;
		}
	}
	return any;
}

void app_verify(struct sim_end *end)
{
	for (uint32_t i = 0; i < end->world->count; i++) {
		const struct sim_connection *connection = &end->connections[i];
		if (connection->may_fail)
			continue;
		uint32_t sent = end_other(end)->connections[i].script.send;
		if (!connection->closed || !connection->ended || connection->received != sent)
			sim_fail(end->world, "connection %u: %u bytes of %u, end %d", i, connection->received, sent, connection->ended);
	}
}
