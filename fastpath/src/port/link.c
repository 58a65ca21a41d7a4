// The driver of a patch link: a port whose other end is a port of another VR.
//
// fds: own segment (read-write), peer's segment (read-only), own eventfd (we sleep on it),
// peer's eventfd (we wake it).  See port/link_end.c for the rings.
#include "port/link_end.h"
#include "port/port.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RESERVED_UNITS = LINK_UNITS / 16 }; // for urgent packets

struct link_port {
	struct port port;
	struct link_end end;
};

static struct link_port *link_of(struct port *port)
{
	return (struct link_port *)port;
}

static int link_receive(struct port *port, struct packet_pool *pool, struct packet **packets, int max, uint64_t *lost)
{
	struct link_end *end = &link_of(port)->end;
	struct link_frame frame;
	int count = 0;
	int frames = 0;

	while (frames++ < max && link_end_next(end, &frame)) {
		struct packet *packet = frame.malformed ? NULL : packet_get(pool, frame.length);
		if (packet == NULL) {
			link_end_take(end, &frame, NULL, NULL);
			lost[frame.malformed ? DROP_TRUNCATED : DROP_NO_BUFFER]++;
			continue;
		}
		link_end_take(end, &frame, packet_data(packet), &packet->vnet);
		packet->length = frame.length;
		packet->port = port->spec.port;
		port_vnet_check(packet);
		packets[count++] = packet;
	}
	return count;
}

static void link_release(struct port *port)
{
	struct link_end *end = &link_of(port)->end;
	link_end_record(end);
	__atomic_store_n(&port->state->progress, end->consumer, __ATOMIC_RELAXED);
}

static bool link_fill(struct link_end *end, struct packet *packet)
{
	struct iovec parts[1 + PACKET_PARTS];
	parts[0] = (struct iovec){ .iov_base = packet_data(packet), .iov_len = packet->length };
	if (packet->part_count != 0)
		memcpy(parts + 1, packet_parts(packet), packet->part_count * sizeof(*parts));
	return link_end_fill(end, parts, packet_bytes(packet), &packet->vnet);
}

static int link_transmit(struct port *port, struct packet **packets, int count)
{
	struct link_end *end = &link_of(port)->end;
	int sent = 0;

	if (packet_bytes(packets[0]) == 0 || packet_bytes(packets[0]) > SUPER_ROOM)
		return -EMSGSIZE;
	while (sent < count && (packets[sent]->urgent || link_end_has_room(end, RESERVED_UNITS)) && link_fill(end, packets[sent]))
		sent++;
	if (sent > 0)
		link_end_publish(end);
	return sent;
}

static bool link_pending(const struct port *port)
{
	return link_end_pending(&((const struct link_port *)port)->end);
}

static void link_sleeping(struct port *port, bool sleeping)
{
	link_end_sleeping(&link_of(port)->end, sleeping);
}

static void link_event(struct port *port)
{
	uint64_t count;
	(void)!read(port->fd, &count, sizeof(count));
}

static void link_close(struct port *port)
{
	struct link_port *link = link_of(port);
	link_end_unmap(&link->end);
	port_close_fds(port);
	free(link);
}

static const struct port_ops link_ops = {
	.name = "link",
	.receive = link_receive,
	.release = link_release,
	.transmit = link_transmit,
	.pending = link_pending,
	.sleeping = link_sleeping,
	.event = link_event,
	.close = link_close,
};

int link_open(const struct port_spec *spec, const int *fds, int fd_count, struct port_state *state, struct port **out)
{
	if (fd_count != 4)
		return -EINVAL;
	// A blocking eventfd would let a peer that never reads its own stop us, or one that
	// empties ours under us.
	for (int i = 2; i < 4; i++) {
		int flags = fcntl(fds[i], F_GETFL);
		if (flags < 0 || (flags & O_NONBLOCK) == 0)
			return -EINVAL;
	}
	struct link_port *link = calloc(1, sizeof(*link));
	if (link == NULL)
		return -ENOMEM;
	int error = link_end_map(&link->end, fds[0], fds[1]);
	if (error < 0) {
		free(link);
		return error;
	}
	port_init(&link->port, &link_ops, spec, fds, fd_count, state);
	link->port.fd = fds[2];
	link->end.own_event = fds[2];
	link->end.peer_event = fds[3];
	state->generation = spec->generation;
	state->progress = link->end.consumer;
	*out = &link->port;
	return 0;
}
