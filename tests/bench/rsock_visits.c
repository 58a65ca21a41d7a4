// A C client of the benchmarks: open, connect, ask, read to the end of file, close, again and again.
//
//   rsock_visits VR ADDRESS PORT SIZE SECONDS WORKERS
//
// Each worker is a process of its own.  The sockets are those of librsock, whether VR is "kernel" or the name of one;
// CUBIC is asked for in either.  Prints how many visits there were, and the median time of open and connect in
// microseconds, as JSON.  IPv4 only.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "rsock.h"

enum { MAX_SIZE = 4096, MAX_WORKERS = 64, MAX_VISITS = 1 << 16 };

struct worker {
	uint32_t count;
	uint32_t times[MAX_VISITS]; // ns
};

static void fail(const char *what)
{
	fprintf(stderr, "rsock_visits: %s: %s\n", what, strerror(errno));
	_exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint32_t visit(const char *vr, const struct sockaddr_in *where, size_t size)
{
	char data[MAX_SIZE] = {0};
	uint64_t begin = now_ns();
	int fd = rsock_socket(vr, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		fail("socket");
	if (strcmp(vr, RSOCK_KERNEL) == 0 && setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5) < 0)
		fail("cubic");
	if (rsock_connect(fd, (const struct sockaddr *)(const void *)where, sizeof(*where)) < 0)
		fail("connect");
	uint64_t end = now_ns();
	if (write(fd, data, size) != (ssize_t)size)
		fail("write");
	size_t got = 0;
	for (ssize_t part; (part = read(fd, data, sizeof(data))) != 0; got += (size_t)part) {
		if (part < 0)
			fail("read");
	}
	if (got != size)
		fail("answer");
	rsock_close(fd);
	return (uint32_t)(end - begin);
}

static void work(const char *vr, const struct sockaddr_in *where, size_t size, uint64_t until, struct worker *worker)
{
	while (now_ns() < until && worker->count < MAX_VISITS) {
		uint32_t took = visit(vr, where, size);
		worker->times[worker->count++] = took;
	}
}

static int by_size(const void *a, const void *b)
{
	const uint32_t *left = a, *right = b;
	return (*left > *right) - (*left < *right);
}

static double median(const struct worker *workers, int count, uint32_t all)
{
	uint32_t *times = calloc(all + 1, sizeof(*times)), *next = times;
	if (times == NULL)
		fail("memory");
	for (int i = 0; i < count; next += workers[i++].count)
		memcpy(next, workers[i].times, workers[i].count * sizeof(*times));
	qsort(times, all, sizeof(*times), by_size);
	double found = times[all / 2] / 1000.0;
	free(times);
	return found;
}

int main(int count, char **words)
{
	if (count != 7)
		return 2;
	struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(words[3]))};
	size_t size = strtoul(words[4], NULL, 10);
	int many = atoi(words[6]);
	if (inet_pton(AF_INET, words[2], &where.sin_addr) != 1 || size > MAX_SIZE || many < 1 || many > MAX_WORKERS)
		return 2;
	size_t room = (size_t)many * sizeof(struct worker);
	struct worker *workers = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (workers == MAP_FAILED)
		fail("memory");
	uint64_t begin = now_ns(), until = begin + (uint64_t)(atof(words[5]) * 1e9);
	for (int i = 0; i < many; i++) {
		if (fork() == 0) {
			work(words[1], &where, size, until, &workers[i]);
			_exit(0);
		}
	}
	int status, worst = 0;
	while (wait(&status) > 0)
		worst |= status;
	double seconds = (double)(now_ns() - begin) / 1e9;
	uint32_t all = 0;
	for (int i = 0; i < many; i++)
		all += workers[i].count;
	printf("{\"count\": %u, \"seconds\": %.6f, \"p50\": %.2f}\n", all, seconds, median(workers, many, all));
	return worst != 0;
}
