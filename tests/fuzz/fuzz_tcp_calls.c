// Socket calls of all kinds with any arguments, mixed with segments, ticks and ICMP errors.
#include "tcp_world.h"

#include <linux/tcp.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { STEPS_MOST = 100 };

static void put_address(const struct world *w, uint8_t choice, uint32_t slot, uint8_t *address)
{
	const struct tcp_socket *s = host_stream(w->host, slot);
	uint8_t mapped[16], family;
	bool six = choice & 1;

	memset(address, 0, 16);
	if ((choice & 6) == 6)
		return; // any
	world_address(six, choice & 4 ? 0 : (uint8_t)(choice >> 4), mapped);
	if (choice & 8)
		mapped[choice >> 5] ^= 0xfe;
	if (s != NULL && s->family == AF_INET)
		address_unmap(AF_INET6, mapped, &family, address);
	else
		memcpy(address, mapped, 16);
}

static void set_option(struct world *w, uint32_t slot, struct input *in, bool get)
{
	static const int levels[] = {SOL_SOCKET, IPPROTO_TCP, IPPROTO_TCP, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP};
	uint8_t value[512], choice = take8(in), name = take8(in);
	uint32_t length = take8(in) % 16, kind = choice >> 6;

	if (length == 0)
		length = 4;
	if (choice & 32)
		length += take8(in);
	memset(value, 0, sizeof(value));
	if (kind == 0)
		store32(value, (uint32_t)take8(in) << 24); // a small number, little-endian
	else
		for (uint32_t i = 0; i < length; i++)
			value[i] = take8(in);
	int level = (choice & 15) < 6 ? levels[choice & 15] : (choice & 15) == 15 ? (int)take32(in) : IPPROTO_TCP;
	if (get) {
		uint32_t before = length;
		if (host_getopt(w->host, slot, level, name, value, &length) == 0 && length > sizeof(value) && length > before)
			abort();
	} else {
		(void)host_setopt(w->host, slot, level, name, value, length);
	}
}

static void set_key(struct world *w, uint32_t slot, struct input *in)
{
	uint8_t choice = take8(in);
	struct tcp_md5sig key = {.tcpm_keylen = choice & 4 ? 0 : choice >> 3, .tcpm_flags = choice & 2 ? TCP_MD5SIG_FLAG_PREFIX : 0};
	struct sockaddr_in6 peer = {.sin6_family = AF_INET6};

	world_address(choice & 1, take8(in) % WORLD_PEERS, peer.sin6_addr.s6_addr);
	key.tcpm_prefixlen = take8(in);
	memcpy(&key.tcpm_addr, &peer, sizeof(peer));
	memset(key.tcpm_key, 'x', key.tcpm_keylen);
	(void)host_setopt(w->host, slot, IPPROTO_TCP, choice & 2 ? TCP_MD5SIG_EXT : TCP_MD5SIG, (const uint8_t *)&key, sizeof(key));
}

static void call(struct world *w, struct input *in)
{
	uint8_t choice = take8(in), address[16], where;
	const uint16_t ports[] = {WORLD_PORT, 82, WORLD_SIGNED_PORT, 81};
	uint32_t slot = MAX_SOCKETS + (choice >> 5) + take8(in) % 4 * 8u, child;
	struct host_stream_status status;

	switch (choice & 31) {
	case 0: (void)world_socket(w, AF_INET); break;
	case 1: (void)world_socket(w, AF_INET6); break;
	case 2:
		where = take8(in);
		put_address(w, where, slot, address);
		(void)host_bind(w->host, slot, address, where & 128 ? 0 : (uint16_t)(80 + take8(in) % 4), take8(in) % 3);
		break;
	case 3:
	case 4:
		put_address(w, take8(in), slot, address);
		(void)host_connect(w->host, slot, address, ports[take8(in) % 4], take8(in) % 3);
		break;
	case 5: (void)host_listen(w->host, slot, (int8_t)take8(in)); break;
	case 6: (void)host_accept(w->host, slot, &child); break;
	case 7: (void)host_accept(w->host, w->listener, &child); break;
	case 8: world_read(w, slot, take16(in), take8(in) & 1 ? MSG_PEEK : 0); break;
	case 9: world_read(w, slot, take8(in), 0); break;
	case 10: world_write(w, slot, take16(in), take8(in) & 1 ? MSG_MORE : 0); break;
	case 11: world_write(w, slot, take8(in), take8(in) & 1 ? MSG_EOR : MSG_OOB); break;
	case 12: world_reserve(w, slot, take16(in), take16(in), take8(in) & 1 ? MSG_MORE : 0); break;
	case 13: (void)host_shutdown(w->host, slot, take8(in) % 4); break;
	case 14: host_close(w->host, slot); break;
	case 15: host_abort(w->host, slot); break;
	case 16: (void)host_disconnect(w->host, slot); break;
	case 17: host_stream_resume(w->host, slot); break;
	case 18: (void)host_stream_status(w->host, slot, &status); break;
	case 19: set_key(w, slot, in); break;
	case 20:
	case 21: set_option(w, slot, in, true); break;
	case 22: w->appetite = take16(in); break;
	default: set_option(w, slot, in, false); break;
	}
	world_check(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint8_t start = take8(&in);
	struct world *w = world_open(start, take16(&in));

	(void)world_establish(w, start & 16, 1, WORLD_PORT, 1000, start & 32);
	for (int i = 0; i < STEPS_MOST && in.left > 0; i++) {
		uint8_t step = take8(&in);
		switch (step & 7) {
		default: call(w, &in); break;
		case 4:
		case 5: peer_segment(w, &in); break;
		case 6: peer_time(w, &in); break;
		case 7:
			if (step < 64)
				peer_icmp(w, &in);
			else if (step < 96)
				w->no_packets = !w->no_packets;
			else if (step < 128)
				w->no_route = !w->no_route;
			break;
		}
		if (step & 128)
			world_flush(w);
	}
	world_close(w, start & 128);
	return 0;
}
