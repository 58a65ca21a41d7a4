// Confinement of the calling process: identity, capabilities, and a seccomp filter.
//
// Both functions (declared in abi/core.h) are irreversible and leave nothing half done that
// would widen rights.  The filter is plain BPF over the system call number and, for a few
// calls, the low half of one argument.  What is refused answers EPERM, so that a library
// that asks for more goes on without; a foreign architecture or the x32 numbers kill.
//
//   profile 1, forwarder: an allow-list of what the loop and a dying CPython need
//   profile 2, control:   a deny-list: no new programs, namespaces, kernel interfaces,
//                         sockets other than AF_UNIX, files opened for writing
//   profile 3, helpers:   as 2, and TCP sockets
//
// Not supported: Landlock; other machines than x86-64 and 64-bit ARM.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "abi/core.h"

#if defined(__x86_64__)
#define CONFINE_ARCH AUDIT_ARCH_X86_64
#define CONFINE_FOREIGN 0x40000000u // x32 shares the architecture number
#elif defined(__aarch64__)
#define CONFINE_ARCH AUDIT_ARCH_AARCH64
#define CONFINE_FOREIGN 0xffffffffu
#else
#error "confine.c: add this machine's AUDIT_ARCH"
#endif

enum { FILTER_ROOM = 512, CAPABILITIES_MAX = 63 };

// --- identity and capabilities ---

static int confine_capabilities(void)
{
	for (unsigned long capability = 0; capability <= CAPABILITIES_MAX; capability++) {
		if (prctl(PR_CAPBSET_READ, capability, 0, 0, 0) < 0)
			break; // past the last one that this kernel knows
		if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0)
			return -errno;
	}
	return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 ? -errno : 0;
}

static int confine_clear(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
	memset(data, 0, sizeof(data));
	return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

static int confine_verify(uint32_t uid, uint32_t gid)
{
	uid_t real_uid, effective_uid, saved_uid;
	gid_t real_gid, effective_gid, saved_gid;
	if (getresuid(&real_uid, &effective_uid, &saved_uid) < 0 || getresgid(&real_gid, &effective_gid, &saved_gid) < 0)
		return -errno;
	if (real_uid != uid || effective_uid != uid || saved_uid != uid || real_gid != gid || effective_gid != gid ||
	    saved_gid != gid || getgroups(0, NULL) != 0)
		return -EPERM;
	return 0;
}

int confine_drop(uint32_t uid, uint32_t gid)
{
	if (uid == 0 || gid == 0 || uid == UINT32_MAX || gid == UINT32_MAX)
		return -EINVAL;
	if (prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) < 0)
		return -errno;
	int error = confine_capabilities();
	if (error < 0)
		return error;
	if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
		return -errno;
	error = confine_clear();
	if (error < 0)
		return error;
	// Not dumpable: another process of the same uid can neither trace us nor open our fds.
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return -errno;
	return confine_verify(uid, gid);
}

// --- seccomp ---

struct filter {
	struct sock_filter code[FILTER_ROOM];
	unsigned short length;
	int overflow;
};

static void emit(struct filter *filter, unsigned short code, uint32_t k, uint8_t if_true, uint8_t if_false)
{
	if (filter->length == FILTER_ROOM) {
		filter->overflow = 1;
		return;
	}
	filter->code[filter->length++] = (struct sock_filter){ .code = code, .jt = if_true, .jf = if_false, .k = k };
}

static void emit_load(struct filter *filter, size_t offset)
{
	emit(filter, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void emit_return(struct filter *filter, uint32_t action)
{
	emit(filter, BPF_RET | BPF_K, action, 0, 0);
}

static const uint32_t refuse = SECCOMP_RET_ERRNO | EPERM;
static const uint32_t absent = SECCOMP_RET_ERRNO | ENOSYS; // callers fall back to the old call

static void emit_prologue(struct filter *filter)
{
	emit_load(filter, offsetof(struct seccomp_data, arch));
	emit(filter, BPF_JMP | BPF_JEQ | BPF_K, CONFINE_ARCH, 1, 0);
	emit_return(filter, SECCOMP_RET_KILL_PROCESS);
	emit_load(filter, offsetof(struct seccomp_data, nr));
	emit(filter, BPF_JMP | BPF_JGE | BPF_K, CONFINE_FOREIGN, 0, 1);
	emit_return(filter, SECCOMP_RET_KILL_PROCESS);
}

// The accumulator holds the number before and after each of the following.
static void emit_call(struct filter *filter, int number, uint32_t action)
{
	emit(filter, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 1);
	emit_return(filter, action);
}

static void emit_calls(struct filter *filter, const int *numbers, size_t count, uint32_t action)
{
	for (size_t i = 0; i < count; i++)
		emit_call(filter, numbers[i], action);
}

static size_t argument(int index)
{
	return offsetof(struct seccomp_data, args) + (size_t)index * sizeof(uint64_t); // low half, little-endian
}

// Refuse the call when any of `bits` is set in an argument, else take `action`.
static void emit_bits(struct filter *filter, int number, int index, uint32_t bits, uint32_t action)
{
	emit(filter, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 4);
	emit_load(filter, argument(index));
	emit(filter, BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1);
	emit_return(filter, refuse);
	emit_return(filter, action);
}

// Allow the call when an argument is one of `values`, else refuse it.
static void emit_values(struct filter *filter, int number, int index, const uint32_t *values, uint8_t count)
{
	emit(filter, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, (uint8_t)(3 + count));
	emit_load(filter, argument(index));
	for (uint8_t i = 0; i < count; i++)
		emit(filter, BPF_JMP | BPF_JEQ | BPF_K, values[i], (uint8_t)(count - i), 0);
	emit_return(filter, refuse);
	emit_return(filter, SECCOMP_RET_ALLOW);
}

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const int forwarder_calls[] = {
	// data path
	SYS_read, SYS_readv, SYS_pread64, SYS_write, SYS_writev, SYS_recvfrom, SYS_recvmsg, SYS_recvmmsg, SYS_sendto,
	SYS_sendmsg, SYS_sendmmsg, SYS_sched_yield,
	// waiting and time
	SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_ppoll, SYS_futex, SYS_clock_gettime, SYS_clock_getres,
	SYS_clock_nanosleep, SYS_nanosleep, SYS_gettimeofday, SYS_restart_syscall,
	// sockets of apps and operators; socket() itself makes AF_UNIX only
	SYS_bind, SYS_listen, SYS_connect, SYS_accept4, SYS_shutdown, SYS_getsockopt, SYS_setsockopt, SYS_getsockname, SYS_getpeername,
	SYS_close, SYS_close_range, SYS_dup, SYS_dup3, SYS_fcntl, SYS_fstat, SYS_lseek, SYS_eventfd2, SYS_signalfd4,
	SYS_timerfd_create, SYS_timerfd_settime,
	// memory
	SYS_munmap, SYS_mremap, SYS_brk, SYS_madvise, SYS_mincore, SYS_fallocate, SYS_getrandom,
	// the end, and the last words of an interpreter
	SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack, SYS_tgkill, SYS_exit, SYS_exit_group,
	SYS_getpid, SYS_gettid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_sched_getaffinity, SYS_membarrier,
#ifdef SYS_epoll_wait
	SYS_epoll_wait, SYS_poll, SYS_dup2, SYS_time,
#endif
#ifdef SYS_newfstatat
	SYS_newfstatat,
#endif
#ifdef SYS_rseq
	SYS_rseq,
#endif
#ifdef SYS_epoll_pwait2
	SYS_epoll_pwait2,
#endif
};

static const int denied_calls[] = {
	// other programs and other processes
	SYS_execve, SYS_execveat, SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp, SYS_pidfd_getfd,
	SYS_personality,
	// the file system's shape
	SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_open_tree, SYS_move_mount, SYS_fsopen, SYS_fsconfig,
	SYS_fsmount, SYS_fspick, SYS_mknodat, SYS_open_by_handle_at, SYS_name_to_handle_at, SYS_swapon, SYS_swapoff,
	SYS_quotactl, SYS_truncate, SYS_linkat, SYS_symlinkat, SYS_renameat2, SYS_fchmodat, SYS_fchownat,
	// namespaces and identity
	SYS_unshare, SYS_setns, SYS_setuid, SYS_setgid, SYS_setreuid, SYS_setregid, SYS_setresuid, SYS_setresgid,
	SYS_setgroups, SYS_capset,
	// the kernel
	SYS_bpf, SYS_perf_event_open, SYS_keyctl, SYS_add_key, SYS_request_key, SYS_kexec_load, SYS_init_module,
	SYS_finit_module, SYS_delete_module, SYS_reboot, SYS_sethostname, SYS_setdomainname, SYS_settimeofday,
	SYS_clock_settime, SYS_clock_adjtime, SYS_adjtimex, SYS_acct, SYS_userfaultfd, SYS_io_uring_setup,
	SYS_io_uring_enter, SYS_io_uring_register, SYS_syslog, SYS_lookup_dcookie, SYS_vhangup, SYS_fanotify_init,
#ifdef SYS_kexec_file_load
	SYS_kexec_file_load,
#endif
#ifdef SYS_mount_setattr
	SYS_mount_setattr,
#endif
#ifdef __x86_64__
	SYS_mknod, SYS_creat, SYS_link, SYS_symlink, SYS_rename, SYS_renameat, SYS_chmod, SYS_chown, SYS_lchown, SYS_iopl,
	SYS_ioperm, SYS_modify_ldt, SYS_uselib, SYS_ustat, SYS_vfork, SYS_fork,
#endif
};

enum {
	NEW_NAMESPACES = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET,
	OPEN_WRITES = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC
};

static void emit_forwarder(struct filter *filter)
{
	const uint32_t families[] = { AF_UNIX };
	const uint32_t requests[] = { FIONREAD, FIONBIO, SIOCOUTQ };
	const uint32_t limits[] = { PR_GET_NAME, PR_SET_VMA };
	const uint32_t programs[] = { BPF_PROG_TEST_RUN };
	emit_calls(filter, forwarder_calls, COUNT(forwarder_calls), SECCOMP_RET_ALLOW);
	emit_bits(filter, SYS_mmap, 2, PROT_EXEC, SECCOMP_RET_ALLOW);
	emit_bits(filter, SYS_mprotect, 2, PROT_EXEC, SECCOMP_RET_ALLOW);
	emit_values(filter, SYS_socket, 0, families, COUNT(families));
	emit_values(filter, SYS_socketpair, 0, families, COUNT(families));
	emit_values(filter, SYS_ioctl, 1, requests, COUNT(requests));
	emit_values(filter, SYS_prctl, 0, limits, COUNT(limits));
	emit_values(filter, SYS_bpf, 0, programs, COUNT(programs));
	emit_return(filter, refuse);
}

static void emit_denials(struct filter *filter, const uint32_t *families, uint8_t family_count)
{
	emit_calls(filter, denied_calls, COUNT(denied_calls), refuse);
	// Their flags lie in memory, where a filter cannot look.
	emit_call(filter, SYS_clone3, absent);
	emit_call(filter, SYS_openat2, absent);
	emit_bits(filter, SYS_clone, 0, NEW_NAMESPACES, SECCOMP_RET_ALLOW);
	emit_bits(filter, SYS_openat, 2, OPEN_WRITES, SECCOMP_RET_ALLOW);
#ifdef SYS_open
	emit_bits(filter, SYS_open, 1, OPEN_WRITES, SECCOMP_RET_ALLOW);
#endif
	emit_bits(filter, SYS_mprotect, 2, PROT_EXEC, SECCOMP_RET_ALLOW);
	emit_values(filter, SYS_socket, 0, families, family_count);
	emit_return(filter, SECCOMP_RET_ALLOW);
}

int confine_seccomp(uint32_t profile)
{
	const uint32_t families[] = { AF_UNIX, AF_INET, AF_INET6 };
	struct filter filter = { .length = 0 };
	emit_prologue(&filter);
	switch (profile) {
	case 1:
		emit_forwarder(&filter);
		break;
	case 2:
		emit_denials(&filter, families, 1);
		break;
	case 3:
		emit_denials(&filter, families, COUNT(families));
		break;
	default:
		return -EINVAL;
	}
	if (filter.overflow != 0)
		return -E2BIG;
	struct sock_fprog program = { .len = filter.length, .filter = filter.code };
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	// A forwarder has threads, and all of them are to be confined.
	unsigned int flags = profile == 1 ? SECCOMP_FILTER_FLAG_TSYNC : 0;
	long failed = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
	return failed < 0 ? -errno : failed > 0 ? -ESRCH : 0;
}
