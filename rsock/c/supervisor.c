// rsock-supervise: runs a program whose sockets live in virtual routers, with a seccomp filter under it.
//
//   rsock-supervise --vr NAME | --map MAP [--preload PATH] [--stay] -- PROGRAM [ARGUMENT...]
//
//   this process --filter_install, exec--> PROGRAM                 its pid, terminal, status and signals are its own
//        |                                    | (its children and what they execute have the filter too)
//        |                                    v
//        +--fork, fork--> supervisor <--calls that make sockets or name addresses
//                             +-- its answer: a value, "go on in the kernel", or a file to put into the table
//
// One loop serves all calls.  It never waits for one of them: what would block is looked at again when its file is
// ready (struct waiting), with the program's own time-outs, and is over when a signal ends it.  It ends when the last
// process with the filter is gone.
//
// Where Yama lets parents alone look into processes (ptrace_scope 1), or with --stay, the supervisor stays the parent
// of the program and behaves like it: signals are passed on, stops and the status shown.
//
// See seccomp_unotify(2).  It is no border: a program that wants to reach the kernel's sockets can.
#define _GNU_SOURCE
#include "supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include "sys.h"

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif

enum {
	LOOK_MS = 50, RESTART_MS = 100, MS_NS = 1000000,
	KERNEL_RESTART = 512,        // ERESTARTSYS, which a program never sees
	NOT_FOUND = 127, NOT_EXECUTABLE = 126, USAGE = 2
};

struct waiting {
	struct waiting *next;
	struct call call;
};

struct handler {
	int nr;
	int64_t (*run)(struct supervisor *supervisor, struct call *call);
};

static const struct handler handlers[] = {
#ifdef SYS_accept
	{SYS_accept, call_accept},
#endif
	{SYS_accept4, call_accept},
	{SYS_bind, call_bind},
	{SYS_connect, call_connect},
	{SYS_getpeername, call_name},
	{SYS_getsockname, call_name},
	{SYS_getsockopt, call_getsockopt},
	{SYS_ioctl, call_ioctl},
	{SYS_listen, call_listen},
	{SYS_recvfrom, call_recvfrom},
	{SYS_recvmmsg, call_recvmmsg},
	{SYS_recvmsg, call_recvmsg},
	{SYS_sendmmsg, call_sendmmsg},
	{SYS_sendmsg, call_sendmsg},
	{SYS_sendto, call_sendto},
	{SYS_setsockopt, call_setsockopt},
};

// --- one call ---

static int64_t look(struct supervisor *supervisor, struct call *call)
{
	if (call->nr == SYS_socket)
		return place_socket(supervisor, call);
	call->record = record_of(supervisor, call->fd);
	if (call->record == NULL)
		return CALL_KERNEL;
	for (size_t i = 0; i < sizeof(handlers) / sizeof(handlers[0]); i++)
		if (handlers[i].nr == call->nr)
			return handlers[i].run(supervisor, call);
	return CALL_KERNEL;
}

// A signal that comes while a call is executed ends it for the program; then the kernel restarts it, or the program
// does.  What had its effect must not have it twice: a datagram would be sent again, or one be lost.
static void answer(struct supervisor *supervisor, const struct call *call, int64_t value)
{
	struct interrupted *place = &supervisor->interrupted[call->thread % SUPERVISOR_INTERRUPTED];
	if (value == CALL_SENT || tracee_answer(supervisor, call, value) || value == CALL_KERNEL || value == -EINTR)
		return;
	*place = (struct interrupted){call->thread, call->nr, {0}, value, tracee_now() + (int64_t)RESTART_MS * MS_NS};
	memcpy(place->args, call->args, sizeof(place->args));
}

static bool executed(struct supervisor *supervisor, const struct call *call, int64_t *value)
{
	struct interrupted *place = &supervisor->interrupted[call->thread % SUPERVISOR_INTERRUPTED];
	if (place->thread != call->thread)
		return false;
	place->thread = 0;
	*value = place->value;
	return place->nr == call->nr && memcmp(place->args, call->args, sizeof(place->args)) == 0 &&
		tracee_now() < place->until;
}

static void watch(const struct supervisor *supervisor, int fd, uint32_t events, void *about)
{
	struct epoll_event event = {.events = events, .data.ptr = about};
	(void)epoll_ctl(supervisor->epoll, EPOLL_CTL_ADD, fd, &event);
}

static void wait_more(struct supervisor *supervisor, const struct call *call, int64_t value)
{
	struct waiting *waiting = malloc(sizeof(*waiting));
	if (waiting == NULL) {
		(void)tracee_answer(supervisor, call, -ENOMEM);
		return;
	}
	waiting->call = *call;
	waiting->call.waited = true;
	waiting->next = supervisor->waiting;
	supervisor->waiting = waiting;
	watch(supervisor, call->fd, value == CALL_WAIT_IN ? EPOLLIN : EPOLLOUT, waiting);
	watch(supervisor, call->process, EPOLLIN, waiting); // it ends
}

static void wait_over(struct supervisor *supervisor, struct waiting *waiting)
{
	struct waiting **link = &supervisor->waiting;
	while (*link != waiting)
		link = &(*link)->next;
	*link = waiting->next;
	// The program has the same file open, so closing alone would leave it in the set.
	(void)epoll_ctl(supervisor->epoll, EPOLL_CTL_DEL, waiting->call.fd, NULL);
	(void)epoll_ctl(supervisor->epoll, EPOLL_CTL_DEL, waiting->call.process, NULL);
	tracee_close(&waiting->call);
	free(waiting);
}

static void look_again(struct supervisor *supervisor, struct waiting *waiting)
{
	if (tracee_valid(supervisor, &waiting->call)) {
		int64_t value = look(supervisor, &waiting->call);
		if (value == CALL_WAIT_IN || value == CALL_WAIT_OUT)
			return;
		answer(supervisor, &waiting->call, value);
	}
	wait_over(supervisor, waiting);
}

// A thread that calls anew does not wait for its former call any more.
static void forget_thread(struct supervisor *supervisor, pid_t thread)
{
	struct waiting *next;
	for (struct waiting *waiting = supervisor->waiting; waiting != NULL; waiting = next) {
		next = waiting->next;
		if (waiting->call.thread == thread)
			wait_over(supervisor, waiting);
	}
}

static void serve(struct supervisor *supervisor, const struct seccomp_notif *request)
{
	struct call call = {.id = request->id, .thread = (pid_t)request->pid, .nr = request->data.nr, .fd = -1, .process = -1};
	int64_t value = CALL_KERNEL;
	memcpy(call.args, request->data.args, sizeof(call.args));
	forget_thread(supervisor, call.thread);
	if (!filter_knows(request->data.arch)) {
		tracee_tell(supervisor, &call, "a 32-bit program gets no sockets");
		value = -ENOSYS;
	} else if (executed(supervisor, &call, &value)) {
		trace(2, "thread %d: call %d is restarted", (int)call.thread, call.nr);
	} else if (call.nr == SYS_socket || tracee_open(supervisor, &call, true)) {
		value = look(supervisor, &call);
	}
	if (value == CALL_WAIT_IN || value == CALL_WAIT_OUT) {
		wait_more(supervisor, &call, value);
		return;
	}
	answer(supervisor, &call, value);
	tracee_close(&call);
}

// --- the loop ---

static bool receive(struct supervisor *supervisor)
{
	memset(supervisor->request, 0, supervisor->sizes.seccomp_notif);
	if (ioctl(supervisor->notify, SECCOMP_IOCTL_NOTIF_RECV, supervisor->request) == 0)
		serve(supervisor, supervisor->request);
	else if (errno != EINTR && errno != ENOENT)
		return false;
	return true;
}

// Until the next call that waits is over by itself.  Nobody tells us of signals, so they are looked for.
static int patience_ms(const struct supervisor *supervisor)
{
	int64_t now = tracee_now(), least = LOOK_MS;
	if (supervisor->waiting == NULL)
		return -1;
	for (const struct waiting *waiting = supervisor->waiting; waiting != NULL; waiting = waiting->next) {
		int64_t left =
			waiting->call.deadline == SUPERVISOR_NEVER ? LOOK_MS : (waiting->call.deadline - now + MS_NS - 1) / MS_NS;
		least = left < least ? left : least;
	}
	return least < 0 ? 0 : (int)least;
}

static void look_around(struct supervisor *supervisor)
{
	struct waiting *next;
	supervisor->look_at = tracee_now() + (int64_t)LOOK_MS * MS_NS;
	for (struct waiting *waiting = supervisor->waiting; waiting != NULL; waiting = next) {
		next = waiting->next;
		if (tracee_valid(supervisor, &waiting->call) && tracee_signalled(&waiting->call))
			(void)tracee_answer(supervisor, &waiting->call, -KERNEL_RESTART); // it becomes EINTR, or the call anew
		if (!tracee_valid(supervisor, &waiting->call))
			wait_over(supervisor, waiting);
		else if (waiting->call.deadline <= tracee_now())
			look_again(supervisor, waiting);
	}
}

static bool anybody_left(const struct supervisor *supervisor)
{
	struct pollfd ask = {.fd = supervisor->notify, .events = POLLIN};
	return sys_poll(&ask, 1, 0) <= 0 || !(ask.revents & (POLLHUP | POLLERR));
}

// False: nobody is left.
static bool step(struct supervisor *supervisor)
{
	struct epoll_event event;
	// Where the kernel wakes us at the end too, its shortest way is to wait for the call itself.
	if (supervisor->direct && supervisor->waiting == NULL)
		return receive(supervisor) && anybody_left(supervisor);
	int ready = epoll_wait(supervisor->epoll, &event, 1, patience_ms(supervisor));
	if (ready < 0)
		return errno == EINTR;
	if (ready == 0 || (supervisor->waiting != NULL && tracee_now() >= supervisor->look_at)) {
		look_around(supervisor); // which may end what the event is about: it comes again
		return true;
	}
	if (event.data.ptr == &supervisor->signals)
		stay_signal(&supervisor->signals);
	else if (event.data.ptr != supervisor)
		look_again(supervisor, event.data.ptr);
	else if (event.events & EPOLLIN)
		return receive(supervisor);
	else
		return !(event.events & (EPOLLHUP | EPOLLERR));
	return true;
}

// RECV returns when the last process with the filter is gone: since Linux 6.11.
static bool wakes_at_the_end(void)
{
	struct utsname system;
	int major = 0, minor = 0;
	return uname(&system) == 0 && sscanf(system.release, "%d.%d", &major, &minor) == 2 &&
		(major > 6 || (major == 6 && minor >= 11));
}

static int prepare(struct supervisor *supervisor)
{
	supervisor->uid = geteuid();
	supervisor->threads = true;
	supervisor->direct = !supervisor->signals.used && wakes_at_the_end();
	supervisor->epoll = epoll_create1(EPOLL_CLOEXEC);
	supervisor->records = calloc(SUPERVISOR_RECORDS, sizeof(*supervisor->records));
	if (supervisor->epoll < 0 || supervisor->records == NULL ||
		syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &supervisor->sizes) < 0)
		return -errno;
	for (int i = 0; i < SUPERVISOR_RECORDS; i++)
		supervisor->records[i].held = -1;
	// An older kernel's may be shorter than ours.
	size_t size = supervisor->sizes.seccomp_notif;
	supervisor->request = calloc(1, size > sizeof(*supervisor->request) ? size : sizeof(*supervisor->request));
	return supervisor->request == NULL ? -ENOMEM : 0;
}

static void run(struct supervisor *supervisor, int notify)
{
	struct rlimit files;
	supervisor->notify = notify;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
	(void)signal(SIGPIPE, SIG_IGN);
	// The one who waits runs where the other stops; before Linux 6.6 the kernel chooses.
	(void)ioctl(notify, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
	watch(supervisor, notify, EPOLLIN, supervisor);
	if (supervisor->signals.used)
		watch(supervisor, supervisor->signals.fd, EPOLLIN, &supervisor->signals);
	while (step(supervisor))
		;
}

// --- starting ---

static int take_notify(int from)
{
	union {
		struct cmsghdr header;
		uint8_t room[CMSG_SPACE(sizeof(int))];
	} control;
	uint8_t byte;
	int notify;
	struct iovec part = {.iov_base = &byte, .iov_len = 1};
	struct msghdr message = {.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control)};
	if (recvmsg(from, &message, MSG_CMSG_CLOEXEC) <= 0 || message.msg_controllen < CMSG_LEN(sizeof(int)))
		return -1;
	memcpy(&notify, CMSG_DATA(&control.header), sizeof(notify));
	return notify;
}

// The supervisor's own life, until nobody is left.  `link` leads to the process that becomes the program.
static void supervise(struct supervisor *supervisor, int link)
{
	int error = prepare(supervisor);
	int notify = error < 0 ? -1 : take_notify(link);
	if (notify < 0)
		return;
	(void)!write(link, "", 1);
	(void)close(link);
	run(supervisor, notify);
}

static _Noreturn void fail(const char *what, int error)
{
	(void)fprintf(stderr, "rsock: %s: %s\n", what, strerror(-error));
	_exit(NOT_FOUND);
}

static _Noreturn void become_program(int link, const char *preload, char **words)
{
	char byte;
	int notify = filter_install();
	if (notify < 0)
		fail("seccomp", notify);
	int error = filter_send(link, notify);
	if (error < 0 || read(link, &byte, 1) != 1)
		fail("the supervisor did not start", error < 0 ? error : -EPIPE);
	(void)close(notify);
	(void)close(link);
	if (preload != NULL)
		(void)setenv("LD_PRELOAD", preload, 1);
	(void)execvp(words[0], words);
	error = errno;
	(void)fprintf(stderr, "rsock: %s: %s\n", words[0], strerror(error));
	_exit(error == ENOENT ? NOT_FOUND : NOT_EXECUTABLE);
}

// The supervisor is nobody's child, and holds nothing of the terminal; what it has to say it writes to the
// program's standard error (tracee_tell).
static void leave(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	(void)setsid();
	(void)!chdir("/");
	for (int fd = 0; fd < 3; fd++)
		if (null >= 0 && (fd != STDERR_FILENO || settings_get()->trace == 0))
			(void)dup2(null, fd);
	if (null > 2)
		(void)close(null);
}

static void start_beside(struct supervisor *supervisor, int link[2])
{
	pid_t child = fork();
	if (child < 0)
		fail("fork", -errno);
	if (child > 0) {
		while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
			;
		return;
	}
	if (fork() != 0)
		_exit(0);
	(void)close(link[1]);
	leave();
	supervise(supervisor, link[0]);
	_exit(0);
}

static int usage(void)
{
	(void)fprintf(stderr,
		"usage: rsock-supervise --vr NAME | --map MAP [--preload PATH] [--stay] -- PROGRAM [ARGUMENT...]\n");
	return USAGE;
}

struct command {
	const char *preload;
	bool stay;
	char **words;
};

static bool parse(int count, char **words, struct supervisor *supervisor, struct command *command)
{
	static const struct option known[] = {
		{"vr", required_argument, NULL, 'v'},
		{"map", required_argument, NULL, 'm'},
		{"preload", required_argument, NULL, 'p'},
		{"stay", no_argument, NULL, 's'},
		{NULL, 0, NULL, 0},
	};
	int option;
	while ((option = getopt_long(count, words, "+", known, NULL)) != -1) {
		const char *wrong = optarg;
		if (option == 'v') {
			supervisor->vr = optarg;
		} else if (option == 'm') {
			supervisor->mapped = true;
			if (map_parse(optarg, &supervisor->map, &wrong) < 0) {
				(void)fprintf(stderr, "rsock: --map: %s\n", wrong);
				return false;
			}
		} else if (option == 'p') {
			command->preload = optarg;
		} else if (option == 's') {
			command->stay = true;
		} else {
			return false;
		}
	}
	command->words = words + optind;
	return optind < count && supervisor->mapped != (supervisor->vr != NULL);
}

int main(int count, char **words)
{
	static struct supervisor supervisor = {.notify = -1};
	struct command command = {.preload = NULL};
	int link[2];
	if (!parse(count, words, &supervisor, &command))
		return usage();
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, link) < 0)
		fail("socketpair", -errno);
	if (!command.stay) {
		start_beside(&supervisor, link);
		(void)close(link[0]);
		become_program(link[1], command.preload, command.words);
	}
	pid_t child = stay_begin(&supervisor.signals);
	if (child < 0)
		fail("fork", child);
	if (child == 0) {
		(void)close(link[0]);
		become_program(link[1], command.preload, command.words);
	}
	(void)close(link[1]);
	supervise(&supervisor, link[0]);
	return stay_end(&supervisor.signals);
}
