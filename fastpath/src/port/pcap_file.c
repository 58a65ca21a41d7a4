// Capture files, read from a hostile disk: pcap in microseconds and nanoseconds, and pcapng
// (draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng), either byte order.
//
// Lengths are believed only within bounds; a block that is of no interest is stepped over, however long it says it is, and
// the file ends where its bytes do.  Of pcapng these are read: section headers, interface descriptions (with
// if_tsresol), enhanced and simple packets.
//
// Not supported: the obsolete packet block, if_tsoffset, compressed files, pipes.
#include "port/pcap_file.h"

#include <string.h>

enum {
	CLASSIC_HEADER = 24,
	CLASSIC_RECORD = 16,
	BLOCK_HEADER = 8,
	BLOCK_MIN = 12,
	ENHANCED_FIXED = 20,
	LINKTYPE_ETHERNET = 1,
	OPTION_TSRESOL = 9,
	OPTIONS_MAX = 4096         // bytes of an interface's description that are looked at
};

static const uint32_t magic_micro = 0xa1b2c3d4;
static const uint32_t magic_nano = 0xa1b23c4d;
static const uint32_t magic_section = 0x0a0d0d0a;  // the same in either order
static const uint32_t magic_order = 0x1a2b3c4d;
static const uint64_t second = 1000000000u;

enum block { BLOCK_INTERFACE = 1, BLOCK_SIMPLE = 3, BLOCK_ENHANCED = 6 };

void pcap_reader_init(struct pcap_reader *reader, long (*read)(void *, uint64_t, void *, size_t), void *user)
{
	memset(reader, 0, offsetof(struct pcap_reader, window));
	reader->read = read;
	reader->user = user;
}

static uint16_t get16(const struct pcap_reader *reader, const uint8_t *at)
{
	uint16_t value;
	memcpy(&value, at, sizeof(value));
	return reader->swapped ? __builtin_bswap16(value) : value;
}

static uint32_t get32(const struct pcap_reader *reader, const uint8_t *at)
{
	uint32_t value;
	memcpy(&value, at, sizeof(value));
	return reader->swapped ? __builtin_bswap32(value) : value;
}

// The next `bytes`, not consumed; NULL: the file ends before.
static const uint8_t *peek(struct pcap_reader *reader, size_t bytes)
{
	if (bytes > PCAP_WINDOW)
		return NULL;
	if (reader->have - reader->at < bytes) {
		memmove(reader->window, reader->window + reader->at, reader->have - reader->at);
		reader->offset += reader->at;
		reader->have -= reader->at;
		reader->at = 0;
	}
	while (reader->have < bytes) {
		long got = reader->read(reader->user, reader->offset + reader->have, reader->window + reader->have, PCAP_WINDOW - reader->have);
		if (got <= 0 || (size_t)got > PCAP_WINDOW - reader->have)
			return NULL;
		reader->have += (size_t)got;
	}
	return reader->window + reader->at;
}

static void skip(struct pcap_reader *reader, uint64_t bytes)
{
	if (bytes <= reader->have - reader->at) {
		reader->at += (size_t)bytes;
		return;
	}
	reader->offset += reader->at + bytes;
	reader->have = reader->at = 0;
}

static enum pcap_step broken(struct pcap_reader *reader)
{
	reader->bad = true;
	return PCAP_BAD;
}

static uint64_t in_nanoseconds(uint64_t units, uint64_t time)
{
	return (uint64_t)((__uint128_t)time * second / units);
}

// --- classic files ---

static enum pcap_step classic_begin(struct pcap_reader *reader, const uint8_t *header)
{
	uint32_t magic;
	memcpy(&magic, header, sizeof(magic));
	reader->swapped = magic == __builtin_bswap32(magic_micro) || magic == __builtin_bswap32(magic_nano);
	magic = get32(reader, header);
	if (magic != magic_micro && magic != magic_nano)
		return broken(reader);
	reader->interfaces[0].units = magic == magic_nano ? second : 1000000;
	reader->interfaces[0].ethernet = (get32(reader, header + 20) & 0x03ffffff) == LINKTYPE_ETHERNET;
	reader->interface_count = 1;
	skip(reader, CLASSIC_HEADER);
	return PCAP_FRAME;
}

static enum pcap_step classic_next(struct pcap_reader *reader, struct pcap_frame *frame)
{
	const uint8_t *record = peek(reader, CLASSIC_RECORD);
	if (record == NULL)
		return PCAP_END;
	frame->captured = get32(reader, record + 8);
	frame->length = get32(reader, record + 12);
	if (frame->captured > PCAP_FRAME_MAX)
		return broken(reader);
	record = peek(reader, CLASSIC_RECORD + (size_t)frame->captured);
	if (record == NULL)
		return PCAP_END;
	uint64_t fraction = in_nanoseconds(reader->interfaces[0].units, get32(reader, record + 4));
	frame->time_ns = get32(reader, record) * second + fraction;
	frame->data = record + CLASSIC_RECORD;
	frame->ethernet = reader->interfaces[0].ethernet;
	skip(reader, CLASSIC_RECORD + (uint64_t)frame->captured);
	return PCAP_FRAME;
}

// --- pcapng ---

// A section's byte order holds for its own length too, so it is looked for first.
static enum pcap_step section_begin(struct pcap_reader *reader)
{
	const uint8_t *block = peek(reader, BLOCK_MIN);
	uint32_t order;
	if (block == NULL)
		return PCAP_END;
	memcpy(&order, block + BLOCK_HEADER, sizeof(order));
	if (order != magic_order && order != __builtin_bswap32(magic_order))
		return broken(reader);
	reader->swapped = order != magic_order;
	reader->interface_count = 0;
	return PCAP_FRAME;
}

static uint64_t resolution(uint8_t code)
{
	uint64_t units = 1;
	uint8_t exponent = code & 0x7f;
	if ((code & 0x80) != 0)
		return exponent < 64 ? 1ull << exponent : 0;
	if (exponent > 19)
		return 0;
	while (exponent-- > 0)
		units *= 10;
	return units;
}

// `body` is what stands between the two lengths, as far as OPTIONS_MAX.
static enum pcap_step interface_begin(struct pcap_reader *reader, const uint8_t *body, size_t length)
{
	if (length < 8 || reader->interface_count == PCAP_INTERFACES)
		return broken(reader);
	struct pcap_interface *interface = &reader->interfaces[reader->interface_count++];
	*interface = (struct pcap_interface){ .units = 1000000, .ethernet = get16(reader, body) == LINKTYPE_ETHERNET };
	for (size_t at = 8; at + 4 <= length;) {
		uint16_t code = get16(reader, body + at);
		size_t bytes = get16(reader, body + at + 2);
		if (code == 0 || at + 4 + bytes > length)
			break;
		if (code == OPTION_TSRESOL && bytes >= 1)
			interface->units = resolution(body[at + 4]);
		at += 4 + ((bytes + 3) & ~(size_t)3);
	}
	return interface->units == 0 ? broken(reader) : PCAP_FRAME;
}

static enum pcap_step enhanced_frame(struct pcap_reader *reader, const uint8_t *body, size_t length, struct pcap_frame *frame)
{
	if (length < ENHANCED_FIXED)
		return broken(reader);
	uint32_t index = get32(reader, body);
	frame->captured = get32(reader, body + 12);
	frame->length = get32(reader, body + 16);
	if (index >= reader->interface_count || frame->captured > length - ENHANCED_FIXED)
		return broken(reader);
	const struct pcap_interface *interface = &reader->interfaces[index];
	frame->time_ns = in_nanoseconds(interface->units, (uint64_t)get32(reader, body + 4) << 32 | get32(reader, body + 8));
	frame->ethernet = interface->ethernet;
	frame->data = body + ENHANCED_FIXED;
	return PCAP_FRAME;
}

// A simple packet has no time; it comes with the one before it.
static enum pcap_step simple_frame(struct pcap_reader *reader, const uint8_t *body, size_t length, struct pcap_frame *frame)
{
	if (length < 4 || reader->interface_count == 0)
		return broken(reader);
	frame->length = get32(reader, body);
	frame->captured = frame->length < length - 4 ? frame->length : (uint32_t)(length - 4);
	frame->ethernet = reader->interfaces[0].ethernet;
	frame->data = body + 4;
	return PCAP_FRAME;
}

// One block.  *found: it was a frame.
static enum pcap_step block_next(struct pcap_reader *reader, struct pcap_frame *frame, bool *found)
{
	const uint8_t *block = peek(reader, BLOCK_HEADER);
	if (block == NULL)
		return PCAP_END;
	uint32_t type = get32(reader, block);
	if (type == magic_section) {
		enum pcap_step step = section_begin(reader);
		if (step != PCAP_FRAME)
			return step;
		block = reader->window + reader->at;
	}
	uint32_t total = get32(reader, block + 4);
	if (total < BLOCK_MIN || total % 4 != 0)
		return broken(reader);
	*found = type == BLOCK_ENHANCED || type == BLOCK_SIMPLE;
	if (*found || type == BLOCK_INTERFACE) {
		size_t wanted = type == BLOCK_INTERFACE && total > OPTIONS_MAX ? OPTIONS_MAX : total;
		if (wanted > PCAP_WINDOW)
			return broken(reader);
		block = peek(reader, wanted);
		if (block == NULL)
			return PCAP_END;
		size_t length = (wanted == total ? total - 4u : wanted) - BLOCK_HEADER;
		const uint8_t *body = block + BLOCK_HEADER;
		enum pcap_step step = type == BLOCK_INTERFACE ? interface_begin(reader, body, length) :
			type == BLOCK_ENHANCED ? enhanced_frame(reader, body, length, frame) : simple_frame(reader, body, length, frame);
		if (step != PCAP_FRAME)
			return step;
	}
	skip(reader, total);
	return PCAP_FRAME;
}

enum pcap_step pcap_reader_next(struct pcap_reader *reader, struct pcap_frame *frame)
{
	if (reader->bad)
		return PCAP_BAD;
	if (!reader->begun) {
		const uint8_t *header = peek(reader, CLASSIC_HEADER);
		uint32_t magic;
		if (header == NULL)
			return broken(reader);
		memcpy(&magic, header, sizeof(magic));
		reader->sections = magic == magic_section;
		if (!reader->sections && classic_begin(reader, header) != PCAP_FRAME)
			return PCAP_BAD;
		reader->begun = true;
	}
	if (!reader->sections)
		return classic_next(reader, frame);
	for (;;) {
		bool found = false;
		enum pcap_step step = block_next(reader, frame, &found);
		if (step != PCAP_FRAME || found)
			return step;
	}
}
