// Measures what calls cost under `rsock exec`, and outside.
//
//   exec_cost HOST4 PORT
//
// Connects to HOST and prints a line for each kind of call: its name, then p50 and p99 in ns.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CALLS = 4000 };

static uint64_t times[CALLS];

static uint64_t now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
	const uint64_t *left = a, *right = b;
	return (*left > *right) - (*left < *right);
}

static void get_type(int fd)
{
	int value;
	socklen_t length = sizeof(value);
	(void)getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &length);
}

static void get_peer(int fd)
{
	struct sockaddr_in peer;
	socklen_t length = sizeof(peer);
	(void)getpeername(fd, (struct sockaddr *)&peer, &length);
}

static void set_nodelay(int fd)
{
	const int on = 1;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static void open_and_close(int fd)
{
	(void)fd;
	close(socket(AF_INET, SOCK_STREAM, 0));
}

static void receive(int fd)
{
	char byte;
	(void)recv(fd, &byte, 1, MSG_DONTWAIT);
}

// A stream of a router is an AF_UNIX stream, as these are.
static int pair[2];

static void write_and_read(int fd)
{
	char byte = 0;
	(void)fd;
	(void)!write(pair[0], &byte, 1);
	(void)!read(pair[1], &byte, 1);
}

static void send_and_receive(int fd)
{
	char byte = 0;
	(void)fd;
	(void)send(pair[0], &byte, 1, 0);
	(void)recv(pair[1], &byte, 1, 0);
}

static void read_pid(int fd)
{
	(void)fd;
	(void)getppid();
}

static void measure(const char *name, void (*call)(int fd), int fd)
{
	for (int i = 0; i < CALLS; i++) {
		uint64_t begin = now();
		call(fd);
		times[i] = now() - begin;
	}
	qsort(times, CALLS, sizeof(times[0]), by_size);
	printf("%s %llu %llu\n", name, (unsigned long long)times[CALLS / 2], (unsigned long long)times[CALLS - CALLS / 100]);
}

int main(int count, char **words)
{
	struct sockaddr_in host = {.sin_family = AF_INET};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (count != 3 || inet_pton(AF_INET, words[1], &host.sin_addr) != 1)
		return 2;
	host.sin_port = htons((uint16_t)atoi(words[2]));
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0) {
		perror("socketpair");
		return 1;
	}
	if (connect(fd, (struct sockaddr *)&host, sizeof(host)) < 0) {
		perror("connect");
		return 1;
	}
	measure("getsockopt", get_type, fd);
	measure("getpeername", get_peer, fd);
	measure("setsockopt", set_nodelay, fd);
	measure("socket+close", open_and_close, fd);
	measure("recv", receive, fd);
	measure("write+read", write_and_read, fd);
	measure("send+recv", send_and_receive, fd);
	measure("getppid", read_pid, fd);
	return 0;
}
