// Sockets in virtual routers: POSIX shapes, real file descriptors.
//
//   int fd = rsock_socket("red", AF_INET, SOCK_STREAM, 0);
//   rsock_connect(fd, ...);            // 10.0.0.1 of "red"
//   write(fd, ...); poll(...);         // the kernel's own calls
//
// Whatever names an address or an option goes through a call of this library; read(2), write(2), poll(2), fork(2),
// dup(2) and the like are the kernel's.  Every call takes ordinary sockets too and hands them to the kernel.  Whoever
// receives a socket by fork, exec or SCM_RIGHTS can use it here at once.
//
// Each call returns -1 with errno where it fails, within the time-out of rsock_init(3) but for what blocks by nature:
// ENODEV no such virtual router, ENETDOWN it does not run, EACCES or EPERM its rules do not allow it, ETIMEDOUT.
//
// Thread-safe; usable in the child after fork(2).  Not supported: routers of other hosts, shared-memory rings.
#ifndef RSOCK_H
#define RSOCK_H

#include <netdb.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RSOCK_VR_NAME 32 // bytes of a router's name, the final NUL included
#define RSOCK_KERNEL "kernel" // the router that stands for the operating system's own sockets

// On sockets that rsock_socket(3) or the preloaded library made: level and option that select the router, as
// SO_BINDTODEVICE with a router's name does.
#define SOL_RSOCK 0x5253
#define RSOCK_VR 1

struct rsock_config {
	size_t size;              // sizeof(struct rsock_config)
	const char *run_dir;      // NULL: $ANABRANCH_RUN_DIR, else /run/anabranch
	const char *default_vr;   // NULL: $RSOCK_VR, else the kernel
	int timeout_ms;           // 0: $RSOCK_TIMEOUT (seconds), else 5000
};

struct rsock_vr {
	char name[RSOCK_VR_NAME];
	int up;                   // its forwarder answers
};

enum rsock_event_kind { RSOCK_EVENT_UP = 1, RSOCK_EVENT_DOWN = 2, RSOCK_EVENT_LOST = 3 };

struct rsock_event {
	int kind;                 // enum rsock_event_kind; LOST: events are missing, list the routers anew
	char vr[RSOCK_VR_NAME];
};

struct rsock_info {
	size_t size;              // set by the caller to sizeof(struct rsock_info)
	char vr[RSOCK_VR_NAME];
	int domain, type, protocol;
	uint32_t slot;            // by which operators see it (vr show sockets)
};

// Optional, before other calls.
int rsock_init(const struct rsock_config *config);
// Make `vr` the router of calls that name none (NULL: the kernel).
int rsock_set_default_vr(const char *vr);
// Fill at most *count entries and set *count to how many routers there are.
int rsock_vr_list(struct rsock_vr *vrs, size_t *count);
// A file descriptor that is readable when routers have come or gone; rsock_watch_read takes one event (EAGAIN: none).
int rsock_watch(void);
int rsock_watch_read(int watch, struct rsock_event *event);

// vr NULL: the default.  `type` may carry SOCK_NONBLOCK and SOCK_CLOEXEC.
int rsock_socket(const char *vr, int domain, int type, int protocol);
int rsock_bind(int fd, const struct sockaddr *address, socklen_t length);
int rsock_connect(int fd, const struct sockaddr *address, socklen_t length);
int rsock_listen(int fd, int backlog);
int rsock_accept(int fd, struct sockaddr *address, socklen_t *length);
int rsock_accept4(int fd, struct sockaddr *address, socklen_t *length, int flags);
int rsock_getsockname(int fd, struct sockaddr *address, socklen_t *length);
int rsock_getpeername(int fd, struct sockaddr *address, socklen_t *length);
int rsock_setsockopt(int fd, int level, int name, const void *value, socklen_t length);
int rsock_getsockopt(int fd, int level, int name, void *value, socklen_t *length);
int rsock_shutdown(int fd, int how);
int rsock_close(int fd);

ssize_t rsock_send(int fd, const void *data, size_t length, int flags);
ssize_t rsock_sendto(
	int fd, const void *data, size_t length, int flags, const struct sockaddr *address, socklen_t size);
ssize_t rsock_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t rsock_recv(int fd, void *data, size_t length, int flags);
ssize_t rsock_recvfrom(int fd, void *data, size_t length, int flags, struct sockaddr *address, socklen_t *size);
ssize_t rsock_recvmsg(int fd, struct msghdr *message, int flags);
struct mmsghdr;
int rsock_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);
int rsock_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout);

// Resolve inside a router, with its name servers; results are freed by rsock_freeaddrinfo.  EAI_* codes.
int rsock_getaddrinfo(
	const char *vr, const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found);
void rsock_freeaddrinfo(struct addrinfo *found);
int rsock_getnameinfo(const char *vr, const struct sockaddr *address, socklen_t length, char *host, socklen_t host_room,
	char *service, socklen_t service_room, int flags);

// What a socket is; ENOTSOCK where it is none of a virtual router.
int rsock_fd_info(int fd, struct rsock_info *info);

#ifdef __cplusplus
}
#endif

#endif
