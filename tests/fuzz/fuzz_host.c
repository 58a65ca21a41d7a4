// Hostile packets into the host stack: parsing, reassembly, ICMP errors, IGMP and MLD with
// memberships that come and go, sockets of all kinds.
//
// Input: records of a 16-bit length, one byte of meaning (ingress, vnet flags, time that passes,
// or a call about a membership) and the bytes of an IP packet.  The checksums of IGMP and MLD
// messages are set right where the meaning says so, since nothing excuses a wrong one of IGMP.
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "base/cksum.h"
#include "host/host.h"
#include "rsock_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct world {
	struct state_segment *state;
	struct tables_view tables;
	struct interface_entry interface;
	struct address_entry addresses[2];
	struct host *host;
	uint64_t now;
	long packets;
};

static enum drop_reason output(void *user, uint16_t interface, uint8_t family, struct packet *packet)
{
	struct world *w = user;
	(void)interface;
	if (packet_data(packet)[0] >> 4 != family)
		abort();
	w->packets--;
	free(packet->buffer);
	free(packet);
	return DROP_NONE;
}

static bool source(void *user, uint8_t family, const uint8_t *destination, uint16_t interface, uint8_t *out, uint16_t *egress)
{
	struct world *w = user;
	(void)destination;
	(void)interface;
	memcpy(out, w->addresses[family == FAMILY_IPV6].address, 16);
	*egress = 1;
	return true;
}

static uint32_t path_mtu(void *user, uint8_t family, const uint8_t *destination, uint16_t interface)
{
	(void)user;
	(void)family;
	(void)interface;
	return destination[3] == 99 ? 0 : 1500;
}

static void unreachable(void *user, struct packet *packet, uint8_t code)
{
	(void)user;
	if (code != HOST_PORT_UNREACHABLE && code != HOST_PROTOCOL_UNREACHABLE)
		abort();
	volatile uint8_t touched = packet_data(packet)[packet->length - 1];
	(void)touched;
}

static bool upcall(void *user, uint32_t slot, const void *header, const uint8_t *payload, uint32_t length)
{
	struct world *w = user;
	if (w->state->sockets[slot].cookie == 0 || ((const struct rsock_datagram *)header)->version != RSOCK_VERSION)
		abort();
	// Every byte must be readable: the sanitizer watches.
	volatile uint8_t sum = 0;
	for (uint32_t i = 0; i < length; i++)
		sum = (uint8_t)(sum + payload[i]);
	return length % 7 != 0;
}

static void error(void *user, uint32_t slot, int number)
{
	struct world *w = user;
	if (w->state->sockets[slot].cookie == 0 || number <= 0)
		abort();
}

static struct packet *packet_take(void *user, uint32_t room)
{
	struct world *w = user;
	struct packet *packet = calloc(1, sizeof(*packet));
	packet->buffer = malloc(PACKET_HEADROOM + room);
	packet->room = PACKET_HEADROOM + room;
	packet->offset = PACKET_HEADROOM;
	w->packets++;
	return packet;
}

static void packet_give(void *user, struct packet *packet)
{
	struct world *w = user;
	w->packets--;
	free(packet->buffer);
	free(packet);
}

static void open_socket(struct world *w, uint16_t family, uint16_t type, uint16_t protocol, uint16_t port)
{
	static const int on = 1;
	static const uint8_t any[16];
	uint32_t slot;
	if (host_socket(w->host, family, type, protocol, &slot) < 0)
		abort();
	(void)host_setopt(w->host, slot, IPPROTO_IP, IP_RECVERR, (const uint8_t *)&on, sizeof(on));
	(void)host_setopt(w->host, slot, IPPROTO_IPV6, IPV6_RECVERR, (const uint8_t *)&on, sizeof(on));
	if (port != 0 && host_bind(w->host, slot, any, port, 0) < 0)
		abort();
}

static void start(struct world *w)
{
	static const uint8_t four[4] = {10, 0, 0, 1};
	static const uint8_t six[16] = {0x20, 1, 0x0d, 0xb8, [15] = 1};
	const struct host_ops ops = {
		.output = output, .source = source, .path_mtu = path_mtu, .unreachable = unreachable, .upcall = upcall,
		.error = error, .packet_get = packet_take, .packet_put = packet_give, .user = w,
	};
	memset(w, 0, sizeof(*w));
	// Mostly never touched: mapped as in a forwarder.
	w->state = mmap(NULL, sizeof(*w->state), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (w->state == MAP_FAILED)
		abort();
	w->interface = (struct interface_entry){.index = 1, .port = 1, .kind = INTERFACE_ETHERNET, .flags = INTERFACE_ADMIN_UP, .mtu = 1500};
	w->addresses[0] = (struct address_entry){.family = FAMILY_IPV4, .length = 24, .interface = 1};
	w->addresses[1] = (struct address_entry){.family = FAMILY_IPV6, .length = 64, .interface = 1};
	memcpy(w->addresses[0].address, four, 4);
	memcpy(w->addresses[1].address, six, 16);
	w->tables.interfaces = &w->interface;
	w->tables.interface_count = 1;
	w->tables.addresses = w->addresses;
	w->tables.address_count = 2;
	w->tables.by_index[1] = 1;
	w->host = host_new(w->state, &w->tables, &ops);
	host_attach(w->host);
	w->now = 1;
	host_tick(w->host, w->now);
	open_socket(w, AF_INET, SOCK_DGRAM, IPPROTO_UDP, 53);
	open_socket(w, AF_INET6, SOCK_DGRAM, IPPROTO_UDP, 54);
	open_socket(w, AF_INET, SOCK_DGRAM, IPPROTO_ICMP, 7);
	open_socket(w, AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6, 7);
	open_socket(w, AF_INET, SOCK_RAW, IPPROTO_UDP, 0);
	open_socket(w, AF_INET, SOCK_RAW, IPPROTO_ICMP, 0);
	open_socket(w, AF_INET6, SOCK_RAW, IPPROTO_ICMPV6, 0);
	open_socket(w, AF_INET6, SOCK_RAW, 89, 0);
}

enum { MULTICAST_SOCKETS = 2, GROUPS = 4, SOURCES = 4 };

static void write_storage(uint8_t *at, uint16_t family, uint8_t number, bool group)
{
	memcpy(at, &family, sizeof(family));
	if (family == AF_INET) {
		at[4] = group ? 239 : 10;
		at[7] = number;
	} else {
		at[8] = group ? 0xff : 0x20;
		at[9] = group ? 0x15 : 1;
		at[23] = number;
	}
}

// A call of RFC 3678 on one of the UDP sockets: which option, group and source the input says.
static void call(struct world *w, uint16_t choice)
{
	uint32_t slot = choice % MULTICAST_SOCKETS;
	uint16_t family = slot == 0 ? AF_INET : AF_INET6;
	int level = slot == 0 ? IPPROTO_IP : IPPROTO_IPV6;
	int name = MCAST_JOIN_GROUP + choice / 2 % 7;
	uint8_t group = (uint8_t)(choice / 16 % GROUPS);
	uint8_t source = (uint8_t)(choice / 64 % SOURCES);
	uint8_t value[144 + SOURCES * 128] = {1};
	uint32_t mode = choice / 256 % 2;
	uint32_t count = choice / 512 % (SOURCES + 1);
	write_storage(value + 8, family, group, true);
	write_storage(value + 136, family, source, false);
	uint32_t length = 264;
	if (name == MCAST_MSFILTER) {
		memset(value + 136, 0, 8);
		memcpy(value + 136, &mode, sizeof(mode));
		memcpy(value + 140, &count, sizeof(count));
		for (uint8_t i = 0; i < count; i++)
			write_storage(value + 144 + i * 128, family, i, false);
		length = 144 + count * 128;
	}
	(void)host_setopt(w->host, slot, level, name, value, length);
	if (host_getopt(w->host, slot, level, MCAST_MSFILTER, value, &length) == 0 && length > sizeof(value))
		abort();
}

// Make the checksum of an IGMP message right.
static void mend(uint8_t *ip, uint32_t length)
{
	uint32_t header = (ip[0] & 15u) * 4;
	if (ip[0] >> 4 != 4 || length < header + 8 || header < 20)
		return;
	ip[2] = (uint8_t)(length >> 8);
	ip[3] = (uint8_t)length;
	ip[6] = ip[7] = 0;
	ip[8] = 1;
	ip[9] = IPPROTO_IGMP;
	memset(ip + header + 2, 0, 2);
	uint16_t sum = cksum(ip + header, length - header);
	memcpy(ip + header + 2, &sum, sizeof(sum));
}

static void arrive(struct world *w, uint8_t meaning, const uint8_t *bytes, uint32_t length)
{
	struct packet *packet = packet_take(w, length);
	memcpy(packet_data(packet), bytes, length);
	packet->length = length;
	packet->ingress = meaning & 1;
	packet->link_broadcast = meaning & 2;
	// Partial checksums let mutated payloads past the checks behind which parsers wait.
	packet->vnet.flags = meaning & 4 ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0;
	if (meaning & 8) {
		packet->vnet.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4;
		packet->vnet.gso_size = (uint16_t)(1 + meaning);
	}
	if (length >= 34 && bytes[0] >> 4 == 4 && (meaning & 16))
		memcpy(packet_data(packet) + 16, w->addresses[0].address, 4);
	if (meaning & 32)
		mend(packet_data(packet), length);
	if (host_input(w->host, packet, w->now) != DROP_NONE)
		packet_give(w, packet);
	host_flush(w->host, w->now); // what came from this VR itself waits for it
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world w;
	start(&w);
	while (size >= 3) {
		uint32_t length = (uint32_t)(data[0] | data[1] << 8);
		uint8_t meaning = data[2];
		data += 3;
		size -= 3;
		if (meaning & 0x80) {
			w.now += (uint64_t)length * (meaning & 1 ? 1000000 : 1000000000);
			host_tick(w.host, w.now);
			host_flush(w.host, w.now);
			if (host_deadline(w.host) <= w.now)
				abort();
			continue;
		}
		if (meaning & 0x40) {
			call(&w, (uint16_t)length);
			continue;
		}
		if (length > size)
			length = (uint32_t)size;
		if (length > 0)
			arrive(&w, meaning, data, length);
		data += length;
		size -= length;
	}
	for (uint32_t slot = 0; slot < 16; slot++)
		host_close(w.host, slot);
	if (w.packets != 0)
		abort();
	host_free(w.host);
	munmap(w.state, sizeof(*w.state));
	return 0;
}
