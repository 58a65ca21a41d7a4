// Segments in sequence, with time between them, at connections whose apps read and write: what the bytes choose lies
// near what the connection expects, so that inputs reach recovery, closing and their mixtures.
#include "tcp_world.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { STEPS_MOST = 120 };

static uint32_t some_slot(const struct world *w, uint8_t choice)
{
	return MAX_SOCKETS + choice % (uint32_t)w->state->tcp_used;
}

static void connect_one(struct world *w, uint8_t choice)
{
	uint8_t mapped[16], plain[16], family;
	bool six = choice & 1, own = choice & 2;
	uint32_t slot = world_socket(w, six ? AF_INET6 : AF_INET);

	world_address(six, own ? 0 : 3, mapped);
	address_unmap(AF_INET6, mapped, &family, plain);
	if (slot != 0)
		(void)host_connect(w->host, slot, six ? mapped : plain, own ? WORLD_PORT : 7, 0);
}

static void app(struct world *w, struct input *in)
{
	uint8_t choice = take8(in);
	uint32_t slot = some_slot(w, choice >> 4), child;

	switch (choice & 15) {
	default: world_write(w, slot, take16(in), 0); break;
	case 5: world_write(w, slot, take8(in), 0); break;
	case 6: world_write(w, slot, 60000, MSG_MORE); break;
	case 7:
	case 8: world_read(w, slot, WORLD_MOST, 0); break;
	case 9: world_read(w, slot, take8(in), 0); break;
	case 10: (void)host_accept(w->host, w->listener, &child); break;
	case 11: (void)host_shutdown(w->host, slot, SHUT_WR); break;
	case 12: slot == w->listener ? (void)0 : host_close(w->host, slot); break;
	case 13: connect_one(w, take8(in)); break;
	case 14:
		w->appetite = take16(in);
		host_stream_resume(w->host, slot);
		break;
	case 15: world_reserve(w, slot, take16(in), take16(in), 0); break;
	}
	world_check(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint8_t start = take8(&in);
	struct world *w = world_open(start, take16(&in));

	(void)world_establish(w, start & 16, 1, WORLD_PORT, 1000, start & 32);
	(void)world_establish(w, start & 64, 2, WORLD_PORT, 1001, false);
	for (int i = 0; i < STEPS_MOST && in.left > 0; i++) {
		uint8_t step = take8(&in);
		switch (step & 7) {
		default: peer_segment(w, &in); break;
		case 4: peer_time(w, &in); break;
		case 5:
		case 6: app(w, &in); break;
		case 7:
			if (step < 32)
				peer_icmp(w, &in);
			else if (step < 64)
				w->no_packets = !w->no_packets;
			else if (step < 96)
				w->no_route = !w->no_route;
			else
				world_flush(w);
			break;
		}
		if (step & 128)
			world_flush(w);
	}
	world_close(w, start & 128);
	return 0;
}
