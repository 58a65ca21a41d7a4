// The interface that packetdrill asks of a shared object, declared here from its documentation of
// the members: names, types and order are what both sides must agree on.
#ifndef PD_INTERFACE_H
#define PD_INTERFACE_H

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>

struct packetdrill_interface {
	void *userdata;
	void (*free)(void *user);
	int (*socket)(void *user, int domain, int type, int protocol);
	int (*bind)(void *user, int fd, const struct sockaddr *address, socklen_t length);
	int (*listen)(void *user, int fd, int backlog);
	int (*accept)(void *user, int fd, struct sockaddr *address, socklen_t *length);
	int (*connect)(void *user, int fd, const struct sockaddr *address, socklen_t length);
	ssize_t (*read)(void *user, int fd, void *buffer, size_t count);
	ssize_t (*readv)(void *user, int fd, const struct iovec *parts, int count);
	ssize_t (*recv)(void *user, int fd, void *buffer, size_t length, int flags);
	ssize_t (*recvfrom)(void *user, int fd, void *buffer, size_t length, int flags, struct sockaddr *address, socklen_t *size);
	ssize_t (*recvmsg)(void *user, int fd, struct msghdr *message, int flags);
	ssize_t (*write)(void *user, int fd, const void *buffer, size_t count);
	ssize_t (*writev)(void *user, int fd, const struct iovec *parts, int count);
	ssize_t (*send)(void *user, int fd, const void *buffer, size_t length, int flags);
	ssize_t (*sendto)(void *user, int fd, const void *buffer, size_t length, int flags, const struct sockaddr *address, socklen_t size);
	ssize_t (*sendmsg)(void *user, int fd, const struct msghdr *message, int flags);
	int (*fcntl)(void *user, int fd, int command, ...);
	int (*ioctl)(void *user, int fd, unsigned long request, ...);
	int (*close)(void *user, int fd);
	int (*shutdown)(void *user, int fd, int how);
	int (*getsockopt)(void *user, int fd, int level, int name, void *value, socklen_t *length);
	int (*setsockopt)(void *user, int fd, int level, int name, const void *value, socklen_t length);
	int (*poll)(void *user, struct pollfd *fds, nfds_t count, int timeout);
	int (*netdev_send)(void *user, const void *buffer, size_t count);
	int (*netdev_receive)(void *user, void *buffer, size_t *count, long long *time_us);
	int (*usleep)(void *user, useconds_t us);
	int (*gettimeofday)(void *user, struct timeval *tv, struct timezone *tz);
	int (*epoll_create)(void *user, int size);
	int (*epoll_ctl)(void *user, int epoll, int op, int fd, struct epoll_event *event);
	int (*epoll_wait)(void *user, int epoll, struct epoll_event *events, int most, int timeout);
	int (*pipe)(void *user, int fds[2]);
	int (*splice)(void *user, int in, loff_t *in_offset, int out, loff_t *out_offset, size_t length, unsigned int flags);
};

void packetdrill_interface_init(const char *flags, struct packetdrill_interface *interface);

#endif
