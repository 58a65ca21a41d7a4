// The program's memory and files, from outside.
//
// A call that was reported waits until it is answered, but a signal may end the wait at any time, and then its thread
// may be gone and its number another's.  So what was read counts only if the call is still valid afterwards, and
// nothing is written before it was seen to be valid.
#define _GNU_SOURCE
#include "supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include "sys.h"

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif
#ifndef SECCOMP_ADDFD_FLAG_SEND
#define SECCOMP_ADDFD_FLAG_SEND (1UL << 1)
#endif

enum { STATUS_ROOM = 4096, LINE = 256, NS_PER_US = 1000 };
static const int64_t ns_per_s = 1000000000;

int64_t tracee_now(void)
{
	struct timespec now;
	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * ns_per_s + now.tv_nsec;
}

// --- its process ---

// /proc/THREAD/status, NUL at its end; false: it is gone.
static bool read_status(pid_t thread, char text[STATUS_ROOM])
{
	char path[32];
	(void)snprintf(path, sizeof(path), "/proc/%d/status", (int)thread);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t got = read(fd, text, STATUS_ROOM - 1);
	(void)close(fd);
	text[got > 0 ? got : 0] = '\0';
	return got > 0;
}

static unsigned long long status_number(const char *text, const char *name, int base)
{
	const char *line = strstr(text, name);
	return line == NULL ? 0 : strtoull(line + strlen(name), NULL, base);
}

static pid_t process_of(pid_t thread)
{
	char text[STATUS_ROOM];
	return read_status(thread, text) ? (pid_t)status_number(text, "\nTgid:", 10) : -1;
}

// A signal for the process is the first thread's, unless that blocks it (signal(7)).
bool tracee_signalled(const struct call *call)
{
	char text[STATUS_ROOM];
	if (!read_status(call->thread, text))
		return false;
	unsigned long long pending = status_number(text, "\nSigPnd:", 16);
	if ((pid_t)status_number(text, "\nTgid:", 10) == call->thread)
		pending |= status_number(text, "\nShdPnd:", 16);
	return pending & ~status_number(text, "\nSigBlk:", 16);
}

static int open_process(struct supervisor *supervisor, pid_t thread)
{
	int process = -1;
	if (supervisor->threads) {
		process = (int)syscall(SYS_pidfd_open, thread, PIDFD_THREAD);
		if (process < 0 && errno == EINVAL)
			supervisor->threads = false; // before Linux 6.9
	}
	if (!supervisor->threads)
		process = (int)syscall(SYS_pidfd_open, process_of(thread), 0);
	return process;
}

void tracee_tell(struct supervisor *supervisor, struct call *call, const char *format, ...)
{
	static const char *last;
	static int64_t quiet_until;
	va_list arguments;
	char line[LINE];
	bool opened = call->process >= 0;
	// A program may do the same for each packet.
	if (format == last && tracee_now() < quiet_until)
		return;
	last = format;
	quiet_until = tracee_now() + ns_per_s;
	if (!opened)
		call->process = open_process(supervisor, call->thread);
	int to = (int)syscall(SYS_pidfd_getfd, call->process, STDERR_FILENO, 0);
	if (!opened && call->process >= 0) {
		(void)close(call->process);
		call->process = -1;
	}
	int length = snprintf(line, sizeof(line), "rsock[%d]: ", (int)call->thread);
	va_start(arguments, format);
	length += vsnprintf(line + length, sizeof(line) - (size_t)length, format, arguments);
	va_end(arguments);
	length = length > LINE - 2 ? LINE - 2 : length;
	line[length] = '\n';
	struct pollfd ask = {.fd = to >= 0 ? to : STDERR_FILENO, .events = POLLOUT};
	// Nobody may read it: then it is not told.  A pipe that is writable takes so short a line at once.
	if (sys_poll(&ask, 1, 0) > 0 && (ask.revents & POLLOUT))
		(void)!write(ask.fd, line, (size_t)length + 1);
	if (to >= 0)
		(void)close(to);
}

bool tracee_open(struct supervisor *supervisor, struct call *call, bool has_fd)
{
	static bool complained;
	call->process = open_process(supervisor, call->thread);
	if (call->process < 0)
		return false;
	if (!has_fd)
		return tracee_valid(supervisor, call);
	call->fd = (int)syscall(SYS_pidfd_getfd, call->process, (int)call->args[0], 0);
	if (call->fd < 0 && errno == EPERM && !complained) {
		complained = true;
		tracee_tell(supervisor, call, "not allowed to look into this process: its sockets in virtual routers do not work");
	}
	// Only now it is sure that the process is the one that calls.
	return call->fd >= 0 && tracee_valid(supervisor, call);
}

void tracee_close(struct call *call)
{
	if (call->fd >= 0)
		(void)close(call->fd);
	if (call->process >= 0)
		(void)close(call->process);
	call->fd = call->process = -1;
}

bool tracee_valid(const struct supervisor *supervisor, const struct call *call)
{
	return ioctl(supervisor->notify, SECCOMP_IOCTL_NOTIF_ID_VALID, &call->id) == 0;
}

// --- its memory ---

int tracee_read(const struct call *call, uint64_t from, void *to, size_t length)
{
	const struct iovec here = {.iov_base = to, .iov_len = length};
	const struct iovec there = {.iov_base = (void *)(uintptr_t)from, .iov_len = length};
	if (length == 0)
		return 0;
	return process_vm_readv(call->thread, &here, 1, &there, 1, 0) == (ssize_t)length ? 0 : -EFAULT;
}

int tracee_write(const struct call *call, uint64_t to, const void *from, size_t length)
{
	const struct iovec here = {.iov_base = (void *)(uintptr_t)from, .iov_len = length};
	const struct iovec there = {.iov_base = (void *)(uintptr_t)to, .iov_len = length};
	if (length == 0)
		return 0;
	return process_vm_writev(call->thread, &here, 1, &there, 1, 0) == (ssize_t)length ? 0 : -EFAULT;
}

int tracee_address(const struct call *call, uint64_t from, uint64_t length, struct sockaddr_storage *address)
{
	memset(address, 0, sizeof(*address));
	if (length > sizeof(*address) || length < sizeof(address->ss_family))
		return -EINVAL;
	return tracee_read(call, from, address, (size_t)length);
}

int tracee_give_address(const struct call *call, const struct sockaddr_storage *address, socklen_t length, uint64_t to,
	uint64_t room)
{
	int size;
	if (to == 0 || room == 0)
		return 0;
	int error = tracee_read(call, room, &size, sizeof(size));
	if (error < 0)
		return error;
	if (size < 0)
		return -EINVAL;
	error = tracee_write(call, to, address, (socklen_t)size < length ? (size_t)size : length);
	return error < 0 ? error : tracee_write(call, room, &length, sizeof(length));
}

// --- its files ---

bool tracee_blocks(const struct call *call)
{
	int flags = fcntl(call->fd, F_GETFL);
	return flags >= 0 && !(flags & O_NONBLOCK);
}

int64_t tracee_deadline(const struct call *call, int option)
{
	struct timeval timeout = {0};
	socklen_t length = sizeof(timeout);
	if (sys_getsockopt(call->fd, SOL_SOCKET, option, &timeout, &length) < 0 ||
		(timeout.tv_sec == 0 && timeout.tv_usec == 0))
		return SUPERVISOR_NEVER;
	if (timeout.tv_sec > INT32_MAX)
		return SUPERVISOR_NEVER;
	return tracee_now() + timeout.tv_sec * ns_per_s + timeout.tv_usec * NS_PER_US;
}

static int add_fd(const struct supervisor *supervisor, const struct call *call, int fd, uint32_t flags, int number,
	bool cloexec)
{
	struct seccomp_notif_addfd add = {
		.id = call->id,
		.flags = flags,
		.srcfd = (uint32_t)fd,
		.newfd = (uint32_t)number,
		.newfd_flags = cloexec ? O_CLOEXEC : 0,
	};
	int result;
	// EINPROGRESS: the call has been answered; EINTR: it is for us to repeat.
	do
		result = ioctl(supervisor->notify, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
	while (result < 0 && errno == EINTR);
	if (result < 0)
		return errno == ESRCH ? -ENOENT : -errno; // both: a signal was faster
	return result;
}

// What add_fd gave was to be the answer; false: the call is over.
static bool told(const struct supervisor *supervisor, const struct call *call, int result)
{
	if (result < 0 && result != -ENOENT)
		(void)tracee_answer(supervisor, call, result); // its table is full
	return result != -ENOENT;
}

bool tracee_answer_fd(const struct supervisor *supervisor, const struct call *call, int fd, bool cloexec)
{
	return told(supervisor, call, add_fd(supervisor, call, fd, SECCOMP_ADDFD_FLAG_SEND, 0, cloexec));
}

// A number that is free now; between this look and its use only the program itself could take it.
static int free_number(struct supervisor *supervisor, struct call *call)
{
	struct rlimit limit;
	if (call->process < 0 && !tracee_open(supervisor, call, false))
		return -1;
	if (prlimit(call->thread, RLIMIT_NOFILE, NULL, &limit) < 0)
		return -1;
	for (int number = SUPERVISOR_DATAGRAMS; number < SUPERVISOR_DATAGRAMS_END && (rlim_t)number < limit.rlim_cur;
		 number++) {
		int taken = (int)syscall(SYS_pidfd_getfd, call->process, number, 0);
		if (taken < 0)
			return errno == EBADF ? number : -1;
		(void)close(taken);
	}
	return -1;
}

bool tracee_answer_datagram(struct supervisor *supervisor, struct call *call, int fd, bool cloexec)
{
	int number = free_number(supervisor, call);
	if (number < 0)
		return tracee_answer_fd(supervisor, call, fd, cloexec);
	return told(supervisor, call,
		add_fd(supervisor, call, fd, SECCOMP_ADDFD_FLAG_SETFD | SECCOMP_ADDFD_FLAG_SEND, number, cloexec));
}

int tracee_replace_fd(const struct supervisor *supervisor, const struct call *call, int number, int fd, bool cloexec)
{
	return add_fd(supervisor, call, fd, SECCOMP_ADDFD_FLAG_SETFD, number, cloexec);
}

bool tracee_answer(const struct supervisor *supervisor, const struct call *call, int64_t value)
{
	uint64_t room[64] = {0};
	struct seccomp_notif_resp *answer = (struct seccomp_notif_resp *)room;
	if (supervisor->sizes.seccomp_notif_resp > sizeof(room))
		return false;
	answer->id = call->id;
	if (value == CALL_KERNEL)
		answer->flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	else if (value < 0)
		answer->error = (int32_t)value;
	else
		answer->val = value;
	// ENOENT: a signal was faster.
	return ioctl(supervisor->notify, SECCOMP_IOCTL_NOTIF_SEND, answer) == 0;
}
