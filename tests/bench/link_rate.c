// How many packets a second a VR takes from one patch link to another, with all the work of IPv4 forwarding.
//
//   link_rate SECONDS SIZE [ADDRESSES PREFIXES]
//
// Two processes: a VR's whole core on processor 1, and on processor 0 the other ends of both links, which generate and
// drain.  ADDRESSES holds destinations of 4 bytes each; PREFIXES routes, as lines "address/length".  Without them there
// is a default route and one destination.  Prints packets a second, each of SIZE bytes without FCS.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "abi/core.h"
#include "abi/state.h"
#include "abi/tables.h"
#include "base/bytes.h"
#include "base/cksum.h"
#include "port/link_end.h"
#include "wire/arp.h"
#include "wire/ethernet.h"
#include "wire/ip4.h"

enum {
	TABLES_SIZE = 512 << 20, CHANGES = 4096, NEXT_HOPS = 32, FIRST_HOP = 9, BURST = 64, ADDRESSES_MAX = 1 << 16,
	SIZE_MAX_FRAME = 1514, WARM_UP_MS = 300
};

static const uint8_t router_mac[2][6] = {{2, 0, 0, 0, 0x0a, 1}, {2, 0, 0, 0, 0x0b, 1}};
static const uint8_t host_mac[2][6] = {{2, 0, 0, 0, 0x0a, 2}, {2, 0, 0, 0, 0x0b, 2}};

struct link {
	int segments[2]; // ours, the router's
	int events[2];
	struct link_end *end;
};

static void require(bool good, const char *what)
{
	if (!good) {
		perror(what);
		exit(1);
	}
}

static double seconds_now(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void pin(size_t cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	(void)sched_setaffinity(0, sizeof(set), &set);
}

// --- the router's tables ---

static void route_add(struct table_writer *writer, const uint8_t *address, uint8_t length, const struct nexthop *hop)
{
	int group = table_writer_group(writer, hop, 1);
	struct route_change change = {.family = FAMILY_IPV4, .length = length, .group = (uint16_t)group,
		.protocol = ROUTE_STATIC};
	memcpy(change.address, address, 4);
	require(group > 0 && table_writer_apply(writer, &change, 1) >= 0, "route");
}

static void prefixes_add(struct table_writer *writer, const char *path)
{
	static struct route_change changes[CHANGES];
	int groups[NEXT_HOPS];
	char line[64];
	uint32_t count = 0, number = 0;
	FILE *file = fopen(path, "r");
	require(file != NULL, path);
	for (uint8_t i = 0; i < NEXT_HOPS; i++) {
		const struct nexthop hop = {.kind = NEXTHOP_FORWARD, .family = FAMILY_IPV4, .interface = 2, .weight = 1,
			.weight_end = 1, .via = {10, 0, 1, (uint8_t)(FIRST_HOP + i)}};
		groups[i] = table_writer_group(writer, &hop, 1);
	}
	while (fgets(line, sizeof(line), file) != NULL) {
		char *slash = strchr(line, '/');
		struct route_change *change = &changes[count];
		if (slash == NULL)
			continue;
		*slash = '\0';
		*change = (struct route_change){.family = FAMILY_IPV4, .length = (uint8_t)atoi(slash + 1),
			.group = (uint16_t)groups[number++ % NEXT_HOPS], .protocol = ROUTE_BGP};
		if (inet_pton(AF_INET, line, change->address) != 1)
			continue;
		if (++count == CHANGES) {
			require(table_writer_apply(writer, changes, count) >= 0, "routes");
			count = 0;
		}
	}
	require(table_writer_apply(writer, changes, count) >= 0, "routes");
	fclose(file);
}

static void tables_write(int fd, const char *prefixes)
{
	struct interface_entry interfaces[2] = {0};
	struct address_entry addresses[2] = {0};
	struct table_writer *writer;
	require(table_writer_open(fd, -1, &writer) == 0, "writer");
	for (uint8_t i = 0; i < 2; i++) {
		const struct nexthop connected = {.kind = NEXTHOP_CONNECTED, .interface = i + 1u, .weight = 1, .weight_end = 1};
		const struct nexthop local = {.kind = NEXTHOP_LOCAL, .interface = i + 1u, .weight = 1, .weight_end = 1};
		interfaces[i] = (struct interface_entry){.index = i + 1u, .port = i + 1u, .kind = INTERFACE_ETHERNET,
			.flags = INTERFACE_ADMIN_UP, .mtu = 1500};
		memcpy(interfaces[i].mac, router_mac[i], 6);
		snprintf(interfaces[i].name, sizeof(interfaces[i].name), "link%u", i);
		addresses[i] = (struct address_entry){.address = {10, 0, i, 1}, .family = FAMILY_IPV4, .length = 24,
			.interface = i + 1u, .flags = ADDRESS_NO_DAD};
		route_add(writer, (const uint8_t[]){10, 0, i, 0}, 24, &connected);
		route_add(writer, addresses[i].address, 32, &local);
	}
	if (prefixes != NULL) {
		prefixes_add(writer, prefixes);
	} else {
		const struct nexthop hop = {.kind = NEXTHOP_FORWARD, .family = FAMILY_IPV4, .interface = 2, .weight = 1,
			.weight_end = 1, .via = {10, 0, 1, FIRST_HOP}};
		route_add(writer, (const uint8_t[4]){0}, 0, &hop);
	}
	require(table_writer_publish(writer, interfaces, 2, addresses, 2, &(struct rule_entry){0}, 0) >= 0, "publish");
	table_writer_close(writer);
}

// --- the links ---

static void link_make(struct link *link, uint32_t number)
{
	for (int i = 0; i < 2; i++) {
		link->segments[i] = segment_create(SEGMENT_LINK, sizeof(struct link_segment), number, "bench");
		link->events[i] = eventfd(0, EFD_NONBLOCK);
		require(link->segments[i] >= 0 && link->events[i] >= 0, "link");
	}
	require(link_end_open(link->segments[0], link->segments[1], link->events[0], link->events[1], &link->end) == 0, "end");
}

static void router_run(int tables_fd, int state_fd, const struct link *links)
{
	struct core *core;
	require(core_create(tables_fd, state_fd, &core) == 0, "core");
	for (uint16_t i = 0; i < 2; i++) {
		const struct port_spec spec = {.port = i + 1u, .driver = DRIVER_LINK, .mtu = 1500, .link_up = 1, .generation = 1};
		const int fds[] = {links[i].segments[1], links[i].segments[0], links[i].events[1], links[i].events[0]};
		require(core_port_add(core, &spec, fds, 4) == 0, "port");
	}
	pin(1);
	exit(core_run(core) < 0);
}

// --- the neighbor at both ends ---

static uint32_t frame_make(uint8_t *frame, uint32_t size)
{
	struct ethernet_header *ethernet = (void *)frame;
	struct ip4_header *ip = (void *)(frame + ETHERNET_HEADER);
	uint32_t length = size > 60 ? size - ETHERNET_HEADER : 46;
	memset(frame, 0, SIZE_MAX_FRAME);
	memcpy(ethernet->destination, router_mac[0], 6);
	memcpy(ethernet->source, host_mac[0], 6);
	store16(&ethernet->type, ETHERNET_IP4);
	*ip = (struct ip4_header){.version_length = 0x45, .total_length = htons((uint16_t)length), .fragment = htons(IP4_DF),
		.ttl = 64, .protocol = 17, .source = {10, 0, 0, 2}};
	store16((uint8_t *)ip + 22, 2000);
	store16((uint8_t *)ip + 24, (uint16_t)(length - 20));
	return size;
}

static void answer(struct link_end *end, int side, uint8_t *frame)
{
	struct ethernet_header *ethernet = (void *)frame;
	struct arp_packet *arp = (void *)(frame + ETHERNET_HEADER);
	uint8_t asked[4];
	memcpy(ethernet->destination, router_mac[side], 6);
	memcpy(ethernet->source, host_mac[side], 6);
	memcpy(asked, arp->target, 4);
	store16(&arp->operation, ARP_REPLY);
	memcpy(arp->target_mac, router_mac[side], 6);
	memcpy(arp->target, arp->sender, 4);
	memcpy(arp->sender_mac, host_mac[side], 6);
	memcpy(arp->sender, asked, 4);
	(void)link_end_send(end, frame, 60, NULL);
}

// Take what came; returns how many of them were forwarded packets.
static uint64_t drain(struct link_end *end, int side)
{
	static uint8_t data[SUPER_ROOM];
	struct link_frame frame;
	uint8_t vnet[16];
	uint64_t count = 0;
	for (int i = 0; i < BURST && link_end_next(end, &frame); i++) {
		link_end_take(end, &frame, data, vnet);
		if (load16(data + 12) == ETHERNET_ARP && load16(data + ETHERNET_HEADER + 6) == ARP_REQUEST)
			answer(end, side, data);
		else if (load16(data + 12) == ETHERNET_IP4)
			count++;
	}
	link_end_record(end);
	return count;
}

static void generate(struct link_end *end, uint8_t *frame, uint32_t size, const uint32_t *addresses, uint32_t count)
{
	static const uint8_t vnet[16];
	static uint64_t random = 0x9e3779b97f4a7c15;
	struct ip4_header *ip = (void *)(frame + ETHERNET_HEADER);
	const struct iovec whole = {.iov_base = frame, .iov_len = size};
	for (int i = 0; i < BURST; i++) {
		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		memcpy(ip->destination, &addresses[random % count], 4);
		ip->checksum = 0;
		ip->checksum = cksum(ip, IP4_HEADER);
		if (!link_end_fill(end, &whole, size, vnet))
			break;
	}
	link_end_publish(end);
}

static double measure(struct link *links, double seconds, uint32_t size, const uint32_t *addresses, uint32_t count)
{
	uint8_t frame[SIZE_MAX_FRAME];
	uint64_t drained = 0;
	double begin = seconds_now() + WARM_UP_MS / 1000.0, now = begin;
	frame_make(frame, size);
	while (now < begin + seconds) {
		for (int i = 0; i < 16; i++) {
			generate(links[0].end, frame, size, addresses, count);
			drained += drain(links[1].end, 1);
			(void)drain(links[0].end, 0);
		}
		now = seconds_now();
		if (now < begin)
			drained = 0;
	}
	return (double)drained / (now - begin);
}

int main(int argc, char **argv)
{
	static uint32_t addresses[ADDRESSES_MAX] = {0};
	uint32_t count = 1;
	struct link links[2];
	int tables = segment_create(SEGMENT_TABLES, TABLES_SIZE, 1, "bench");
	int state = segment_create(SEGMENT_STATE, sizeof(struct state_segment), 1, "bench");
	require(argc >= 3 && tables >= 0 && state >= 0, "link_rate SECONDS SIZE [ADDRESSES PREFIXES]");
	addresses[0] = htonl(0x0a000201);
	if (argc > 4) {
		FILE *file = fopen(argv[3], "r");
		require(file != NULL, argv[3]);
		count = (uint32_t)fread(addresses, 4, ADDRESSES_MAX, file);
		fclose(file);
	}
	tables_write(tables, argc > 4 ? argv[4] : NULL);
	for (uint32_t i = 0; i < 2; i++)
		link_make(&links[i], i);
	pid_t child = fork();
	require(child >= 0, "fork");
	if (child == 0)
		router_run(tables, state, links);
	pin(0);
	printf("%.0f\n", measure(links, atof(argv[1]), (uint32_t)atoi(argv[2]), addresses, count));
	kill(child, SIGTERM);
	waitpid(child, NULL, 0);
	return 0;
}
