// A program for the tests of `rsock exec`: all calls that name addresses, made as a static program makes them.
//
//   exec_calls HOST4 HOST6 OWN4 PORT ECHO_PORT
//
// HOST has an HTTP server on PORT and a UDP server on ECHO_PORT that answers "NAME:" and what it got.  OWN4 is an
// address of this side.  Prints NAME for each way that led there; the last line is "ok".  Linked statically.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "line %d: %s: %s\n", __LINE__, #condition, strerror(errno)); \
			exit(1); \
		} \
	} while (0)

enum { WAIT_MS = 5000 };

static struct sockaddr_in host4, own4;
static struct sockaddr_in6 host6;
static uint16_t web_port, echo_port;

static struct sockaddr_in at4(struct sockaddr_in address, uint16_t port)
{
	address.sin_port = htons(port);
	return address;
}

static bool same4(const struct sockaddr_in *a, const struct sockaddr_in *b)
{
	return a->sin_family == b->sin_family && a->sin_port == b->sin_port && a->sin_addr.s_addr == b->sin_addr.s_addr;
}

static void get_page(int fd, const char *path)
{
	char text[512], page[4096];
	size_t got = 0;
	ssize_t more;
	int length = snprintf(text, sizeof(text), "GET /%s HTTP/1.0\r\n\r\n", path);
	CHECK(write(fd, text, (size_t)length) == length);
	while ((more = read(fd, page + got, sizeof(page) - 1 - got)) > 0)
		got += (size_t)more;
	CHECK(more == 0);
	page[got] = '\0';
	const char *body = strstr(page, "\r\n\r\n");
	CHECK(body != NULL && strstr(body, path) != NULL);
	printf("%s %.*s\n", path, (int)strcspn(body + 4, " "), body + 4);
}

static void check_option(int fd, int level, int name, int wanted)
{
	int value = -1;
	socklen_t length = sizeof(value);
	CHECK(getsockopt(fd, level, name, &value, &length) == 0 && length == sizeof(value));
	CHECK(value == wanted);
}

static void tcp_blocking(void)
{
	const int on = 1;
	struct sockaddr_in peer = at4(host4, web_port), name;
	socklen_t length = sizeof(name);
	struct tcp_info info;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(fd >= 0 && (fcntl(fd, F_GETFD) & FD_CLOEXEC));
	check_option(fd, SOL_SOCKET, SO_DOMAIN, AF_INET);
	check_option(fd, SOL_SOCKET, SO_TYPE, SOCK_STREAM);
	CHECK(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0);
	check_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	CHECK(getpeername(fd, (struct sockaddr *)&name, &length) < 0 && errno == ENOTCONN);
	CHECK(connect(fd, (struct sockaddr *)&peer, sizeof(peer)) == 0);
	CHECK(connect(fd, (struct sockaddr *)&peer, sizeof(peer)) < 0 && errno == EISCONN);
	CHECK(getpeername(fd, (struct sockaddr *)&name, &length) == 0 && same4(&name, &peer));
	length = sizeof(name);
	CHECK(getsockname(fd, (struct sockaddr *)&name, &length) == 0 && name.sin_addr.s_addr == own4.sin_addr.s_addr);
	length = sizeof(info);
	CHECK(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 && info.tcpi_state == TCP_ESTABLISHED);
	get_page(fd, "tcp4");
	close(fd);
	// Nobody listens there.
	fd = socket(AF_INET, SOCK_STREAM, 0);
	peer = at4(host4, 9);
	CHECK(connect(fd, (struct sockaddr *)&peer, sizeof(peer)) < 0 && errno == ECONNREFUSED);
	close(fd);
}

static void tcp_epoll(void)
{
	struct sockaddr_in6 peer = host6;
	struct epoll_event event = {.events = EPOLLOUT | EPOLLET, .data.u64 = 77};
	int set = epoll_create1(0);
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
	peer.sin6_port = htons(web_port);
	CHECK(fd >= 0 && (fcntl(fd, F_GETFL) & O_NONBLOCK));
	CHECK(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) == 0);
	CHECK(connect(fd, (struct sockaddr *)&peer, sizeof(peer)) < 0 && errno == EINPROGRESS);
	event.data.u64 = 0;
	do
		CHECK(epoll_wait(set, &event, 1, WAIT_MS) == 1 && event.data.u64 == 77);
	while (!(event.events & EPOLLOUT));
	check_option(fd, SOL_SOCKET, SO_ERROR, 0);
	event.events = EPOLLIN;
	CHECK(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event) == 0);
	CHECK(fcntl(fd, F_SETFL, 0) == 0);
	get_page(fd, "tcp6");
	close(fd);
	close(set);
}

static void udp_addressed(void)
{
	char data[64] = "";
	struct sockaddr_in peer = at4(host4, echo_port), from;
	socklen_t length = sizeof(from);
	struct timeval soon = {.tv_usec = 50000};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof(soon)) == 0);
	CHECK(recvfrom(fd, data, sizeof(data), 0, (struct sockaddr *)&from, &length) < 0 && errno == EAGAIN);
	soon.tv_sec = WAIT_MS / 1000;
	CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof(soon)) == 0);
	CHECK(sendto(fd, "udp4", 4, 0, (struct sockaddr *)&peer, sizeof(peer)) == 4);
	length = sizeof(from);
	CHECK(recvfrom(fd, data, sizeof(data), 0, (struct sockaddr *)&from, &length) > 4 && same4(&from, &peer));
	printf("udp4 %.*s\n", (int)strcspn(data, ":"), data);
	CHECK(recvfrom(fd, data, sizeof(data), MSG_DONTWAIT, (struct sockaddr *)&from, &length) < 0 && errno == EAGAIN);
	CHECK(send(fd, "?", 1, 0) < 0 && errno == EDESTADDRREQ);
	CHECK(sendto(fd, "udp4", 4, 0, (struct sockaddr *)&peer, sizeof(peer)) == 4);
	memset(data, 0, sizeof(data));
	CHECK(recv(fd, data, sizeof(data), 0) > 4 && strstr(data, ":udp4") != NULL);
	close(fd);
}

static void udp_connected(void)
{
	char data[64] = "";
	struct sockaddr_in6 peer = host6;
	struct pollfd ask = {.events = POLLIN};
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	peer.sin6_port = htons(echo_port);
	CHECK(connect(fd, (struct sockaddr *)&peer, sizeof(peer)) == 0);
	CHECK(recv(fd, data, sizeof(data), 0) < 0 && errno == EAGAIN);
	CHECK(send(fd, "udp6", 4, 0) == 4);
	ask.fd = fd;
	CHECK(poll(&ask, 1, WAIT_MS) == 1);
	CHECK(read(fd, data, sizeof(data)) > 4 && strstr(data, ":udp6") != NULL);
	printf("udp6 %.*s\n", (int)strcspn(data, ":"), data);
	close(fd);
}

// Packet info tells the local address, and the parts of a scattered message come in order.
static void udp_messages(void)
{
	char first[3] = "", rest[61] = "", control[128];
	const int on = 1;
	struct sockaddr_in peer = at4(host4, echo_port), from;
	struct iovec parts[2] = {{first, 2}, {rest, 60}}, out[2] = {{"ab", 2}, {"cd", 2}};
	struct msghdr message = {.msg_name = &peer, .msg_namelen = sizeof(peer), .msg_iov = out, .msg_iovlen = 2};
	struct mmsghdr many[2] = {{.msg_hdr = message}, {.msg_hdr = message}};
	bool told = false;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK(setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on)) == 0);
	CHECK(sendmsg(fd, &message, 0) == 4);
	message = (struct msghdr){.msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = parts, .msg_iovlen = 2, .msg_control = control, .msg_controllen = sizeof(control)};
	ssize_t got = recvmsg(fd, &message, 0);
	CHECK(got > 4 && same4(&from, &peer) && message.msg_namelen == sizeof(from));
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c != NULL; c = CMSG_NXTHDR(&message, c)) {
		struct in_pktinfo info;
		if (c->cmsg_level != IPPROTO_IP || c->cmsg_type != IP_PKTINFO)
			continue;
		memcpy(&info, CMSG_DATA(c), sizeof(info));
		told = info.ipi_addr.s_addr == own4.sin_addr.s_addr;
	}
	CHECK(told);
	printf("msg %s%.*s\n", first, (int)strcspn(rest, ":"), rest);
	CHECK(sendmmsg(fd, many, 2, 0) == 2 && many[1].msg_len == 4);
	for (int i = 0; i < 2; i++)
		many[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = parts, .msg_iovlen = 2}};
	int taken = 0;
	while (taken < 2) {
		int count = recvmmsg(fd, many, 2, 0, NULL);
		CHECK(count > 0 && many[0].msg_len == (unsigned int)got);
		taken += count;
	}
	close(fd);
}

static void ping(void)
{
	struct icmphdr echo = {.type = ICMP_ECHO, .un.echo.sequence = htons(1)}, answer;
	int fd = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
	CHECK(fd >= 0);
	check_option(fd, SOL_SOCKET, SO_PROTOCOL, IPPROTO_ICMP);
	CHECK(sendto(fd, &echo, sizeof(echo), 0, (struct sockaddr *)&host4, sizeof(host4)) == sizeof(echo));
	struct sockaddr_in from;
	socklen_t length = sizeof(from);
	CHECK(recvfrom(fd, &answer, sizeof(answer), 0, (struct sockaddr *)&from, &length) == sizeof(answer));
	CHECK(answer.type == ICMP_ECHOREPLY && from.sin_addr.s_addr == host4.sin_addr.s_addr);
	close(fd);
}

static int listen_here(uint16_t port, int flags, struct sockaddr_in *name)
{
	const int on = 1;
	socklen_t length = sizeof(*name);
	int fd = socket(AF_INET, SOCK_STREAM | flags, 0);
	*name = at4(own4, port);
	CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0);
	CHECK(bind(fd, (struct sockaddr *)name, sizeof(*name)) == 0);
	CHECK(listen(fd, 16) == 0);
	CHECK(getsockname(fd, (struct sockaddr *)name, &length) == 0 && name->sin_port != 0);
	check_option(fd, SOL_SOCKET, SO_ACCEPTCONN, 1);
	return fd;
}

static void send_from_child(const struct sockaddr_in *to, const char *text)
{
	if (fork() != 0)
		return;
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(connect(fd, (const struct sockaddr *)to, sizeof(*to)) == 0);
	CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	exit(0);
}

// Our own server and a child of ours: accept tells the peer, with and without blocking.
static void accepting(void)
{
	struct sockaddr_in name, peer, own, far;
	socklen_t length = sizeof(peer);
	char data[16];
	int status;
	int fd = listen_here(0, 0, &name);
	send_from_child(&name, "hello");
	int made = accept4(fd, (struct sockaddr *)&peer, &length, SOCK_CLOEXEC);
	CHECK(made >= 0 && length == sizeof(peer) && peer.sin_family == AF_INET && peer.sin_addr.s_addr == own4.sin_addr.s_addr);
	length = sizeof(far);
	CHECK(getpeername(made, (struct sockaddr *)&far, &length) == 0 && same4(&far, &peer));
	CHECK(getsockname(made, (struct sockaddr *)&own, &length) == 0 && same4(&own, &name));
	CHECK(recv(made, data, sizeof(data), MSG_WAITALL) == 5 && memcmp(data, "hello", 5) == 0);
	CHECK(wait(&status) > 0 && status == 0);
	close(made);
	send_from_child(&name, "again");
	made = accept(fd, NULL, NULL);
	length = sizeof(far);
	CHECK(made >= 0 && getpeername(made, (struct sockaddr *)&far, &length) == 0 && far.sin_addr.s_addr == own4.sin_addr.s_addr);
	CHECK(wait(&status) > 0 && status == 0);
	close(made);
	CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
	CHECK(accept(fd, (struct sockaddr *)&peer, &length) < 0 && errno == EAGAIN);
	int other = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(bind(other, (struct sockaddr *)&name, sizeof(name)) < 0 && errno == EADDRINUSE);
	close(other);
	close(fd);
}

static void on_alarm(int number)
{
	(void)number;
}

// A signal ends a call that waits; a handler with SA_RESTART does not.
static void interrupted(void)
{
	struct sockaddr_in name, peer;
	socklen_t length = sizeof(peer);
	struct sigaction action = {.sa_handler = on_alarm};
	const struct itimerval soon = {.it_value.tv_usec = 50000};
	int status;
	int fd = listen_here(0, 0, &name);
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &soon, NULL);
	CHECK(accept(fd, (struct sockaddr *)&peer, &length) < 0 && errno == EINTR);
	action.sa_flags = SA_RESTART;
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &soon, NULL);
	pid_t child = fork();
	if (child == 0) {
		usleep(150000);
		send_from_child(&name, "late");
		exit(0);
	}
	int made = accept(fd, (struct sockaddr *)&peer, &length);
	CHECK(made >= 0 && peer.sin_addr.s_addr == own4.sin_addr.s_addr);
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	close(made);
	close(fd);
}

// Signals that come while calls are executed: each has its effect once.
static void hailed(void)
{
	struct sockaddr_in name, peer = at4(host4, echo_port), from;
	struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
	const struct itimerval often = {.it_value.tv_usec = 150, .it_interval.tv_usec = 150}, off = {.it_value.tv_usec = 0};
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	for (int i = 0; i < 200; i++)
		close(listen_here(0, 0, &name));
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	for (int i = 0; i < 1000; i++) {
		char sent[16], got[64] = "";
		socklen_t length = sizeof(from);
		int size = snprintf(sent, sizeof(sent), ":%d", i);
		CHECK(sendto(fd, sent, (size_t)size, 0, (struct sockaddr *)&peer, sizeof(peer)) == size);
		CHECK(recvfrom(fd, got, sizeof(got) - 1, 0, (struct sockaddr *)&from, &length) > size);
		CHECK(strcmp(strchr(got, ':') + 1, sent) == 0); // neither lost nor sent twice
	}
	setitimer(ITIMER_REAL, &off, NULL);
	close(fd);
}

int main(int count, char **words)
{
	CHECK(count == 6);
	host4.sin_family = own4.sin_family = AF_INET;
	host6.sin6_family = AF_INET6;
	CHECK(inet_pton(AF_INET, words[1], &host4.sin_addr) == 1 && inet_pton(AF_INET6, words[2], &host6.sin6_addr) == 1);
	CHECK(inet_pton(AF_INET, words[3], &own4.sin_addr) == 1);
	web_port = (uint16_t)atoi(words[4]);
	echo_port = (uint16_t)atoi(words[5]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	tcp_blocking();
	tcp_epoll();
	udp_addressed();
	udp_connected();
	udp_messages();
	ping();
	accepting();
	interrupted();
	hailed();
	puts("ok");
	return 0;
}
