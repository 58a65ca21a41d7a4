// One hostile packet at a time into a stack that has everything: listeners, one of them with keys, connections in
// many states, requests, TIME-WAIT.
//
// Input: a byte for the clock, two of configuration, then records: a byte of meaning, a 16-bit length and the bytes of
// an IP packet; or of a TCP segment whose addresses, ports and numbers are measured against a connection.
#include "tcp_world.h"

#include <errno.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RECORDS_MOST = 12 };

static void finish(struct world *w, uint32_t slot, uint8_t flags)
{
	const struct tcp_socket *s = host_stream(w->host, slot);
	if (s == NULL)
		return;
	struct segment segment = {
		.local_port = s->local_port, .remote_port = s->remote_port, .seq = s->rcv_nxt, .ack = s->snd_nxt, .window = 30000, .ttl = 64,
		.flags = flags,
	};
	memcpy(segment.local, s->local, 16);
	memcpy(segment.remote, s->remote, 16);
	world_send(w, &segment);
	world_flush(w);
}

// A connection of every kind for one family.
static void populate(struct world *w, bool six)
{
	uint8_t address[16], plain[16], family;
	struct segment syn = {.local_port = WORLD_PORT, .remote_port = 999, .seq = 5, .flags = TCP_SYN, .window = 1000, .ttl = 64};

	(void)world_establish(w, six, 1, WORLD_PORT, 1000, false);
	world_write(w, world_establish(w, six, 1, WORLD_PORT, 1001, false), 9000, 0);
	world_flush(w);
	uint32_t slot = world_establish(w, six, 1, WORLD_PORT, 1002, true);
	(void)host_shutdown(w->host, slot, SHUT_WR);
	world_flush(w);
	finish(w, slot, TCP_ACK);
	finish(w, world_establish(w, six, 1, WORLD_PORT, 1003, true), TCP_ACK | TCP_FIN);
	slot = world_establish(w, six, 1, WORLD_PORT, 1004, false); // into TIME-WAIT
	(void)host_shutdown(w->host, slot, SHUT_WR);
	world_flush(w);
	finish(w, slot, TCP_ACK | TCP_FIN);
	world_address(six, 0, syn.local);
	world_address(six, 1, syn.remote);
	world_send(w, &syn);
	slot = world_socket(w, six ? AF_INET6 : AF_INET);
	world_address(six, 3, address);
	address_unmap(AF_INET6, address, &family, plain);
	if (host_connect(w->host, slot, six ? address : plain, 7, 0) != -EINPROGRESS)
		abort();
	world_flush(w);
}

static void segment(struct world *w, uint8_t meaning, uint8_t *bytes, uint32_t length)
{
	const struct tcp_socket *s = &w->host->tcp->sockets[meaning / 4 % w->state->tcp_used];
	uint8_t packet[60 + WORLD_MOST];
	bool four = address_mapped(s->remote) || s->remote_port == 0;
	uint32_t header = four ? 20 : 40;

	if (length < TCP_HEADER)
		return;
	memset(packet, 0, header);
	if (four) {
		packet[0] = 0x45;
		packet[8] = 64;
		packet[9] = IPPROTO_TCP;
		store16(packet + 2, (uint16_t)(header + length));
		memcpy(packet + 12, s->remote_port == 0 ? (const uint8_t[]){10, 0, 0, 3} : s->remote + 12, 4);
		memcpy(packet + 16, w->addresses[0].address, 4);
	} else {
		packet[0] = 0x60;
		packet[6] = IPPROTO_TCP;
		packet[7] = 64;
		store16(packet + 4, (uint16_t)length);
		memcpy(packet + 8, s->remote, 16);
		memcpy(packet + 24, s->local, 16);
	}
	if (s->remote_port != 0)
		store16(bytes, s->remote_port);
	store16(bytes + 2, s->local_port);
	store32(bytes + 4, load32(bytes + 4) + s->rcv_nxt);
	store32(bytes + 8, load32(bytes + 8) + s->snd_una);
	memcpy(packet + header, bytes, length);
	world_arrive(w, packet, header + length, VIRTIO_NET_HDR_F_DATA_VALID, meaning & 2 ? 1000 : 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint8_t start = take8(&in), bytes[2048];
	struct world *w = world_open(start, take16(&in));

	populate(w, false);
	populate(w, true);
	w->verify = false;
	for (int i = 0; i < RECORDS_MOST && in.left > 3; i++) {
		uint8_t meaning = take8(&in);
		uint32_t length = take16(&in) % sizeof(bytes);
		if (length > in.left)
			length = (uint32_t)in.left;
		memcpy(bytes, in.at, length);
		in.at += length;
		in.left -= length;
		if (length == 0)
			world_advance(w, 100 * TCP_MS, false);
		else if (meaning & 1)
			segment(w, meaning, bytes, length);
		else
			world_arrive(w, bytes, length, meaning & 2 ? VIRTIO_NET_HDR_F_DATA_VALID : meaning & 4 ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0, 0);
		if (meaning & 128)
			world_flush(w);
	}
	world_flush(w);
	world_close(w, start & 128);
	return 0;
}
