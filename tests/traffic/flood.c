// Frames out of one device, at a steady rate, one after the other and over again.
//
//   flood DEVICE RATE SECONDS < FRAMES
//
// FRAMES are each a length (16 bits, little-endian) and as many bytes.  What is late is sent in bursts of up to 64;
// frames that the device does not take are left out.  Prints how many were sent.
#define _GNU_SOURCE
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 64 << 20, MOST = 1 << 20, BURST = 64 };

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static size_t read_all(uint8_t *data)
{
	size_t length = 0;
	ssize_t count;
	while ((count = read(0, data + length, ROOM - length)) > 0)
		length += (size_t)count;
	return length;
}

// Index the frames; gives their number.
static uint32_t split(const uint8_t *data, size_t length, struct iovec *frames)
{
	uint32_t count = 0;
	for (size_t at = 0; at + 2 < length && count < MOST;) {
		size_t size = data[at] | (size_t)data[at + 1] << 8;
		if (size == 0 || at + 2 + size > length)
			break;
		frames[count++] = (struct iovec){.iov_base = (void *)(uintptr_t)(data + at + 2), .iov_len = size};
		at += 2 + size;
	}
	return count;
}

static int open_device(const char *device)
{
	int fd = socket(AF_PACKET, SOCK_RAW, 0), one = 1;
	struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(device)};
	if (fd < 0 || address.sll_ifindex == 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -1;
	setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof(one));
	return fd;
}

static uint64_t flood(int fd, struct iovec *frames, uint32_t count, uint64_t rate, double seconds)
{
	struct mmsghdr messages[BURST];
	uint64_t start = now_ns(), end = start + (uint64_t)(seconds * 1e9), sent = 0, due = 0;
	for (uint64_t now = start; now < end; now = now_ns()) {
		due = (now - start) * rate / 1000000000u;
		unsigned burst = due - sent < BURST ? (unsigned)(due - sent) : BURST;
		if (burst == 0) {
			usleep(200);
			continue;
		}
		memset(messages, 0, sizeof(messages));
		for (unsigned i = 0; i < burst; i++) {
			messages[i].msg_hdr.msg_iov = &frames[(sent + i) % count];
			messages[i].msg_hdr.msg_iovlen = 1;
		}
		int taken = sendmmsg(fd, messages, burst, MSG_DONTWAIT);
		sent += taken > 0 ? (unsigned)taken : burst;
	}
	return sent;
}

int main(int argc, char **argv)
{
	uint8_t *data = malloc(ROOM);
	struct iovec *frames = malloc(MOST * sizeof(*frames));
	if (argc != 4 || data == NULL || frames == NULL) {
		fprintf(stderr, "flood DEVICE RATE SECONDS < FRAMES\n");
		return 2;
	}
	uint32_t count = split(data, read_all(data), frames);
	int fd = open_device(argv[1]);
	if (count == 0 || fd < 0) {
		perror(argv[1]);
		return 1;
	}
	printf("%llu\n", (unsigned long long)flood(fd, frames, count, strtoull(argv[2], NULL, 10), atof(argv[3])));
	return 0;
}
