// Requests that are asked again, and are not executed again.
//
// An app whose connection ends before it has got its answer repeats the request on another one, with the same
// session and number, as a rule to the successor of this process.  So what became of requests that change
// something stands in the state segment, where a later one takes its place.  What is answered then is the same
// errno, or what the socket is now.
//
// Between the execution and the note of it lie some instructions.  Who dies there leaves a bound socket to one
// who binds it again (EINVAL), or a joined group (EADDRINUSE).
#include "server/internal.h"

#include <errno.h>
#include "base/siphash.h"

static bool is_noted(const struct request *request)
{
	if (request->header.session == 0 || (request->header.flags & RSOCK_FLAG_WAIT))
		return false;
	switch (request->header.op) {
	case RSOCK_OP_CONNECT: // that of a stream ends with who has begun it
		return request->header.socket < MAX_SOCKETS;
	case RSOCK_OP_BIND:
	case RSOCK_OP_SETOPT:
	case RSOCK_OP_CLOSE:
		return true;
	default:
		return false;
	}
}

static struct answered_request *place_of(const struct server *server, const struct request *request)
{
	const uint64_t input[2] = {request->header.session, request->header.request};
	return &server->state->answered[siphash24(server->state->random_key, input, sizeof(input)) % MAX_ANSWERED];
}

bool replay(struct server *server, struct connection *connection, struct request *request)
{
	const struct rsock_header *header = &request->header;
	if (!is_noted(request))
		return false;
	const struct answered_request *noted = place_of(server, request);
	if (noted->session != header->session || noted->request != header->request || noted->uid != connection->peer.uid ||
	    noted->socket != header->socket)
		return false;
	request->again = noted->error == 0 && (header->op == RSOCK_OP_BIND || header->op == RSOCK_OP_CONNECT);
	if (!request->again)
		connection_reply(connection, request, noted->error, NULL, 0);
	return !request->again;
}

void replay_note(struct server *server, const struct connection *connection, const struct request *request)
{
	if (!is_noted(request))
		return;
	struct answered_request *place = place_of(server, request);
	place->session = 0; // a note that is half written is none
	__atomic_signal_fence(__ATOMIC_RELEASE);
	place->request = request->header.request;
	place->uid = connection->peer.uid;
	place->socket = request->header.socket;
	place->error = connection->answer;
	__atomic_signal_fence(__ATOMIC_RELEASE);
	place->session = request->header.session;
}
