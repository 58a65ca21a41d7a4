// libFuzzer target: the reader of capture files (port/pcap_file.c), on a file that says what it likes.
//
// The first byte tells how many bytes a read gives at most, so that records end inside and outside of what was read.
// Every byte of each frame is looked at, and frames must lie in the window and be no longer than they may.
//
//   clang -fsanitize=fuzzer,address,undefined tests/fuzz/fuzz_pcap.c <port>
#include <stdlib.h>
#include <string.h>

#include "port/pcap_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct file {
	const uint8_t *bytes;
	size_t size;
	size_t most;
};

static long file_read(void *user, uint64_t offset, void *buffer, size_t room)
{
	const struct file *file = user;
	if (offset >= file->size)
		return 0;
	size_t bytes = file->size - (size_t)offset;
	bytes = bytes < room ? bytes : room;
	bytes = bytes < file->most ? bytes : file->most;
	memcpy(buffer, file->bytes + offset, bytes);
	return (long)bytes;
}

static void look(const struct pcap_reader *reader, const struct pcap_frame *frame)
{
	static volatile uint8_t sum;
	if (frame->data < reader->window || frame->captured > PCAP_WINDOW ||
	    frame->data + frame->captured > reader->window + reader->have)
		abort();
	for (uint32_t i = 0; i < frame->captured; i++)
		sum = (uint8_t)(sum + frame->data[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct pcap_reader reader;
	struct pcap_frame frame = { 0 };
	if (size == 0)
		return 0;
	struct file file = { data + 1, size - 1, data[0] == 0 ? 1u : (size_t)data[0] * 16 };
	pcap_reader_init(&reader, file_read, &file);
	uint64_t frames = 0;
	while (pcap_reader_next(&reader, &frame) == PCAP_FRAME) {
		look(&reader, &frame);
		if (++frames > size) // each takes bytes of the file
			abort();
	}
	if (reader.bad && pcap_reader_next(&reader, &frame) != PCAP_BAD)
		abort();
	return 0;
}
