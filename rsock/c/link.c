// Connections to the forwarders: one for each router and process, made when it is needed (vr/NAME.sock).
//
// A request waits for its answer under the router's lock, with all signals blocked, so that handlers may make calls
// of their own.  A forwarder that is replaced costs a repetition: its listening socket outlives it.
//
// The fd of a connection belongs to this library alone, but the app may close it, close everything, or put something
// else in its place: it is verified by SO_COOKIE before each use, and never closed unverified.  A child of fork
// makes connections of its own, since answers cannot be shared.
//
// A forwarder knows who we are by who connected.  A daemon that gives root up after fork keeps a connection that it
// made before, for sockets that root opened; what it opens itself it opens as who it is now.
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/time.h>
#include "sys.h"

enum {
	HIGH_FD = 4000,              // where connections have their fds, if the limit lets them
	FD_MARGIN = 24,              // below the limit otherwise
	NS_PER_MS = 1000000,
	REFUSED_MS = 100,            // a listening socket may be bound and not listen yet
	REPEAT_NS = NS_PER_MS
};

struct end {
	int fd;                      // -1: none
	uint64_t file;               // its SO_COOKIE
};

struct link {
	char vr[RSOCK_VR_NAME];
	pthread_mutex_t lock;
	pid_t pid;                   // whose `now` and `before` are
	uid_t uid;                   // as whom `now` was made
	bool keep;
	struct end now;
	struct end before;           // made as another user, for his sockets
	uint32_t session;            // by it a forwarder knows a request that is repeated; 0: it does not
	uint64_t request;
};

static struct link links[CLIENT_ROUTERS];
static int link_count;
static pthread_mutex_t adding = PTHREAD_MUTEX_INITIALIZER;

// --- routers ---

static int find(const char *vr)
{
	int count = __atomic_load_n(&link_count, __ATOMIC_ACQUIRE);
	for (int i = 0; i < count; i++)
		if (strcmp(links[i].vr, vr) == 0)
			return i;
	return -1;
}

static void lock_all_signals(pthread_mutex_t *lock, sigset_t *before)
{
	sigset_t all;
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, before);
	(void)pthread_mutex_lock(lock);
}

static void unlock_signals(pthread_mutex_t *lock, const sigset_t *before)
{
	(void)pthread_mutex_unlock(lock);
	(void)pthread_sigmask(SIG_SETMASK, before, NULL);
}

int link_router(const char *vr)
{
	sigset_t signals;
	int found = find(vr);
	if (found >= 0)
		return found;
	if (!name_valid(vr))
		return -ENODEV;
	lock_all_signals(&adding, &signals);
	found = find(vr);
	if (found < 0 && link_count < CLIENT_ROUTERS) {
		found = link_count;
		struct link *link = &links[found];
		strcpy(link->vr, vr);
		(void)pthread_mutex_init(&link->lock, NULL);
		link->now.fd = link->before.fd = -1;
		__atomic_store_n(&link_count, found + 1, __ATOMIC_RELEASE);
	}
	unlock_signals(&adding, &signals);
	return found < 0 ? -ENFILE : found;
}

const char *link_router_name(int router)
{
	return links[router].vr;
}

// --- connecting ---

static void pause_shortly(void)
{
	const struct timespec pause = {.tv_nsec = REPEAT_NS};
	(void)SYS_CALL(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &pause, NULL);
}

static bool end_valid(const struct end *end)
{
	return end->fd >= 0 && sys_cookie(end->fd) == end->file;
}

static void end_close(struct end *end)
{
	if (end_valid(end))
		(void)sys_close(end->fd);
	end->fd = -1;
}

// Out of the way of programs that count on low numbers, or close them.
static int move_high(int fd)
{
	struct rlimit limit;
	long base = HIGH_FD;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < HIGH_FD + FD_MARGIN)
		base = limit.rlim_cur > 2 * FD_MARGIN ? (long)limit.rlim_cur - FD_MARGIN : 0;
	int high = sys_fcntl(fd, F_DUPFD_CLOEXEC, base);
	if (high < 0)
		return fd;
	(void)sys_close(fd);
	return high;
}

static int end_connect(const char *vr, int timeout_ms)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	struct timeval timeout = {.tv_sec = timeout_ms / 1000, .tv_usec = (timeout_ms % 1000) * 1000};
	int length = snprintf(name.sun_path, sizeof(name.sun_path), "%s/vr/%s.sock", settings_get()->run_dir, vr);
	if (length >= (int)sizeof(name.sun_path))
		return -ENAMETOOLONG;
	int fd = sys_socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return fd;
	(void)sys_setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	(void)sys_setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	int error = sys_connect(fd, &name, sizeof(name));
	if (error < 0) {
		(void)sys_close(fd);
		return error == -EAGAIN ? -ETIMEDOUT : error;
	}
	return move_high(fd);
}

static int link_connect(struct link *link)
{
	int fd = end_connect(link->vr, settings_get()->timeout_ms);
	if (fd < 0)
		return fd;
	link->now = (struct end){.fd = fd, .file = sys_cookie(fd)};
	link->uid = geteuid();
	return 0;
}

static uint32_t new_session(void)
{
	uint32_t session = 0;
	if (SYS_CALL(SYS_getrandom, &session, sizeof(session), GRND_NONBLOCK) != (long)sizeof(session))
		return 0;
	return session | 1;
}

// See to it that `now` is a connection of this process and user.
static int link_ready(struct link *link)
{
	pid_t pid = getpid();
	if (link->pid != pid) {
		end_close(&link->now);
		end_close(&link->before);
		link->pid = pid;
		link->session = new_session(); // the numbers of a child's requests are its parent's too
	}
	if (!end_valid(&link->now)) {
		link->now.fd = -1;
	} else if (link->uid != geteuid()) {
		if (end_valid(&link->before))
			end_close(&link->now);
		else
			link->before = link->now;
		link->now.fd = -1;
	}
	return link->now.fd >= 0 ? 0 : link_connect(link);
}

// --- asking ---

struct question {
	struct rsock_header header;
	const void *body;
	uint32_t length;
};

static int take_fd(struct msghdr *message)
{
	int found = -1;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; CMSG_LEN((i + 1) * sizeof(int)) <= c->cmsg_len; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (found < 0)
				found = fd;
			else
				(void)sys_close(fd);
		}
	}
	return found;
}

// One record: 1 the answer, 0 something else, or a negated errno of the connection.
static int receive(int fd, const struct question *question, struct answer *answer, int *error)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(2 * sizeof(int))];
	} control;
	struct rsock_header header;
	struct iovec parts[2] = {
		{.iov_base = &header, .iov_len = sizeof(header)},
		{.iov_base = answer->body, .iov_len = sizeof(answer->body)},
	};
	struct msghdr message = {
		.msg_iov = parts, .msg_iovlen = 2, .msg_control = control.room, .msg_controllen = sizeof(control.room)};
	ssize_t got = sys_recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
	if (got <= 0)
		return got == 0 ? -ECONNRESET : (int)got;
	answer->fd = take_fd(&message);
	bool ours = got >= (ssize_t)sizeof(header) && header.magic == RSOCK_MAGIC &&
		header.request == question->header.request &&
		(header.flags & (RSOCK_FLAG_REPLY | RSOCK_FLAG_DATA)) == RSOCK_FLAG_REPLY;
	*error = 0;
	if (ours && (header.flags & RSOCK_FLAG_ERROR))
		*error = header.error > 0 && header.error < 4096 ? -(int)header.error : -EPROTO;
	if ((!ours || *error < 0) && answer->fd >= 0) {
		(void)sys_close(answer->fd);
		answer->fd = -1;
	}
	answer->length = ours ? (uint32_t)got - (uint32_t)sizeof(header) : 0;
	return ours;
}

// The answer's error in *error; or a negated errno of the connection.
static int exchange(int fd, const struct question *question, struct answer *answer, int64_t deadline, int *error)
{
	struct iovec parts[2] = {
		{.iov_base = (void *)(uintptr_t)&question->header, .iov_len = sizeof(question->header)},
		{.iov_base = (void *)(uintptr_t)question->body, .iov_len = question->length},
	};
	const struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
	ssize_t sent = sys_sendmsg(fd, &message, MSG_NOSIGNAL);
	if (sent < 0)
		return (int)sent;
	for (;;) {
		int got = receive(fd, question, answer, error);
		if (got != 0)
			return got < 0 ? got : 0;
		if (sys_now_ms() > deadline)
			return -EAGAIN;
	}
}

static bool passing(int error, int64_t begin, int64_t deadline)
{
	int64_t now = sys_now_ms();
	if (error == -ECONNREFUSED)
		return now < begin + REFUSED_MS && now < deadline;
	return (error == -EPIPE || error == -ECONNRESET) && now < deadline;
}

static int meaning(int error, int op)
{
	switch (error) {
	case -ENOENT:
	case -ENOTDIR:
		return op == RSOCK_OP_OPEN ? -ENODEV : -ENETDOWN;
	case -ECONNREFUSED:
		return -ENETDOWN;
	case -EAGAIN:
	case -EPIPE:
	case -ECONNRESET:
		return -ETIMEDOUT;
	default:
		return error;
	}
}

static int ask(struct link *link, struct question *question, struct answer *answer)
{
	int64_t begin = sys_now_ms();
	int64_t deadline = begin + settings_get()->timeout_ms;
	int error = 0;
	question->header.request = ++link->request;
	for (;;) {
		int failed = link_ready(link);
		question->header.session = link->session;
		if (failed == 0)
			failed = exchange(link->now.fd, question, answer, deadline, &error);
		if (failed == 0)
			break;
		end_close(&link->now);
		if (!passing(failed, begin, deadline))
			return meaning(failed, question->header.op);
		pause_shortly();
	}
	// Not proven by who we are now: perhaps by who we were.
	if (error == -EBADF && end_valid(&link->before)) {
		int failed = exchange(link->before.fd, question, answer, deadline, &error);
		if (failed < 0) {
			end_close(&link->before);
			error = -EBADF;
		}
	}
	return error;
}

int link_call(int router, int op, uint32_t slot, uint64_t key, const void *body, uint32_t length, struct answer *answer)
{
	struct link *link = &links[router];
	struct answer nobody;
	struct question question = {
		.header = {.magic = RSOCK_MAGIC, .op = (uint8_t)op, .socket = slot, .cookie = key},
		.body = body,
		.length = length,
	};
	sigset_t signals;
	struct answer *taken = answer != NULL ? answer : &nobody;
	taken->fd = -1;
	taken->length = 0;
	lock_all_signals(&link->lock, &signals);
	int error = ask(link, &question, taken);
	unlock_signals(&link->lock, &signals);
	if (answer == NULL && nobody.fd >= 0)
		(void)sys_close(nobody.fd);
	trace(2, "%s: op %d, socket %u: %s", link->vr, op, slot, error < 0 ? strerrorname_np(-error) : "done");
	return error;
}

void link_hint(int router, int op, uint32_t slot, uint64_t key)
{
	struct link *link = &links[router];
	struct rsock_header header = {.magic = RSOCK_MAGIC, .op = (uint8_t)op, .socket = slot, .cookie = key};
	sigset_t signals, all;
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &signals);
	if (pthread_mutex_trylock(&link->lock) == 0) {
		// Its answer is passed over by whoever asks next: the number is nobody's.
		if (link->pid == getpid() && end_valid(&link->now))
			(void)sys_sendto(link->now.fd, &header, sizeof(header), MSG_NOSIGNAL | MSG_DONTWAIT, NULL, 0);
		(void)pthread_mutex_unlock(&link->lock);
	}
	(void)pthread_sigmask(SIG_SETMASK, &signals, NULL);
}

int link_up(int router)
{
	int fd = end_connect(links[router].vr, REFUSED_MS);
	if (fd >= 0)
		(void)sys_close(fd);
	return fd >= 0 || fd == -ETIMEDOUT;
}

// --- fork ---

void link_keep_identity(int router)
{
	links[router].keep = true;
}

static void after_fork_in_child(void)
{
	// Threads that held a lock do not exist here.
	(void)pthread_mutex_init(&adding, NULL);
	for (int i = 0; i < link_count; i++) {
		(void)pthread_mutex_init(&links[i].lock, NULL);
		if (links[i].keep && geteuid() == 0)
			(void)link_ready(&links[i]);
	}
}

__attribute__((constructor)) static void link_begin(void)
{
	(void)pthread_atfork(NULL, NULL, after_fork_in_child);
}
