// Sequence-numbered UDP traffic over AF_PACKET, for tests that count every packet.
//
//   seqtraffic send DEV DST_MAC SRC_MAC SRC_IP DST_IP TAG RATE COUNT [SIZE]
//   seqtraffic count DEV TAG COUNT IDLE_MS
//
// `send` paces COUNT frames at RATE a second, or fewer until SIGTERM, and prints how many it sent; where these are
// fewer, it tells the receiver by some frames more.  `count` prints
// "ready", takes frames that carry TAG until all COUNT came or none came for IDLE_MS after
// the first, and prints one JSON object: received, lost, duplicates, reordered, foreign
// (frames with another tag), the longest gap between two frames in microseconds.  IPv4 only.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PORT = 9999, HEADERS = 14 + 20 + 8, BURST = 64, RECEIVE_BUFFER = 64 << 20 };

struct mark {
	uint64_t magic; // tells our frames from all others
	uint32_t tag;
	uint32_t sequence;
} __attribute__((packed));

static const uint32_t ENDED = 1u << 31; // in a sequence number: the rest tells how many were sent
static const uint64_t MAGIC = 0x616e616272616e63ull;

static void fail(const char *what)
{
	fprintf(stderr, "seqtraffic: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int open_packet(const char *device, int protocol)
{
	int fd = socket(AF_PACKET, SOCK_RAW, htons((uint16_t)protocol));
	if (fd < 0)
		fail("socket");
	struct sockaddr_ll address = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons((uint16_t)protocol),
		.sll_ifindex = (int)if_nametoindex(device),
	};
	if (address.sll_ifindex == 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
		fail(device);
	return fd;
}

static void parse_mac(const char *text, uint8_t *mac)
{
	unsigned b[6];
	if (sscanf(text, "%x:%x:%x:%x:%x:%x", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5]) != 6)
		fail(text);
	for (int i = 0; i < 6; i++)
		mac[i] = (uint8_t)b[i];
}

static uint16_t ip_checksum(const void *header)
{
	const uint8_t *p = header;
	uint32_t sum = 0;
	for (int i = 0; i < 20; i += 2)
		sum += (uint32_t)(p[i] << 8 | p[i + 1]);
	sum = (sum & 0xffff) + (sum >> 16);
	sum += sum >> 16;
	return htons((uint16_t)~sum);
}

static void build(uint8_t *frame, char **argv, size_t size)
{
	memset(frame, 0, size);
	parse_mac(argv[0], frame);
	parse_mac(argv[1], frame + 6);
	frame[12] = 0x08;
	struct iphdr ip = {
		.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP,
		.tot_len = htons((uint16_t)(size - 14)),
	};
	if (inet_pton(AF_INET, argv[2], &ip.saddr) != 1 || inet_pton(AF_INET, argv[3], &ip.daddr) != 1)
		fail("address");
	ip.check = ip_checksum(&ip);
	memcpy(frame + 14, &ip, sizeof ip);
	struct udphdr udp = {.source = htons(PORT), .dest = htons(PORT), .len = htons((uint16_t)(size - 34))};
	memcpy(frame + 34, &udp, sizeof udp);
}

static volatile sig_atomic_t stopped;

static void stop(int number)
{
	(void)number;
	stopped = 1;
}

static int run_send(int argc, char **argv)
{
	signal(SIGTERM, stop);
	int fd = open_packet(argv[0], 0);
	size_t size = argc > 8 ? strtoul(argv[8], NULL, 0) : 60;
	uint8_t *frames = calloc(BURST, size);
	struct mmsghdr messages[BURST];
	struct iovec vectors[BURST];
	struct mark mark = {.magic = MAGIC, .tag = (uint32_t)strtoul(argv[5], NULL, 0)};
	uint64_t rate = strtoull(argv[6], NULL, 0), count = strtoull(argv[7], NULL, 0);
	if (frames == NULL || size < HEADERS + sizeof mark || rate == 0)
		fail("size");
	memset(messages, 0, sizeof messages);
	for (int i = 0; i < BURST; i++) {
		build(frames + (size_t)i * size, argv + 1, size);
		vectors[i] = (struct iovec){frames + (size_t)i * size, size};
		messages[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
	}
	uint64_t begin = now_ns(), sent = 0;
	while (sent < count && !stopped) {
		uint64_t due = (now_ns() - begin) * rate / 1000000000u + 1;
		uint64_t wanted = due > count ? count - sent : due - (due > sent ? sent : due);
		if (wanted == 0) {
			nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
			continue;
		}
		int burst = wanted > BURST ? BURST : (int)wanted;
		for (int i = 0; i < burst; i++) {
			mark.sequence = (uint32_t)(sent + (uint64_t)i);
			memcpy(frames + (size_t)i * size + HEADERS, &mark, sizeof mark);
		}
		int taken = sendmmsg(fd, messages, (unsigned)burst, 0);
		if (taken < 0 && errno != ENOBUFS && errno != EAGAIN && errno != EINTR)
			fail("send");
		sent += taken > 0 ? (uint64_t)taken : 0;
	}
	mark.sequence = ENDED | (uint32_t)sent;
	memcpy(frames + HEADERS, &mark, sizeof mark);
	for (int i = 0; i < 3 && sent < count; i++) {
		sendmmsg(fd, messages, 1, 0);
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	printf("{\"sent\": %llu}\n", (unsigned long long)sent);
	return 0;
}

static const struct mark *find_mark(const uint8_t *frame, size_t length)
{
	static const struct mark none;
	if (length < HEADERS + sizeof none || frame[12] != 0x08 || frame[13] != 0 || frame[14] != 0x45)
		return NULL;
	const struct mark *mark = (const struct mark *)(const void *)(frame + HEADERS);
	return mark->magic == MAGIC ? mark : NULL;
}

static int run_count(char **argv)
{
	int fd = open_packet(argv[0], ETH_P_IP);
	uint32_t tag = (uint32_t)strtoul(argv[1], NULL, 0);
	uint64_t count = strtoull(argv[2], NULL, 0);
	int idle = atoi(argv[3]), size = RECEIVE_BUFFER;
	uint8_t *seen = calloc(count + 1, 1);
	if (seen == NULL || setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) < 0)
		fail("buffer");
	uint64_t received = 0, duplicates = 0, reordered = 0, foreign = 0, distinct = 0, gap = 0, last = 0;
	uint32_t highest = 0;
	puts("ready");
	fflush(stdout);
	while (distinct < count) {
		struct pollfd wait = {.fd = fd, .events = POLLIN};
		if (poll(&wait, 1, received ? idle : 30000) <= 0)
			break;
		uint8_t frame[2048];
		ssize_t length = recv(fd, frame, sizeof frame, MSG_DONTWAIT);
		const struct mark *mark = length > 0 ? find_mark(frame, (size_t)length) : NULL;
		if (mark == NULL)
			continue;
		if (mark->tag == tag && mark->sequence & ENDED) {
			uint64_t sent = mark->sequence & ~ENDED;
			count = sent < count ? sent : count;
			continue;
		}
		if (mark->tag != tag || mark->sequence >= count) {
			foreign++;
			continue;
		}
		uint64_t now = now_ns();
		if (received++ && now - last > gap)
			gap = now - last;
		last = now;
		if (seen[mark->sequence]) { // out of its place by nature
			duplicates++;
			continue;
		}
		seen[mark->sequence] = 1;
		distinct++;
		if (mark->sequence < highest)
			reordered++;
		else
			highest = mark->sequence;
	}
	printf("{\"received\": %llu, \"lost\": %llu, \"duplicates\": %llu, \"reordered\": %llu, \"foreign\": %llu, \"gap_us\": %llu}\n",
	       (unsigned long long)received, (unsigned long long)(count - distinct), (unsigned long long)duplicates,
	       (unsigned long long)reordered, (unsigned long long)foreign, (unsigned long long)(gap / 1000));
	free(seen);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc >= 10 && strcmp(argv[1], "send") == 0)
		return run_send(argc - 2, argv + 2);
	if (argc == 6 && strcmp(argv[1], "count") == 0)
		return run_count(argv + 2);
	fputs("usage: seqtraffic send DEV DST_MAC SRC_MAC SRC_IP DST_IP TAG RATE COUNT [SIZE]\n"
	      "       seqtraffic count DEV TAG COUNT IDLE_MS\n", stderr);
	return 2;
}
