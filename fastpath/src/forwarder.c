// A forwarder process: the zygote's child, in C from its first instruction on.
//
//   namespace, title --> no rights, threads, filter --> core_create, core_serve, core_run --> exit
//
// The warm Python that it was forked from stays as it is, shared with everybody.  After
// confine_seccomp nothing can be opened any more.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core.h"

enum {
	STAT_ARGUMENTS = 48,
	STAT_ROOM = 2048,
	PROFILE_FORWARDER = 1,
	OPEN_FILES = 8192,
	NICENESS = -10,
	SLICE_NS = 100000
};

// Where the command line lies that ps(1) shows: fields 48 and 49 of proc_pid_stat(5).
static char *title_room(size_t *room)
{
	char text[STAT_ROOM];
	int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	ssize_t bytes = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (bytes <= 0)
		return NULL;
	text[bytes] = '\0';
	char *at = strrchr(text, ')'); // ends field 2, which may hold anything
	for (int field = 2; at != NULL && field < STAT_ARGUMENTS; field++)
		at = strchr(at + 1, ' ');
	if (at == NULL)
		return NULL;
	uintptr_t begin = strtoull(at, &at, 10), end = strtoull(at, NULL, 10);
	*room = end > begin ? end - begin : 0;
	return begin == 0 ? NULL : (char *)begin;
}

static void title_set(const char *title)
{
	size_t room = 0;
	char *at = title_room(&room);
	prctl(PR_SET_NAME, title, 0, 0, 0);
	if (at == NULL || room == 0)
		return;
	memset(at, 0, room);
	snprintf(at, room, "%s", title);
}

static void forwarder_signals(void)
{
	signal(SIGINT, SIG_IGN); // a Ctrl-C in the terminal is the manager's affair
	signal(SIGHUP, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, SIG_DFL);
}

// A socket takes one fd, a connection of an app or operator another; rings, segments and epolls come
// on top.  Where the machine grants less than a full VR may need: that.
static void forwarder_limit_files(void)
{
	struct rlimit limit = { .rlim_cur = OPEN_FILES, .rlim_max = OPEN_FILES };
	if (setrlimit(RLIMIT_NOFILE, &limit) == 0 || getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

// Where the processor is short, the timers of BFD are late before all else.  Whatever is not granted: then as
// everybody.  A session of its own is a group of its own for the scheduler (sched(7), autogroup), which has its own
// niceness; where control groups rule, theirs counts.  A short slice (since Linux 6.12) means an early deadline: a
// forwarder that wakes need not wait until another task has had all of its own.
static void forwarder_priority(void)
{
	// struct sched_attr of sched_setattr(2), which not every C library declares.
	const struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} normal = { .size = sizeof(normal), .policy = SCHED_OTHER, .nice = NICENESS, .runtime = SLICE_NS };
	static const char niceness[] = "-10";
	(void)setsid();
	(void)syscall(SYS_sched_setattr, 0, &normal, 0);
	int fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	(void)!write(fd, niceness, sizeof(niceness) - 1);
	close(fd);
}

static int forwarder_enter(const struct forwarder_birth *own, int netns_fd, struct crew **crew)
{
	char title[ROUTER_NAME_SIZE + 32];
	snprintf(title, sizeof(title), "anabranch: %s forwarder", own->name);
	title_set(title);
	forwarder_signals();
	if (setns(netns_fd, CLONE_NEWNET) < 0)
		return -errno;
	close(netns_fd);
	forwarder_limit_files();
	forwarder_priority();
	int error = confine_drop(own->uid, own->gid);
	if (error == 0)
		error = crew_new(own->workers != 0 ? own->workers : 1, own->cpus, crew);
	return error < 0 ? error : confine_seccomp(PROFILE_FORWARDER);
}

static int forwarder_serve(const int32_t *fds, struct crew *crew)
{
	struct core *core;
	int error = core_create(fds[FORWARDER_TABLES], fds[FORWARDER_STATE], &core);
	if (error == 0)
		error = core_man(core, crew);
	if (error == 0)
		error = core_serve(core, fds[FORWARDER_LISTENER], fds[FORWARDER_TABLES], fds[FORWARDER_STATE_RO]);
	return error < 0 ? error : core_run(core);
}

void forwarder_main(const struct zygote_birth *birth)
{
	struct forwarder_birth own = { .uid = 0 };
	struct crew *crew = NULL;
	int error = -EINVAL;
	if (birth->length == sizeof(own) && birth->fd_count == FORWARDER_FDS) {
		memcpy(&own, birth->request, sizeof(own));
		own.name[ROUTER_NAME_SIZE - 1] = '\0';
		error = forwarder_enter(&own, birth->fds[FORWARDER_NETNS], &crew);
		if (error == 0)
			error = forwarder_serve(birth->fds, crew);
	}
	if (error < 0)
		dprintf(STDERR_FILENO, "event=forwarder-failed router=%s errno=%d error=\"%s\"\n", own.name, -error,
		        strerror(-error));
	_exit(error < 0);
}
