// What the files of the packetdrill facade share.
//
// google's packetdrill loads a shared object and lets it stand for the kernel: socket calls,
// the network device, and the clock.  This one puts the host stack behind that interface:
//
//   script --> packetdrill --> pd_calls.c, pd_poll.c --> host.h
//                 |    ^           | a call that blocks
//                 |    |       pd_clock.c: virtual time, the second thread
//                 v    |           |
//              pd_so.c: device, operations of the stack <--> host.h
//              pd_knobs.c: what the script's commands changed; pd_fq.c: a queue that paces
//
// Two threads of packetdrill come in: the script's own, and one for calls that may block.  The
// lock serves them one at a time; the first moves the clock while a call of the second blocks.
#ifndef PD_SO_H
#define PD_SO_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>
#include "host/host.h"
#include "pd_interface.h"

enum {
	PD_FIRST = 1000,       // of our descriptors: the script has real ones too
	PD_HANDLES = 256,
	PD_WATCHES = 64,       // entries of all epoll descriptors
	PD_PACED = 64,         // connections that the fq queue knows
	PD_INTERFACE = 1       // the only interface of the VR
};

#define PD_US 1000ull
#define PD_S 1000000000ull
#define PD_NEVER UINT64_MAX
#define PD_PATIENCE (600 * PD_S) // virtual time without the packet that the script waits for

enum pd_kind { PD_FREE, PD_STREAM, PD_EPOLL };

struct pd_handle {
	enum pd_kind kind;
	uint32_t slot;
	int family;
	int flags;             // O_NONBLOCK
	bool inq;              // TCP_INQ
	bool writable;         // the stack said so since a write found no room
};

struct pd_watch {
	int epoll;             // descriptor; 0: free
	int fd;
	struct epoll_event event;
	bool ready;            // on the ready list: an edge came
	bool spent;            // EPOLLONESHOT has fired
};

struct pd_packet {             // on its way to packetdrill
	struct pd_packet *next;
	uint64_t at;
	uint32_t length;
	uint8_t data[];
};

// Where packetdrill's second thread is.  The script's thread never runs while it is awake in here.
enum pd_guest { PD_AWAY, PD_WAITING, PD_CHECKING, PD_RETURNING };

struct pd_world {
	pthread_mutex_t lock;
	pthread_cond_t guest_moved, host_moved;
	pthread_t main;
	enum pd_guest guest;
	uint64_t guest_deadline;
	uint64_t now;          // virtual, ns
	struct state_segment *state;
	uint8_t *tables_segment;
	struct tables_view tables;
	struct packet_pool *pool;
	struct host *host;
	struct pd_packet *first, *last;
	struct pd_handle handles[PD_HANDLES];
	struct pd_watch watches[PD_WATCHES];
	const char *knobs_path;
	int64_t knobs_size;    // of the file, when it was read last
	struct pd_trace *trace; // NULL: none is wanted
	uint8_t local[2][16];  // our addresses: IPv4, IPv6
	uint32_t device_mtu;
	uint32_t mtu;          // of the path: the device's, or the route's
	uint32_t gro_size;     // segments of a merged packet that comes in; 0: nothing is merged
	bool split;            // the device takes no super-packets
	bool congested;        // the queue of the device is full: nothing leaves
	bool paced;            // the queue of the device is fq
	uint64_t paced_at[PD_PACED]; // when the next data of a connection may leave
};

// --- pd_so.c ---
struct pd_world *pd_world_new(const char *flags);
void pd_world_free(struct pd_world *w);
int pd_netdev_send(void *user, const void *buffer, size_t count);
int pd_netdev_receive(void *user, void *buffer, size_t *count, long long *time_us);
// Write the file that stands for the kernel's table of listeners: the settings' name and `.sockets`.
void pd_tell_listeners(struct pd_world *w);
// End the process: the script asks for what will never come.
_Noreturn void pd_give_up(const char *format, ...) __attribute__((format(printf, 1, 2)));

// --- pd_fq.c ---
// When a packet that is sent now leaves the device.
uint64_t pd_departure(struct pd_world *w, const uint8_t *ip, uint32_t length);

// --- pd_trace.c: a line for each packet, the same in each run of a script ---
struct pd_trace *pd_trace_open(const char *path);
void pd_trace_close(struct pd_trace *trace);
void pd_trace(struct pd_world *w, char direction, const uint8_t *ip, uint32_t length);

// --- pd_clock.c ---
// Each call from packetdrill is between these two.
void pd_enter(struct pd_world *w);
void pd_leave(struct pd_world *w);
// Move the clock, with all timers on the way.
void pd_advance(struct pd_world *w, uint64_t to);
// Move it to the next thing that happens.  False: nothing will.
bool pd_step(struct pd_world *w);
// The running call cannot go on: returns when something may have changed, or `deadline` passed.
void pd_block(struct pd_world *w, uint64_t deadline);
// Let the stack finish what a call began, and a waiting call go on where it can now.
void pd_settle(struct pd_world *w);
int pd_usleep(void *user, useconds_t us);
int pd_gettimeofday(void *user, struct timeval *tv, struct timezone *tz);

// --- pd_knobs.c ---
void pd_knobs_refresh(struct pd_world *w);

// --- pd_poll.c ---
// Something happened to a stream socket (enum host_stream_event).
void pd_stream_event(void *user, uint32_t slot, uint32_t events);
uint32_t pd_ready(struct pd_world *w, const struct pd_handle *handle);
void pd_watch_forget(struct pd_world *w, int fd);
int pd_poll(void *user, struct pollfd *fds, nfds_t count, int timeout);
int pd_epoll_create(void *user, int size);
int pd_epoll_ctl(void *user, int epoll, int op, int fd, struct epoll_event *event);
int pd_epoll_wait(void *user, int epoll, struct epoll_event *events, int most, int timeout);

// --- pd_calls.c: sockets ---
// The handle of a descriptor of that kind, or NULL with errno set.
struct pd_handle *pd_handle(struct pd_world *w, int fd, enum pd_kind kind);
int pd_handle_new(struct pd_world *w, enum pd_kind kind, struct pd_handle **handle);
int pd_socket(void *user, int domain, int type, int protocol);
int pd_bind(void *user, int fd, const struct sockaddr *address, socklen_t length);
int pd_listen(void *user, int fd, int backlog);
int pd_accept(void *user, int fd, struct sockaddr *address, socklen_t *length);
int pd_connect(void *user, int fd, const struct sockaddr *address, socklen_t length);
int pd_close(void *user, int fd);
int pd_shutdown(void *user, int fd, int how);
int pd_fcntl(void *user, int fd, int command, ...);
int pd_ioctl(void *user, int fd, unsigned long request, ...);
int pd_getsockopt(void *user, int fd, int level, int name, void *value, socklen_t *length);
int pd_setsockopt(void *user, int fd, int level, int name, const void *value, socklen_t length);

// --- pd_data.c: bytes ---
ssize_t pd_read(void *user, int fd, void *buffer, size_t count);
ssize_t pd_readv(void *user, int fd, const struct iovec *parts, int count);
ssize_t pd_recv(void *user, int fd, void *buffer, size_t length, int flags);
ssize_t pd_recvfrom(void *user, int fd, void *buffer, size_t length, int flags, struct sockaddr *address, socklen_t *size);
ssize_t pd_recvmsg(void *user, int fd, struct msghdr *message, int flags);
ssize_t pd_write(void *user, int fd, const void *buffer, size_t count);
ssize_t pd_writev(void *user, int fd, const struct iovec *parts, int count);
ssize_t pd_send(void *user, int fd, const void *buffer, size_t length, int flags);
ssize_t pd_sendto(void *user, int fd, const void *buffer, size_t length, int flags, const struct sockaddr *address, socklen_t size);
ssize_t pd_sendmsg(void *user, int fd, const struct msghdr *message, int flags);

#endif
