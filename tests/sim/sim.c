// The simulator: makes a world from a seed, lets it run, says what went wrong.
//
//   sim [-v] [-t] [-n COUNT] SEED...  COUNT seeds from each SEED on; exit status 1 where one failed;
//                                   -v tells what the seed means, -t each segment
//   sim -f                          a SYN flood
//   sim -h                          handshakes, segment by segment
//
// Each line of output is "seed SEED: ok HASH ..." or "seed SEED: FAILED ..."; HASH covers every
// frame and the time it arrived at.
#include "sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { EVENTS_MOST = 3000000, TURNS_MOST = 10000 };

#define SECOND 1000000000ull
#define HOURS_MOST (4 * 3600 * SECOND)

uint64_t sim_random(struct sim_world *world)
{
	uint64_t z = world->random += 0x9e3779b97f4a7c15u; // SplitMix64

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

void sim_fail(struct sim_world *world, const char *format, ...)
{
	va_list arguments;

	if (world->failure[0] != '\0')
		return;
	int length = snprintf(world->failure, sizeof(world->failure), "at %.6f s: ", (double)(world->now - world->started) / 1e9);
	va_start(arguments, format);
	vsnprintf(world->failure + length, sizeof(world->failure) - (size_t)length, format, arguments);
	va_end(arguments);
}

// Linked with --wrap: sequence numbers of a run begin where its seed wants them, and go on as the real ones do.
uint32_t __real_tcp_initial_sequence(const struct tcp *tcp, const uint8_t *local, uint16_t local_port, const uint8_t *remote,
	uint16_t remote_port);
uint32_t __wrap_tcp_initial_sequence(const struct tcp *tcp, const uint8_t *local, uint16_t local_port, const uint8_t *remote,
	uint16_t remote_port);
uint32_t __wrap_tcp_initial_sequence(const struct tcp *tcp, const uint8_t *local, uint16_t local_port, const uint8_t *remote,
	uint16_t remote_port)
{
	struct sim_end *end = tcp->host->ops.user;
	uint32_t iss = __real_tcp_initial_sequence(tcp, local, local_port, remote, remote_port);

	if (!end->biased) {
		end->biased = true;
		if (sim_chance(end->world, 60))
			end->bias = 0u - sim_below(end->world, 20000) - iss;
	}
	return iss + end->bias;
}

// --- a world from a seed ---

static uint64_t choose_start(struct sim_world *world)
{
	const uint64_t wraps[] = {
		(1ull << 31) * 1000, (1ull << 32) * 1000, (1ull << 31) * TCP_MS, (1ull << 32) * TCP_MS, (3ull << 32) * 1000, SECOND * 10,
	};
	uint64_t at = wraps[sim_below(world, sizeof(wraps) / sizeof(wraps[0]))];
	uint64_t before = sim_random(world) % (sim_chance(world, 50) ? SECOND / 5 : 8 * SECOND);

	return at - before + sim_below(world, 1000);
}

static uint32_t pick(struct sim_world *world, const uint32_t *choices, uint32_t count)
{
	return choices[sim_below(world, count)];
}
#define PICK(world, ...) pick(world, (const uint32_t[]){__VA_ARGS__}, sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))

static struct host_config choose_config(struct sim_world *world)
{
	struct host_config config;

	host_config_default(&config);
	config.memory_blocks = PICK(world, 8192, 8192, 8192, 8192, 200);
	config.timestamps = (uint8_t)PICK(world, 1, 1, 1, 2, 0);
	config.sack = !sim_chance(world, 20);
	config.dsack = !sim_chance(world, 20);
	config.window_scaling = !sim_chance(world, 20);
	config.ecn = (uint8_t)PICK(world, 0, 1, 2);
	config.congestion = (uint8_t)PICK(world, TCP_CUBIC, TCP_CUBIC, TCP_RENO);
	config.hystart = !sim_chance(world, 20);
	config.frto = !sim_chance(world, 20);
	config.tail_loss_probe = !sim_chance(world, 20);
	config.rack = !sim_chance(world, 20);
	config.syn_cookies = (uint8_t)PICK(world, 1, 1, 1, 2, 0);
	config.moderate_rcvbuf = !sim_chance(world, 20);
	config.slow_start_after_idle = sim_chance(world, 50);
	config.mtu_probing = 1;
	config.rmem_default = PICK(world, 131072, 131072, 8192, 20000, 600000);
	config.wmem_default = PICK(world, 16384, 65536, 300000, 5000);
	return config;
}

static struct impair_config choose_link(struct sim_world *world, bool hole)
{
	struct impair_config link = {.seed = sim_random(world), .frames = 20000, .memory = 24 << 20};
	bool harm = sim_chance(world, 75);

	link.delay = (uint64_t)PICK(world, 1, 20, 300, 2000, 20000, 150000) * 1000;
	if (harm && sim_chance(world, 70))
		link.loss = PICK(world, 1000, 10000, 30000, 80000);
	if (harm && sim_chance(world, 40)) {
		link.reorder = PICK(world, 5000, 50000, 200000);
		link.reorder_by = (uint64_t)PICK(world, 50, 1000, 30000, 400000) * 1000;
	}
	if (harm && sim_chance(world, 30))
		link.duplicate = PICK(world, 10000, 100000);
	if (harm && !world->super && sim_chance(world, 30)) {
		link.corrupt = PICK(world, 1000, 20000);
		link.corrupt_from = SIM_ETHERNET + (world->six ? 40 : 20); // the IP header is forwarding's business
	}
	if (sim_chance(world, 40))
		link.jitter = (uint64_t)PICK(world, 10, 1000, 40000) * 1000;
	if (sim_chance(world, 50)) {
		link.rate = (uint64_t)PICK(world, 1, 10, 100, 1000) * 1000000;
		link.queue = PICK(world, 10000, 60000, 300000);
	}
	if (hole) {
		// The search for a smaller size backs the RTO off: with losses besides, an orphan may give up, and rightly so.
		link.loss = link.corrupt = 0;
		link.mtu = SIM_ETHERNET + 1280;
	}
	return link;
}

static void choose_script(struct sim_world *world, struct sim_script *script, bool tiny)
{
	*script = (struct sim_script){.write_most = PICK(world, 1, 100, 1460, 8000, 60000), .read_most = PICK(world, 60000, 60000, 3000, 100)};
	script->send = tiny ? sim_below(world, 3000) : sim_below(world, PICK(world, 1, 2000, 40000, 300000));
	if (script->write_most < script->send / 300)
		script->write_most = script->send / 300 + 1;
	if (sim_chance(world, 25))
		script->write_pause = sim_below(world, PICK(world, 100, 10000, 300000)) * 1000ull;
	script->nodelay = sim_chance(world, 40);
}

static void choose_reading(struct sim_world *world, struct sim_script *script, uint32_t expected)
{
	if (script->read_most < expected / 400)
		script->read_most = expected / 400 + 1;
	if (sim_chance(world, 25))
		script->read_pause = sim_below(world, PICK(world, 200, 20000, 400000)) * 1000ull;
}

static void choose_scripts(struct sim_world *world, struct sim_connection *a, struct sim_connection *b)
{
	uint32_t kind = sim_below(world, 6);

	choose_script(world, &a->script, false);
	choose_script(world, &b->script, kind == 0);
	if (kind == 1) { // request and response
		uint32_t rounds = 1 + sim_below(world, 20);
		a->script.ask = b->script.ask = 1 + sim_below(world, 2000);
		a->script.answer = b->script.answer = 1 + sim_below(world, 6000);
		b->script.answering = true;
		a->script.send = rounds * a->script.ask;
		b->script.send = rounds * b->script.answer;
		b->script.write_most += b->script.send / 300;
	} else if (kind == 2) {
		b->script.after_peer = true;
	} else if (kind == 3) {
		struct sim_connection *rude = sim_chance(world, 50) ? a : b;
		rude->script.ending = sim_chance(world, 50) ? SIM_CLOSE : SIM_ABORT;
		rude->script.abort_at = sim_below(world, a->script.send + b->script.send + 1);
		a->may_fail = b->may_fail = true;
	}
	choose_reading(world, &a->script, b->script.send);
	choose_reading(world, &b->script, a->script.send);
}

static void world_open(struct sim_world *world, uint64_t seed)
{
	memset(world, 0, sizeof(*world));
	world->seed = seed;
	world->random = seed * 0xd1342543de82ef95ull;
	world->now = world->started = choose_start(world);
	world->six = sim_chance(world, 50);
	world->super = sim_chance(world, 40);
	world->crossed = sim_chance(world, 10);
	world->count = 1 + sim_below(world, SIM_CONNECTIONS);
	world->mtu = PICK(world, 1500, 1500, 1500, 9000, 1280);
	world->keyed = sim_chance(world, 15);
	world->router = sim_chance(world, 50);
	bool hole = !world->super && world->mtu > 1280 && sim_chance(world, 8);
	const struct impair_config links[2] = {choose_link(world, hole), choose_link(world, hole)};
	for (uint32_t i = 0; i < 2; i++) {
		struct sim_end *end = &world->ends[i];
		struct host_config config = choose_config(world);
		// A cookie is in the first segment behind the SYN: one that overtakes it is refused, a copy opens again.
		if (links[0].loss + links[0].reorder + links[0].corrupt + links[0].duplicate + links[0].queue + links[0].mtu != 0)
			config.syn_cookies = 0;
		end->mtu = world->mtu;
		end->direct = sim_chance(world, 40);
		// A half-open connection whose peer has gone in silence would keep the others out for a minute.
		bool small = links[0].loss + links[1].loss + links[0].corrupt + links[1].corrupt == 0 && !world->keyed && sim_chance(world, 40);
		end->backlog = small ? (int)sim_below(world, 2) : 8;
		if (small)
			config.syn_cookies = 0; // nor is a cookie repeated that found the accept queue full
		if (sim_chance(world, 20))
			end->accept_pause = sim_below(world, 600000) * 1000ull;
		end_open(end, world, &config, &links[i]);
	}
	for (uint32_t i = 0; i < world->count; i++) {
		struct sim_connection *a = &world->ends[0].connections[i], *b = &world->ends[1].connections[i];
		choose_scripts(world, a, b);
		a->number = b->number = (uint8_t)i;
		a->end = &world->ends[0];
		b->end = &world->ends[1];
	}
}

static void begin(struct sim_world *world)
{
	if (!world->crossed)
		app_listen(&world->ends[1]);
	for (uint32_t i = 0; i < world->count; i++) {
		app_connect(&world->ends[0].connections[i], world->crossed ? (uint16_t)(5000 + i) : 0, world->crossed ? (uint16_t)(6000 + i) : SIM_PORT);
		if (world->crossed)
			app_connect(&world->ends[1].connections[i], (uint16_t)(6000 + i), (uint16_t)(5000 + i));
	}
}

// --- time ---

static uint64_t next_event(const struct sim_world *world)
{
	uint64_t at = UINT64_MAX;

	for (uint32_t i = 0; i < 2; i++) {
		const struct sim_end *end = &world->ends[i];
		const uint64_t times[] = {host_deadline(end->host), impair_deadline(&end->out), app_deadline(end)};
		for (uint32_t k = 0; k < sizeof(times) / sizeof(times[0]); k++)
			at = times[k] < at ? times[k] : at;
	}
	return at;
}

static void turn(struct sim_end *end)
{
	struct sim_world *world = end->world;

	host_clock(end->host, world->now);
	end_hold(end);
	end_receive(end);
	host_tick(end->host, world->now);
	for (uint32_t turns = 0; world->failure[0] == '\0' && app_run(end); turns++)
		if (turns > TURNS_MOST)
			sim_fail(world, "an app that never rests");
	host_flush(end->host, world->now);
	end_sent(end);
	check_end(end);
	if (world->failure[0] == '\0' && host_deadline(end->host) <= world->now)
		sim_fail(world, "end %d: a deadline that has passed", (int)(end - world->ends));
}

static void run(struct sim_world *world)
{
	begin(world);
	while (world->failure[0] == '\0') {
		turn(&world->ends[0]);
		turn(&world->ends[1]);
		uint64_t at = next_event(world);
		if (at == UINT64_MAX) {
			bool any = app_give_up(&world->ends[0]);
			if (!app_give_up(&world->ends[1]) && !any)
				break;
			continue;
		}
		if (at > world->now)
			world->now = at;
		if (++world->events > EVENTS_MOST || world->now - world->started > HOURS_MOST)
			sim_fail(world, "it does not come to an end");
	}
	for (uint32_t i = 0; i < 2 && world->failure[0] == '\0'; i++) {
		app_verify(&world->ends[i]);
		check_baseline(&world->ends[i]);
	}
}

static void describe(const struct sim_world *world)
{
	printf("  %s, MTU %u, %s, %u connections%s%s%s\n", world->six ? "IPv6" : "IPv4", world->mtu,
		world->super ? "super-segments" : "single segments", world->count, world->crossed ? ", simultaneous open" : "",
		world->keyed ? ", signed" : "", world->router ? ", a router that tells" : "");
	for (uint32_t e = 0; e < 2; e++) {
		const struct sim_end *end = &world->ends[e];
		const struct impair_config *link = &end->out.config;
		const struct host_config *config = &end->host->tcp->config;
		printf("  end %u: delay %.3f ms jitter %.3f loss %u ppm reorder %u by %.3f duplicate %u corrupt %u rate %lu queue %u mtu %u%s\n", e,
			(double)link->delay / 1e6, (double)link->jitter / 1e6, link->loss, link->reorder, (double)link->reorder_by / 1e6, link->duplicate,
			link->corrupt, (unsigned long)link->rate, link->queue, link->mtu, end->direct ? ", direct" : "");
		printf("    timestamps %u sack %u scaling %u ecn %u rack %u tlp %u frto %u cookies %u rmem %u wmem %u\n", config->timestamps,
			config->sack, config->window_scaling, config->ecn, config->rack, config->tail_loss_probe, config->frto, config->syn_cookies,
			config->rmem_default, config->wmem_default);
		for (uint32_t i = 0; i < world->count; i++) {
			const struct sim_connection *c = &end->connections[i];
			printf("    %u: %u of %u sent by %u pause %lu us, %u received by %u pause %lu us, ending %d at %u; open %d connected %d closed %d "
				"ended %d failed %d readable %d writable %d\n", i, c->sent, c->script.send, c->script.write_most,
				(unsigned long)c->script.write_pause / 1000, c->received, c->script.read_most, (unsigned long)c->script.read_pause / 1000,
				c->script.ending, c->script.abort_at, c->open, c->connected, c->closed, c->ended, c->failed, c->readable, c->writable);
		}
	}
}

static bool simulate(uint64_t seed, bool verbose, bool trace)
{
	static struct sim_world world;

	world_open(&world, seed);
	world.trace = trace;
	run(&world);
	bool ok = world.failure[0] == '\0';
	if (ok)
		printf("seed %lu: ok %016lx %lu frames %.3f s\n", (unsigned long)seed, (unsigned long)world.hash, (unsigned long)world.frames,
			(double)(world.now - world.started) / 1e9);
	else
		printf("seed %lu: FAILED %s\n", (unsigned long)seed, world.failure);
	if (verbose)
		describe(&world);
	fflush(stdout);
	end_close(&world.ends[0]);
	end_close(&world.ends[1]);
	return ok;
}

// A world without harm.
static bool simulate_special(bool flood)
{
	static struct sim_world world;
	struct host_config config;

	memset(&world, 0, sizeof(world));
	world.now = world.started = 100 * SECOND;
	world.mtu = 1500;
	host_config_default(&config);
	for (uint32_t i = 0; i < 2; i++) {
		const struct impair_config link = {.seed = i, .delay = 5 * TCP_MS};
		world.ends[i].mtu = world.mtu;
		end_open(&world.ends[i], &world, &config, &link);
	}
	bool ok = flood ? flood_run(&world) : handshake_run(&world, &config);
	end_close(&world.ends[0]);
	end_close(&world.ends[1]);
	return ok;
}

int main(int count, char **arguments)
{
	uint64_t each = 1;
	bool verbose = false, trace = false, ok = true;

	for (int i = 1; i < count; i++) {
		if (strcmp(arguments[i], "-v") == 0) {
			verbose = true;
		} else if (strcmp(arguments[i], "-t") == 0) {
			trace = true;
		} else if (strcmp(arguments[i], "-f") == 0) {
			ok &= simulate_special(true);
		} else if (strcmp(arguments[i], "-h") == 0) {
			ok &= simulate_special(false);
		} else if (strcmp(arguments[i], "-n") == 0 && i + 1 < count) {
			each = strtoull(arguments[++i], NULL, 10);
		} else {
			uint64_t first = strtoull(arguments[i], NULL, 10);
			for (uint64_t seed = first; seed < first + each; seed++)
				ok &= simulate(seed, verbose, trace);
		}
	}
	return ok ? 0 : 1;
}
