// TCP traffic and its measures, the same program for the kernel's sockets and for those of a VR.
//
//   tcptraffic send END SECONDS                 as many bytes as go in that time, then an end of file
//   tcptraffic receive END SETTLE [SECONDS]     prints bytes and seconds from SETTLE seconds on, for so long or to the
//                                               end of file
//   tcptraffic ask END SIZE COUNT               one question, one answer; prints percentiles in microseconds
//   tcptraffic answer END SIZE
//   tcptraffic visit END SIZE SECONDS WORKERS   connect, ask, wait for the end of file, close; prints how many
//   tcptraffic serve END SIZE WORKERS           accept, answer, close, until it is killed
//
// END says where the stream comes from:
//   fd:N                    an inherited fd (of `serve`: one that listens)
//   to:ADDRESS:PORT         a kernel socket that connects, with CUBIC
//   at:ADDRESS:PORT         a kernel socket that listens, with CUBIC; "ready" is printed
//   vr:SOCKET:ADDRESS:PORT  a VR's socket that connects, asked for at SOCKET as rsock does (rsock/wire.py)
//
// Results are one JSON object.  IPv4 only.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 1 << 18, BACKLOG = 4096, MAX_SIZE = 65536, MAX_WORKERS = 256, FILLER = 48 << 10 };
enum { MAGIC = 0x3152, OPEN = 16, CONNECT = 19 };

struct header {
	uint16_t magic;
	uint8_t op, flags;
	uint32_t session;
	uint64_t request;
	uint32_t socket, error;
	uint64_t cookie;
} __attribute__((packed));

struct open_request {
	struct header header;
	uint16_t family, type, protocol, reserved;
	uint8_t token[16];
	char app[8];
} __attribute__((packed));

struct opened {
	struct header header;
	uint32_t socket, rights;
	uint64_t cookie;
} __attribute__((packed));

struct name {
	uint16_t family, port;
	uint32_t interface;
	uint8_t address[16];
	uint16_t remote_family, remote_port;
	uint32_t remote_interface;
	uint8_t remote_address[16];
} __attribute__((packed));

struct connect_request {
	struct header header;
	struct name name;
	uint32_t filler;
} __attribute__((packed));

struct connected {
	struct header header;
	struct name name;
	char listener[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
} __attribute__((packed));

struct end {
	enum { INHERITED, TO, AT, VR } kind;
	int fd;                      // INHERITED
	struct sockaddr_in address;
	char path[96];               // VR
	int link;                    // VR: connection to its forwarder, -1 before there is one
};

static uint8_t buffer[BUFFER];

static void fail(const char *what)
{
	fprintf(stderr, "tcptraffic: %s: %s\n", what, strerror(errno));
	_exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// --- ends ---

static struct end parse_end(char *text)
{
	struct end end = {.fd = -1, .link = -1, .address.sin_family = AF_INET};
	char *rest = strchr(text, ':');
	if (rest == NULL)
		fail(text);
	*rest++ = '\0';
	if (strcmp(text, "fd") == 0) {
		end.fd = atoi(rest);
		return end;
	}
	end.kind = strcmp(text, "to") == 0 ? TO : strcmp(text, "at") == 0 ? AT : VR;
	if (end.kind == VR) {
		char *path = rest;
		rest = strchr(path, ':');
		if (rest == NULL)
			fail(path);
		*rest++ = '\0';
		snprintf(end.path, sizeof end.path, "%s", path);
	}
	char *port = strchr(rest, ':');
	if (port == NULL)
		fail(rest);
	*port++ = '\0';
	end.address.sin_port = htons((uint16_t)atoi(port));
	if (inet_pton(AF_INET, rest, &end.address.sin_addr) != 1)
		fail(rest);
	return end;
}

static int kernel_socket(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5) < 0)
		fail("socket");
	return fd;
}

static int listen_at(const struct end *end)
{
	int on = 1;
	if (end->kind == INHERITED)
		return end->fd;
	int fd = kernel_socket();
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(fd, (const struct sockaddr *)&end->address, sizeof end->address) < 0 || listen(fd, BACKLOG) < 0)
		fail("listen");
	return fd;
}

// Ask the forwarder; a reply may bring an fd.
static int ask_forwarder(struct end *end, const void *request, size_t request_length, void *reply, size_t room, int *fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec part = {.iov_base = reply, .iov_len = room};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	if (end->link < 0) {
		struct sockaddr_un name = {.sun_family = AF_UNIX};
		snprintf(name.sun_path, sizeof name.sun_path, "%s", end->path);
		end->link = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
		if (end->link < 0 || connect(end->link, (struct sockaddr *)&name, sizeof name) < 0)
			fail(end->path);
	}
	if (send(end->link, request, request_length, 0) < 0)
		fail("send to the forwarder");
	ssize_t length = recvmsg(end->link, &message, MSG_CMSG_CLOEXEC);
	if (length < (ssize_t)sizeof(struct header))
		fail("answer of the forwarder");
	errno = (int)((struct header *)reply)->error;
	if (errno != 0)
		fail("refused by the forwarder");
	struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
	if (fd != NULL && rights != NULL)
		memcpy(fd, CMSG_DATA(rights), sizeof *fd);
	return (int)length;
}

static int vr_connect(struct end *end)
{
	struct open_request open = {.header = {.magic = MAGIC, .op = OPEN}, .family = AF_INET, .type = SOCK_STREAM, .app = "traffic"};
	struct opened opened;
	struct connected connected;
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	int fd = -1;
	ask_forwarder(end, &open, sizeof open, &opened, sizeof opened, &fd);
	if (fd < 0)
		fail("no fd");
	struct connect_request request = {
		.header = {.magic = MAGIC, .op = CONNECT, .socket = opened.socket, .cookie = opened.cookie},
		.name = {.family = AF_INET, .port = ntohs(end->address.sin_port)},
		.filler = FILLER + 1,
	};
	memcpy(request.name.address, &end->address.sin_addr, 4);
	int length = ask_forwarder(end, &request, sizeof request, &connected, sizeof connected, NULL);
	size_t listener = (size_t)length - offsetof(struct connected, listener);
	memcpy(name.sun_path, connected.listener, listener);
	if (connect(fd, (struct sockaddr *)&name, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + listener)) < 0)
		fail("connect to the forwarder");
	// It is writable when TCP is connected and all but the last byte of this is taken.
	if (send(fd, buffer, FILLER, 0) != FILLER || send(fd, buffer, 1, 0) != 1)
		fail("filler");
	struct pollfd ask = {.fd = fd, .events = POLLOUT};
	if (poll(&ask, 1, 10000) != 1 || (ask.revents & (POLLHUP | POLLERR)))
		fail("not connected");
	return fd;
}

static int connect_to(struct end *end)
{
	if (end->kind == VR)
		return vr_connect(end);
	int fd = kernel_socket();
	if (connect(fd, (struct sockaddr *)&end->address, sizeof end->address) < 0)
		fail("connect");
	return fd;
}

static int open_end(struct end *end)
{
	int on = 1;
	int fd = end->fd;
	if (end->kind == TO || end->kind == VR) {
		fd = connect_to(end);
	} else if (end->kind == AT) {
		int listener = listen_at(end);
		puts("ready");
		fflush(stdout);
		fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			fail("accept");
		close(listener);
	}
	if (end->kind == TO || end->kind == AT)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	return fd;
}

// Read exactly that much; false at the end of file.
static bool take(int fd, size_t size)
{
	for (size_t done = 0; done < size; ) {
		ssize_t got = read(fd, buffer + done, size - done);
		if (got < 0)
			fail("read");
		if (got == 0)
			return false;
		done += (size_t)got;
	}
	return true;
}

static void give(int fd, size_t size)
{
	if (write(fd, buffer, size) != (ssize_t)size)
		fail("write");
}

// --- bulk ---

static void run_send(int fd, double seconds)
{
	uint64_t until = now_ns() + (uint64_t)(seconds * 1e9), bytes = 0;
	while (now_ns() < until) {
		ssize_t sent = write(fd, buffer, sizeof buffer / 2);
		if (sent < 0 && (errno == EPIPE || errno == ECONNRESET))
			break; // the peer has seen enough
		if (sent < 0)
			fail("write");
		bytes += (uint64_t)sent;
	}
	shutdown(fd, SHUT_WR);
	struct pollfd ask = {.fd = fd, .events = POLLIN};
	poll(&ask, 1, 10000); // the peer closes when it has all
	printf("{\"bytes\": %llu}\n", (unsigned long long)bytes);
}

static void run_receive(int fd, double settle, double seconds)
{
	uint64_t counted = 0, begin = 0, last = 0, start = now_ns() + (uint64_t)(settle * 1e9);
	uint64_t until = seconds > 0 ? start + (uint64_t)(seconds * 1e9) : UINT64_MAX;
	struct timeval look = {.tv_usec = 100000};
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &look, sizeof look);
	while (last < until) {
		ssize_t got = read(fd, buffer, sizeof buffer);
		if (got == 0)
			break;
		if (got < 0 && errno != EAGAIN)
			fail("read");
		if (got < 0 && until == UINT64_MAX)
			continue;
		last = now_ns();
		if (begin != 0 && got > 0)
			counted += (uint64_t)got;
		else if (begin == 0 && last >= start)
			begin = last;
	}
	printf("{\"bytes\": %llu, \"seconds\": %.6f}\n", (unsigned long long)counted, (double)(last - begin) / 1e9);
}

// --- question and answer ---

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return x < y ? -1 : x > y;
}

static void run_ask(int fd, size_t size, size_t count)
{
	uint32_t *times = calloc(count, sizeof *times);
	if (times == NULL)
		fail("memory");
	uint64_t before = now_ns();
	for (size_t i = 0; i < count; i++) {
		give(fd, size);
		if (!take(fd, size))
			fail("end of file");
		uint64_t after = now_ns();
		times[i] = (uint32_t)(after - before);
		before = after;
	}
	qsort(times, count, sizeof *times, compare);
	printf("{\"count\": %zu, \"p50\": %.2f, \"p99\": %.2f}\n", count, times[count / 2] / 1e3, times[count * 99 / 100] / 1e3);
	free(times);
}

static void run_answer(int fd, size_t size)
{
	while (take(fd, size))
		give(fd, size);
}

// --- connections ---

static void run_serve(const struct end *end, size_t size, int workers)
{
	int fd = listen_at(end);
	puts("ready");
	fflush(stdout);
	for (int i = 1; i < workers && fork() != 0; i++)
		;
	for (;;) {
		int taken = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
		if (taken < 0)
			fail("accept");
		if (take(taken, size))
			give(taken, size);
		close(taken);
	}
}

static void visit(struct end *end, size_t size, uint64_t until, uint64_t *count)
{
	while (now_ns() < until) {
		int fd = connect_to(end);
		give(fd, size);
		if (!take(fd, size) || take(fd, 1))
			fail("answer");
		close(fd);
		(*count)++;
	}
}

static void run_visit(struct end *end, size_t size, double seconds, int workers)
{
	uint64_t *counts = mmap(NULL, MAX_WORKERS * sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (counts == MAP_FAILED)
		fail("memory");
	uint64_t begin = now_ns(), until = begin + (uint64_t)(seconds * 1e9), all = 0;
	for (int i = 0; i < workers; i++) {
		if (fork() == 0) {
			visit(end, size, until, &counts[i]);
			_exit(0);
		}
	}
	int status, worst = 0;
	while (wait(&status) > 0)
		worst |= status;
	double took = (double)(now_ns() - begin) / 1e9;
	for (int i = 0; i < workers; i++)
		all += counts[i];
	printf("{\"count\": %llu, \"seconds\": %.6f}\n", (unsigned long long)all, took);
	if (worst != 0)
		exit(1);
}

int main(int argc, char **argv)
{
	const char *words[] = {argc > 1 ? argv[1] : "", argc > 3 ? argv[3] : "0", argc > 4 ? argv[4] : "1", argc > 5 ? argv[5] : "1"};
	if (argc < 3) {
		fprintf(stderr, "tcptraffic: see the head of its source\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	memset(buffer, 'x', sizeof buffer);
	struct end end = parse_end(argv[2]);
	size_t size = strtoul(words[1], NULL, 10);
	int workers = atoi(words[3]);
	if (size > MAX_SIZE || workers < 1 || workers > MAX_WORKERS)
		return 2;
	if (strcmp(words[0], "send") == 0)
		run_send(open_end(&end), atof(words[1]));
	else if (strcmp(words[0], "receive") == 0)
		run_receive(open_end(&end), atof(words[1]), argc > 4 ? atof(words[2]) : 0);
	else if (strcmp(words[0], "ask") == 0)
		run_ask(open_end(&end), size, strtoul(words[2], NULL, 10));
	else if (strcmp(words[0], "answer") == 0)
		run_answer(open_end(&end), size);
	else if (strcmp(words[0], "visit") == 0)
		run_visit(&end, size, atof(words[2]), workers);
	else if (strcmp(words[0], "serve") == 0)
		run_serve(&end, size, atoi(words[2]));
	else
		return 2;
	return 0;
}
