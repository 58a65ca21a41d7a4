// A socket is exchanged for another, and the program must not notice.
//
// The new file gets the old one's options, flags and local port, and takes its number wherever the program's table has
// it.  An epoll set remembers pairs of number and file, and forgets the old file: /proc tells what it had registered.
// Registering anew must be done under the program's number, so a child of ours does it that puts the file there.
//
// Not supported: duplicates in other processes, and data that the old socket had received.
#define _GNU_SOURCE
#include "supervisor.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include "sys.h"

enum { NUMBERS = 64, PLACES = 64, LINE = 256, PATH = 64 };

struct option_name {
	int level, name;
	socklen_t length;
};

static const struct option_name options[] = {
	{SOL_SOCKET, SO_REUSEADDR, 4},
	{SOL_SOCKET, SO_REUSEPORT, 4},
	{SOL_SOCKET, SO_KEEPALIVE, 4},
	{SOL_SOCKET, SO_BROADCAST, 4},
	{SOL_SOCKET, SO_LINGER, 8},
	{SOL_SOCKET, SO_RCVTIMEO, 16},
	{SOL_SOCKET, SO_SNDTIMEO, 16},
	{SOL_SOCKET, SO_TIMESTAMP, 4},
	{SOL_SOCKET, SO_TIMESTAMPNS, 4},
	{IPPROTO_TCP, TCP_NODELAY, 4},
	{IPPROTO_TCP, TCP_KEEPIDLE, 4},
	{IPPROTO_TCP, TCP_KEEPINTVL, 4},
	{IPPROTO_TCP, TCP_KEEPCNT, 4},
	{IPPROTO_TCP, TCP_USER_TIMEOUT, 4},
	{IPPROTO_TCP, TCP_MAXSEG, 4},
	{IPPROTO_TCP, TCP_DEFER_ACCEPT, 4},
	{IPPROTO_IP, IP_TOS, 4},
	{IPPROTO_IP, IP_TTL, 4},
	{IPPROTO_IP, IP_RECVERR, 4},
	{IPPROTO_IP, IP_PKTINFO, 4},
	{IPPROTO_IP, IP_RECVTTL, 4},
	{IPPROTO_IP, IP_RECVTOS, 4},
	{IPPROTO_IP, IP_MULTICAST_TTL, 4},
	{IPPROTO_IP, IP_MULTICAST_LOOP, 4},
	{IPPROTO_IPV6, IPV6_V6ONLY, 4},
	{IPPROTO_IPV6, IPV6_RECVPKTINFO, 4},
	{IPPROTO_IPV6, IPV6_RECVERR, 4},
	{IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 4},
	{IPPROTO_IPV6, IPV6_RECVTCLASS, 4},
	{IPPROTO_IPV6, IPV6_UNICAST_HOPS, 4},
	{IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 4},
	{IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 4},
	{IPPROTO_IPV6, IPV6_TCLASS, 4},
};

// One registration in an epoll set.
struct place {
	int set; // duplicate of the program's epoll fd
	int number;
	struct epoll_event event;
};

// Where a file is in the program's table.
struct places {
	int numbers[NUMBERS];
	bool cloexec[NUMBERS];
	int count;
	struct place at[PLACES];
	int place_count;
};

// --- what the old one had ---

static int get_option(int fd, const struct handle *handle, const struct option_name *option, void *value)
{
	socklen_t length = option->length;
	if (handle->flags & HANDLE_OURS)
		return option_get(fd, handle, option->level, option->name, value, &length);
	return sys_getsockopt(fd, option->level, option->name, value, &length);
}

// Options that are not as a new socket of its kind has them.
static void copy_options(int from, const struct handle *old, int to, struct handle *new)
{
	const struct handle kernel = {.flags = 0};
	int fresh = old->flags & HANDLE_OURS ? -1 : sys_socket(old->domain, old->type | SOCK_CLOEXEC, 0);
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		uint8_t value[16] = {0}, usual[16] = {0};
		if (get_option(from, old, &options[i], value) < 0)
			continue;
		int error = fresh >= 0 ? get_option(fresh, &kernel, &options[i], usual) : get_option(to, new, &options[i], usual);
		if (error == 0 && memcmp(value, usual, sizeof(value)) != 0)
			(void)option_set(to, new, options[i].level, options[i].name, value, options[i].length);
	}
	if (fresh >= 0)
		(void)sys_close(fresh);
}

// It was bound before it was known where it belongs.
static int copy_port(int from, const struct handle *old, int to, struct handle *new)
{
	struct sockaddr_storage name = {0};
	socklen_t length = sizeof(name);
	if (old->flags & HANDLE_OURS) {
		struct rsock_name known;
		if (!(old->flags & HANDLE_BOUND) || client_name(old, &known) < 0)
			return 0;
		length = address_of_local(&known, &name);
	} else if (sys_getsockname(from, &name, &length) < 0) {
		return 0;
	}
	uint16_t port =
		name.ss_family == AF_INET ? ((struct sockaddr_in *)&name)->sin_port : ((struct sockaddr_in6 *)&name)->sin6_port;
	return port == 0 ? 0 : client_bind(to, new, (const struct sockaddr *)&name, length);
}

// --- where the program has it ---

static FILE *open_info(pid_t thread, int number)
{
	char path[PATH];
	(void)snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", (int)thread, number);
	return fopen(path, "re");
}

static bool closes_at_exec(pid_t thread, int number)
{
	char line[LINE];
	unsigned int flags = 0;
	FILE *info = open_info(thread, number);
	if (info == NULL)
		return false;
	while (fgets(line, sizeof(line), info) != NULL)
		if (sscanf(line, "flags: %o", &flags) == 1)
			break;
	(void)fclose(info);
	return flags & O_CLOEXEC;
}

static void add_places(const struct call *call, int number, unsigned long inode, struct places *places)
{
	char line[LINE];
	FILE *info = open_info(call->thread, number);
	int set = -1;
	if (info == NULL)
		return;
	while (fgets(line, sizeof(line), info) != NULL && places->place_count < PLACES) {
		unsigned long long data;
		unsigned long found;
		unsigned int events;
		int watched;
		if (sscanf(line, "tfd: %d events: %x data: %llx pos:%*d ino:%lx", &watched, &events, &data, &found) != 4 ||
			found != inode)
			continue;
		if (set < 0)
			set = (int)syscall(SYS_pidfd_getfd, call->process, number, 0);
		places->at[places->place_count++] =
			(struct place){.set = set, .number = watched, .event = {.events = events, .data.u64 = data}};
	}
	(void)fclose(info);
}

static void find_places(const struct call *call, unsigned long inode, struct places *places)
{
	char path[PATH], wanted[PATH];
	(void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)call->thread);
	(void)snprintf(wanted, sizeof(wanted), "socket:[%lu]", inode);
	DIR *directory = opendir(path);
	const struct dirent *entry;
	if (directory == NULL)
		return;
	while ((entry = readdir(directory)) != NULL) {
		char target[PATH];
		int number = atoi(entry->d_name);
		ssize_t length = readlinkat(dirfd(directory), entry->d_name, target, sizeof(target) - 1);
		if (length < 0)
			continue;
		target[length] = '\0';
		if (strcmp(target, wanted) == 0 && places->count < NUMBERS) {
			places->cloexec[places->count] = closes_at_exec(call->thread, number);
			places->numbers[places->count++] = number;
		} else if (strcmp(target, "anon_inode:[eventpoll]") == 0) {
			add_places(call, number, inode, places);
		}
	}
	(void)closedir(directory);
}

// In a process of its own: its table is free for the program's numbers, once what is needed stands above them.
static void register_all(struct places *places, int fd)
{
	int highest = 0;
	for (int i = 0; i < places->place_count; i++)
		highest = places->at[i].number > highest ? places->at[i].number : highest;
	int file = fcntl(fd, F_DUPFD, highest + 1);
	for (int i = 0; i < places->place_count; i++)
		places->at[i].set = fcntl(places->at[i].set, F_DUPFD, highest + 1);
	for (int i = 0; i < places->place_count; i++) {
		struct place *place = &places->at[i];
		if (dup2(file, place->number) == place->number)
			(void)epoll_ctl(place->set, EPOLL_CTL_ADD, place->number, &place->event);
	}
	_exit(0);
}

static void move_places(struct places *places, int fd)
{
	if (places->place_count == 0)
		return;
	// Not fork(3): the client library would make connections for its child.
	long child = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
	if (child == 0)
		register_all(places, fd);
	if (child > 0)
		while (waitpid((pid_t)child, NULL, 0) < 0 && errno == EINTR)
			;
}

static void close_places(const struct places *places)
{
	for (int i = 0; i < places->place_count; i++)
		if (i == 0 || places->at[i].set != places->at[i - 1].set)
			(void)close(places->at[i].set);
}

static int exchange(struct supervisor *supervisor, struct call *call, int fd)
{
	struct places places = {.count = 0};
	struct stat status;
	int error = 0, flags = fcntl(call->fd, F_GETFL);
	if (fstat(call->fd, &status) < 0 || flags < 0 || fcntl(fd, F_SETFL, flags) < 0)
		return -errno;
	find_places(call, status.st_ino, &places);
	for (int i = 0; i < places.count && error >= 0; i++)
		error = tracee_replace_fd(supervisor, call, places.numbers[i], fd, places.cloexec[i]);
	if (error >= 0)
		move_places(&places, fd);
	close_places(&places);
	if (error < 0)
		return error == -ENOENT ? -EINTR : error; // the call is over; its restart begins anew
	return 0;
}

int move_fd(struct supervisor *supervisor, struct call *call, const char *vr)
{
	const struct handle old = call->record->handle;
	int protocol = sys_int_option(call->fd, SOL_SOCKET, SO_PROTOCOL, 0);
	struct handle new;
	int fd;
	if (old.flags & (HANDLE_JOINED | HANDLE_LISTENING | HANDLE_CONNECTED))
		return -EISCONN;
	int error =
		open_for(supervisor, call, vr, old.domain, old.type, old.flags & HANDLE_OURS ? old.protocol : protocol, &new, &fd);
	if (error < 0)
		return error;
	copy_options(call->fd, &old, fd, &new);
	error = copy_port(call->fd, &old, fd, &new);
	if (error == 0)
		error = exchange(supervisor, call, fd);
	if (error < 0) {
		(void)sys_close(fd);
		return error;
	}
	(void)sys_close(call->fd);
	call->fd = fd;
	call->record = record_put(supervisor, &new);
	return 0;
}
