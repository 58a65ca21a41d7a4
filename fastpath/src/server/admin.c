// What the manager asks: ports, adoption after its restart, shutdown.  Root only; PING is
// for all, since it is how anybody sees that the forwarder serves.
#include "server/internal.h"

#include <errno.h>

static int port_add(struct server *server, struct request *request)
{
	struct port_spec spec;
	if (request->length < sizeof(spec))
		return -EINVAL;
	memcpy(&spec, request->body, sizeof(spec));
	if (spec.port == 0 || spec.port >= MAX_PORTS)
		return -EINVAL;
	int error = server->ops.port_add(server->ops.user, &spec, request->fds, request->fd_count);
	if (error == 0)
		request->fd_count = 0; // they belong to the port now
	return error;
}

static int port_change(struct server *server, const struct request *request)
{
	struct rsock_port port;
	if (request->length < sizeof(port))
		return -EINVAL;
	memcpy(&port, request->body, sizeof(port));
	if (port.port == 0 || port.port >= MAX_PORTS)
		return -EINVAL;
	if (request->header.op == RSOCK_OP_PORT_REMOVE)
		return server->ops.port_remove(server->ops.user, (uint16_t)port.port);
	return server->ops.port_link(server->ops.user, (uint16_t)port.port, port.link_up, port.mtu);
}

// One record for each port, then an empty one.
static void adopt(struct server *server, struct connection *connection, const struct request *request)
{
	struct port_spec spec;
	int fds[MAX_REQUEST_FDS];
	int fd_count = 0;
	for (int n = 0; n < MAX_WORKERS * MAX_PORTS && !connection->closing && server->ops.port_at(server->ops.user, n, &spec, fds, &fd_count); n++)
		connection_reply_fds(connection, request, RSOCK_FLAG_MORE, &spec, sizeof(spec), fds, fd_count);
	if (!connection->closing)
		connection_reply(connection, request, 0, NULL, 0);
}

static int offload(struct server *server, struct request *request)
{
	struct rsock_offload maps;
	if (request->length < sizeof(maps) || (request->fd_count != 0 && request->fd_count != 2))
		return -EINVAL;
	memcpy(&maps, request->body, sizeof(maps));
	int error = server->ops.offload(server->ops.user, &maps, request->fd_count == 2 ? request->fds : NULL);
	if (error == 0)
		request->fd_count = 0;
	return error;
}

static void offload_maps(struct server *server, struct connection *connection, const struct request *request)
{
	struct rsock_offload maps;
	int fds[2];
	if (server->ops.offload_maps(server->ops.user, &maps, fds))
		connection_reply_fds(connection, request, 0, &maps, sizeof(maps), fds, 2);
	else
		connection_reply(connection, request, ENODATA, NULL, 0);
}

static void segments(struct server *server, struct connection *connection, const struct request *request)
{
	int fds[2] = {server->tables_ro, server->state_ro};
	if (fds[0] < 0 || fds[1] < 0)
		connection_reply(connection, request, ENODATA, NULL, 0);
	else
		connection_reply_fds(connection, request, 0, NULL, 0, fds, 2);
}

void admin_run(struct server *server, struct connection *connection, struct request *request)
{
	if (request->header.op == RSOCK_OP_PING) {
		connection_reply(connection, request, 0, NULL, 0);
		return;
	}
	if (request->header.op < RSOCK_OP_SEGMENTS) {
		connection_reply(connection, request, EOPNOTSUPP, NULL, 0);
		return;
	}
	if (connection->peer.uid != 0) {
		connection_reply(connection, request, EACCES, NULL, 0);
		return;
	}
	switch (request->header.op) {
	case RSOCK_OP_SEGMENTS:
		segments(server, connection, request);
		break;
	case RSOCK_OP_ADOPT:
		adopt(server, connection, request);
		break;
	case RSOCK_OP_PORT_ADD:
		connection_reply(connection, request, port_add(server, request), NULL, 0);
		break;
	case RSOCK_OP_PORT_REMOVE:
	case RSOCK_OP_PORT_LINK:
		connection_reply(connection, request, port_change(server, request), NULL, 0);
		break;
	case RSOCK_OP_OFFLOAD:
		connection_reply(connection, request, offload(server, request), NULL, 0);
		break;
	case RSOCK_OP_OFFLOAD_MAPS:
		offload_maps(server, connection, request);
		break;
	case RSOCK_OP_SHUTDOWN:
		connection_reply(connection, request, 0, NULL, 0);
		server->ops.shutdown(server->ops.user);
		break;
	default:
		connection_reply(connection, request, EOPNOTSUPP, NULL, 0);
		break;
	}
}
