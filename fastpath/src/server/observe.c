// Traces and captures for operators: records go out as they happen, and what a slow reader
// cannot take is counted, never waited for.  Who wants drops only gets the earlier stages of
// a packet once it is dropped, as far back as TRACE_MEMORY stages of any packets reach.
#include "server/internal.h"

#include <errno.h>
#include <stdlib.h>
#include "drop_names.h"

enum { TRACE_MEMORY = 64, TRACE_DETAIL = 256 };

struct remembered {
	struct rsock_trace_record record;
	char detail[TRACE_DETAIL];
};

struct trace_memory {
	uint32_t next;
	struct remembered stages[TRACE_MEMORY];
};

static const char *const drop_names[DROP_REASON_COUNT] = {DROP_NAMES};

static void observe_changed(struct server *server)
{
	server->ops.observe(server->ops.user, server->tracers > 0, server->capturers > 0);
}

void observe_trace(struct server *server, struct connection *connection, const struct request *request)
{
	if (!connection->trusted || request->length < sizeof(connection->trace)) {
		connection_reply(connection, request, connection->trusted ? EINVAL : EACCES, NULL, 0);
		return;
	}
	memcpy(&connection->trace, request->body, sizeof(connection->trace));
	free(connection->memory);
	connection->memory = connection->trace.drops_only ? calloc(1, sizeof(*connection->memory)) : NULL;
	if (connection->trace.drops_only && connection->memory == NULL) {
		connection_reply(connection, request, ENOMEM, NULL, 0);
		return;
	}
	connection->trace_request = request->header.request;
	if (!connection->traces) {
		connection->traces = true;
		server->tracers++;
		observe_changed(server);
	}
	connection_reply(connection, request, 0, NULL, 0);
}

void observe_capture(struct server *server, struct connection *connection, const struct request *request)
{
	if (!connection->trusted || request->length < sizeof(connection->capture)) {
		connection_reply(connection, request, connection->trusted ? EINVAL : EACCES, NULL, 0);
		return;
	}
	memcpy(&connection->capture, request->body, sizeof(connection->capture));
	connection->capture_request = request->header.request;
	if (!connection->captures) {
		connection->captures = true;
		server->capturers++;
		observe_changed(server);
	}
	connection_reply(connection, request, 0, NULL, 0);
}

void observe_stop(struct server *server, struct connection *connection)
{
	if (!connection->traces && !connection->captures)
		return;
	server->tracers -= connection->traces;
	server->capturers -= connection->captures;
	connection->traces = false;
	connection->captures = false;
	free(connection->memory);
	connection->memory = NULL;
	observe_changed(server);
}

bool server_wants_trace(const struct server *server, uint16_t interface)
{
	for (uint32_t i = 0; server->tracers > 0 && i < MAX_CONNECTIONS; i++) {
		const struct connection *connection = server->connections[i];
		if (connection != NULL && connection->traces && (connection->trace.interface == 0 || connection->trace.interface == interface))
			return true;
	}
	return false;
}

static void trace_send(struct connection *connection, const struct rsock_trace_record *record, const char *detail)
{
	struct {
		struct rsock_header header;
		struct rsock_trace_record record;
	} __attribute__((packed)) head = {
		{
			.magic = RSOCK_MAGIC,
			.op = RSOCK_OP_TRACE,
			.flags = RSOCK_FLAG_REPLY | RSOCK_FLAG_DATA,
			.request = connection->trace_request,
			.error = connection->trace_lost,
		},
		*record,
	};
	if (connection_send(connection, &head, sizeof(head), detail, record->detail_length, NULL, 0))
		connection->trace_lost = 0;
	else
		connection->trace_lost++;
}

static void trace_remember(struct trace_memory *memory, const struct rsock_trace_record *record, const char *detail)
{
	struct remembered *stage = &memory->stages[memory->next++ % TRACE_MEMORY];
	stage->record = *record;
	memcpy(stage->detail, detail, record->detail_length);
}

static void trace_recall(struct connection *connection, uint32_t packet)
{
	struct trace_memory *memory = connection->memory;
	for (uint32_t i = 0; i < TRACE_MEMORY; i++) {
		struct remembered *stage = &memory->stages[(memory->next + i) % TRACE_MEMORY];
		if (stage->record.packet != packet)
			continue;
		trace_send(connection, &stage->record, stage->detail);
		stage->record.packet = 0;
	}
}

// Forwarding ends a packet with the stage "drop" and the name of the reason.
static uint32_t drop_of(const char *stage, const char *detail)
{
	if (strcmp(stage, "drop") != 0)
		return DROP_NONE;
	for (uint32_t reason = 1; reason < DROP_REASON_COUNT; reason++)
		if (strcmp(detail, drop_names[reason]) == 0)
			return reason;
	return DROP_NONE;
}

void server_trace(struct server *server, const struct packet *packet, const char *stage, const char *detail, uint64_t now)
{
	if (server->tracers == 0)
		return;
	struct rsock_trace_record record = {
		.packet = packet->trace,
		.interface = packet->ingress,
		.timestamp = now,
		.detail_length = (uint32_t)strnlen(detail, TRACE_DETAIL),
		.drop = drop_of(stage, detail),
	};
	memcpy(record.stage, stage, strnlen(stage, sizeof(record.stage) - 1));
	for (uint32_t i = 0; i < MAX_CONNECTIONS; i++) {
		struct connection *connection = server->connections[i];
		if (connection == NULL || !connection->traces)
			continue;
		if (connection->trace.interface != 0 && connection->trace.interface != packet->ingress)
			continue;
		if (connection->memory != NULL && record.drop == DROP_NONE) {
			trace_remember(connection->memory, &record, detail);
			continue;
		}
		if (connection->memory != NULL)
			trace_recall(connection, record.packet);
		trace_send(connection, &record, detail);
	}
}

void server_capture(struct server *server, uint16_t interface, bool outgoing, const struct packet *packet, uint64_t now)
{
	for (uint32_t i = 0; server->capturers > 0 && i < MAX_CONNECTIONS; i++) {
		struct connection *connection = server->connections[i];
		if (connection == NULL || !connection->captures)
			continue;
		if (connection->capture.interface != 0 && connection->capture.interface != interface)
			continue;
		uint32_t snap = connection->capture.snap;
		uint32_t captured = snap != 0 && snap < packet->length ? snap : packet->length;
		struct {
			struct rsock_header header;
			struct rsock_capture_record record;
		} __attribute__((packed)) head = {
			{
				.magic = RSOCK_MAGIC,
				.op = RSOCK_OP_CAPTURE,
				.flags = RSOCK_FLAG_REPLY | RSOCK_FLAG_DATA,
				.request = connection->capture_request,
			},
			{
				.interface = interface,
				.outgoing = outgoing,
				.timestamp = now,
				.captured = captured,
				.length = packet->length,
				.lost = connection->capture_lost,
			},
		};
		if (connection_send(connection, &head, sizeof(head), packet->buffer + packet->offset, captured, NULL, 0))
			connection->capture_lost = 0;
		else
			connection->capture_lost++;
	}
}
