// Framing of a session's bytes: RFC 4271 sections 4.1 and 6.1, RFC 8654.
#include <errno.h>
#include <string.h>

#include "bgp/internal.h"

enum message_type { MESSAGE_OPEN = 1, MESSAGE_UPDATE, MESSAGE_NOTIFICATION, MESSAGE_KEEPALIVE, MESSAGE_REFRESH };

// Events that one UPDATE may have; so much room is asked before it is read.
enum { EVENTS_EACH = 4 };

struct header {
	uint32_t length;
	uint8_t type;
};

// 1: a message is there; 0: not all of it; -EPROTO: `event` says what is wrong.
static int header_read(const struct peer *peer, const uint8_t *data, uint32_t at, uint32_t size, struct header *out,
	struct bgp_event *event)
{
	static const uint32_t least[] = {0, 29, 23, 21, 19, 19};
	static const uint8_t marker[16] = {255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
	if (size - at < BGP_HEADER)
		return 0;
	*event = (struct bgp_event){.kind = BGP_EVENT_ERROR, .code = 1, .subcode = 1};
	if (memcmp(data + at, marker, sizeof(marker)) != 0)
		return -EPROTO;
	out->length = load16(data + at + 16);
	out->type = data[at + 18];
	if (out->type < MESSAGE_OPEN || out->type > MESSAGE_REFRESH) {
		*event = (struct bgp_event){.kind = BGP_EVENT_ERROR, .code = 1, .subcode = 3, .offset = at + 18, .length = 1};
		return -EPROTO;
	}
	uint32_t most = peer->up && peer->settings.extended_messages ? BGP_MESSAGE_EXTENDED : BGP_MESSAGE;
	most = out->type == MESSAGE_OPEN ? BGP_MESSAGE : out->type == MESSAGE_KEEPALIVE ? BGP_HEADER : most;
	if (out->length < least[out->type] || out->length > most) {
		*event = (struct bgp_event){.kind = BGP_EVENT_ERROR, .code = 1, .subcode = 2, .offset = at + 16, .length = 2};
		return -EPROTO;
	}
	return size - at >= out->length;
}

int bgp_feed(struct bgp_table *t, uint32_t number, const uint8_t *data, uint32_t size, struct bgp_event *events,
	uint32_t room, struct bgp_fed *fed)
{
	struct peer *peer = peer_find(t, number);
	*fed = (struct bgp_fed){0};
	if (peer == NULL || room < EVENTS_EACH)
		return peer == NULL ? -ENOENT : -EINVAL;
	while (fed->events + EVENTS_EACH <= room) {
		struct header header;
		int found = header_read(peer, data, fed->consumed, size, &header, &events[fed->events]);
		if (found <= 0) {
			fed->events += found < 0;
			return 0;
		}
		uint32_t body = fed->consumed + BGP_HEADER;
		if (header.type != MESSAGE_UPDATE) {
			events[fed->events++] = (struct bgp_event){.kind = BGP_EVENT_MESSAGE, .type = header.type, .offset = body,
			                                           .length = header.length - BGP_HEADER};
		} else if (!peer->up) {
			events[fed->events++] = (struct bgp_event){.kind = BGP_EVENT_UPDATE_EARLY};
			return 0;
		} else {
			int error = message_update(t, peer, data + body, header.length - BGP_HEADER, body, events, room, &fed->events);
			if (error < 0)
				return error == -EPROTO ? 0 : error;
			fed->updates++;
			peer->updates++;
		}
		fed->consumed += header.length;
		// The session acts before what follows is read: on the begin of a refresh (RFC 7313), for one.
		if (!peer->up || (header.type != MESSAGE_UPDATE && header.type != MESSAGE_KEEPALIVE))
			return 0;
	}
	return 1;
}
