// Fuzzes the forwarding plane: hostile frames, time, carriers, crashes and a damaged state.
//
// An input is a list of records {operation, port, offload, length (2 bytes), bytes}.  Each
// frame may be repaired (our MAC address, good checksums) and ends right before poisoned
// memory; each frame that comes out is read to its end, and both counter laws are checked
// when the input is used up.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <sanitizer/asan_interface.h>

#include "abi/core.h"
#include "base/bytes.h"
#include "base/cksum.h"
#include "base/segment.h"
#include "forward/forward.h"
#include "forward/neighbor.h"
#include "forward/police.h"
#include "forward/transit.h"
#include "port/port.h"
#include "wire/tcp.h"

enum { PORTS = 3, ROW = 6, REDZONE = 64, RECORD = 5, TABLES_SIZE = 4 << 20, VNET = sizeof(struct virtio_net_hdr) };
enum operation { FRAME, OUTPUT, TIME, LINK, CRASH, DAMAGE, OPERATIONS };

struct world {
	struct forward forward;
	struct state_segment *state;
	void *tables;
	size_t tables_size;
	unsigned bytes_seen;
	bool damaged;
};

static struct world world;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition, const char *what)
{
	if (!condition) {
		fprintf(stderr, "violated: %s\n", what);
		abort();
	}
}

static void read_all(struct packet *packet)
{
	for (uint32_t i = 0; i < packet->length; i++)
		world.bytes_seen += packet_data(packet)[i];
}

static enum drop_reason deliver(void *user, struct packet *packet, uint64_t now)
{
	(void)user;
	(void)now;
	read_all(packet);
	if (packet_data(packet)[packet->length - 1] % 2 == 0)
		return DROP_NO_SOCKET;
	packet_put(world.forward.pool, packet);
	return DROP_NONE;
}

static bool group_joined(void *user, uint16_t interface, uint8_t family, const uint8_t *group)
{
	(void)user;
	return (interface + family + group[3]) % 2 != 0;
}

static void flush(void *user, uint16_t port)
{
	struct egress_queue *queue = world.forward.queues[port];
	(void)user;
	for (int i = 0; i < queue->count; i++) {
		read_all(queue->packets[i]);
		egress_sent(&world.forward, queue->packets[i]);
	}
	queue->count = 0;
}

static void trace(void *user, const struct packet *packet, const char *stage, const char *detail)
{
	(void)user;
	(void)packet;
	world.bytes_seen += (unsigned)(strlen(stage) + strlen(detail));
}

// --- the tables: three ports, a VLAN, a loopback, both families ---

static void interface_fill(struct interface_entry *entry, uint16_t index, uint16_t port, uint16_t vlan, uint8_t kind)
{
	*entry = (struct interface_entry){.index = index, .port = port, .vlan = vlan, .kind = kind,
		.flags = INTERFACE_ADMIN_UP, .mtu = index == 2 ? 600 : 1500};
	memcpy(entry->mac, (const uint8_t[]){2, 0, 0, 0, 0, (uint8_t)index}, 6);
	snprintf(entry->name, sizeof(entry->name), "if%u", index);
}

static void route_add(struct table_writer *writer, const uint8_t *address, uint8_t family, uint8_t length,
	const struct nexthop *hops, uint32_t count)
{
	int group = table_writer_group(writer, hops, count);
	struct route_change change = {.family = family, .length = length, .group = (uint16_t)group,
		.protocol = ROUTE_STATIC};
	memcpy(change.address, address, family == FAMILY_IPV4 ? 4 : 16);
	require(group > 0 && table_writer_apply(writer, &change, 1) >= 0, "a route can be added");
}

static void tables_write(struct table_writer *writer)
{
	struct interface_entry interfaces[5];
	struct address_entry addresses[9] = {0};
	uint32_t count = 0;
	for (uint16_t i = 0; i < 4; i++)
		interface_fill(&interfaces[i], i + 1, i < 3 ? i + 1 : 1, i < 3 ? 0 : 7, i < 3
			? INTERFACE_ETHERNET : INTERFACE_VLAN);
	interface_fill(&interfaces[4], 5, 0, 0, INTERFACE_LOOPBACK);
	for (uint8_t i = 0; i < 4; i++) {
		struct address_entry four = {.address = {10, 0, i, 1}, .family = FAMILY_IPV4, .length = 24,
			.interface = i + 1u};
		struct address_entry six = {.address = {0x20, 1, 0xd, 0xb8, 0, i, [15] = 1}, .family = FAMILY_IPV6,
			.length = 64, .interface = i + 1u};
		addresses[count++] = four;
		addresses[count++] = six;
		const struct nexthop local = {.kind = NEXTHOP_LOCAL, .interface = i + 1u, .weight = 1, .weight_end = 1};
		const struct nexthop connected = {.kind = NEXTHOP_CONNECTED, .interface = i + 1u, .weight = 1, .weight_end = 1};
		const struct nexthop broadcast = {.kind = NEXTHOP_BROADCAST, .interface = i + 1u, .weight = 1, .weight_end = 1};
		route_add(writer, (const uint8_t[]){10, 0, i, 0}, FAMILY_IPV4, 24, &connected, 1);
		route_add(writer, (const uint8_t[]){10, 0, i, 255}, FAMILY_IPV4, 32, &broadcast, 1);
		route_add(writer, four.address, FAMILY_IPV4, 32, &local, 1);
		route_add(writer, (const uint8_t[16]){0x20, 1, 0xd, 0xb8, 0, i}, FAMILY_IPV6, 64, &connected, 1);
		route_add(writer, six.address, FAMILY_IPV6, 128, &local, 1);
	}
	addresses[count++] = (struct address_entry){.address = {0xfe, 0x80, [15] = 1}, .family = FAMILY_IPV6,
		.length = 64, .interface = 1, .flags = ADDRESS_LINK_LOCAL};
	const struct nexthop ecmp[2] = {
		{.kind = NEXTHOP_FORWARD, .family = FAMILY_IPV4, .interface = 2, .weight = 1, .weight_end = 1, .via = {10, 0,
			1, 2}},
		{.kind = NEXTHOP_FORWARD, .family = FAMILY_IPV6, .interface = 3, .weight = 2, .weight_end = 3, .via = {0x20,
			1, 0xd, 0xb8, 0, 2, [15] = 2}},
	};
	const struct nexthop unreachable = {.kind = NEXTHOP_UNREACHABLE, .weight = 1, .weight_end = 1};
	route_add(writer, (const uint8_t[16]){0}, FAMILY_IPV4, 0, ecmp, 2);
	route_add(writer, (const uint8_t[16]){0x20}, FAMILY_IPV6, 3, ecmp + 1, 1);
	route_add(writer, (const uint8_t[]){192, 0, 2, 0}, FAMILY_IPV4, 24, &unreachable, 1);
	require(table_writer_publish(writer, interfaces, 5, addresses, count, &(struct rule_entry){0}, 0) >= 0,
		"the tables can be published");
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct table_writer *writer = NULL;
	int fd = segment_create(SEGMENT_TABLES, TABLES_SIZE, 1, "fuzz");
	(void)argc;
	(void)argv;
	require(fd >= 0 && table_writer_open(fd, -1, &writer) == 0, "a writer can be opened");
	tables_write(writer);
	table_writer_close(writer);
	require(segment_map(fd, SEGMENT_TABLES, sizeof(struct tables_segment), false, &world.tables,
		&world.tables_size) == 0, "the tables can be mapped");
	close(fd);
	world.state = mmap(NULL, sizeof(*world.state), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	require(world.state != MAP_FAILED, "there is memory");
	return 0;
}

// --- operations ---

static void start(uint64_t now)
{
	static const struct forward_ops ops = {.deliver = deliver, .group_joined = group_joined, .flush = flush,
		.trace = trace};
	require(forward_init(&world.forward, world.tables, world.tables_size, world.state, &ops) == 0, "forwarding starts");
	world.forward.now = now;
	for (uint16_t port = 1; port <= PORTS; port++) {
		const struct port_spec spec = {.port = port, .driver = DRIVER_LINK, .mtu = 1500, .link_up = 1};
		forward_port(&world.forward, port, &spec);
	}
	forward_tick(&world.forward);
}

// As kill -9 leaves it: nothing is flushed, only this process's own memory goes.
static void crash(void)
{
	struct forward *f = &world.forward;
	uint64_t now = f->now;
	for (int port = 0; port < MAX_PORTS; port++)
		free(f->queues[port]);
	transit_free(f->transit);
	neighbor_fini(f);
	police_fini(f);
	icmp_limit_fini(f);
	view_close(&f->tables);
	packet_pool_free(f->pool);
	start(now);
}

static struct packet *packet_of(const uint8_t *bytes, uint32_t length, bool offload)
{
	uint32_t skip = offload && length > VNET ? VNET : 0;
	struct packet *packet = packet_get(world.forward.pool, length - skip + REDZONE);
	if (packet == NULL)
		return NULL;
	packet->length = length - skip;
	packet->offset = packet->room - packet->length - REDZONE;
	memcpy(packet_data(packet), bytes + skip, packet->length);
	memcpy(&packet->vnet, bytes, skip);
	ASAN_POISON_MEMORY_REGION(packet_data(packet) + packet->length, REDZONE);
	return packet;
}

static void repair_tcp(uint64_t pseudo, uint8_t *tcp, uint32_t length)
{
	store16(tcp + TCP_CHECKSUM, 0);
	uint16_t sum = cksum_finish(cksum_add(pseudo, tcp, length));
	memcpy(tcp + TCP_CHECKSUM, &sum, 2);
}

static void repair4(uint8_t *ip, uint32_t length)
{
	uint32_t header = length >= 20 ? (ip[0] & 15u) * 4 : 0;
	if (header < 20 || header > length)
		return;
	store16(ip + 10, 0);
	uint16_t sum = cksum(ip, header);
	memcpy(ip + 10, &sum, 2);
	uint32_t total = load16(ip + 2);
	if (ip[9] == 6 && total <= length && total >= header + TCP_HEADER)
		repair_tcp(cksum_pseudo4(ip + 12, ip + 16, 6, total - header), ip + header, total - header);
	if (ip[9] != 1 || total > length || total < header + 8)
		return;
	store16(ip + header + 2, 0);
	sum = cksum(ip + header, total - header);
	memcpy(ip + header + 2, &sum, 2);
}

static void repair6(uint8_t *ip, uint32_t length)
{
	uint32_t payload = length >= 40 ? load16(ip + 4) : 0;
	if (payload >= TCP_HEADER && payload <= length - 40 && ip[6] == 6)
		repair_tcp(cksum_pseudo6(ip + 8, ip + 24, 6, payload), ip + 40, payload);
	if (payload < 8 || payload > length - 40 || ip[6] != 58)
		return;
	store16(ip + 42, 0);
	uint16_t sum = cksum_finish(cksum_add(cksum_pseudo6(ip + 8, ip + 24, 58, payload), ip + 40, payload));
	memcpy(ip + 42, &sum, 2);
}

// What a fuzzer hardly finds by itself.
static void repair(uint16_t port, uint8_t *data, uint32_t length)
{
	if (length < ETHERNET_HEADER)
		return;
	if (!ethernet_is_group(data))
		memcpy(data, (const uint8_t[]){2, 0, 0, 0, 0, (uint8_t)port}, ETHERNET_ADDRESS);
	if (load16(data + 12) == ETHERNET_IP4)
		repair4(data + ETHERNET_HEADER, length - ETHERNET_HEADER);
	else if (load16(data + 12) == ETHERNET_IP6)
		repair6(data + ETHERNET_HEADER, length - ETHERNET_HEADER);
}

static void frame(uint16_t port, uint8_t how, const uint8_t *bytes, uint32_t length)
{
	bool offload = how & 1;
	struct packet *packet = packet_of(bytes, length, offload);
	if (packet == NULL)
		return;
	if (how & 2)
		repair(port, packet_data(packet), packet->length);
	port_vnet_check(packet);
	packet->trace = offload;
	forward_receive(&world.forward, port, &packet, 1);
}

// A batch of such frames, of which each goes on in the stream where the one before it ends; the last one is shorter.
static void row(uint16_t port, uint8_t how, const uint8_t *bytes, uint32_t length)
{
	struct packet *packets[ROW];
	int count = 0;
	for (; count < ROW && (packets[count] = packet_of(bytes, length, false)) != NULL; count++) {
		uint8_t *data = packet_data(packets[count]);
		uint32_t tcp = length >= ETHERNET_HEADER && load16(data + 12) == ETHERNET_IP4 ? 34 : 54;
		if (length >= tcp + TCP_HEADER)
			store32(data + tcp + 4, load32(data + tcp + 4) + (uint32_t)count * (length - tcp - (data[tcp + 12] >> 4) * 4u));
		if (count == ROW - 1 && how & 8 && tcp == 34 && length >= 54)
			store16(data + 16, (uint16_t)(length - ETHERNET_HEADER - 1));
		if (how & 2)
			repair(port, data, length);
	}
	forward_receive(&world.forward, port, packets, count);
}

static void output(uint16_t interface, const uint8_t *bytes, uint32_t length)
{
	struct packet *packet = length >= 1 ? packet_of(bytes, length, false) : NULL;
	if (packet == NULL)
		return;
	packet->account = ACCOUNT_ORIGINATED;
	enum drop_reason reason = bytes[0] >> 4 == 4 ? ip4_output(&world.forward, interface,
		packet) : ip6_output(&world.forward, interface, packet);
	if (reason != DROP_NONE)
		packet_drop(&world.forward, packet, reason);
	forward_flush(&world.forward);
}

static void link_change(uint16_t port, bool present, bool up)
{
	const struct port_spec spec = {.port = port, .driver = DRIVER_LINK, .mtu = 1500, .link_up = up};
	forward_port(&world.forward, port, present ? &spec : NULL);
	forward_tick(&world.forward);
}

// Bytes of the input into what a successor takes over.
static void damage(uint8_t where, const uint8_t *bytes, uint32_t length)
{
	const struct {
		void *at;
		size_t size;
	} targets[] = {
		{world.state->neighbors, sizeof(world.state->neighbors)},
		{world.state->dad, sizeof(world.state->dad)},
		{world.state->pending, sizeof(world.state->pending)},
		{&world.state->neighbors_used, sizeof(world.state->neighbors_used)},
	};
	size_t index = where % 4u;
	if (length < 4)
		return;
	size_t at = (size_t)(bytes[0] | bytes[1] << 8 | bytes[2] << 16) % targets[index].size;
	size_t size = targets[index].size - at < length - 3 ? targets[index].size - at : length - 3;
	memcpy((uint8_t *)targets[index].at + at, bytes + 3, size);
	world.damaged = true;
	crash();
}

static void run(const uint8_t *record, const uint8_t *bytes, uint32_t length)
{
	uint16_t port = record[1] % (PORTS + 1u);
	switch ((enum operation)(record[0] % OPERATIONS)) {
	case FRAME:
		(record[2] & 4 ? row : frame)(port != 0 ? port : 1, record[2], bytes, length);
		break;
	case OUTPUT:
		output(record[1] % 7u, bytes, length);
		break;
	case TIME:
		world.forward.now += (uint64_t)record[1] * (NS_PER_S / 4);
		forward_tick(&world.forward);
		break;
	case LINK:
		link_change(port != 0 ? port : 1, record[2] & 1, record[2] & 2);
		break;
	case CRASH:
		crash();
		break;
	case DAMAGE:
		damage(record[1], bytes, length);
		break;
	default:
		break;
	}
}

static void check_laws(void)
{
	for (int i = 0; i < MAX_INTERFACES; i++) {
		const struct interface_counters *counters = &world.state->counters[i];
		uint64_t fates = counters->forwarded_packets + counters->punt_packets + counters->held_packets;
		for (int reason = 0; reason < DROP_REASON_COUNT; reason++)
			fates += counters->drops[reason];
		require(counters->rx_packets == fates, "law 1");
		uint64_t out = counters->forwarded_out_packets + counters->originated_packets + counters->fragments_created;
		require(counters->tx_packets == out, "law 2");
		require(counters->drops[DROP_NONE] == 0, "each drop has a name");
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	madvise(world.state, sizeof(*world.state), MADV_DONTNEED);
	world.damaged = false;
	world.state->random_key[0] = 1;
	start(NS_PER_S);
	while (size >= RECORD) {
		uint32_t length = data[3] | (uint32_t)data[4] << 8;
		const uint8_t *bytes = data + RECORD;
		if (length > size - RECORD)
			length = (uint32_t)(size - RECORD);
		run(data, bytes, length);
		data = bytes + length;
		size -= RECORD + length;
	}
	if (!world.damaged)
		check_laws();
	forward_fini(&world.forward);
	if (!world.damaged)
		check_laws();
	return 0;
}
