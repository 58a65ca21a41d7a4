// See scale.h.
#include "scale.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "../sim/publish.h"

enum { MTU = 1500, POOL = 60000, SUPER = 2000, STRANGER_PORTS = 40000 };

void report(const char *name, double value)
{
	printf("%s %.3f\n", name, value);
}

uint64_t scale_resident(void)
{
	unsigned long kilobytes = 0;
	char line[128];
	FILE *file = fopen("/proc/self/smaps_rollup", "r"); // counts pages; statm is up to some hundred KB off

	while (file != NULL && fgets(line, sizeof(line), file) != NULL && sscanf(line, "Anonymous: %lu", &kilobytes) != 1)
		continue;
	if (kilobytes == 0)
		abort();
	fclose(file);
	return kilobytes * 1024ull;
}

double scale_cpu(void)
{
	struct timespec time;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

// --- operations ---

static struct packet *packet_take(void *user, uint32_t room)
{
	struct side *side = user;
	return packet_get(side->scale->pool, room);
}

static void packet_give(void *user, struct packet *packet)
{
	struct side *side = user;
	packet_put(side->scale->pool, packet);
}

static struct side *other(struct side *side)
{
	return &side->scale->sides[side == side->scale->sides];
}

static enum drop_reason output(void *user, uint16_t interface, uint8_t family, struct packet *packet)
{
	struct side *side = user;

	(void)interface;
	(void)family;
	if (memcmp(packet_data(packet) + 16, other(side)->addresses[0].address, 4) != 0) { // to a stranger
		packet_put(side->scale->pool, packet);
		return DROP_NONE;
	}
	packet->ingress = 1;
	packet->trace = (uint32_t)((side->scale->now + side->scale->delay - side->scale->started) / 1000);
	packet->next = NULL;
	*(side->first != NULL ? &side->last->next : &side->first) = packet;
	side->last = packet;
	return DROP_NONE;
}

static bool source(void *user, uint8_t family, const uint8_t *destination, uint16_t interface, uint8_t *out, uint16_t *egress)
{
	struct side *side = user;

	(void)destination;
	(void)interface;
	memcpy(out, side->addresses[family == FAMILY_IPV6].address, 16);
	*egress = 1;
	return true;
}

static uint32_t path_mtu(void *user, uint8_t family, const uint8_t *destination, uint16_t interface)
{
	(void)user;
	(void)family;
	(void)destination;
	(void)interface;
	return MTU;
}

static void unreachable(void *user, struct packet *packet, uint8_t code)
{
	(void)user;
	(void)packet;
	(void)code;
}

static void stream(void *user, uint32_t slot, uint32_t events)
{
	struct side *side = user;

	(void)slot;
	for (uint32_t bit = 0; bit < 8; bit++)
		side->events[bit] += events >> bit & 1;
}

// --- the two stacks ---

static void side_open(struct side *side, struct scale *scale, uint8_t number, const struct host_config *config)
{
	const struct host_ops ops = {
		.output = output, .source = source, .path_mtu = path_mtu, .unreachable = unreachable, .stream = stream,
		.packet_get = packet_take, .packet_put = packet_give, .user = side,
	};
	const uint8_t four[4] = {10, 0, 0, number};

	side->scale = scale;
	// Mostly never touched: mapped as in a forwarder.
	side->state = mmap(NULL, sizeof(*side->state), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (side->state == MAP_FAILED)
		abort();
	side->state->random_key[0] = number;
	side->addresses[0] = (struct address_entry){.family = FAMILY_IPV4, .length = 24, .interface = 1};
	side->addresses[1] = (struct address_entry){.family = FAMILY_IPV6, .length = 64, .interface = 1};
	memcpy(side->addresses[0].address, four, sizeof(four));
	side->segment = publish_tables(side->addresses, MTU, &side->tables);
	side->host = host_new(side->state, &side->tables, &ops);
	if (side->host == NULL)
		abort();
	host_configure(side->host, config);
	host_clock(side->host, scale->now);
}

void scale_open(struct scale *scale, uint64_t delay, const struct host_config *config)
{
	memset(scale, 0, sizeof(*scale));
	scale->now = scale->started = 100 * SECOND;
	scale->delay = delay;
	scale->pool = packet_pool_new(POOL, SUPER);
	if (scale->pool == NULL)
		abort();
	for (uint8_t i = 0; i < 2; i++)
		side_open(&scale->sides[i], scale, (uint8_t)(i + 1), config);
}

void scale_close(struct scale *scale)
{
	for (int i = 0; i < 2; i++) {
		struct side *side = &scale->sides[i];
		host_free(side->host);
		view_close(&side->tables);
		free(side->segment);
		munmap(side->state, sizeof(*side->state));
	}
	packet_pool_free(scale->pool);
}

static bool receive(struct side *side)
{
	struct side *from = other(side);
	uint32_t now = (uint32_t)((side->scale->now - side->scale->started) / 1000);
	bool any = false;

	while (from->first != NULL && from->first->trace <= now) {
		struct packet *packet = from->first;
		from->first = packet->next;
		packet->next = NULL;
		any = true;
		if (host_input(side->host, packet, side->scale->now) != DROP_NONE)
			packet_put(side->scale->pool, packet);
	}
	return any;
}

static bool turn(struct scale *scale)
{
	bool any = false;

	for (int i = 0; i < 2; i++) {
		struct side *side = &scale->sides[i];
		host_clock(side->host, scale->now);
		any |= receive(side);
		if (host_deadline(side->host) <= scale->now)
			host_tick(side->host, scale->now);
		host_flush(side->host, scale->now);
	}
	return any;
}

void scale_step(struct scale *scale, uint64_t ns)
{
	(void)turn(scale);
	scale->now += ns;
}

void scale_settle(struct scale *scale)
{
	do
		scale->now += scale->delay;
	while (turn(scale) || scale->sides[0].first != NULL || scale->sides[1].first != NULL);
}

uint32_t scale_listen(struct side *side, uint16_t port, int backlog)
{
	static const uint8_t any[16];
	uint32_t slot;

	if (host_socket(side->host, AF_INET, SOCK_STREAM, 0, &slot) < 0 || host_bind(side->host, slot, any, port, 0) < 0 ||
	    host_listen(side->host, slot, backlog) < 0)
		abort();
	return slot;
}

int scale_connect(struct scale *scale, uint16_t port, uint32_t *slot)
{
	struct side *client = &scale->sides[0];

	if (host_socket(client->host, AF_INET, SOCK_STREAM, 0, slot) < 0)
		return -1;
	return host_connect(client->host, *slot, scale->sides[1].addresses[0].address, port, 0);
}

void scale_inject(struct scale *scale, const struct stranger *stranger)
{
	static const uint8_t options[20] = {2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7};
	struct side *server = &scale->sides[1];
	uint32_t optional = stranger->options ? sizeof(options) : 0, length = 40 + optional + stranger->length;
	struct packet *packet = packet_get(scale->pool, length);
	uint8_t *ip = packet_data(packet), *tcp = ip + 20;

	memset(ip, 0, length);
	ip[0] = 0x45;
	store16(ip + 2, (uint16_t)length);
	ip[8] = 64;
	ip[9] = IPPROTO_TCP;
	store32(ip + 12, 0xac100000 + stranger->number / STRANGER_PORTS); // 172.16.0.0/12
	memcpy(ip + 16, server->addresses[0].address, 4);
	store16(tcp, (uint16_t)(1024 + stranger->number % STRANGER_PORTS));
	store16(tcp + 2, SCALE_PORT);
	store32(tcp + 4, stranger->seq);
	store32(tcp + 8, stranger->ack);
	tcp[12] = (uint8_t)((20 + optional) / 4 << 4);
	tcp[13] = stranger->flags;
	store16(tcp + 14, 60000);
	memcpy(tcp + 20, options, optional);
	packet->length = length;
	packet->ingress = 1;
	packet->vnet.flags = VIRTIO_NET_HDR_F_DATA_VALID;
	if (host_input(server->host, packet, scale->now) != DROP_NONE)
		packet_put(scale->pool, packet);
}
