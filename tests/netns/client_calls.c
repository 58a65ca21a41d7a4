// What a C program does with librsock; every step that goes wrong is named on stderr, and the exit status is 1.
//
//   client_calls all HOST OWN WEB ECHO   in the routers red and blue, which have these addresses alike
//   client_calls inherited FD PEER-PORT  an fd that came with exec
//   client_calls open VR                 prints the errno of opening a socket
//   client_calls watch                   prints events of routers
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rsock.h"

enum { WAIT_MS = 5000, THREADS = 4, ROUNDS = 25, BURST = 8 };

#define CHECK(true_) check((true_), #true_, __LINE__)

static const char *const routers[] = {"red", "blue"};
static const char *host, *own;
static uint16_t web, echo;

static void check(int true_, const char *text, int line)
{
	if (true_)
		return;
	fprintf(stderr, "line %d: %s: %s\n", line, text, strerror(errno));
	exit(1);
}

static struct sockaddr_in at(const char *address, uint16_t port)
{
	struct sockaddr_in made = {.sin_family = AF_INET, .sin_port = htons(port)};
	CHECK(inet_pton(AF_INET, address, &made.sin_addr) == 1);
	return made;
}

static const struct sockaddr *plain(const struct sockaddr_in *address)
{
	return (const struct sockaddr *)(const void *)address;
}

static int ready(int fd, short events)
{
	struct pollfd ask = {.fd = fd, .events = events};
	return poll(&ask, 1, WAIT_MS) == 1;
}

// --- streams ---

static void fetch(const char *vr)
{
	char answer[1024];
	size_t got = 0;
	const struct sockaddr_in there = at(host, web);
	struct sockaddr_in here;
	socklen_t length = sizeof(here);
	int on = 1;
	int fd = rsock_socket(vr, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(fd >= 0);
	CHECK(rsock_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0);
	CHECK(rsock_connect(fd, plain(&there), sizeof(there)) == 0);
	CHECK(rsock_connect(fd, plain(&there), sizeof(there)) < 0 && errno == EISCONN);
	CHECK(rsock_getsockname(fd, (struct sockaddr *)&here, &length) == 0 && length == sizeof(here));
	CHECK(here.sin_addr.s_addr == at(own, 0).sin_addr.s_addr && here.sin_port != 0);
	CHECK(rsock_getpeername(fd, (struct sockaddr *)&here, &length) == 0 && memcmp(&here, &there, sizeof(here)) == 0);
	static const char request[] = "GET /c HTTP/1.0\r\n\r\n";
	CHECK(write(fd, request, sizeof(request) - 1) == (ssize_t)sizeof(request) - 1);
	for (ssize_t part; (part = rsock_recv(fd, answer + got, sizeof(answer) - 1 - got, 0)) != 0; got += (size_t)part)
		CHECK(part > 0);
	answer[got] = '\0';
	char expected[64];
	(void)snprintf(expected, sizeof(expected), "\r\n\r\n%s /c ", vr);
	CHECK(strstr(answer, expected) != NULL);
	CHECK(rsock_close(fd) == 0);
}

static void refused(const char *vr)
{
	const struct sockaddr_in nowhere = at(host, 1);
	int error = 0;
	socklen_t length = sizeof(error);
	int fd = rsock_socket(vr, AF_INET, SOCK_STREAM, 0);
	CHECK(rsock_connect(fd, plain(&nowhere), sizeof(nowhere)) < 0 && errno == ECONNREFUSED);
	CHECK(rsock_close(fd) == 0);
	fd = rsock_socket(vr, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	CHECK(rsock_connect(fd, plain(&nowhere), sizeof(nowhere)) < 0 && errno == EINPROGRESS);
	CHECK(ready(fd, POLLOUT));
	CHECK(rsock_getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == ECONNREFUSED);
	CHECK(close(fd) == 0);
}

static void send_fd(int channel, int fd)
{
	char byte = 0;
	char room[CMSG_SPACE(sizeof(fd))] = {0};
	struct iovec part = {.iov_base = &byte, .iov_len = 1};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	CHECK(sendmsg(channel, &message, 0) == 1);
}

static int receive_fd(int channel)
{
	char byte;
	int fd = -1;
	char room[CMSG_SPACE(sizeof(fd))];
	struct iovec part = {.iov_base = &byte, .iov_len = 1};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
	CHECK(rsock_recvmsg(channel, &message, 0) == 1 && CMSG_FIRSTHDR(&message) != NULL);
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	return fd;
}

static uint16_t peer_port(int fd)
{
	struct sockaddr_in peer;
	socklen_t length = sizeof(peer);
	CHECK(rsock_getpeername(fd, (struct sockaddr *)&peer, &length) == 0);
	return ntohs(peer.sin_port);
}

static void ends_well(pid_t child)
{
	int status;
	CHECK(waitpid(child, &status, 0) == child && status == 0);
}

// A connection in all the ways that it can come to another process.
static void handed_on(const char *vr, const char *program)
{
	struct sockaddr_in name = at(own, 0);
	struct sockaddr_in from;
	socklen_t length = sizeof(name);
	int channel[2];
	int listener = rsock_socket(vr, AF_INET, SOCK_STREAM, 0);
	CHECK(rsock_bind(listener, plain(&name), sizeof(name)) == 0 && rsock_listen(listener, 5) == 0);
	CHECK(rsock_getsockname(listener, (struct sockaddr *)&name, &length) == 0 && name.sin_port != 0);
	int client = rsock_socket(vr, AF_INET, SOCK_STREAM, 0);
	CHECK(rsock_connect(client, plain(&name), sizeof(name)) == 0);
	length = sizeof(from);
	int server = rsock_accept4(listener, (struct sockaddr *)&from, &length, 0);
	CHECK(server >= 0 && length == sizeof(from) && ntohs(from.sin_port) == peer_port(server));
	const uint16_t port = peer_port(server);

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, channel) == 0);
	send_fd(channel[0], server);
	pid_t child = fork();
	if (child == 0) {
		int passed = receive_fd(channel[1]);
		CHECK(peer_port(passed) == port && peer_port(dup(server)) == port);
		int on = 1;
		CHECK(rsock_setsockopt(passed, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0);
		_exit(0);
	}
	ends_well(child);
	child = vfork();
	if (child == 0) {
		char fd[12], told[12];
		(void)snprintf(fd, sizeof(fd), "%d", server);
		(void)snprintf(told, sizeof(told), "%u", port);
		execl(program, program, "inherited", fd, told, NULL);
		_exit(1);
	}
	ends_well(child);
	CHECK(dup2(server, 900) == 900 && peer_port(900) == port);
	CHECK(close(900) == 0 && dup2(STDERR_FILENO, 900) == 900 &&
		rsock_getpeername(900, (struct sockaddr *)&from, &length) < 0);
	CHECK(close(900) == 0 && close(server) == 0 && close(client) == 0 && rsock_close(listener) == 0);
	CHECK(close(channel[0]) == 0 && close(channel[1]) == 0);
}

static int inherited(int fd, uint16_t port)
{
	struct rsock_info info = {.size = sizeof(info)};
	int type = 0;
	socklen_t length = sizeof(type);
	CHECK(rsock_fd_info(fd, &info) == 0 && info.domain == AF_INET && info.type == SOCK_STREAM &&
		info.protocol == IPPROTO_TCP);
	CHECK(strcmp(info.vr, routers[0]) == 0 || strcmp(info.vr, routers[1]) == 0);
	CHECK(rsock_getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &type, &length) == 0 && type == AF_INET);
	CHECK(peer_port(fd) == port);
	return 0;
}

// --- datagrams ---

static void ask_echo(const char *vr)
{
	const struct sockaddr_in there = at(host, echo);
	struct sockaddr_in from;
	char data[BURST][64], control[256], expected[32];
	struct iovec parts[BURST];
	struct mmsghdr messages[BURST] = {0};
	int on = 1;
	int length = snprintf(expected, sizeof(expected), "%s:hello", vr);
	int fd = rsock_socket(vr, AF_INET, SOCK_DGRAM, 0);
	CHECK(rsock_setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on)) == 0);
	CHECK(rsock_send(fd, "x", 1, 0) < 0 && errno == EDESTADDRREQ);
	for (int i = 0; i < BURST; i++) {
		parts[i] = (struct iovec){.iov_base = data[i], .iov_len = 5};
		memcpy(data[i], "hello", 5);
		messages[i].msg_hdr = (struct msghdr){
			.msg_name = (void *)(uintptr_t)&there, .msg_namelen = sizeof(there), .msg_iov = &parts[i], .msg_iovlen = 1};
	}
	CHECK(rsock_sendmmsg(fd, messages, BURST, 0) == BURST);
	for (int i = 0; i < BURST; i++) {
		parts[i].iov_len = sizeof(data[i]);
		messages[i].msg_hdr =
			(struct msghdr){.msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = &parts[i], .msg_iovlen = 1};
	}
	messages[0].msg_hdr.msg_control = control;
	messages[0].msg_hdr.msg_controllen = sizeof(control);
	CHECK(rsock_recvmmsg(fd, messages, BURST, 0, NULL) == BURST);
	for (int i = 0; i < BURST; i++)
		CHECK(messages[i].msg_len == (unsigned int)length && memcmp(data[i], expected, messages[i].msg_len) == 0);
	CHECK(from.sin_port == there.sin_port && from.sin_addr.s_addr == there.sin_addr.s_addr);
	const struct cmsghdr *item = CMSG_FIRSTHDR(&messages[0].msg_hdr);
	struct in_pktinfo info;
	CHECK(item != NULL && item->cmsg_level == IPPROTO_IP && item->cmsg_type == IP_PKTINFO);
	memcpy(&info, CMSG_DATA(item), sizeof(info));
	CHECK(info.ipi_addr.s_addr == at(own, 0).sin_addr.s_addr && info.ipi_ifindex > 0);

	CHECK(rsock_connect(fd, plain(&there), sizeof(there)) == 0);
	CHECK(write(fd, "hello", 5) == 5 && ready(fd, POLLIN));
	CHECK(read(fd, data[0], sizeof(data[0])) == length && memcmp(data[0], expected, (size_t)length) == 0);
	const struct sockaddr_in nowhere = at(host, 9);
	CHECK(rsock_connect(fd, plain(&nowhere), sizeof(nowhere)) == 0 && rsock_send(fd, "x", 1, 0) == 1);
	CHECK(rsock_recv(fd, data[0], sizeof(data[0]), 0) < 0 && errno == ECONNREFUSED);
	CHECK(close(fd) == 0);
}

// --- all at once ---

static void *often(void *argument)
{
	for (int i = 0; i < ROUNDS; i++) {
		int fd = rsock_socket(routers[i % 2], AF_INET6, i % 3 ? SOCK_STREAM : SOCK_DGRAM, 0);
		struct sockaddr_in6 name;
		socklen_t length = sizeof(name);
		CHECK(fd >= 0 && rsock_getsockname(fd, (struct sockaddr *)&name, &length) == 0 && name.sin6_family == AF_INET6);
		CHECK(rsock_close(fd) == 0);
	}
	return argument;
}

static void threads_and_forks(void)
{
	pthread_t threads[THREADS];
	for (int i = 0; i < THREADS; i++)
		CHECK(pthread_create(&threads[i], NULL, often, NULL) == 0);
	for (int i = 0; i < 10; i++) {
		pid_t child = fork(); // while threads hold locks
		if (child == 0) {
			(void)often(NULL);
			_exit(0);
		}
		ends_well(child);
	}
	for (int i = 0; i < THREADS; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
}

// A daemon that closes everything, and takes the numbers for itself.
static void closed_behind(void)
{
	closefrom(3);
	for (int fd = 3; fd < 64; fd++)
		CHECK(dup(STDERR_FILENO) == fd);
	CHECK(dup2(STDERR_FILENO, 4000) == 4000);
	for (int i = 0; i < 2; i++) {
		int fd = rsock_socket(routers[i], AF_INET, SOCK_STREAM, 0);
		CHECK(fd >= 0 && close(fd) == 0);
	}
	CHECK(write(4000, "", 0) == 0);
	closefrom(3);
}

static void names(void)
{
	struct addrinfo *found;
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_INET};
	char text[64];
	CHECK(rsock_getaddrinfo("red", "www.example.net", "http", &hints, &found) == 0);
	const struct sockaddr_in expected = at(host, 80);
	CHECK(found->ai_addrlen == sizeof(expected) && memcmp(found->ai_addr, &expected, sizeof(expected)) == 0 &&
		found->ai_next == NULL);
	rsock_freeaddrinfo(found);
	CHECK(rsock_getaddrinfo("red", "localhost", NULL, &hints, &found) == 0);
	CHECK(((const struct sockaddr_in *)(const void *)found->ai_addr)->sin_addr.s_addr == htonl(INADDR_LOOPBACK));
	rsock_freeaddrinfo(found);
	CHECK(rsock_getaddrinfo("blue", "www.example.net", "http", &hints, &found) == EAI_AGAIN); // it has no servers
	CHECK(rsock_getnameinfo("blue", plain(&expected), sizeof(expected), text, sizeof(text), NULL, 0, NI_NUMERICHOST) ==
		0);
	CHECK(strcmp(text, host) == 0);
}

static void listed(void)
{
	struct rsock_vr vrs[8];
	size_t count = 8;
	int seen = 0;
	CHECK(rsock_vr_list(vrs, &count) == 0 && count == 2);
	for (size_t i = 0; i < count; i++)
		seen += vrs[i].up && (strcmp(vrs[i].name, "red") == 0 || strcmp(vrs[i].name, "blue") == 0);
	CHECK(seen == 2);
	CHECK(rsock_set_default_vr("blue") == 0);
	struct rsock_info info = {.size = sizeof(info)};
	int fd = rsock_socket(NULL, AF_INET, SOCK_DGRAM, 0);
	CHECK(rsock_fd_info(fd, &info) == 0 && strcmp(info.vr, "blue") == 0 && info.protocol == IPPROTO_UDP &&
		close(fd) == 0);
	CHECK(rsock_set_default_vr(NULL) == 0);
	fd = rsock_socket(NULL, AF_INET, SOCK_DGRAM, 0);
	CHECK(rsock_fd_info(fd, &info) < 0 && errno == ENOTSOCK && close(fd) == 0);
	CHECK(rsock_socket("red", AF_UNIX, SOCK_STREAM, 0) < 0 && errno == EAFNOSUPPORT);
}

static int watched(void)
{
	struct rsock_event event;
	int fd = rsock_watch();
	CHECK(fd >= 0 && rsock_watch_read(fd, &event) < 0 && errno == EAGAIN);
	(void)puts("watching");
	for (int left = 2; left > 0 && fflush(stdout) == 0; left--) {
		while (rsock_watch_read(fd, &event) < 0) // other files are no events
			CHECK(errno == EAGAIN && ready(fd, POLLIN));
		(void)printf("%s %s\n",
			event.kind == RSOCK_EVENT_UP         ? "up"
				: event.kind == RSOCK_EVENT_DOWN ? "down"
												 : "lost",
			event.vr);
	}
	return 0;
}

int main(int count, char **words)
{
	if (count == 4 && strcmp(words[1], "inherited") == 0)
		return inherited(atoi(words[2]), (uint16_t)atoi(words[3]));
	if (count == 3 && strcmp(words[1], "open") == 0)
		return printf("%s\n", rsock_socket(words[2], AF_INET, SOCK_STREAM, 0) < 0 ? strerrorname_np(errno) : "open") <
			0;
	if (count == 2 && strcmp(words[1], "watch") == 0)
		return watched();
	CHECK(count == 6);
	host = words[2];
	own = words[3];
	web = (uint16_t)atoi(words[4]);
	echo = (uint16_t)atoi(words[5]);
	for (int i = 0; i < 2; i++) {
		fetch(routers[i]);
		refused(routers[i]);
		handed_on(routers[i], words[0]);
		ask_echo(routers[i]);
	}
	threads_and_forks();
	closed_behind();
	names();
	listed();
	(void)puts("ok");
	return 0;
}
