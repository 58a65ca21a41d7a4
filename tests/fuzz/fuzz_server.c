// Hostile apps: what they write to vr/NAME.sock and to their sockets' fds, against the whole
// server and host stack.  Forwarding is a stub that swallows packets.
//
// Input: records of one byte (what to do), one byte of length, and bytes.  Half of the
// requests get the cookie of a live socket, so that more than the doorkeeper is tried.
#define _GNU_SOURCE
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "rsock_wire.h"
#include "server/server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CLIENTS = 2, FDS = 8 };

struct world {
	struct state_segment *state;
	struct tables_view tables;
	struct interface_entry interface;
	struct address_entry address;
	struct rule_entry rules[3];
	struct host *host;
	struct server *server;
	int epoll;
	int listener;
	int clients[CLIENTS];
	int fds[FDS];
	uint32_t fd_count;
	uint64_t now;
	struct sockaddr_un name;
	socklen_t name_length;
};

static void packet_end(void *user, struct packet *packet)
{
	(void)user;
	free(packet->buffer);
	free(packet);
}

static enum drop_reason output(void *user, uint16_t interface, uint8_t family, struct packet *packet)
{
	(void)interface;
	(void)family;
	packet_end(user, packet);
	return DROP_NONE;
}

static bool source(void *user, uint8_t family, const uint8_t *destination, uint16_t interface, uint8_t *out, uint16_t *egress)
{
	struct world *w = user;
	(void)destination;
	(void)interface;
	memcpy(out, w->address.address, 16);
	*egress = 1;
	return family == FAMILY_IPV4;
}

static uint32_t path_mtu(void *user, uint8_t family, const uint8_t *destination, uint16_t interface)
{
	(void)user;
	(void)family;
	(void)destination;
	(void)interface;
	return 1500;
}

static void unreachable(void *user, struct packet *packet, uint8_t code)
{
	(void)user;
	(void)packet;
	(void)code;
}

static bool upcall(void *user, uint32_t slot, const void *header, const uint8_t *payload, uint32_t length)
{
	return server_upcall(((struct world *)user)->server, slot, header, payload, length);
}

static void error(void *user, uint32_t slot, int number)
{
	server_error(((struct world *)user)->server, slot, number);
}

static uint32_t deliver(void *user, uint32_t slot, const struct iovec *parts, int count)
{
	return server_deliver(((struct world *)user)->server, slot, parts, count);
}

static void stream(void *user, uint32_t slot, uint32_t events)
{
	server_stream(((struct world *)user)->server, slot, events);
}

static struct packet *packet_new(void *user, uint32_t room)
{
	struct packet *packet = calloc(1, sizeof(*packet));
	(void)user;
	packet->buffer = malloc(PACKET_HEADROOM + room);
	packet->room = PACKET_HEADROOM + room;
	packet->offset = PACKET_HEADROOM;
	return packet;
}

static int port_add(void *user, const struct port_spec *spec, const int *fds, int fd_count)
{
	(void)user;
	if (spec->port == 0 || spec->port >= MAX_PORTS)
		abort();
	if (spec->driver == DRIVER_TRACE)
		return -22;
	for (int i = 0; i < fd_count; i++)
		close(fds[i]);
	return 0;
}

static int port_remove(void *user, uint16_t port)
{
	(void)user;
	return port < MAX_PORTS ? 0 : -22;
}

static int port_link(void *user, uint16_t port, uint32_t link_up, uint32_t mtu)
{
	(void)user;
	(void)link_up;
	(void)mtu;
	return port < MAX_PORTS ? 0 : -22;
}

static bool port_at(void *user, int n, struct port_spec *spec, int *fds, int *fd_count)
{
	memset(spec, 0, sizeof(*spec));
	fds[0] = ((struct world *)user)->listener;
	*fd_count = 1;
	return n < 2;
}

static int offload(void *user, const struct rsock_offload *maps, const int *fds)
{
	(void)user;
	(void)maps;
	for (int i = 0; fds != NULL && i < 2; i++)
		close(fds[i]);
	return 0;
}

static bool offload_maps(void *user, struct rsock_offload *maps, int *fds)
{
	(void)user;
	(void)maps;
	(void)fds;
	return false;
}

static void observe(void *user, bool trace, bool capture)
{
	(void)user;
	(void)trace;
	(void)capture;
}

static void stop(void *user)
{
	(void)user;
}

static void serve(struct world *w)
{
	const struct host_ops host_ops = {
		.output = output, .source = source, .path_mtu = path_mtu, .unreachable = unreachable, .upcall = upcall,
		.error = error, .deliver = deliver, .stream = stream, .packet_get = packet_new, .packet_put = packet_end, .user = w,
	};
	const struct server_ops server_ops = {
		.port_add = port_add, .port_remove = port_remove, .port_link = port_link, .port_at = port_at,
		.offload = offload, .offload_maps = offload_maps, .observe = observe, .shutdown = stop, .user = w,
	};
	w->epoll = epoll_create1(EPOLL_CLOEXEC);
	w->host = host_new(w->state, &w->tables, &host_ops);
	w->server = server_new(w->host, w->state, &w->tables, &server_ops, w->epoll);
	host_attach(w->host);
	if (server_listen(w->server, w->listener, w->epoll, w->epoll) < 0)
		abort();
}

static void leave(struct world *w)
{
	server_free(w->server);
	host_free(w->host);
	close(w->epoll);
}

static void start(struct world *w)
{
	static const uint8_t ours[4] = {10, 0, 0, 1};
	memset(w, 0, sizeof(*w));
	// Not calloc: sanitizers would mark tens of megabytes for each input.
	w->state = mmap(NULL, sizeof(*w->state), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (w->state == MAP_FAILED)
		abort();
	w->interface = (struct interface_entry){.index = 1, .port = 1, .kind = INTERFACE_ETHERNET, .flags = INTERFACE_ADMIN_UP, .mtu = 1500, .name = "a"};
	w->address = (struct address_entry){.family = FAMILY_IPV4, .length = 24, .interface = 1};
	memcpy(w->address.address, ours, 4);
	// We are the relay too, and may ask in the name of a key of zeros.
	w->rules[0] = (struct rule_entry){.identity = RULE_RELAY, .id = getuid()};
	w->rules[1] = (struct rule_entry){
		.identity = RULE_CURVE,
		.operations = RULE_UDP | RULE_CONNECT | RULE_LISTEN,
		.quota = {.sockets = 4, .opens = 1000000, .accepts = 1000000, .bytes = 1 << 20, .memory = 1 << 20},
	};
	w->rules[2] = (struct rule_entry){.identity = RULE_ANY, .operations = RULE_UDP | RULE_RAW | RULE_CONNECT | RULE_LISTEN, .port_count = 1, .ports = {{1024, 65535}}};
	w->tables.interfaces = &w->interface;
	w->tables.interface_count = 1;
	w->tables.by_index[1] = 1;
	w->tables.addresses = &w->address;
	w->tables.address_count = 1;
	w->tables.rules = w->rules;
	w->tables.rule_count = 3;
	w->tables.root = 8;
	w->now = 1;
	w->name.sun_family = AF_UNIX;
	w->name_length = (socklen_t)offsetof(struct sockaddr_un, sun_path) + 1 +
		(socklen_t)snprintf(w->name.sun_path + 1, sizeof(w->name.sun_path) - 1, "anabranch-fuzz-%d", (int)getpid());
	w->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (bind(w->listener, (struct sockaddr *)&w->name, w->name_length) < 0 || listen(w->listener, 8) < 0)
		abort();
	serve(w);
	for (int i = 0; i < CLIENTS; i++)
		w->clients[i] = -1;
}

static int client(struct world *w, uint32_t which)
{
	int *fd = &w->clients[which % CLIENTS];
	if (*fd < 0) {
		*fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (connect(*fd, (struct sockaddr *)&w->name, w->name_length) < 0) {
			close(*fd);
			*fd = -1;
		}
	}
	return *fd;
}

static void run(struct world *w)
{
	struct epoll_event events[32];
	host_clock(w->host, w->now);
	// The rules change now and then under the sockets.
	if (w->now % 16 == 0) {
		w->rules[1].operations ^= RULE_UDP | RULE_LISTEN;
		w->tables.epoch++;
	}
	for (int round = 0; round < 4; round++) {
		server_turn(w->server);
		int count = epoll_wait(w->epoll, events, 32, 0);
		if (count <= 0)
			break;
		for (int i = 0; i < count; i++)
			server_event(w->server, events[i].data.u64, events[i].events, w->now);
	}
	if (host_deadline(w->host) <= w->now)
		host_tick(w->host, w->now);
	if (server_deadline(w->server) <= w->now)
		server_tick(w->server, w->now);
	host_flush(w->host, w->now);
}

// Take the answers; fds that come with them are sockets to play with.
static void answers(struct world *w, int fd)
{
	uint8_t record[4096];
	char room[256];
	for (;;) {
		struct iovec part = {.iov_base = record, .iov_len = sizeof(record)};
		struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
		if (recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) <= 0)
			return;
		for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c != NULL; c = CMSG_NXTHDR(&message, c)) {
			int count = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
			for (int i = 0; i < count; i++) {
				int received;
				memcpy(&received, CMSG_DATA(c) + (size_t)i * sizeof(int), sizeof(int));
				if (w->fd_count < FDS)
					w->fds[w->fd_count++] = received;
				else
					close(received);
			}
		}
	}
}

static void request(struct world *w, uint8_t what, const uint8_t *bytes, uint32_t length)
{
	uint8_t record[sizeof(struct rsock_header) + 256];
	struct rsock_header header = {.magic = RSOCK_MAGIC, .request = 1};
	int fd = client(w, what);
	if (fd < 0)
		return;
	header.op = length > 0 ? bytes[0] : RSOCK_OP_PING;
	header.session = what & 16; // repeated requests, or none
	header.socket = length > 1 ? bytes[1] % 8 : 0;
	header.cookie = w->state->sockets[header.socket % MAX_SOCKETS].cookie;
	if (what & 32) {
		header.cookie = w->state->tcp[header.socket].cookie;
		header.socket += MAX_SOCKETS;
	}
	memcpy(record, &header, sizeof(header));
	memcpy(record + sizeof(header), bytes, length);
	if (what & 4)
		memcpy(record, bytes, length < sizeof(header) ? length : sizeof(header));
	char room[CMSG_SPACE(2 * sizeof(int))] = {0};
	struct iovec part = {.iov_base = record, .iov_len = sizeof(header) + length};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	if (what & 8) {
		int given[2] = {w->fd_count > 0 ? w->fds[0] : fd, fd};
		message.msg_control = room;
		message.msg_controllen = sizeof(room);
		struct cmsghdr *c = CMSG_FIRSTHDR(&message);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(given));
		memcpy(CMSG_DATA(c), given, sizeof(given));
	}
	(void)sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	run(w);
	answers(w, fd);
}

static void open_one(struct world *w, uint8_t what)
{
	struct rsock_open open = {.family = what & 16 ? AF_INET6 : AF_INET, .type = what & 8 ? SOCK_STREAM : what & 32 ? SOCK_RAW : SOCK_DGRAM, .protocol = what & 8 ? 0 : what & 32 ? 89 : 0};
	struct rsock_header header = {.magic = RSOCK_MAGIC, .op = RSOCK_OP_OPEN};
	int fd = client(w, what);
	uint8_t record[sizeof(header) + sizeof(open)];
	memcpy(record, &header, sizeof(header));
	memcpy(record + sizeof(header), &open, sizeof(open));
	if (fd < 0)
		return;
	(void)send(fd, record, sizeof(record), MSG_DONTWAIT | MSG_NOSIGNAL);
	run(w);
	answers(w, fd);
}

static void datagram(struct world *w, uint8_t what, const uint8_t *bytes, uint32_t length)
{
	uint8_t record[sizeof(struct rsock_datagram) + 256];
	struct rsock_datagram header = {.version = RSOCK_VERSION, .family = FAMILY_IPV4, .port = 53, .address = {10, 0, 0, 2}};
	if (w->fd_count == 0)
		return;
	int fd = w->fds[what % w->fd_count];
	memcpy(record, &header, sizeof(header));
	memcpy(record + sizeof(header), bytes, length);
	if (what & 8)
		memcpy(record, bytes, length < sizeof(header) ? length : sizeof(header));
	(void)send(fd, record, what & 16 ? length : sizeof(header) + length, MSG_DONTWAIT | MSG_NOSIGNAL);
	run(w);
}

// The fd of a stream socket is used natively: it connects to another socket's name, listens, takes what there is, or
// ends.  `bytes` is a name where it connects by name.
static void native(struct world *w, uint8_t what, const uint8_t *bytes, uint32_t length)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	socklen_t name_length = sizeof(name);
	uint8_t taken[512];
	if (w->fd_count == 0)
		return;
	int fd = w->fds[what % w->fd_count];
	if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
		return;
	switch ((what >> 3) & 3) {
	case 0:
		(void)listen(fd, what & 1);
		break;
	case 1:
		if (length > 64 && getsockname(w->fds[bytes[0] % w->fd_count], (struct sockaddr *)&name, &name_length) < 0)
			break;
		if (length <= 64)
			memcpy(name.sun_path, bytes, length);
		(void)connect(fd, (struct sockaddr *)&name, name_length);
		break;
	case 2: {
		int accepted = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (accepted >= 0)
			close(accepted);
		(void)!recv(fd, taken, sizeof(taken), MSG_DONTWAIT);
		break;
	}
	default:
		(void)shutdown(fd, what & 1 ? SHUT_WR : SHUT_RD);
		break;
	}
	run(w);
}

// A connection all at once; some clients wait for it.
static void dial(struct world *w, uint8_t what)
{
	struct {
		struct rsock_header header;
		struct rsock_dial dial;
		struct rsock_name to;
		char app[4];
	} __attribute__((packed)) record = {
		.header = {.magic = RSOCK_MAGIC, .op = RSOCK_OP_DIAL, .flags = what & 16 ? RSOCK_FLAG_WAIT : 0, .request = what},
		.dial = {.family = AF_INET},
		.to = {.family = AF_INET, .port = 80, .address = {10, 0, what & 32 ? 9 : 0, 2}, .remote_family = what & 2 ? AF_INET : 0, .remote_port = 7},
		.app = "fuzz",
	};
	int fd = client(w, what);
	if (fd < 0)
		return;
	(void)send(fd, &record, sizeof(record), MSG_DONTWAIT | MSG_NOSIGNAL);
	run(w);
	answers(w, fd);
}

// A whole connect, as the library does it.
static void join(struct world *w, uint8_t what)
{
	struct rsock_header header = {.magic = RSOCK_MAGIC, .op = RSOCK_OP_CONNECT};
	struct rsock_name to = {.family = AF_INET, .port = 80, .address = {10, 0, 0, 2}};
	struct rsock_filler filler = {.bytes = 3};
	uint8_t record[sizeof(header) + sizeof(to) + sizeof(filler)], answer[512];
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	int fd = client(w, what);
	uint32_t slot = MAX_SOCKETS + (what & 3);
	if (what & 8) {
		dial(w, what);
		return;
	}
	if (fd < 0 || w->fd_count == 0)
		return;
	header.socket = slot;
	header.cookie = w->state->tcp[slot - MAX_SOCKETS].cookie;
	memcpy(record, &header, sizeof(header));
	memcpy(record + sizeof(header), &to, sizeof(to));
	memcpy(record + sizeof(header) + sizeof(to), &filler, sizeof(filler));
	(void)send(fd, record, sizeof(record), MSG_DONTWAIT | MSG_NOSIGNAL);
	run(w);
	ssize_t got = recv(fd, answer, sizeof(answer), MSG_DONTWAIT);
	size_t head = sizeof(header) + sizeof(to);
	if (got <= (ssize_t)head || (size_t)got - head > sizeof(name.sun_path))
		return;
	memcpy(name.sun_path, answer + head, (size_t)got - head);
	for (uint32_t i = 0; i < w->fd_count; i++)
		if (connect(w->fds[i], (struct sockaddr *)&name, (socklen_t)(sizeof(name.sun_family) + (size_t)got - head)) == 0)
			(void)send(w->fds[i], "fill", 3, MSG_DONTWAIT | MSG_NOSIGNAL);
	run(w);
}

static void step(struct world *w, uint8_t what, const uint8_t *bytes, uint32_t length)
{
	switch (what >> 6) {
	case 0:
		open_one(w, what);
		break;
	case 1:
		request(w, what, bytes, length);
		break;
	case 2:
		datagram(w, what, bytes, length);
		break;
	default:
		if (what & 32) {
			native(w, what, bytes, length);
			break;
		}
		if (what & 16) {
			join(w, what);
			break;
		}
		if (what & 1 && w->fd_count > 0)
			close(w->fds[--w->fd_count]);
		if (what & 2) {
			leave(w); // the forwarder dies; the next one finds its sockets
			serve(w);
		}
		if (what & 4 && w->clients[0] >= 0) {
			close(w->clients[0]);
			w->clients[0] = -1;
		}
		w->now += (uint64_t)length * 100000000;
		run(w);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world w;
	start(&w);
	while (size >= 2) {
		uint32_t length = data[1] < size - 2 ? data[1] : (uint32_t)(size - 2);
		step(&w, data[0], data + 2, length);
		data += 2 + length;
		size -= 2 + length;
	}
	leave(&w);
	for (int i = 0; i < CLIENTS; i++)
		if (w.clients[i] >= 0)
			close(w.clients[i]);
	while (w.fd_count > 0)
		close(w.fds[--w.fd_count]);
	close(w.listener);
	munmap(w.state, sizeof(*w.state));
	return 0;
}
