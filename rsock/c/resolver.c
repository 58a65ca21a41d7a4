// Asking the name servers of a router, through sockets of that router: RFC 1035 section 4.2.
//
// Who they are stands beside the router's socket, in vr/NAME.resolv.conf, as resolv.conf(5) has it: nameserver, search,
// options ndots, timeout, attempts.  Each query leaves from a port of its own with a random number.
#define _GNU_SOURCE
#include "internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include "sys.h"

enum { PORT = 53, FILE_ROOM = 8192, AT_ONCE = 2 };

// --- who they are ---

bool resolver_server(const char *text, struct sockaddr_storage *server)
{
	struct sockaddr_in *four = (struct sockaddr_in *)server;
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)server;
	memset(server, 0, sizeof(*server));
	if (inet_pton(AF_INET, text, &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons(PORT);
		return true;
	}
	if (inet_pton(AF_INET6, text, &six->sin6_addr) != 1)
		return false;
	six->sin6_family = AF_INET6;
	six->sin6_port = htons(PORT);
	return true;
}

static int bounded(const char *text, int least, int most)
{
	int value = atoi(text);
	return value < least ? least : value > most ? most : value;
}

static void read_options(char **rest, struct name_servers *servers)
{
	for (const char *word; (word = strtok_r(NULL, " \t", rest)) != NULL;) {
		if (strncmp(word, "ndots:", 6) == 0)
			servers->ndots = bounded(word + 6, 0, 15);
		else if (strncmp(word, "timeout:", 8) == 0)
			servers->timeout_ms = bounded(word + 8, 1, 30) * 1000;
		else if (strncmp(word, "attempts:", 9) == 0)
			servers->attempts = bounded(word + 9, 1, 5);
	}
}

static void read_line(char *line, struct name_servers *servers)
{
	char *rest;
	line[strcspn(line, "#;")] = '\0';
	const char *word = strtok_r(line, " \t", &rest);
	if (word == NULL)
		return;
	if (strcmp(word, "nameserver") == 0) {
		const char *address = strtok_r(NULL, " \t", &rest);
		if (address != NULL && servers->count < NAME_SERVERS && resolver_server(address, &servers->at[servers->count]))
			servers->count++;
	} else if (strcmp(word, "search") == 0 || strcmp(word, "domain") == 0) {
		servers->search_count = 0;
		while ((word = strtok_r(NULL, " \t", &rest)) != NULL && servers->search_count < SEARCH_DOMAINS)
			if (strlen(word) < DNS_NAME)
				strcpy(servers->search[servers->search_count++], word);
	} else if (strcmp(word, "options") == 0) {
		read_options(&rest, servers);
	}
}

void name_servers_parse(char *text, struct name_servers *servers)
{
	memset(servers, 0, sizeof(*servers));
	servers->ndots = 1;
	servers->attempts = 2;
	servers->timeout_ms = 2000;
	char *rest;
	for (char *line = strtok_r(text, "\r\n", &rest); line != NULL; line = strtok_r(NULL, "\r\n", &rest))
		read_line(line, servers);
}

int name_servers_get(const char *vr, struct name_servers *servers)
{
	char path[CLIENT_RUN_DIR + RSOCK_VR_NAME + 32];
	char text[FILE_ROOM + 1];
	(void)snprintf(path, sizeof(path), "%s/vr/%s.resolv.conf", settings_get()->run_dir, vr);
	int fd = (int)SYS_CALL(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	long got = 0;
	if (fd >= 0) {
		got = SYS_CALL(SYS_read, fd, text, FILE_ROOM);
		(void)sys_close(fd);
	}
	text[got > 0 ? got : 0] = '\0';
	name_servers_parse(text, servers);
	return servers->count > 0 ? 0 : -ENOENT;
}

bool resolver_candidate(const char *name, const struct name_servers *servers, int number, char candidate[DNS_NAME])
{
	size_t length = strlen(name);
	int dots = 0;
	for (const char *at = name; *at != '\0'; at++)
		dots += *at == '.';
	bool whole = length > 0 && name[length - 1] == '.';
	bool first = whole || dots >= servers->ndots;
	int domains = whole ? 0 : servers->search_count;
	if (number > domains || length >= DNS_NAME)
		return false;
	if (number == (first ? 0 : domains)) {
		strcpy(candidate, name);
		return true;
	}
	const char *domain = servers->search[first ? number - 1 : number];
	return snprintf(candidate, DNS_NAME, "%s.%s", name, domain) < DNS_NAME ||
		resolver_candidate(name, servers, number + 1, candidate);
}

// --- asking ---

static socklen_t size_of(const struct sockaddr_storage *server)
{
	return server->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

// A socket that is connected to the server, not blocking; or a negated errno.
static int open_to(const char *vr, const struct sockaddr_storage *server, int type)
{
	struct handle handle;
	int fd;
	const struct sockaddr *address = (const struct sockaddr *)(const void *)server;
	int error = client_open(vr, server->ss_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, &handle, &fd);
	if (error < 0)
		return error;
	if (type == SOCK_STREAM)
		error = stream_connect_begin(fd, &handle, address, size_of(server));
	else
		error = datagram_connect(fd, &handle, address, size_of(server));
	if (error < 0) {
		(void)sys_close(fd);
		return error;
	}
	return fd;
}

static bool wait_for(int fd, short events, int64_t until)
{
	struct pollfd ask = {.fd = fd, .events = events};
	int64_t left = until - sys_now_ms();
	return left > 0 && sys_poll(&ask, 1, (int)left) > 0;
}

static bool read_exactly(int fd, uint8_t *data, size_t length, int64_t until)
{
	while (length > 0) {
		ssize_t got =
			wait_for(fd, POLLIN, until) ? sys_recvfrom(fd, data, length, MSG_DONTWAIT, NULL, NULL) : -ETIMEDOUT;
		if (got <= 0 && got != -EAGAIN && got != -EINTR)
			return false;
		if (got > 0) {
			data += got;
			length -= (size_t)got;
		}
	}
	return true;
}

// By TCP: RFC 1035 section 4.2.2, RFC 7766.
static bool ask_by_stream(
	const char *vr, const struct sockaddr_storage *server, struct exchange *exchange, int64_t until)
{
	uint8_t framed[2 + DNS_QUERY];
	uint8_t size[2];
	struct handle handle;
	bool answered = false;
	if (exchange->query_length > DNS_QUERY)
		return false;
	int fd = open_to(vr, server, SOCK_STREAM);
	if (fd < 0)
		return false;
	framed[0] = (uint8_t)(exchange->query_length >> 8);
	framed[1] = (uint8_t)exchange->query_length;
	memcpy(framed + 2, exchange->query, exchange->query_length);
	const ssize_t whole = (ssize_t)exchange->query_length + 2;
	if (wait_for(fd, POLLOUT, until) && handle_get(fd, &handle) && stream_connect_result(fd, &handle) == 0 &&
		sys_sendto(fd, framed, (size_t)whole, MSG_NOSIGNAL, NULL, 0) == whole &&
		read_exactly(fd, size, sizeof(size), until)) {
		size_t length = (size_t)size[0] << 8 | size[1];
		// What there is no room for is cut off, as UDP would.
		size_t taken = length < exchange->room ? length : exchange->room;
		answered = length >= DNS_HEADER && taken >= DNS_HEADER && read_exactly(fd, exchange->answer, taken, until) &&
			dns_matches(exchange->query, exchange->query_length, exchange->answer, taken);
		if (answered)
			exchange->length = taken;
	}
	(void)sys_close(fd);
	return answered;
}

// Take one datagram; true: this server has no more to say.
static bool take(
	const char *vr, const struct sockaddr_storage *server, int fd, struct exchange *exchange, int64_t until)
{
	ssize_t got = sys_recvfrom(fd, exchange->answer, exchange->room, MSG_DONTWAIT, NULL, NULL);
	if (got == -EAGAIN || got == -EINTR)
		return false;
	if (got <= 0)
		return true; // refused, or the router is gone
	if (!dns_matches(exchange->query, exchange->query_length, exchange->answer, (size_t)got))
		return false; // not what was asked: the right one may still come
	exchange->length = (size_t)got;
	if (dns_truncated(exchange->answer)) {
		exchange->length = 0;
		return !ask_by_stream(vr, server, exchange, until) || exchange->length > 0;
	}
	return true;
}

static bool useful(const struct exchange *exchange)
{
	if (exchange->length < DNS_HEADER)
		return false;
	int rcode = dns_rcode(exchange->answer);
	return rcode == DNS_NOERROR || rcode == DNS_NXDOMAIN;
}

static void ask_server(
	const char *vr, const struct sockaddr_storage *server, struct exchange *exchanges, int count, int64_t until)
{
	struct pollfd asks[AT_ONCE];
	int open = 0;
	for (int i = 0; i < count; i++) {
		asks[i] = (struct pollfd){.fd = -1, .events = POLLIN};
		if (useful(&exchanges[i]))
			continue;
		asks[i].fd = open_to(vr, server, SOCK_DGRAM);
		if (asks[i].fd < 0)
			continue;
		(void)sys_sendto(asks[i].fd, exchanges[i].query, exchanges[i].query_length, MSG_NOSIGNAL, NULL, 0);
		open++;
	}
	while (open > 0) {
		int64_t left = until - sys_now_ms();
		if (left <= 0 || (sys_poll(asks, (unsigned int)count, (int)left) == 0))
			break;
		for (int i = 0; i < count; i++) {
			if (asks[i].fd < 0 || asks[i].revents == 0 || !take(vr, server, asks[i].fd, &exchanges[i], until))
				continue;
			(void)sys_close(asks[i].fd);
			asks[i].fd = -1;
			open--;
		}
	}
	for (int i = 0; i < count; i++)
		if (asks[i].fd >= 0)
			(void)sys_close(asks[i].fd);
}

bool resolver_ask(const char *vr, const struct name_servers *servers, struct exchange *exchanges, int count)
{
	for (int i = 0; i < count; i++)
		exchanges[i].length = 0;
	for (int attempt = 0; attempt < servers->attempts; attempt++) {
		for (int i = 0; i < servers->count; i++) {
			bool all = true;
			ask_server(vr, &servers->at[i], exchanges, count, sys_now_ms() + servers->timeout_ms);
			for (int k = 0; k < count; k++)
				all &= useful(&exchanges[k]);
			if (all)
				return true;
		}
	}
	return false;
}
