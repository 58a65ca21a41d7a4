// libFuzzer target: filters of traces and captures (server/filter.c), with any program and any frame.
//
// The first byte tells how many terms the program has; then come the terms, and the rest is the frame.  It ends where memory
// may not be touched, so that a byte too much is a crash.
//
//   clang -fsanitize=fuzzer,address,undefined tests/fuzz/fuzz_capture_filter.c <server and what it stands on>
#include <stdlib.h>
#include <string.h>

#include "server/filter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct filter filter;
	struct filter_subject subject;
	if (size < 2)
		return 0;
	size_t terms = data[0] % (FILTER_TERMS + 2) * sizeof(struct rsock_filter_term);
	bool tagged = (data[1] & 1) != 0;
	bool link = (data[1] & 2) == 0;
	data += 2;
	size -= 2;
	if (terms > size)
		terms = size;
	if (filter_load(&filter, data, (uint32_t)terms) != 0)
		filter.count = 0;
	uint8_t *frame = malloc(size - terms + (size == terms));
	if (frame == NULL)
		abort();
	memcpy(frame, data + terms, size - terms);
	const struct packet packet = { .buffer = frame, .length = (uint32_t)(size - terms), .vlan_present = tagged, .vlan_tci = 7 };
	filter_look(&packet, link, &subject);
	filter_matches(&filter, &subject);
	free(frame);
	return 0;
}
