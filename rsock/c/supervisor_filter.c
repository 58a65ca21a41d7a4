// Which system calls of the program are reported: those that make sockets, and those that name addresses or options.
//
//   read, write, send, recv, poll, epoll, close, ...   never: the kernel knows them as always allowed
//   sendto, recvfrom, accept                           where they name an address
//   send, recv                                         on the numbers that datagram sockets get
//   socket                                             AF_INET, AF_INET6, AF_PACKET
//   bind, connect, listen, names, options, *msg        always, but for the preloaded library's own (bypass.h)
//   io_uring_setup                                     ENOSYS: what goes through rings is not seen
//
// A filter sees numbers, no memory, and cannot know which fds are sockets of a router.  Datagram sockets get numbers
// of their own (SUPERVISOR_DATAGRAMS), since what send and recv carry on them has a header; on streams these two are
// the kernel's.
#define _GNU_SOURCE
#include "supervisor.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "bypass.h"

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

// How programs of the other word size make sockets.
#if defined(__x86_64__)
#define FILTER_ARCH AUDIT_ARCH_X86_64
enum { OTHER_SOCKET = 359, OTHER_SOCKETCALL = 102 };
#elif defined(__aarch64__)
#define FILTER_ARCH AUDIT_ARCH_AARCH64
enum { OTHER_SOCKET = 281, OTHER_SOCKETCALL = OTHER_SOCKET };
#else
#error "the supervisor knows x86_64 and aarch64"
#endif

enum {
	PROGRAM_ROOM = 320,
	X32_BIT = 0x40000000,
	SOCKET_IOCTLS = 0x8900
};

struct program {
	struct sock_filter code[PROGRAM_ROOM];
	unsigned short length;
};

static void emit(struct program *program, uint16_t code, uint8_t jump_true, uint8_t jump_false, uint32_t k)
{
	if (program->length < PROGRAM_ROOM)
		program->code[program->length++] = (struct sock_filter){code, jump_true, jump_false, k};
}

static void load(struct program *program, size_t offset)
{
	emit(program, BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t)offset);
}

static void give(struct program *program, uint32_t verdict)
{
	emit(program, BPF_RET | BPF_K, 0, 0, verdict);
}

static void equal(struct program *program, uint32_t value, uint8_t jump_true, uint8_t jump_false)
{
	emit(program, BPF_JMP | BPF_JEQ | BPF_K, jump_true, jump_false, value);
}

// Little endian, as both architectures are.
static size_t argument(int index)
{
	return offsetof(struct seccomp_data, args) + (size_t)index * sizeof(uint64_t);
}

static void allow_if(struct program *program, int index, uint64_t value)
{
	load(program, argument(index));
	equal(program, (uint32_t)value, 0, 3);
	load(program, argument(index) + 4);
	equal(program, (uint32_t)(value >> 32), 0, 1);
	give(program, SECCOMP_RET_ALLOW);
}

// The code that follows up to end_call is for this call; the accumulator holds its number.
static unsigned short begin_call(struct program *program, long nr)
{
	equal(program, (uint32_t)nr, 0, 0);
	return program->length;
}

static void end_call(struct program *program, unsigned short begun)
{
	give(program, SECCOMP_RET_USER_NOTIF);
	program->code[begun - 1].jf = (uint8_t)(program->length - begun);
}

// Reported unless an address is NULL, or the argument behind the last one is ours (bypass.h).
static void report(struct program *program, long nr, int address, int spare)
{
	unsigned short begun = begin_call(program, nr);
	if (address >= 0)
		allow_if(program, address, 0);
	if (spare >= 0)
		allow_if(program, spare, RSOCK_BYPASS);
	end_call(program, begun);
}

// sendto and recvfrom: see above for the numbers.
static void report_message(struct program *program, long nr)
{
	unsigned short begun = begin_call(program, nr);
	load(program, argument(4));
	equal(program, 0, 0, 7);
	load(program, argument(4) + 4);
	equal(program, 0, 0, 5);
	load(program, argument(0));
	emit(program, BPF_JMP | BPF_JGE | BPF_K, 1, 0, SUPERVISOR_DATAGRAMS);
	give(program, SECCOMP_RET_ALLOW);
	emit(program, BPF_JMP | BPF_JGE | BPF_K, 0, 1, SUPERVISOR_DATAGRAMS_END);
	give(program, SECCOMP_RET_ALLOW);
	end_call(program, begun);
}

static void report_socket(struct program *program)
{
	unsigned short begun = begin_call(program, SYS_socket);
	load(program, argument(0));
	equal(program, AF_INET, 3, 0);
	equal(program, AF_INET6, 2, 0);
	equal(program, AF_PACKET, 1, 0);
	give(program, SECCOMP_RET_ALLOW);
	allow_if(program, 3, RSOCK_BYPASS);
	end_call(program, begun);
}

static void report_ioctl(struct program *program)
{
	unsigned short begun = begin_call(program, SYS_ioctl);
	load(program, argument(1));
	emit(program, BPF_ALU | BPF_AND | BPF_K, 0, 0, 0xffffff00);
	equal(program, SOCKET_IOCTLS, 1, 0);
	give(program, SECCOMP_RET_ALLOW);
	allow_if(program, 3, RSOCK_BYPASS);
	end_call(program, begun);
}

// Programs of the other word size are told that it does not work.
static void begin_program(struct program *program)
{
	load(program, offsetof(struct seccomp_data, arch));
	equal(program, FILTER_ARCH, 0, 0);
	load(program, offsetof(struct seccomp_data, nr));
	equal(program, OTHER_SOCKETCALL, 2, 0);
	equal(program, OTHER_SOCKET, 1, 0);
	give(program, SECCOMP_RET_ALLOW);
	give(program, SECCOMP_RET_USER_NOTIF);
	program->code[1].jt = (uint8_t)(program->length - 2);
	load(program, offsetof(struct seccomp_data, nr));
#if defined(__x86_64__)
	emit(program, BPF_JMP | BPF_JGE | BPF_K, 0, 1, X32_BIT);
	give(program, SECCOMP_RET_ERRNO | ENOSYS);
#endif
}

static void write_program(struct program *program)
{
	begin_program(program);
	report_message(program, SYS_sendto); // these two first: they are what busy programs call
	report_message(program, SYS_recvfrom);
#ifdef SYS_accept
	report(program, SYS_accept, 1, 3);
#endif
	report(program, SYS_accept4, 1, 4);
	report(program, SYS_sendmsg, -1, 3);
	report(program, SYS_recvmsg, -1, 3);
	report(program, SYS_sendmmsg, -1, 4);
	report(program, SYS_recvmmsg, -1, 5);
	report(program, SYS_bind, -1, 3);
	report(program, SYS_connect, -1, 3);
	report(program, SYS_listen, -1, 3);
	report(program, SYS_getsockname, -1, 3);
	report(program, SYS_getpeername, -1, 3);
	report(program, SYS_setsockopt, -1, 5);
	report(program, SYS_getsockopt, -1, 5);
	report_socket(program);
	report_ioctl(program);
	equal(program, SYS_io_uring_setup, 0, 1);
	give(program, SECCOMP_RET_ERRNO | ENOSYS);
	give(program, SECCOMP_RET_ALLOW);
}

bool filter_knows(uint32_t arch)
{
	return arch == FILTER_ARCH;
}

int filter_install(void)
{
	struct program program = {.length = 0};
	write_program(&program);
	struct sock_fprog whole = {.len = program.length, .filter = program.code};
	// Without it only root may install filters; setuid programs do not gain rights from here on.
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	// A signal must not end a call that the supervisor executes; before Linux 5.19 it does (supervisor.c, executed).
	unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
	long notify = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &whole);
	if (notify < 0 && errno == EINVAL)
		notify = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &whole);
	return notify < 0 ? -errno : (int)notify;
}

int filter_send(int to, int notify)
{
	union {
		struct cmsghdr header;
		uint8_t room[CMSG_SPACE(sizeof(int))];
	} control = {.room = {0}};
	uint8_t byte = 0;
	struct iovec part = {.iov_base = &byte, .iov_len = 1};
	struct msghdr message = {.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control)};
	control.header =
		(struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
	memcpy(CMSG_DATA(&control.header), &notify, sizeof(notify));
	return syscall(SYS_sendmsg, to, &message, 0, RSOCK_BYPASS) < 0 ? -errno : 0;
}
