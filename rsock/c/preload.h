// What the files of the preloaded library share: the functions that it stands in front of, and which router to use.
#ifndef RSOCK_PRELOAD_H
#define RSOCK_PRELOAD_H

#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <sys/epoll.h>

#include "internal.h"

#define EXPORT __attribute__((visibility("default")))

// The C library's functions, or another preloaded library's, found when this one is loaded.  Before that, when the
// constructors of others call us, they are NULL and the system call is made instead (PRELOAD_NEXT).
struct preload_next {
	int (*socket)(int, int, int);
	int (*bind)(int, const struct sockaddr *, socklen_t);
	int (*connect)(int, const struct sockaddr *, socklen_t);
	int (*listen)(int, int);
	int (*accept)(int, struct sockaddr *, socklen_t *);
	int (*accept4)(int, struct sockaddr *, socklen_t *, int);
	int (*getsockname)(int, struct sockaddr *, socklen_t *);
	int (*getpeername)(int, struct sockaddr *, socklen_t *);
	int (*setsockopt)(int, int, int, const void *, socklen_t);
	int (*getsockopt)(int, int, int, void *, socklen_t *);
	int (*shutdown)(int, int);
	ssize_t (*send)(int, const void *, size_t, int);
	ssize_t (*sendto)(int, const void *, size_t, int, const struct sockaddr *, socklen_t);
	ssize_t (*sendmsg)(int, const struct msghdr *, int);
	int (*sendmmsg)(int, struct mmsghdr *, unsigned int, int);
	ssize_t (*recv)(int, void *, size_t, int);
	ssize_t (*recvfrom)(int, void *, size_t, int, struct sockaddr *, socklen_t *);
	ssize_t (*recvmsg)(int, struct msghdr *, int);
	int (*recvmmsg)(int, struct mmsghdr *, unsigned int, int, struct timespec *);
	int (*epoll_ctl)(int, int, int, struct epoll_event *);
	int (*ioctl)(int, unsigned long, ...);
	int (*getaddrinfo)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
	int (*getnameinfo)(const struct sockaddr *, socklen_t, char *, socklen_t, char *, socklen_t, int);
	struct hostent *(*gethostbyname)(const char *);
	struct hostent *(*gethostbyname2)(const char *, int);
	struct hostent *(*gethostbyaddr)(const void *, socklen_t, int);
	int (*gethostbyname_r)(const char *, struct hostent *, char *, size_t, struct hostent **, int *);
	int (*gethostbyname2_r)(const char *, int, struct hostent *, char *, size_t, struct hostent **, int *);
	int (*gethostbyaddr_r)(const void *, socklen_t, int, struct hostent *, char *, size_t, struct hostent **, int *);
	int (*res_send)(const unsigned char *, int, unsigned char *, int);
	int (*res_query)(const char *, int, int, unsigned char *, int);
	int (*res_search)(const char *, int, int, unsigned char *, int);
	int (*res_nsend)(void *, const unsigned char *, int, unsigned char *, int);
	int (*res_nquery)(void *, const char *, int, int, unsigned char *, int);
	int (*res_nsearch)(void *, const char *, int, int, unsigned char *, int);
	int (*getifaddrs)(struct ifaddrs **);
	void (*freeifaddrs)(struct ifaddrs *);
	unsigned int (*if_nametoindex)(const char *);
	char *(*if_indextoname)(unsigned int, char *);
	struct if_nameindex *(*if_nameindex)(void);
	void (*if_freenameindex)(struct if_nameindex *);
};

extern struct preload_next preload_next;

// The router of sockets that nobody has decided about, and of names: "" is the kernel.
const char *preload_default(void);
// Does the map decide at connect(2) or bind(2)?
bool preload_mapped(void);
// Bring a kernel socket, or one of another router, to where an address belongs, before it is used there.
// 0, or a negated errno.
int preload_settle(int fd, const struct sockaddr *address, socklen_t length, bool binding);
// Make the fd a socket of this router ("kernel": of the kernel), keeping number, options and epoll registrations.
int preload_swap(int fd, const char *vr);
// epoll_ctl(2) was called with this fd.
void preload_registered(int epoll, int fd);

// An ioctl of netdevice(7) on a socket of a router; false: it is none that is known.
bool preload_interface_ioctl(int router, unsigned long asked, void *argument, int *result);

#endif
