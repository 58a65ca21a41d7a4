// The zygote's loop: a warm process that forks others, and runs no Python between two forks.
//
//   manager --{number, role, request} + fds--> zygote --fork--> forwarder: C for good
//           <--{spawned, pid} + pidfd---                        others: back to their Python
//           <--{exited | stopped, pid}--
//
// Python writes the reference count of whatever it touches.  Were this loop Python's, each turn
// of it would copy a few hundred KiB of pages, and leave the old ones to the children alone; so
// all pages that a child does not write itself stay shared with everybody.
//
// Declared in abi/core.h.  Not supported: threads in the zygote.
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core.h"

enum { BIRTH_HEAD = offsetof(struct zygote_birth, length) };

// Tell the manager; when it has gone, the next read says so.
static void zygote_tell(int manager_fd, const struct zygote_report *report, int fd)
{
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { .room = { 0 } };
	struct iovec data = { .iov_base = (void *)(uintptr_t)report, .iov_len = sizeof(*report) };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1 };

	if (fd >= 0) {
		message.msg_control = control.room;
		message.msg_controllen = sizeof(control.room);
		struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(rights), &fd, sizeof(fd));
	}
	while (sendmsg(manager_fd, &message, MSG_NOSIGNAL) < 0 && errno == EINTR)
		;
}

// Reap the dead; tell of the dead and of the stopped.
static void zygote_reap(int manager_fd)
{
	siginfo_t found = { .si_pid = 0 };
	while (waitid(P_ALL, 0, &found, WEXITED | WSTOPPED | WNOHANG) == 0 && found.si_pid != 0) {
		struct zygote_report report = { .word = ZYGOTE_EXITED, .pid = found.si_pid, .status = found.si_status };
		if (found.si_code == CLD_STOPPED || found.si_code == CLD_TRAPPED)
			report.word = ZYGOTE_STOPPED;
		else if (found.si_code != CLD_EXITED)
			report.status = -found.si_status;
		zygote_tell(manager_fd, &report, -1);
		found.si_pid = 0;
	}
}

static void birth_take_rights(struct zygote_birth *birth, struct msghdr *message)
{
	birth->fd_count = 0;
	for (struct cmsghdr *at = CMSG_FIRSTHDR(message); at != NULL; at = CMSG_NXTHDR(message, at)) {
		if (at->cmsg_level != SOL_SOCKET || at->cmsg_type != SCM_RIGHTS)
			continue;
		size_t bytes = at->cmsg_len - CMSG_LEN(0);
		memcpy(birth->fds, CMSG_DATA(at), bytes);
		birth->fd_count = (uint32_t)(bytes / sizeof(int));
	}
}

// Take one request: 1; 0: the manager has gone.
static int birth_receive(int manager_fd, struct zygote_birth *birth)
{
	union {
		char room[CMSG_SPACE(ZYGOTE_FDS * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec data[] = {
		{ .iov_base = birth, .iov_len = BIRTH_HEAD },
		{ .iov_base = birth->request, .iov_len = sizeof(birth->request) },
	};
	struct msghdr message = {
		.msg_iov = data, .msg_iovlen = 2, .msg_control = control.room, .msg_controllen = sizeof(control.room),
	};
	ssize_t bytes;
	do
		bytes = recvmsg(manager_fd, &message, MSG_CMSG_CLOEXEC);
	while (bytes < 0 && errno == EINTR);
	if (bytes < (ssize_t)BIRTH_HEAD)
		return 0;
	birth->length = (uint32_t)((size_t)bytes - BIRTH_HEAD);
	birth_take_rights(birth, &message);
	return 1;
}

// Fork: 1 in the child, 0 in the zygote.
static int zygote_fork(int manager_fd, int signal_fd, const sigset_t *before, const struct zygote_birth *birth)
{
	pid_t pid = fork();
	if (pid == 0) {
		close(manager_fd);
		close(signal_fd);
		sigprocmask(SIG_SETMASK, before, NULL);
		if (birth->role == ZYGOTE_FORWARDER)
			forwarder_main(birth);
		return 1;
	}
	struct zygote_report report = { .word = ZYGOTE_SPAWNED, .request = birth->number, .pid = pid };
	int pidfd = pid < 0 ? -1 : (int)syscall(SYS_pidfd_open, pid, 0);
	zygote_tell(manager_fd, &report, pidfd);
	if (pidfd >= 0)
		close(pidfd);
	for (uint32_t i = 0; i < birth->fd_count; i++)
		close(birth->fds[i]);
	return 0;
}

int zygote_serve(int manager_fd, struct zygote_birth *birth)
{
	sigset_t children, before;
	sigemptyset(&children);
	sigaddset(&children, SIGCHLD);
	if (sigprocmask(SIG_BLOCK, &children, &before) < 0)
		return -errno;
	int signal_fd = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signal_fd < 0)
		return -errno;

	struct pollfd waits[] = { { .fd = manager_fd, .events = POLLIN }, { .fd = signal_fd, .events = POLLIN } };
	for (;;) {
		if (poll(waits, 2, -1) < 0) {
			if (errno != EINTR)
				return -errno;
			continue;
		}
		if (waits[1].revents != 0) {
			struct signalfd_siginfo info;
			while (read(signal_fd, &info, sizeof(info)) > 0)
				;
			zygote_reap(manager_fd);
		}
		if (waits[0].revents == 0)
			continue;
		if (birth_receive(manager_fd, birth) == 0)
			return 0;
		if (zygote_fork(manager_fd, signal_fd, &before, birth) != 0)
			return 1;
	}
}
