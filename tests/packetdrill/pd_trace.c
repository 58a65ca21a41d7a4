// The trace of a run: time, direction and all that a packet says, but for what packetdrill and the stack choose
// at random: ports, initial sequence numbers, offsets of timestamps, IP identification, checksums.
#include "pd_so.h"

#include <netinet/in.h>
#include <stdlib.h>
#include "base/bytes.h"
#include "base/crc32.h"

enum { FLOWS = 64, OPTION_TIMESTAMP = 8, OPTION_SACK = 5 };

// What the numbers of one direction of a connection are told relative to.
struct side {
	bool known, stamped;
	uint32_t seq, stamp;
};

struct flow {
	uint16_t port;         // of the peer; 0: free
	struct side sides[2];  // 0: ours
};

struct pd_trace {
	FILE *file;
	struct flow flows[FLOWS];
};

struct pd_trace *pd_trace_open(const char *path)
{
	struct pd_trace *trace = calloc(1, sizeof(*trace));
	if (trace == NULL || (trace->file = fopen(path, "w")) == NULL)
		pd_give_up("%s cannot be written", path);
	setlinebuf(trace->file); // a script that fails ends the process
	return trace;
}

void pd_trace_close(struct pd_trace *trace)
{
	if (trace != NULL)
		fclose(trace->file);
	free(trace);
}

static struct flow *flow_of(struct pd_trace *trace, uint16_t port)
{
	for (int i = 0; i < FLOWS; i++) {
		if (trace->flows[i].port == 0)
			trace->flows[i].port = port;
		if (trace->flows[i].port == port)
			return &trace->flows[i];
	}
	return &trace->flows[0];
}

static uint32_t relative(struct side *side, uint32_t seq)
{
	if (!side->known)
		*side = (struct side){.known = true, .seq = seq, .stamped = side->stamped, .stamp = side->stamp};
	return seq - side->seq;
}

static uint32_t relative_stamp(struct side *side, uint32_t stamp)
{
	if (stamp == 0)
		return 0;
	if (!side->stamped) {
		side->stamped = true;
		side->stamp = stamp;
	}
	return stamp - side->stamp + 1;
}

static void write_option(FILE *file, struct side *own, struct side *other, const uint8_t *option)
{
	if (option[0] == OPTION_TIMESTAMP && option[1] == 10) {
		fprintf(file, " ts %u %u", relative_stamp(own, load32(option + 2)), relative_stamp(other, load32(option + 6)));
		return;
	}
	fprintf(file, " option %u", option[0]);
	for (uint32_t at = 2; at < option[1]; at += option[0] == OPTION_SACK ? 4 : 1) {
		if (option[0] == OPTION_SACK && at + 4 <= option[1])
			fprintf(file, " %u", relative(other, load32(option + at)));
		else
			fprintf(file, " %u", option[at]);
	}
}

static void write_tcp(struct pd_trace *trace, char direction, const uint8_t *tcp, uint32_t length)
{
	bool ours = direction == '>';
	struct flow *flow = flow_of(trace, load16(tcp + (ours ? 2 : 0)));
	struct side *own = &flow->sides[!ours], *other = &flow->sides[ours];
	uint32_t header = (uint32_t)(tcp[12] >> 4) * 4;

	if (header < 20 || header > length)
		return;
	fprintf(trace->file, " flags %02x seq %u", tcp[13], relative(own, load32(tcp + 4)));
	if (load32(tcp + 8) != 0)
		fprintf(trace->file, " ack %u", relative(other, load32(tcp + 8)));
	fprintf(trace->file, " window %u data %u %08x", load16(tcp + 14), length - header, crc32_update(0, tcp + header, length - header));
	for (uint32_t at = 20; at < header && tcp[at] != 0;) {
		uint32_t size = tcp[at] == 1 ? 1 : at + 1 < header ? tcp[at + 1] : 0;
		if (size == 0 || at + size > header || (size == 1 && tcp[at] != 1))
			break;
		if (size == 1)
			fputs(" nop", trace->file);
		else
			write_option(trace->file, own, other, tcp + at);
		at += size;
	}
}

void pd_trace(struct pd_world *w, char direction, const uint8_t *ip, uint32_t length)
{
	if (w->trace == NULL || length < 20)
		return;
	bool four = ip[0] >> 4 == 4;
	uint32_t header = four ? (ip[0] & 0x0fu) * 4 : 40;
	fprintf(w->trace->file, "%llu %c ip %u %u", (unsigned long long)w->now, direction, ip[0] >> 4, length);
	if (length >= header + 20 && ip[four ? 9 : 6] == IPPROTO_TCP)
		write_tcp(w->trace, direction, ip + header, length - header);
	fputc('\n', w->trace->file);
}
