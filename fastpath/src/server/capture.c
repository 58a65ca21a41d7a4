// Captures for operators.  A frame that came in is held until the end of the iteration, so that its record tells
// whether it was dropped, and why; then all go out, in the order in which they were seen.  What a slow reader
// cannot take is counted, never waited for.
//
// Not told: the fate of a frame that waits for a neighbor, or for other fragments, beyond its batch.
#include "server/internal.h"

#include <errno.h>
#include <stdlib.h>

enum {
	HELD_FRAMES = 512,
	HELD_BYTES = 1 << 20,
	HEADERS = 256          // bytes that are held of each frame at least, whatever the snapshot length: filters look at them
};

struct held_frame {
	uint64_t timestamp;
	uint32_t trace;        // id; 0: nobody will tell its fate
	uint32_t offset;       // in `bytes`
	uint32_t captured;
	uint32_t length;
	uint16_t interface;
	uint16_t drop;
	uint16_t vlan_tci;
	bool vlan_present;
	bool outgoing;
};

struct held_frames {
	uint32_t count;
	uint32_t used;
	struct held_frame frames[HELD_FRAMES];
	uint8_t bytes[HELD_BYTES];
};

void capture_request(struct server *server, struct connection *connection, const struct request *request)
{
	const uint32_t fixed = sizeof(connection->capture);
	struct filter filter;
	int error = !connection->trusted ? EACCES : request->length < fixed ? EINVAL :
		filter_load(&filter, request->body + fixed, request->length - fixed);
	if (error == 0 && server->held == NULL) {
		server->held = calloc(1, sizeof(*server->held));
		error = server->held == NULL ? ENOMEM : 0;
	}
	if (error == 0 && connection->capture_filter == NULL) {
		connection->capture_filter = malloc(sizeof(*connection->capture_filter));
		error = connection->capture_filter == NULL ? ENOMEM : 0;
	}
	if (error == 0) {
		memcpy(&connection->capture, request->body, fixed);
		*connection->capture_filter = filter;
		connection->capture_request = request->header.request;
		server->capturers += !connection->captures;
		connection->captures = true;
		observe_changed(server);
	}
	connection_reply(connection, request, error, NULL, 0);
}

void capture_stop(struct server *server, struct connection *connection)
{
	server->capturers -= connection->captures;
	connection->captures = false;
	free(connection->capture_filter);
	connection->capture_filter = NULL;
	if (server->capturers == 0) {
		free(server->held);
		server->held = NULL;
	}
}

static bool capture_wants(const struct connection *connection, uint16_t interface, bool outgoing, const struct filter_subject *view)
{
	if (connection == NULL || !connection->captures || (outgoing && connection->capture.drops_only != 0))
		return false;
	if (connection->capture.interface != 0 && connection->capture.interface != interface)
		return false;
	return filter_matches(connection->capture_filter, view);
}

// How many bytes of this frame somebody wants; 0: nobody does.
static uint32_t bytes_wanted(const struct server *server, uint16_t interface, bool outgoing, const struct packet *packet)
{
	struct filter_subject view;
	uint32_t wanted = 0;
	filter_look(packet, true, &view);
	for (uint32_t i = 0; i < MAX_CONNECTIONS; i++) {
		const struct connection *connection = server->connections[i];
		if (!capture_wants(connection, interface, outgoing, &view))
			continue;
		uint32_t snap = connection->capture.snap;
		if (snap == 0 || snap >= packet->length)
			return packet->length;
		if (snap > wanted)
			wanted = snap;
	}
	if (wanted == 0)
		return 0;
	wanted = wanted < HEADERS ? HEADERS : wanted;
	return wanted < packet->length ? wanted : packet->length;
}

void server_capture(struct server *server, uint16_t interface, bool outgoing, const struct packet *packet, uint64_t now)
{
	struct held_frames *held = server->held;
	uint32_t bytes = held == NULL ? 0 : bytes_wanted(server, interface, outgoing, packet);
	if (bytes == 0)
		return;
	if (held->count == HELD_FRAMES || held->used + bytes > HELD_BYTES)
		server_capture_flush(server);
	struct held_frame *frame = &held->frames[held->count++];
	*frame = (struct held_frame){
		.timestamp = now,
		.trace = outgoing ? 0 : packet->trace & TRACE_ID,
		.offset = held->used,
		.captured = bytes,
		.length = packet->length,
		.interface = interface,
		.vlan_tci = packet->vlan_tci,
		.vlan_present = packet->vlan_present,
		.outgoing = outgoing,
	};
	memcpy(held->bytes + held->used, packet->buffer + packet->offset, bytes);
	held->used += bytes;
}

void capture_dropped(struct server *server, uint32_t trace, uint32_t reason)
{
	struct held_frames *held = server->held;
	for (uint32_t i = held == NULL ? 0 : held->count; i > 0; i--) {
		struct held_frame *frame = &held->frames[i - 1];
		if (frame->trace == trace) {
			frame->drop = (uint16_t)reason;
			return;
		}
	}
}

static void capture_send(struct connection *connection, const struct held_frame *frame, const uint8_t *data)
{
	uint32_t snap = connection->capture.snap;
	uint32_t captured = snap != 0 && snap < frame->captured ? snap : frame->captured;
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
			.interface = frame->interface,
			.outgoing = frame->outgoing,
			.timestamp = frame->timestamp,
			.captured = captured,
			.length = frame->length,
			.lost = connection->capture_lost,
			.drop = frame->drop,
		},
	};
	if (connection_send(connection, &head, sizeof(head), data, captured, NULL, 0))
		connection->capture_lost = 0;
	else
		connection->capture_lost++;
}

static void frame_tell(struct server *server, const struct held_frame *frame, uint8_t *data)
{
	const struct packet packet = {
		.buffer = data, .length = frame->captured, .vlan_tci = frame->vlan_tci, .vlan_present = frame->vlan_present
	};
	struct filter_subject view;
	filter_look(&packet, true, &view);
	for (uint32_t i = 0; i < MAX_CONNECTIONS; i++) {
		struct connection *connection = server->connections[i];
		if (!capture_wants(connection, frame->interface, frame->outgoing, &view))
			continue;
		if (connection->capture.drops_only == 0 || frame->drop != DROP_NONE)
			capture_send(connection, frame, data);
	}
}

void server_capture_flush(struct server *server)
{
	struct held_frames *held = server->held;
	if (held == NULL)
		return;
	for (uint32_t i = 0; i < held->count; i++)
		frame_tell(server, &held->frames[i], held->bytes + held->frames[i].offset);
	held->count = held->used = 0;
}
