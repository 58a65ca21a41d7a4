// One stack of the simulator: what it is given as operations, and the link that its packets leave by.
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include "base/cksum.h"
#include "base/crc32.h"
#include "check.h"
#include "offload.h"
#include "publish.h"

struct sim_end *end_other(struct sim_end *end)
{
	return &end->world->ends[end == &end->world->ends[0]];
}

// In the form of a socket of the run's family.
void end_address(const struct sim_end *end, uint8_t *address)
{
	memcpy(address, end->addresses[end->world->six].address, 16);
}

static struct packet *take_packet(void *user, uint32_t room)
{
	struct sim_end *end = user;
	struct packet *packet = calloc(1, sizeof(*packet));

	packet->room = (PACKET_HEADROOM + room + 7) / 8 * 8 + PACKET_PARTS * (uint32_t)sizeof(struct iovec);
	packet->buffer = malloc(packet->room);
	packet->offset = PACKET_HEADROOM;
	end->packets++;
	return packet;
}

static void put_packet(void *user, struct packet *packet)
{
	struct sim_end *end = user;

	end->packets--;
	free(packet->buffer);
	free(packet);
}

static void print_segment(const struct sim_end *end, const uint8_t *frame, uint32_t length, const char *fate)
{
	const uint8_t *ip = frame + SIM_ETHERNET, *tcp = ip + (ip[0] >> 4 == 4 ? 20 : 40);
	uint32_t headers = (uint32_t)(tcp - ip) + (tcp[12] >> 4) * 4u;

	if (!end->world->trace)
		return;
	printf("%12.6f %s %d  %u > %u  %c%c%c%c seq %u ack %u win %u length %u\n", (double)(end->world->now - end->world->started) / 1e9, fate,
		(int)(end - end->world->ends), load16(tcp), load16(tcp + 2), tcp[13] & TCP_SYN ? 'S' : '.', tcp[13] & TCP_FIN ? 'F' : '.',
		tcp[13] & TCP_RST ? 'R' : '.', tcp[13] & TCP_ACK ? 'A' : '.', load32(tcp + 4), load32(tcp + 8), load16(tcp + 14),
		length - SIM_ETHERNET - headers);
}

// Fragmentation needed (RFC 1191 section 4), packet too big (RFC 4443 section 3.2): what a router in front of a
// link answers.
static void tell_too_big(struct sim_end *end, const uint8_t *frame, uint32_t length)
{
	const uint8_t *quoted = frame + SIM_ETHERNET;
	bool four = quoted[0] >> 4 == 4;
	uint32_t header = four ? 20 : 40, most = four ? 28 : 1000, mtu = end->out.config.mtu - SIM_ETHERNET;
	uint32_t quote = length - SIM_ETHERNET < most ? length - SIM_ETHERNET : most, size = 8 + quote;
	uint8_t answer[SIM_ETHERNET + 40 + 8 + 1000] = {0}, *ip = answer + SIM_ETHERNET, *icmp = ip + header;

	memcpy(answer, frame, SIM_ETHERNET);
	memcpy(icmp + 8, quoted, quote);
	if (four) {
		const uint8_t start[] = {0x45, 0, 0, (uint8_t)(header + size), 0, 0, 0, 0, 64, IPPROTO_ICMP, 0, 0, 10, 0, 0, 254};
		memcpy(ip, start, sizeof(start));
		memcpy(ip + 16, quoted + 12, 4);
		icmp[0] = 3;
		icmp[1] = 4;
	} else {
		const uint8_t router[16] = {0x20, 1, 0x0d, 0xb8, [15] = 254};
		ip[0] = 0x60;
		store16(ip + 4, (uint16_t)size);
		ip[6] = IPPROTO_ICMPV6;
		ip[7] = 64;
		memcpy(ip + 8, router, sizeof(router));
		memcpy(ip + 24, quoted + 8, 16);
		icmp[0] = 2;
	}
	store32(icmp + 4, mtu);
	uint16_t sum = four ? cksum(icmp, size) : transport_checksum(FAMILY_IPV6, ip + 8, ip + 24, IPPROTO_ICMPV6, icmp, size);
	memcpy(icmp + 2, &sum, sizeof(sum));
	(void)impair_submit(&end_other(end)->out, answer, SIM_ETHERNET + header + size, NULL, end->world->now);
}

static void submit_with(struct sim_end *end, const uint8_t *frame, uint32_t length, const uint8_t *meta)
{
	static const char *const fates[] = {"from", "hole", "full", "lost", "room"};

	enum impair_fate fate = impair_submit(&end->out, frame, length, meta, end->world->now);

	print_segment(end, frame, length, fates[fate]);
	if (fate == IMPAIR_HOLE && end->world->router)
		tell_too_big(end, frame, length);
}

static void submit(void *user, const uint8_t *frame, uint32_t length)
{
	submit_with(user, frame, length, NULL);
}

static bool for_other_end(struct sim_end *end, struct packet *packet, uint8_t family)
{
	bool six = family == FAMILY_IPV6;

	return memcmp(packet_data(packet) + (six ? 24 : 16), end_other(end)->addresses[six].address, six ? 16 : 4) == 0;
}

static uint32_t parts_sum(const struct packet *packet)
{
	uint32_t sum = 0;

	for (uint32_t i = 0; i < packet->part_count; i++)
		sum = crc32_update(sum, packet_parts(packet)[i].iov_base, packet_parts(packet)[i].iov_len);
	return sum;
}

static void leave(struct sim_end *end, struct packet *packet)
{
	struct virtio_net_hdr vnet = packet->vnet;
	uint8_t family = packet->family;
	if (packet->trace != parts_sum(packet))
		sim_fail(end->world, "bytes of a packet were overwritten while it waited");
	packet_gather(packet);
	uint32_t unit = vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE ? packet->length : (uint32_t)vnet.gso_size + vnet.hdr_len;
	uint8_t meta[IMPAIR_META] = {0};

	if (unit > end->mtu)
		sim_fail(end->world, "a packet of %u bytes for an MTU of %u", unit, end->mtu);
	if (!for_other_end(end, packet, family)) { // an answer to somebody who does not exist
		const uint8_t *tcp = packet_data(packet) + (family == FAMILY_IPV4 ? 20 : 40);
		end->stray = (struct sim_stray){end->stray.count + 1, load32(tcp + 4), load32(tcp + 8), tcp[13]};
		put_packet(end, packet);
		return;
	}
	if (!packet_push(packet, SIM_ETHERNET))
		sim_fail(end->world, "no headroom");
	uint8_t *frame = packet_data(packet);
	memset(frame, 2, SIM_ETHERNET);
	store16(frame + 12, family == FAMILY_IPV4 ? 0x0800 : 0x86dd);
	vnet = packet->vnet;
	if (end->world->super) {
		memcpy(meta, &vnet, sizeof(vnet));
		submit_with(end, frame, packet->length, meta);
	} else if (vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE) {
		static uint8_t scratch[SUPER_ROOM];
		if (offload_split(&vnet, frame, packet->length, scratch, submit, end) == 0)
			sim_fail(end->world, "a super-segment that cannot be split");
	} else {
		if ((vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) && !offload_checksum(&vnet, frame, packet->length))
			sim_fail(end->world, "a checksum outside the packet");
		submit(end, frame, packet->length);
	}
	put_packet(end, packet);
}

static enum drop_reason output(void *user, uint16_t interface, uint8_t family, struct packet *packet)
{
	struct sim_end *end = user;

	(void)interface;
	if (packet_data(packet)[0] >> 4 != family)
		sim_fail(end->world, "a packet of another family");
	packet->family = family;
	packet->next = NULL;
	packet->trace = parts_sum(packet); // of no use here otherwise
	if (end->holds) {
		*end->held_last = packet;
		end->held_last = &packet->next;
	} else {
		leave(end, packet);
	}
	return DROP_NONE;
}

void end_hold(struct sim_end *end)
{
	end->holds = true;
	end->held_last = &end->held;
}

void end_sent(struct sim_end *end)
{
	while (end->held != NULL) {
		struct packet *packet = end->held;
		end->held = packet->next;
		leave(end, packet);
	}
	end->holds = false;
	host_sent(end->host);
}

static bool source(void *user, uint8_t family, const uint8_t *destination, uint16_t interface, uint8_t *address, uint16_t *egress)
{
	const struct sim_end *end = user;

	(void)destination;
	(void)interface;
	memcpy(address, end->addresses[family == FAMILY_IPV6].address, 16);
	*egress = 1;
	return true;
}

static uint32_t path_mtu(void *user, uint8_t family, const uint8_t *destination, uint16_t interface)
{
	const struct sim_end *end = user;

	(void)family;
	(void)destination;
	(void)interface;
	return end->mtu;
}

static void unreachable(void *user, struct packet *packet, uint8_t code)
{
	(void)user;
	(void)packet;
	(void)code;
}

static bool upcall(void *user, uint32_t slot, const void *header, const uint8_t *payload, uint32_t length)
{
	(void)user;
	(void)slot;
	(void)header;
	(void)payload;
	(void)length;
	return true;
}

static void error(void *user, uint32_t slot, int number)
{
	(void)user;
	(void)slot;
	(void)number;
}

static uint32_t deliver(void *user, uint32_t slot, const struct iovec *parts, int count)
{
	return app_deliver(user, slot, parts, count);
}

static void stream(void *user, uint32_t slot, uint32_t events)
{
	app_event(user, slot, events);
}

void end_open(struct sim_end *end, struct sim_world *world, const struct host_config *config, const struct impair_config *link)
{
	uint8_t number = (uint8_t)(1 + (end - world->ends));
	const uint8_t four[4] = {10, 0, 0, number}, six[16] = {0x20, 1, 0x0d, 0xb8, [15] = number};
	const struct host_ops ops = {
		.output = output, .source = source, .path_mtu = path_mtu, .unreachable = unreachable, .upcall = upcall, .error = error,
		.deliver = end->direct ? deliver : NULL, .stream = stream, .packet_get = take_packet, .packet_put = put_packet,
		.takes_parts = true, .user = end,
	};

	end->world = world;
	end->state = calloc(1, sizeof(*end->state));
	end->state->random_key[0] = sim_random(world);
	end->state->random_key[1] = sim_random(world);
	end->addresses[0] = (struct address_entry){.family = FAMILY_IPV4, .length = 24, .interface = 1};
	end->addresses[1] = (struct address_entry){.family = FAMILY_IPV6, .length = 64, .interface = 1};
	memcpy(end->addresses[0].address, four, sizeof(four));
	memcpy(end->addresses[1].address, six, sizeof(six));
	end->segment = publish_tables(end->addresses, (uint16_t)end->mtu, &end->tables);
	end->host = host_new(end->state, &end->tables, &ops);
	if (end->host == NULL || impair_init(&end->out, link) < 0)
		abort();
	host_configure(end->host, config);
	host_attach(end->host);
	host_clock(end->host, world->now);
}

void end_close(struct sim_end *end)
{
	host_free(end->host);
	impair_free(&end->out);
	view_close(&end->tables);
	free(end->segment);
	free(end->state);
}

static void note(struct sim_world *world, const struct impair_frame *frame)
{
	uint64_t hash = world->hash ^ world->now;

	for (uint32_t i = 0; i < frame->length; i++)
		hash = (hash ^ frame->bytes[i]) * 0x100000001b3ull;
	world->hash = hash;
	world->frames++;
}

void end_receive(struct sim_end *end)
{
	struct impair *link = &end_other(end)->out;
	struct impair_frame frame;

	while (end->world->failure[0] == '\0' && impair_due(link, end->world->now, &frame)) {
		uint32_t length = frame.length - SIM_ETHERNET;
		struct packet *packet = take_packet(end, length);
		note(end->world, &frame);
		print_segment(end, frame.bytes, frame.length, "  to");
		memcpy(packet_data(packet), frame.bytes + SIM_ETHERNET, length);
		packet->length = length;
		packet->ingress = 1;
		memcpy(&packet->vnet, frame.meta, sizeof(packet->vnet));
		if (packet->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
			packet->vnet.csum_start = (uint16_t)(packet->vnet.csum_start - SIM_ETHERNET);
		if (host_input(end->host, packet, end->world->now) != DROP_NONE)
			put_packet(end, packet);
		check_end(end);
	}
}

static void broken(void *user, const char *what)
{
	struct sim_end *end = user;

	sim_fail(end->world, "end %d: %s", (int)(end - end->world->ends), what);
}

void check_end(struct sim_end *end)
{
	const struct check check = {.tcp = end->host->tcp, .fail = broken, .user = end};

	check_connections(&check);
}

void check_baseline(struct sim_end *end)
{
	const struct check check = {.tcp = end->host->tcp, .fail = broken, .user = end};

	check_released(&check);
	if (end->packets != 0)
		broken(end, "packets are still held");
}
