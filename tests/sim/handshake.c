// A listener's answers to single segments (RFC 9293 section 3.10.7, RFC 5961, Linux's semantics of the backlog).
#include "sim.h"

#include <stdio.h>

struct stranger {
	struct sim_world *world;
	struct sim_end *server;
	uint16_t port;
};

#define EXPECT(condition) do { \
	if (!(condition)) \
		sim_fail(stranger->world, "handshake.c:%d: %s", __LINE__, #condition); \
} while (0)

static void wait_ms(struct stranger *stranger, uint32_t ms)
{
	for (uint32_t i = 0; i < ms; i++) {
		stranger->world->now += TCP_MS;
		host_clock(stranger->server->host, stranger->world->now);
		host_tick(stranger->server->host, stranger->world->now);
		host_flush(stranger->server->host, stranger->world->now);
	}
}

// Send a segment; gives the answer, with count 0 where there was none.
static struct sim_stray tell(struct stranger *stranger, uint8_t flags, uint32_t seq, uint32_t ack, uint32_t length)
{
	struct sim_end *end = stranger->server;
	struct packet *packet = end->host->ops.packet_get(end, 40 + length);
	uint8_t *bytes = packet_data(packet);
	const uint8_t start[] = {0x45, 0, 0, (uint8_t)(40 + length), 0, 0, 0x40, 0, 64, IPPROTO_TCP, 0, 0, 172, 16, 0, 1};

	memset(bytes, 0, 40 + length);
	memcpy(bytes, start, sizeof(start));
	memcpy(bytes + 16, end->addresses[0].address, 4);
	store16(bytes + 20, stranger->port);
	store16(bytes + 22, SIM_PORT);
	store32(bytes + 24, seq);
	store32(bytes + 28, ack);
	bytes[32] = 0x50;
	bytes[33] = flags;
	store16(bytes + 34, 10000);
	packet->length = 40 + length;
	packet->ingress = 1;
	packet->vnet.flags = VIRTIO_NET_HDR_F_DATA_VALID;
	end->stray.count = 0;
	if (host_input(end->host, packet, stranger->world->now) != DROP_NONE)
		end->host->ops.packet_put(end, packet);
	host_flush(end->host, stranger->world->now);
	return end->stray;
}

static bool accepted(struct stranger *stranger, uint32_t *slot)
{
	return host_accept(stranger->server->host, stranger->server->listener, slot) == 0;
}

static uint32_t syn(struct stranger *stranger, uint16_t port, uint32_t seq)
{
	stranger->port = port;
	struct sim_stray answer = tell(stranger, TCP_SYN, seq, 0, 0);
	EXPECT(answer.count == 1 && answer.flags == (TCP_SYN | TCP_ACK) && answer.ack == seq + 1);
	return answer.seq;
}

static void answers_in_syn_received(struct stranger *stranger)
{
	uint32_t slot, iss = syn(stranger, 1001, 0xffffffff);
	struct sim_stray answer = tell(stranger, TCP_SYN, 0xffffffff, 0, 0);
	EXPECT(answer.count == 1 && answer.seq == iss); // the same SYN again
	wait_ms(stranger, 600);
	answer = tell(stranger, TCP_ACK, 0, iss + 2, 0);
	EXPECT(answer.count == 1 && answer.flags == TCP_RST && answer.seq == iss + 2);
	EXPECT(tell(stranger, TCP_RST, 5, 0, 0).flags == TCP_ACK);
	EXPECT(tell(stranger, TCP_RST, 0x7fffffff, 0, 0).count == 0);
	EXPECT(tell(stranger, TCP_FIN, 0, 0, 0).count == 0);
	EXPECT(!accepted(stranger, &slot));
	EXPECT(tell(stranger, TCP_ACK, 0, iss + 1, 0).count == 0 && accepted(stranger, &slot));
	host_abort(stranger->server->host, slot);

	iss = syn(stranger, 1002, 100);
	EXPECT(tell(stranger, TCP_RST, 101, 0, 0).count == 0);
	answer = tell(stranger, TCP_ACK, 101, iss + 1, 0); // of nothing that is known
	EXPECT(answer.flags == TCP_RST && !accepted(stranger, &slot));
}

static void repeats_with_back_off(struct stranger *stranger)
{
	const uint32_t at[] = {1000, 3000, 7000, 15000, 31000};
	uint32_t passed = 0;

	syn(stranger, 1003, 7);
	for (uint32_t i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		wait_ms(stranger, at[i] - 2 - passed);
		EXPECT(stranger->server->stray.count == i + 1);
		wait_ms(stranger, 4);
		EXPECT(stranger->server->stray.count == i + 2);
		passed = at[i] + 2;
	}
	EXPECT(stranger->server->host->tcp->request_count == 1);
	wait_ms(stranger, 63010 - passed);
	EXPECT(stranger->server->stray.count == 6 && stranger->server->host->tcp->request_count == 0);
}

// A backlog of n takes n + 1; who finds it full stays half open and is asked again.
static void accept_queue(struct stranger *stranger)
{
	uint32_t slot, first = syn(stranger, 1010, 1);
	EXPECT(tell(stranger, TCP_ACK, 2, first + 1, 0).count == 0);
	uint32_t second = syn(stranger, 1011, 1), third = syn(stranger, 1012, 1);
	stranger->port = 1011;
	EXPECT(tell(stranger, TCP_ACK, 2, second + 1, 0).count == 0);
	stranger->port = 1012;
	EXPECT(tell(stranger, TCP_ACK, 2, third + 1, 0).count == 0);
	stranger->port = 1013;
	EXPECT(tell(stranger, TCP_SYN, 1, 0, 0).count == 0);
	EXPECT(accepted(stranger, &slot) && accepted(stranger, &slot) && !accepted(stranger, &slot));
	stranger->server->stray.count = 0;
	wait_ms(stranger, 1010);
	EXPECT(stranger->server->stray.count == 1 && stranger->server->stray.seq == third);
	stranger->port = 1012;
	tell(stranger, TCP_ACK, 2, third + 1, 0);
	EXPECT(accepted(stranger, &slot));
}

static void data_with_the_handshake(struct stranger *stranger)
{
	uint8_t bytes[100];
	uint32_t slot, iss = syn(stranger, 1020, 50);

	tell(stranger, TCP_ACK | TCP_FIN, 51, iss + 1, 60);
	EXPECT(accepted(stranger, &slot));
	EXPECT(host_stream_read(stranger->server->host, slot, bytes, sizeof(bytes), 0) == 60);
	EXPECT(host_stream_read(stranger->server->host, slot, bytes, sizeof(bytes), 0) == 0);
}

static void deferred(struct stranger *stranger)
{
	struct tcp_socket *listener = host_stream(stranger->server->host, stranger->server->listener);
	uint32_t slot;

	listener->flags |= TCP_DEFER_ACCEPT_SET;
	listener->defer_accept_s = 5;
	uint32_t iss = syn(stranger, 1030, 50);
	EXPECT(tell(stranger, TCP_ACK, 51, iss + 1, 0).count == 0 && !accepted(stranger, &slot));
	tell(stranger, TCP_ACK, 51, iss + 1, 5);
	EXPECT(accepted(stranger, &slot));
	listener->flags &= ~(uint32_t)TCP_DEFER_ACCEPT_SET;
}

static void closing(struct stranger *stranger)
{
	uint32_t iss = syn(stranger, 1040, 50);
	tell(stranger, TCP_ACK, 51, iss + 1, 0);
	syn(stranger, 1041, 50);
	host_close(stranger->server->host, stranger->server->listener);
	host_flush(stranger->server->host, stranger->world->now);
	EXPECT(stranger->server->stray.flags & TCP_RST);
	EXPECT(stranger->server->host->tcp->request_count == 0);
	EXPECT(tell(stranger, TCP_SYN, 50, 0, 0).flags == (TCP_RST | TCP_ACK));
}

bool handshake_run(struct sim_world *world, const struct host_config *config)
{
	struct stranger made = {.world = world, .server = &world->ends[1]}, *stranger = &made;
	struct host_config plain = *config;

	plain.syn_cookies = 0;
	host_configure(stranger->server->host, &plain);
	stranger->server->backlog = 1;
	app_listen(stranger->server);
	answers_in_syn_received(stranger);
	repeats_with_back_off(stranger);
	accept_queue(stranger);
	data_with_the_handshake(stranger);
	deferred(stranger);
	closing(stranger);
	printf("handshakes: %s\n", world->failure[0] == '\0' ? "ok" : world->failure);
	return world->failure[0] == '\0';
}
