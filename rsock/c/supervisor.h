// The parts of rsock-supervise, the program behind `rsock exec`; supervisor.c tells how they fit together.
#ifndef RSOCK_SUPERVISOR_H
#define RSOCK_SUPERVISOR_H

#include <linux/seccomp.h>
#include <sys/types.h>
#include "internal.h"

enum {
	SUPERVISOR_RECORDS = 4096,   // sockets that are remembered; others are found again by their names
	SUPERVISOR_INTERRUPTED = 64, // calls whose result is kept for their restart
	SUPERVISOR_MESSAGE = 1 << 17,// bytes of one call's payload at most
	SUPERVISOR_PARTS = 64,       // of a scattered message; longer ones are taken in part
	SUPERVISOR_CONTROL = 4096,   // bytes of ancillary data
	SUPERVISOR_DATAGRAMS = 960,  // the first number of datagram sockets: few programs have as many files,
	SUPERVISOR_DATAGRAMS_END = 1024 // and select(2) takes no higher ones
};

// What a call that was looked at gives, beside a value or a negated errno.
#define CALL_KERNEL INT64_MIN      // the kernel shall execute it as it stands
#define CALL_SENT (INT64_MIN + 1)  // it has been answered already
#define CALL_WAIT_IN (INT64_MIN + 2)  // look again when the file is readable
#define CALL_WAIT_OUT (INT64_MIN + 3) // or writable

#define SUPERVISOR_NEVER INT64_MAX

// One socket, by the kernel's number for it; none of a router's where handle.flags lacks HANDLE_OURS.
struct record {
	struct handle handle;
	bool asks_server;            // the program named one of the host's name servers: `asked`
	struct sockaddr_storage asked;
	int held;                    // accepted for a call that was interrupted meanwhile; -1: none
};

// One call of a program.
struct call {
	uint64_t id;
	uint64_t args[6];
	pid_t thread;
	int nr;
	int fd;                      // a duplicate of the file that args[0] names; -1: none
	int process;                 // pidfd; -1: none
	struct record *record;       // of fd
	int64_t deadline;            // of a wait, CLOCK_MONOTONIC ns; 0: none was set yet
	bool waited;                 // it was looked at before
};

// --stay: the supervisor as parent of the program.
struct signals {
	bool used;
	int fd;                      // signalfd
	pid_t child;                 // the program; 0: it is over
	int status;                  // as wait(2) gave it
};

// A call that a signal ended while it was executed: its result, for when the kernel restarts it.
struct interrupted {
	pid_t thread;                // 0: none
	int nr;
	uint64_t args[6];
	int64_t value;
	int64_t until;               // when it is forgotten, CLOCK_MONOTONIC ns
};

struct waiting;
struct supervisor {
	int notify;                  // where calls are reported
	int epoll;
	bool direct;                 // the kernel wakes who waits for a call when there will be none any more
	bool threads;                // pidfd_open(2) takes threads
	bool mapped;                 // `map` decides where sockets live, not `vr`
	uid_t uid;                   // effective
	struct seccomp_notif_sizes sizes;
	struct seccomp_notif *request;
	struct waiting *waiting;     // calls that are looked at again
	int64_t look_at;             // when all of them are to be, CLOCK_MONOTONIC ns
	struct interrupted interrupted[SUPERVISOR_INTERRUPTED]; // by thread
	struct record *records;
	const char *vr;
	struct map map;
	struct signals signals;
	uint8_t message[SUPERVISOR_MESSAGE];
	uint8_t control[SUPERVISOR_CONTROL];
};

// --- supervisor_filter.c ---

// Install the filter in this process; the fd where its calls are reported, or a negated errno.
int filter_install(void);
// Send that fd; the filter lets this one call through.
int filter_send(int to, int notify);
// Is it the architecture whose system calls the filter tells apart?
bool filter_knows(uint32_t arch);

// --- supervisor_tracee.c: memory and files of the program ---

int64_t tracee_now(void);
bool tracee_open(struct supervisor *supervisor, struct call *call, bool has_fd);
void tracee_close(struct call *call);
// Say something on the program's standard error.
void tracee_tell(struct supervisor *supervisor, struct call *call, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
// Does the call still wait for its answer?
bool tracee_valid(const struct supervisor *supervisor, const struct call *call);
int tracee_read(const struct call *call, uint64_t from, void *to, size_t length);
int tracee_write(const struct call *call, uint64_t to, const void *from, size_t length);
// A sockaddr that the program gave; 0 or a negated errno.
int tracee_address(const struct call *call, uint64_t from, uint64_t length, struct sockaddr_storage *address);
// Give it one as accept(2) does.
int tracee_give_address(const struct call *call, const struct sockaddr_storage *address, socklen_t length, uint64_t to,
	uint64_t room);
bool tracee_blocks(const struct call *call);
// Is there a signal for the thread that calls?
bool tracee_signalled(const struct call *call);
// Until when a call that blocks may: SO_RCVTIMEO or SO_SNDTIMEO.
int64_t tracee_deadline(const struct call *call, int option);
// False: the call is over.
bool tracee_answer(const struct supervisor *supervisor, const struct call *call, int64_t value);
// Put a file into the program's table and let its call return the number; false: the call is over.
bool tracee_answer_fd(const struct supervisor *supervisor, const struct call *call, int fd, bool cloexec);
// The same for a datagram socket, under a number that the filter knows.
bool tracee_answer_datagram(struct supervisor *supervisor, struct call *call, int fd, bool cloexec);
// Put a file in the place of another.
int tracee_replace_fd(const struct supervisor *supervisor, const struct call *call, int number, int fd, bool cloexec);

// --- supervisor_record.c ---

// What is known of the file of a call; it stays valid until the next call.
struct record *record_of(struct supervisor *supervisor, int fd);
struct record *record_put(struct supervisor *supervisor, const struct handle *handle);
static inline bool record_is_ours(const struct record *record)
{
	return record != NULL && (record->handle.flags & HANDLE_OURS) != 0;
}

// --- supervisor_open.c ---

// Open a socket in a router with the rights of who calls.
int open_for(struct supervisor *supervisor, const struct call *call, const char *vr, int domain, int type, int protocol,
	struct handle *handle, int *fd);

// --- supervisor_place.c: which router ---

int64_t place_socket(struct supervisor *supervisor, struct call *call);
// An address is named: the socket moves to where the map says.  CALL_KERNEL: it is none of a router's, and stays so.
int64_t place_by_address(struct supervisor *supervisor, struct call *call, const struct sockaddr_storage *address);
// SO_BINDTODEVICE, RSOCK_VR.
int64_t place_by_name(struct supervisor *supervisor, struct call *call, const char *vr);
// Move a socket, in every place of the program's table, with its options and its places in epoll sets.
int move_fd(struct supervisor *supervisor, struct call *call, const char *vr);

// --- supervisor_stay.c: as parent of the program ---

// Fork with all signals blocked that are passed on; 0 in the child, where they are not.
pid_t stay_begin(struct signals *signals);
// A signal came, or the program changed its state.
void stay_signal(struct signals *signals);
// The exit code that shows the program's; ends by its signal where one ended it.
int stay_end(const struct signals *signals);

// --- supervisor_calls.c, supervisor_message.c: by system call ---

int64_t call_bind(struct supervisor *supervisor, struct call *call);
int64_t call_connect(struct supervisor *supervisor, struct call *call);
int64_t call_listen(struct supervisor *supervisor, struct call *call);
int64_t call_accept(struct supervisor *supervisor, struct call *call);
int64_t call_name(struct supervisor *supervisor, struct call *call);
int64_t call_setsockopt(struct supervisor *supervisor, struct call *call);
int64_t call_getsockopt(struct supervisor *supervisor, struct call *call);
int64_t call_ioctl(struct supervisor *supervisor, struct call *call);
int64_t call_sendto(struct supervisor *supervisor, struct call *call);
int64_t call_recvfrom(struct supervisor *supervisor, struct call *call);
int64_t call_sendmsg(struct supervisor *supervisor, struct call *call);
int64_t call_recvmsg(struct supervisor *supervisor, struct call *call);
int64_t call_sendmmsg(struct supervisor *supervisor, struct call *call);
int64_t call_recvmmsg(struct supervisor *supervisor, struct call *call);

// --- supervisor_resolver.c: DNS goes where the sockets go ---

// The address to use instead of one that the program named.
void resolver_redirect(struct record *record, struct sockaddr_storage *address);
// The other way: the address that the program shall see.
void resolver_restore(const struct record *record, struct sockaddr_storage *address);

#endif
