// A reader of capture files.  See pcap_file.c for the formats.
#ifndef PORT_PCAP_FILE_H
#define PORT_PCAP_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	PCAP_WINDOW = 1 << 19,     // bytes of the file that are held at a time
	PCAP_FRAME_MAX = 1 << 18,  // bytes of the longest frame that is believed
	PCAP_INTERFACES = 64       // described in one section of a pcapng file
};

struct pcap_frame {
	const uint8_t *data;       // until the next call
	uint32_t captured;
	uint32_t length;           // of the frame as it was on the wire
	uint64_t time_ns;          // since 1970
	bool ethernet;
};

enum pcap_step {
	PCAP_FRAME = 1,
	PCAP_END = 0,              // a clean end, or one inside of a record
	PCAP_BAD = -1              // no capture file, or one that contradicts itself; stays so
};

struct pcap_interface {
	uint64_t units;            // of a timestamp, in a second
	bool ethernet;
};

struct pcap_reader {
	// Bytes of the file from an offset on; 0 at its end, or a negated errno.
	long (*read)(void *user, uint64_t offset, void *buffer, size_t room);
	void *user;
	uint64_t offset;           // in the file, of window[0]
	size_t have;               // bytes in the window
	size_t at;                 // first of them that was not consumed
	bool begun;
	bool bad;
	bool sections;             // pcapng
	bool swapped;
	uint32_t interface_count;
	struct pcap_interface interfaces[PCAP_INTERFACES]; // classic: the only one
	uint8_t window[PCAP_WINDOW];
};

void pcap_reader_init(struct pcap_reader *reader, long (*read)(void *, uint64_t, void *, size_t), void *user);
enum pcap_step pcap_reader_next(struct pcap_reader *reader, struct pcap_frame *frame);

#endif
