// What many connections cost:  scale SCENARIO [COUNT]
//
//   idle       connections that do nothing: bytes and timers, with and without keepalive
//   flood      50,000 SYNs a second of strangers beside connections of honest peers
//   cycles     open, request, response, close
//   timewait   all ports to two destinations in TIME-WAIT, and connects that take them over
//   ports      one destination until no port is left
//   overflow   a listener that nobody accepts from
//   timers     arming and running out
//
// Each line of output is a name and a figure; test_scale.py knows what they must be.
#include "scale.h"


#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include "base/siphash.h"

static struct scale world;

static void demand(bool true_, const char *what)
{
	if (!true_) {
		fprintf(stderr, "scale: %s\n", what);
		exit(2);
	}
}

static void open_world(uint64_t delay)
{
	struct host_config config;

	host_config_default(&config);
	scale_open(&world, delay, &config);
}

static const struct tcp_socket *established(struct side *side, uint32_t slot)
{
	const struct tcp_socket *s = host_stream(side->host, slot);
	return s != NULL && s->state == TCP_STATE_ESTABLISHED ? s : NULL;
}

// --- idle ---

// A stranger connects, asks, is answered, and acknowledges.
static uint32_t stranger_connects(struct side *server, uint32_t number)
{
	struct stranger stranger = {.number = number, .seq = 1000, .flags = TCP_SYN, .options = true};
	struct tcp *tcp = server->host->tcp;
	uint8_t bytes[SCALE_MESSAGE];
	uint32_t slot;

	scale_inject(&world, &stranger);
	demand(tcp->request_newest != 0, "no request");
	stranger = (struct stranger){.number = number, .seq = 1001, .flags = TCP_ACK, .length = SCALE_MESSAGE};
	stranger.ack = tcp->requests[tcp->request_newest - 1].iss + 1;
	scale_inject(&world, &stranger);
	demand(host_accept(server->host, server->listener, &slot) == 0, "nothing to accept");
	host_flush(server->host, world.now);
	demand(host_stream_read(server->host, slot, bytes, sizeof(bytes), 0) == SCALE_MESSAGE, "no request to read");
	demand(host_stream_write(server->host, slot, bytes, sizeof(bytes), 0) == SCALE_MESSAGE, "no room to write");
	host_flush(server->host, world.now);
	stranger.length = 0;
	stranger.seq += SCALE_MESSAGE;
	stranger.ack += SCALE_MESSAGE;
	scale_inject(&world, &stranger);
	host_flush(server->host, world.now);
	return slot;
}

static uint32_t ticks_until(struct host *host, uint64_t until)
{
	uint32_t ticks = 0;

	for (; host_deadline(host) <= until; ticks++) {
		world.now = host_deadline(host);
		host_clock(host, world.now);
		host_tick(host, world.now);
		host_flush(host, world.now);
	}
	world.now = until;
	host_clock(host, until);
	return ticks;
}

static void run_idle(uint32_t count)
{
	enum { WARM = 10000, KEPT = 1000, TICKS = 1000000 };
	static const int on = 1;
	struct side *server = &world.sides[1];
	uint64_t before = 0;
	uint32_t last = 0;

	open_world(0);
	server->listener = scale_listen(server, SCALE_PORT, 4096);
	for (uint32_t i = 0; i < WARM + count; i++) {
		if (i == WARM)
			before = scale_resident();
		last = stranger_connects(server, i);
		world.now += 20000;
		host_clock(server->host, world.now);
		if (i % 64 == 0 && host_deadline(server->host) <= world.now)
			host_tick(server->host, world.now);
	}
	report("bytes_per_connection", (double)(scale_resident() - before) / count);
	report("record_bytes", sizeof(struct tcp_socket));
	report("request_bytes", sizeof(struct tcp_request));
	report("timewait_bytes", sizeof(struct tcp_timewait));
	(void)ticks_until(server->host, world.now + 5 * SECOND);
	demand(established(server, last) != NULL, "the last one is not established");
	report("timers_in_a_minute", ticks_until(server->host, world.now + 60 * SECOND));
	report("deadlines", host_deadline(server->host) != UINT64_MAX);
	double cpu = scale_cpu();
	for (uint32_t i = 0; i < TICKS; i++) {
		host_tick(server->host, ++world.now);
		host_flush(server->host, world.now);
	}
	report("ns_per_tick", (scale_cpu() - cpu) / TICKS * 1e9);
	for (uint32_t i = 0; i < KEPT; i++)
		demand(host_setopt(server->host, last - i, SOL_SOCKET, SO_KEEPALIVE, (const uint8_t *)&on, sizeof(on)) == 0, "no keepalive");
	report("kept_timers_in_a_minute", ticks_until(server->host, world.now + 60 * SECOND));
	report("kept_deadline_s", (double)(host_deadline(server->host) - world.now) / (double)SECOND);
	scale_close(&world);
}

// --- flood ---

struct flood {
	uint32_t slots[4096];
	uint32_t begun, begun_strangers;
	uint32_t streams[2], sinks[2]; // established before
	uint64_t sent, received;
	double cpu;
};

static void flood_accept(struct side *server)
{
	uint32_t slot;

	while (host_accept(server->host, server->listener, &slot) == 0)
		server->accepted++;
}

static void flood_talk(struct flood *flood, bool more)
{
	enum { WRITE = 5000 };
	uint8_t bytes[65536] = {0};
	int got;

	for (int i = 0; i < 2; i++) {
		got = more ? host_stream_write(world.sides[0].host, flood->streams[i], bytes, WRITE, 0) : 0;
		flood->sent += got > 0 ? (uint32_t)got : 0;
		while ((got = host_stream_read(world.sides[1].host, flood->sinks[i], bytes, sizeof(bytes), 0)) > 0)
			flood->received += (uint32_t)got;
	}
}

static void flood_for(struct flood *flood, uint32_t milliseconds, bool strangers)
{
	enum { SYNS_A_STEP = 5, STEP_US = 100, HONEST_EVERY_MS = 3 };

	for (uint32_t us = 0; us < milliseconds * 1000; us += STEP_US) {
		double cpu = scale_cpu();
		for (int i = 0; strangers && i < SYNS_A_STEP; i++) {
			uint32_t random = mix32(flood->begun_strangers++ * 2654435761u);
			const struct stranger syn = {.number = random % 40000000, .seq = random, .flags = TCP_SYN, .options = random & 1};
			scale_inject(&world, &syn);
		}
		flood->cpu += scale_cpu() - cpu;
		scale_step(&world, STEP_US * 1000ull);
		if (us % 1000 != 0)
			continue;
		flood_accept(&world.sides[1]);
		flood_talk(flood, strangers);
		if (strangers && us / 1000 % HONEST_EVERY_MS == 0 && flood->begun < 4096)
			demand(scale_connect(&world, SCALE_PORT, &flood->slots[flood->begun++]) == -EINPROGRESS, "connect fails");
	}
}

static void run_flood(uint32_t milliseconds)
{
	static struct flood flood;
	struct side *client = &world.sides[0], *server = &world.sides[1];
	uint32_t connected = 0;

	open_world(10 * MILLISECOND); // a round trip of 20 ms
	server->listener = scale_listen(server, SCALE_PORT, 4096);
	for (int i = 0; i < 2; i++) {
		demand(scale_connect(&world, SCALE_PORT, &flood.streams[i]) == -EINPROGRESS, "connect fails");
		scale_settle(&world);
		demand(host_accept(server->host, server->listener, &flood.sinks[i]) == 0, "nothing to accept");
	}
	flood_for(&flood, milliseconds, true);
	flood_for(&flood, 1000, false);
	for (uint32_t i = 0; i < flood.begun; i++)
		connected += established(client, flood.slots[i]) != NULL;
	report("syns", flood.begun_strangers);
	report("ns_per_syn", flood.cpu / flood.begun_strangers * 1e9);
	report("honest", flood.begun);
	report("honest_percent", 100.0 * connected / flood.begun);
	report("accepted_percent", 100.0 * (double)server->accepted / flood.begun);
	report("sent_bytes", (double)flood.sent);
	report("lost_bytes", (double)flood.sent - (double)flood.received);
	for (int i = 0; i < 2; i++) {
		const struct tcp_socket *s = established(client, flood.streams[i]);
		demand(s != NULL, "an established connection has ended");
		report("retransmitted", s->total_retrans);
	}
	report("cookies", (double)server->host->tcp->statistics[TCP_STAT_COOKIES_SENT]);
	report("requests", server->host->tcp->request_count);
	scale_close(&world);
}

// --- cycles ---

static void cycle(uint16_t port, uint32_t listener)
{
	struct side *client = &world.sides[0], *server = &world.sides[1];
	uint8_t bytes[SCALE_MESSAGE] = {0};
	uint32_t slot, child;

	demand(scale_connect(&world, port, &slot) == -EINPROGRESS, "connect fails");
	scale_settle(&world);
	demand(host_accept(server->host, listener, &child) == 0, "nothing to accept");
	demand(host_stream_write(client->host, slot, bytes, sizeof(bytes), 0) == SCALE_MESSAGE, "no room");
	scale_settle(&world);
	demand(host_stream_read(server->host, child, bytes, sizeof(bytes), 0) == SCALE_MESSAGE, "no request");
	demand(host_stream_write(server->host, child, bytes, sizeof(bytes), 0) == SCALE_MESSAGE, "no room");
	scale_settle(&world);
	demand(host_stream_read(client->host, slot, bytes, sizeof(bytes), 0) == SCALE_MESSAGE, "no response");
	host_close(client->host, slot);
	scale_settle(&world);
	demand(host_stream_read(server->host, child, bytes, sizeof(bytes), 0) == 0, "no end");
	host_close(server->host, child);
	scale_settle(&world);
	demand(host_stream(client->host, slot) == NULL && host_stream(server->host, child) == NULL, "still there");
}

static void run_cycles(uint32_t count)
{
	enum { PORTS = 4, BEGIN_MEASURING = 10 };
	uint32_t listeners[PORTS];
	uint64_t before = 0;

	open_world(1000);
	for (uint16_t i = 0; i < PORTS; i++)
		listeners[i] = scale_listen(&world.sides[1], (uint16_t)(SCALE_PORT + i), 128);
	double cpu = scale_cpu();
	for (uint32_t i = 0; i < count; i++) {
		if (i == count / BEGIN_MEASURING)
			before = scale_resident();
		cycle((uint16_t)(SCALE_PORT + i % PORTS), listeners[i % PORTS]);
		world.now += 10000;
	}
	report("cycles_per_second", count / (scale_cpu() - cpu));
	report("grown_bytes", (double)scale_resident() - (double)before);
	report("timewait", world.sides[0].host->tcp->timewait_count);
	(void)ticks_until(world.sides[0].host, world.now + 62 * SECOND);
	report("timewait_at_last", world.sides[0].host->tcp->timewait_count);
	report("client_sockets", (double)world.sides[0].state->tcp_used);
	for (int i = 0; i < 2; i++) {
		const struct tcp *tcp = world.sides[i].host->tcp;
		report("blocks", tcp->block_count);
		report("most_flights", tcp->flight_used);
	}
	scale_close(&world);
}

// --- TIME-WAIT ---

// A connection that both sides abort: it leaves no TIME-WAIT.  Was it established?
static bool connect_and_abort(uint16_t port, uint32_t listener, bool *taken_over)
{
	struct tcp *tcp = world.sides[0].host->tcp;
	uint32_t slot, child, waiting = tcp->timewait_count;

	bool connected = scale_connect(&world, port, &slot) == -EINPROGRESS;
	*taken_over = tcp->timewait_count < waiting;
	scale_settle(&world);
	connected = connected && established(&world.sides[0], slot) != NULL;
	demand(host_accept(world.sides[1].host, listener, &child) == 0, "nothing to accept");
	host_abort(world.sides[0].host, slot);
	host_abort(world.sides[1].host, child);
	scale_settle(&world);
	return connected;
}

// Two destinations whose ports are used up by connections in TIME-WAIT: each further connect takes one over.
static void run_timewait(uint32_t count)
{
	enum { PORTS = 2, FEW = 10000 };
	uint32_t listeners[PORTS], taken_over = 0, failed = 0;
	struct tcp *tcp;
	bool taken;

	open_world(1000);
	tcp = world.sides[0].host->tcp;
	const size_t heads = TCP_TIMEWAIT_HASH * sizeof(*tcp->timewait_heads);
	for (uint16_t i = 0; i < PORTS; i++)
		listeners[i] = scale_listen(&world.sides[1], (uint16_t)(SCALE_PORT + i), 128);
	for (uint32_t i = 0; i < count; i++) // what a connection needs at any port, queues, and closing in another order
		failed += !connect_and_abort((uint16_t)(SCALE_PORT + i % PORTS), listeners[i % PORTS], &taken);
	memset(tcp->timewait_heads, 0, heads); // the whole hash is the share of however many there are
	uint64_t before = scale_resident() - heads;
	for (uint32_t i = 0; i < count; i++) {
		cycle((uint16_t)(SCALE_PORT + i % PORTS), listeners[i % PORTS]);
		if (i + 1 == FEW)
			report("bytes_per_timewait_of_few", (double)(scale_resident() - before) / FEW);
	}
	report("timewait", tcp->timewait_count);
	report("bytes_per_timewait", (double)(scale_resident() - before) / count);
	world.now += 2 * SECOND;
	double cpu = scale_cpu();
	for (uint32_t i = 0; i < count; i++) {
		failed += !connect_and_abort((uint16_t)(SCALE_PORT + i % PORTS), listeners[i % PORTS], &taken);
		taken_over += taken;
	}
	report("us_per_reuse", (scale_cpu() - cpu) / count * 1e6);
	report("taken_over", taken_over);
	report("failed", failed);
	scale_close(&world);
}

// --- ports ---

static void run_ports(uint32_t count)
{
	uint32_t slot, connects = 0;
	int result;

	(void)count;
	open_world(0);
	double cpu = scale_cpu();
	while ((result = scale_connect(&world, SCALE_PORT, &slot)) == -EINPROGRESS && connects < 70000)
		connects++;
	report("us_per_connect", (scale_cpu() - cpu) / connects * 1e6);
	report("connects", connects);
	report("errno", -result);
	cpu = scale_cpu();
	for (int i = 0; i < 20; i++)
		demand(host_connect(world.sides[0].host, slot, world.sides[1].addresses[0].address, SCALE_PORT, 0) == -EADDRNOTAVAIL, "a port after all");
	report("us_per_refusal", (scale_cpu() - cpu) / 20 * 1e6);
	report("elsewhere", -scale_connect(&world, SCALE_PORT + 1, &slot));
	scale_close(&world);
}

// --- accept queue ---

static void run_overflow(uint32_t count)
{
	enum { BACKLOG = 3 };
	struct side *client = &world.sides[0], *server = &world.sides[1];
	uint32_t slots[64], child, accepted = 0, connected = 0;

	count = count < 64 ? count : 64;
	open_world(10 * MILLISECOND);
	server->listener = scale_listen(server, SCALE_PORT, BACKLOG);
	for (uint32_t i = 0; i < count; i++) {
		demand(scale_connect(&world, SCALE_PORT, &slots[i]) == -EINPROGRESS, "connect fails");
		scale_settle(&world);
	}
	const struct tcp_socket *s = host_stream(server->host, server->listener);
	report("queued", s->role.listener.accept_count);
	report("overflows", s->role.listener.overflows);
	for (uint32_t i = 0; i < 60000; i++) {
		scale_step(&world, MILLISECOND);
		while (host_accept(server->host, server->listener, &child) == 0)
			accepted++;
	}
	for (uint32_t i = 0; i < count; i++)
		connected += established(client, slots[i]) != NULL;
	report("accepted", accepted);
	report("connected", connected);
	scale_close(&world);
}

// --- timers ---

static void run_timers(uint32_t count)
{
	struct tcp *tcp;
	uint32_t slot;

	open_world(0);
	tcp = world.sides[0].host->tcp;
	for (uint32_t i = 0; i < count; i++)
		demand(host_socket(world.sides[0].host, AF_INET, SOCK_STREAM, 0, &slot) == 0, "no socket");
	double cpu = scale_cpu();
	for (uint32_t i = 0; i < 10 * count; i++)
		timer_arm(tcp, &tcp->sockets[mix32(i) % count], TCP_TIMER_NONE, world.now + 200 * MILLISECOND + mix32(i * 7) % (1000 * MILLISECOND));
	report("ns_per_arm", (scale_cpu() - cpu) / (10.0 * count) * 1e9);
	report("items", tcp->heap_count);
	uint32_t items = tcp->heap_count;
	cpu = scale_cpu();
	for (uint32_t i = 0; i < 1300; i++) {
		world.now += MILLISECOND;
		host_clock(world.sides[0].host, world.now);
		tcp_tick(tcp);
	}
	report("ns_per_expiry", (scale_cpu() - cpu) / items * 1e9);
	report("items_left", tcp->heap_count);
	scale_close(&world);
}

int main(int count, char **arguments)
{
	static const struct {
		const char *name;
		void (*run)(uint32_t count);
		uint32_t count;
	} scenarios[] = {
		{"idle", run_idle, 100000}, {"flood", run_flood, 3000}, {"cycles", run_cycles, 1000000}, {"timewait", run_timewait, 2 * (EPHEMERAL_LAST - EPHEMERAL_FIRST + 1)},
		{"ports", run_ports, 0}, {"overflow", run_overflow, 12}, {"timers", run_timers, 100000},
	};

	for (size_t i = 0; count > 1 && i < sizeof(scenarios) / sizeof(scenarios[0]); i++) {
		if (strcmp(arguments[1], scenarios[i].name) == 0) {
			scenarios[i].run(count > 2 ? (uint32_t)strtoul(arguments[2], NULL, 10) : scenarios[i].count);
			return 0;
		}
	}
	fprintf(stderr, "usage: scale SCENARIO [COUNT]\n");
	return 2;
}
