// A SYN flood (RFC 4987): strangers send 50,000 SYNs a second and nothing else, while one connection
// goes on and others are made.
#include "sim.h"

#include <stdio.h>
#include <time.h>

enum {
	FLOOD_SECONDS = 4, SYN_EVERY_US = 20, STEP_US = 10000, LEGITIMATE = FLOOD_SECONDS * 1000000 / STEP_US,
	MESSAGE = 1000, BACKLOG = 128
};

struct flood {
	struct sim_world *world;
	struct sim_end *client, *server;
	uint32_t established, accepted_first;  // slots of the connection that goes on
	uint32_t slots[LEGITIMATE];
	uint32_t begun, connected, accepted;
	uint32_t sent, received;
};

static void inject_syn(struct flood *flood, uint32_t number)
{
	struct sim_end *end = flood->server;
	uint64_t random = sim_random(flood->world);
	uint8_t options[20] = {2, 4, 5, 0xb4, 4, 2, 8, 10, [16] = 1, 3, 3, 7};
	uint32_t optional = number % 2 == 0 ? sizeof(options) : 4;
	uint8_t bytes[60] = {0x45, 0, 0, (uint8_t)(40 + optional), 0, 0, 0x40, 0, 64, IPPROTO_TCP};
	struct packet *packet = end->host->ops.packet_get(end, sizeof(bytes));

	store32(bytes + 12, 0xac100000 | (uint32_t)(random & 0xfffff)); // 172.16.0.0/12
	memcpy(bytes + 16, end->addresses[0].address, 4);
	store16(bytes + 20, (uint16_t)(random >> 20));
	store16(bytes + 22, SIM_PORT);
	store32(bytes + 24, (uint32_t)(random >> 32));
	bytes[32] = (uint8_t)((20 + optional) / 4 << 4);
	bytes[33] = TCP_SYN;
	store16(bytes + 34, 64240);
	memcpy(bytes + 40, options, optional);
	memcpy(packet_data(packet), bytes, 40 + optional);
	packet->length = 40 + optional;
	packet->ingress = 1;
	packet->vnet.flags = VIRTIO_NET_HDR_F_DATA_VALID;
	if (host_input(end->host, packet, flood->world->now) != DROP_NONE)
		end->host->ops.packet_put(end, packet);
}

static uint32_t connect_one(struct flood *flood)
{
	uint8_t local[16], remote[16];
	uint32_t slot = 0;

	end_address(flood->client, local);
	end_address(flood->server, remote);
	if (host_socket(flood->client->host, AF_INET, SOCK_STREAM, 0, &slot) < 0)
		sim_fail(flood->world, "no socket");
	else
		(void)host_connect(flood->client->host, slot, remote, SIM_PORT, 0);
	return slot;
}

static bool is_established(const struct sim_end *end, uint32_t slot)
{
	const struct tcp_socket *s = host_stream(end->host, slot);
	return s != NULL && s->state == TCP_STATE_ESTABLISHED;
}

static void talk(struct flood *flood)
{
	uint8_t bytes[65536] = {0};
	int got;

	if (host_stream_write(flood->client->host, flood->established, bytes, MESSAGE, 0) == MESSAGE)
		flood->sent += MESSAGE;
	while ((got = host_stream_read(flood->server->host, flood->accepted_first, bytes, sizeof(bytes), 0)) > 0)
		flood->received += (uint32_t)got;
}

static void advance(struct flood *flood, uint64_t ns)
{
	flood->world->now += ns;
	for (uint32_t i = 0; i < 2; i++) {
		struct sim_end *end = &flood->world->ends[i];
		host_clock(end->host, flood->world->now);
		end_receive(end);
		host_tick(end->host, flood->world->now);
		host_flush(end->host, flood->world->now);
	}
}

static void accept_all(struct flood *flood)
{
	uint32_t slot;

	while (host_accept(flood->server->host, flood->server->listener, &slot) == 0) {
		if (flood->accepted++ == 0)
			flood->accepted_first = slot;
	}
}

static void flood_for(struct flood *flood, uint32_t seconds, bool strangers)
{
	uint64_t spent = 0;

	for (uint32_t us = 0; us < seconds * 1000000; us += SYN_EVERY_US) {
		struct timespec a, b;
		advance(flood, SYN_EVERY_US * 1000ull);
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
		if (strangers)
			inject_syn(flood, us / SYN_EVERY_US);
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
		spent += (uint64_t)((b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec);
		if (us % STEP_US == 0) {
			accept_all(flood);
			talk(flood);
			if (strangers && flood->begun < LEGITIMATE)
				flood->slots[flood->begun++] = connect_one(flood);
		}
	}
	if (strangers)
		printf("  %.0f ns for a SYN\n", (double)spent / (seconds * 1000000.0 / SYN_EVERY_US));
}

bool flood_run(struct sim_world *world)
{
	struct flood flood = {.world = world, .client = &world->ends[0], .server = &world->ends[1]};

	flood.server->backlog = BACKLOG;
	app_listen(flood.server);
	flood.established = connect_one(&flood);
	for (int i = 0; i < 1000; i++)
		advance(&flood, 50000);
	accept_all(&flood);
	if (flood.accepted != 1)
		sim_fail(world, "not even without a flood");
	flood_for(&flood, FLOOD_SECONDS, true);
	flood_for(&flood, 1, false);
	for (uint32_t i = 0; i < flood.begun; i++)
		flood.connected += is_established(flood.client, flood.slots[i]);
	const struct tcp_socket *s = host_stream(flood.client->host, flood.established);
	if (s == NULL || s->state != TCP_STATE_ESTABLISHED || s->total_retrans != 0 || flood.received + 4 * MESSAGE < flood.sent)
		sim_fail(world, "the established connection suffered: %u of %u bytes, %u retransmissions", flood.received, flood.sent,
			s != NULL ? s->total_retrans : 0);
	if (flood.connected * 100 < flood.begun * 99 || (flood.accepted - 1) * 100 < flood.begun * 99)
		sim_fail(world, "of %u connects %u went through, %u were accepted", flood.begun, flood.connected, flood.accepted - 1);
	printf("flood: %s %u of %u connects, %u of %u bytes %s\n", world->failure[0] == '\0' ? "ok" : "FAILED", flood.connected, flood.begun,
		flood.received, flood.sent, world->failure);
	return world->failure[0] == '\0';
}
