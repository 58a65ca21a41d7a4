// Traces for operators: records go out as they happen, and what a slow reader cannot take is
// counted, never waited for.  Who wants drops only gets the earlier stages of a packet once it is
// dropped, as far back as TRACE_MEMORY stages of any packets reach.  A filter chooses packets when
// they come: which it has chosen is remembered by their numbers.
#include "server/internal.h"

#include <errno.h>
#include <stdlib.h>
#include "drop_names.h"

enum { TRACE_MEMORY = 64, TRACE_DETAIL = 256, TRACE_CHOSEN = 1024 };

struct remembered {
	struct rsock_trace_record record;
	char detail[TRACE_DETAIL];
};

struct trace_memory {
	uint32_t next;
	struct remembered stages[TRACE_MEMORY];
};

struct trace_choice {
	struct filter filter;
	uint32_t chosen[TRACE_CHOSEN]; // numbers of packets, each in its place
};

static const char *const drop_names[DROP_REASON_COUNT] = {DROP_NAMES};

void observe_changed(struct server *server)
{
	server->ops.observe(server->ops.user, server->tracers > 0, server->capturers > 0);
}

void observe_trace(struct server *server, struct connection *connection, const struct request *request)
{
	const uint32_t fixed = sizeof(connection->trace);
	struct filter filter;
	int error = !connection->trusted ? EACCES : request->length < fixed ? EINVAL :
		filter_load(&filter, request->body + fixed, request->length - fixed);
	if (error != 0) {
		connection_reply(connection, request, error, NULL, 0);
		return;
	}
	memcpy(&connection->trace, request->body, fixed);
	free(connection->memory);
	free(connection->choice);
	connection->memory = connection->trace.drops_only ? calloc(1, sizeof(*connection->memory)) : NULL;
	connection->choice = filter.count != 0 ? calloc(1, sizeof(*connection->choice)) : NULL;
	if ((connection->trace.drops_only && connection->memory == NULL) || (filter.count != 0 && connection->choice == NULL)) {
		connection_reply(connection, request, ENOMEM, NULL, 0);
		return;
	}
	if (connection->choice != NULL)
		connection->choice->filter = filter;
	connection->trace_request = request->header.request;
	server->tracers += !connection->traces;
	connection->traces = true;
	observe_changed(server);
	connection_reply(connection, request, 0, NULL, 0);
}

void observe_stop(struct server *server, struct connection *connection)
{
	if (!connection->traces && !connection->captures)
		return;
	server->tracers -= connection->traces;
	connection->traces = false;
	free(connection->memory);
	free(connection->choice);
	connection->memory = NULL;
	connection->choice = NULL;
	capture_stop(server, connection);
	observe_changed(server);
}

bool server_wants_trace(struct server *server, uint16_t interface, const struct packet *packet, bool link, uint32_t trace)
{
	struct filter_subject view;
	bool looked = false, wanted = false;
	for (uint32_t i = 0; server->tracers > 0 && i < MAX_CONNECTIONS; i++) {
		struct connection *connection = server->connections[i];
		if (connection == NULL || !connection->traces || (connection->trace.interface != 0 && connection->trace.interface != interface))
			continue;
		if (connection->choice != NULL) {
			if (!looked)
				filter_look(packet, link, &view);
			looked = true;
			if (!filter_matches(&connection->choice->filter, &view))
				continue;
			connection->choice->chosen[trace % TRACE_CHOSEN] = trace;
		}
		wanted = true;
	}
	return wanted;
}

static bool trace_chosen(const struct connection *connection, uint32_t trace)
{
	return connection->choice == NULL || connection->choice->chosen[trace % TRACE_CHOSEN] == trace;
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
	struct rsock_trace_record record = {
		.packet = packet->trace & TRACE_ID,
		.interface = packet->ingress,
		.timestamp = now,
		.detail_length = (uint32_t)strnlen(detail, TRACE_DETAIL),
		.drop = drop_of(stage, detail),
	};
	if (record.drop != DROP_NONE)
		capture_dropped(server, record.packet, record.drop);
	if (server->tracers == 0 || !packet_traced(packet))
		return;
	memcpy(record.stage, stage, strnlen(stage, sizeof(record.stage) - 1));
	for (uint32_t i = 0; i < MAX_CONNECTIONS; i++) {
		struct connection *connection = server->connections[i];
		if (connection == NULL || !connection->traces || !trace_chosen(connection, record.packet))
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
