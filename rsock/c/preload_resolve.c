// Preloaded: names go where the sockets go.
//
// getaddrinfo, gethostbyname and their relatives, and the C library's resolver functions, are answered by the name
// servers of the router, since the C library's own calls inside them would not come by here.  Programs with a resolver
// of their own, as c-ares or BIND's tools, find the router's servers where they read of the host's.
//
// Not supported: programs that read /etc/resolv.conf other than by fopen(3).
#define _GNU_SOURCE
#include "preload.h"

#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <dlfcn.h>
#include <errno.h>
#include <resolv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include "sys.h"

#undef res_query
#undef res_search
#undef res_send
#undef res_nquery
#undef res_nsearch
#undef res_nsend

enum { HOST_BUFFER = 8192, ALIGNMENT = sizeof(char *) };

// The router whose name servers are asked; NULL: the kernel's.
static const char *router(void)
{
	const char *vr = preload_default();
	return vr[0] == '\0' ? NULL : vr;
}

EXPORT int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
	bool asks_nobody = host == NULL || (hints != NULL && (hints->ai_flags & AI_NUMERICHOST));
	if (router() == NULL || asks_nobody) {
		struct addrinfo mine = hints != NULL ? *hints : (struct addrinfo){.ai_flags = AI_V4MAPPED};
		// The kernel's addresses say nothing of the router's.
		if (router() != NULL)
			mine.ai_flags &= ~AI_ADDRCONFIG;
		return preload_next.getaddrinfo != NULL
			? preload_next.getaddrinfo(host, service, router() == NULL ? hints : &mine, found)
			: EAI_SYSTEM;
	}
	return rsock_getaddrinfo(router(), host, service, hints, found);
}

EXPORT int getnameinfo(const struct sockaddr *address, socklen_t length, char *host, socklen_t host_room, char *service,
	socklen_t service_room, int flags)
{
	if (router() == NULL || (flags & NI_NUMERICHOST) || host == NULL || host_room == 0)
		return preload_next.getnameinfo != NULL
			? preload_next.getnameinfo(address, length, host, host_room, service, service_room, flags)
			: EAI_SYSTEM;
	return rsock_getnameinfo(router(), address, length, host, host_room, service, service_room, flags);
}

// --- struct hostent ---

static int h_error_of(int error)
{
	switch (error) {
	case EAI_AGAIN:
		return TRY_AGAIN;
	case EAI_NODATA:
		return NO_DATA;
	case EAI_NONAME:
		return HOST_NOT_FOUND;
	default:
		return NO_RECOVERY;
	}
}

// Lay a host out in the caller's buffer; false: it is too small.
static bool fill(const char *name, int family, const uint8_t (*addresses)[16], int count, struct hostent *host,
	char *buffer, size_t room)
{
	size_t size = family == AF_INET ? 4 : 16;
	size_t skip = (ALIGNMENT - (uintptr_t)buffer % ALIGNMENT) % ALIGNMENT;
	size_t pointers = (size_t)(count + 2) * sizeof(char *);
	if (skip + pointers + (size_t)count * size + strlen(name) + 1 > room)
		return false;
	char **list = (char **)(void *)(buffer + skip);
	char *at = buffer + skip + pointers;
	for (int i = 0; i < count; i++) {
		list[i] = at;
		memcpy(at, addresses[i], size);
		at += size;
	}
	list[count] = NULL;
	list[count + 1] = NULL; // no aliases
	strcpy(at, name);
	*host = (struct hostent){
		.h_name = at, .h_aliases = list + count + 1, .h_addrtype = family, .h_length = (int)size, .h_addr_list = list};
	return true;
}

static int by_name(
	const char *name, int family, struct hostent *host, char *buffer, size_t room, struct hostent **result, int *error)
{
	struct found_host found;
	uint8_t addresses[DNS_VALUES][16] = {{0}};
	int count = 0;
	int failed = 0;
	*result = NULL;
	if (inet_pton(family, name, addresses[0]) == 1) {
		count = 1;
		found.canonical[0] = '\0';
	} else {
		failed = resolve_host(router(), name, family, &found);
	}
	if (failed != 0) {
		*error = h_error_of(failed);
		return 0;
	}
	for (int i = 0; count == 0 && i < found.count && i < DNS_VALUES; i++)
		memcpy(addresses[i], found.at[i].address, sizeof(addresses[i]));
	count = count == 1 ? 1 : found.count < DNS_VALUES ? found.count : DNS_VALUES;
	if (!fill(found.canonical[0] != '\0' ? found.canonical : name, family, addresses, count, host, buffer, room)) {
		*error = NETDB_INTERNAL;
		return ERANGE;
	}
	*result = host;
	return 0;
}

EXPORT int gethostbyname2_r(
	const char *name, int family, struct hostent *host, char *buffer, size_t room, struct hostent **result, int *error)
{
	if (router() == NULL && preload_next.gethostbyname2_r != NULL)
		return preload_next.gethostbyname2_r(name, family, host, buffer, room, result, error);
	return by_name(name, family, host, buffer, room, result, error);
}

EXPORT int gethostbyname_r(
	const char *name, struct hostent *host, char *buffer, size_t room, struct hostent **result, int *error)
{
	if (router() == NULL && preload_next.gethostbyname_r != NULL)
		return preload_next.gethostbyname_r(name, host, buffer, room, result, error);
	return by_name(name, AF_INET, host, buffer, room, result, error);
}

EXPORT int gethostbyaddr_r(const void *address, socklen_t length, int family, struct hostent *host, char *buffer,
	size_t room, struct hostent **result, int *error)
{
	char name[DNS_NAME];
	uint8_t addresses[1][16] = {{0}};
	if (router() == NULL && preload_next.gethostbyaddr_r != NULL)
		return preload_next.gethostbyaddr_r(address, length, family, host, buffer, room, result, error);
	*result = NULL;
	size_t size = family == AF_INET ? 4 : 16;
	if ((family != AF_INET && family != AF_INET6) || length < size) {
		*error = NO_RECOVERY;
		return EINVAL;
	}
	int failed = resolve_address(router(), family, address, name);
	if (failed != 0) {
		*error = h_error_of(failed);
		return 0;
	}
	memcpy(addresses[0], address, size);
	if (!fill(name, family, addresses, 1, host, buffer, room)) {
		*error = NETDB_INTERNAL;
		return ERANGE;
	}
	*result = host;
	return 0;
}

// As these functions have it, the next call of any of them overwrites it.
static __thread struct hostent last_host;
static __thread char last_buffer[HOST_BUFFER];

EXPORT struct hostent *gethostbyname2(const char *name, int family)
{
	struct hostent *result;
	if (router() == NULL && preload_next.gethostbyname2 != NULL)
		return preload_next.gethostbyname2(name, family);
	(void)by_name(name, family, &last_host, last_buffer, sizeof(last_buffer), &result, &h_errno);
	return result;
}

EXPORT struct hostent *gethostbyname(const char *name)
{
	if (router() == NULL && preload_next.gethostbyname != NULL)
		return preload_next.gethostbyname(name);
	return gethostbyname2(name, AF_INET);
}

EXPORT struct hostent *gethostbyaddr(const void *address, socklen_t length, int family)
{
	struct hostent *result;
	if (router() == NULL && preload_next.gethostbyaddr != NULL)
		return preload_next.gethostbyaddr(address, length, family);
	(void)gethostbyaddr_r(address, length, family, &last_host, last_buffer, sizeof(last_buffer), &result, &h_errno);
	return result;
}

// --- the C library's resolver: resolver(3) ---

// Under both of the names that it has had.
#define RESOLVER(name) \
	EXPORT __typeof__(preload_##name) name __attribute__((alias("preload_" #name))); \
	EXPORT __typeof__(preload_##name) __##name __attribute__((alias("preload_" #name)))

static int ask_raw(const uint8_t *query, int length, uint8_t *answer, int room)
{
	struct name_servers servers;
	struct exchange exchange = {.query = query, .query_length = (size_t)length, .answer = answer, .room = (size_t)room};
	if (length < DNS_HEADER || length > DNS_QUERY || room < DNS_HEADER) {
		errno = EINVAL;
		return -1;
	}
	if (name_servers_get(router(), &servers) < 0) {
		errno = ECONNREFUSED;
		return -1;
	}
	(void)resolver_ask(router(), &servers, &exchange, 1);
	if (exchange.length == 0) {
		errno = ETIMEDOUT;
		return -1;
	}
	return (int)exchange.length;
}

static int query(const char *name, int class, int type, uint8_t *answer, int room)
{
	uint8_t question[DNS_QUERY];
	uint16_t id = 0;
	(void)!getrandom(&id, sizeof(id), GRND_NONBLOCK);
	int length = dns_query(id, name, (uint16_t)type, (uint16_t)class, false, question);
	if (length < 0) {
		h_errno = NO_RECOVERY;
		return -1;
	}
	int got = ask_raw(question, length, answer, room);
	if (got < 0) {
		h_errno = TRY_AGAIN;
		return -1;
	}
	int rcode = dns_rcode(answer);
	bool empty = answer[6] == 0 && answer[7] == 0;
	if (rcode == DNS_NOERROR && !empty)
		return got;
	h_errno = rcode == DNS_NXDOMAIN ? HOST_NOT_FOUND
		: rcode == DNS_NOERROR      ? NO_DATA
		: rcode == DNS_SERVFAIL     ? TRY_AGAIN
									: NO_RECOVERY;
	return -1;
}

static int search(const char *name, int class, int type, uint8_t *answer, int room)
{
	struct name_servers servers;
	char candidate[DNS_NAME];
	h_errno = HOST_NOT_FOUND;
	if (name_servers_get(router(), &servers) < 0) {
		h_errno = TRY_AGAIN;
		return -1;
	}
	for (int i = 0; resolver_candidate(name, &servers, i, candidate); i++) {
		int got = query(candidate, class, type, answer, room);
		if (got >= 0)
			return got;
	}
	return -1;
}

static int preload_res_send(const uint8_t *message, int length, uint8_t *answer, int room)
{
	if (router() == NULL && preload_next.res_send != NULL)
		return preload_next.res_send(message, length, answer, room);
	return ask_raw(message, length, answer, room);
}

static int preload_res_query(const char *name, int class, int type, uint8_t *answer, int room)
{
	if (router() == NULL && preload_next.res_query != NULL)
		return preload_next.res_query(name, class, type, answer, room);
	return query(name, class, type, answer, room);
}

static int preload_res_search(const char *name, int class, int type, uint8_t *answer, int room)
{
	if (router() == NULL && preload_next.res_search != NULL)
		return preload_next.res_search(name, class, type, answer, room);
	return search(name, class, type, answer, room);
}

static int preload_res_nsend(res_state state, const uint8_t *message, int length, uint8_t *answer, int room)
{
	if (router() == NULL && preload_next.res_nsend != NULL)
		return preload_next.res_nsend(state, message, length, answer, room);
	return ask_raw(message, length, answer, room);
}

static int preload_res_nquery(res_state state, const char *name, int class, int type, uint8_t *answer, int room)
{
	if (router() == NULL && preload_next.res_nquery != NULL)
		return preload_next.res_nquery(state, name, class, type, answer, room);
	return query(name, class, type, answer, room);
}

static int preload_res_nsearch(res_state state, const char *name, int class, int type, uint8_t *answer, int room)
{
	if (router() == NULL && preload_next.res_nsearch != NULL)
		return preload_next.res_nsearch(state, name, class, type, answer, room);
	return search(name, class, type, answer, room);
}

RESOLVER(res_send);
RESOLVER(res_query);
RESOLVER(res_search);
RESOLVER(res_nsend);
RESOLVER(res_nquery);
RESOLVER(res_nsearch);

// --- resolv.conf(5) ---

typedef FILE *open_file(const char *path, const char *mode);

// Servers for whom somebody else accepts have a connection there, which is no place for our lines.
static bool stderr_is_plain(void)
{
	struct handle handle;
	return sys_int_option(STDERR_FILENO, SOL_SOCKET, SO_DOMAIN, AF_UNIX) == AF_UNIX && !handle_peek(STDERR_FILENO, &handle);
}

// The router's file stands for the host's, which is taken where the router's cannot be had, as in a chroot; that is
// told once.
static FILE *open_as(open_file *next, const char *path, const char *mode)
{
	static bool told;
	char own[CLIENT_RUN_DIR + RSOCK_VR_NAME + 32];
	bool asked = path != NULL && strcmp(path, "/etc/resolv.conf") == 0 && router() != NULL;
	if (next == NULL) {
		errno = ENOSYS;
		return NULL;
	}
	if (asked && mode != NULL && mode[0] == 'r' && strchr(mode, '+') == NULL) {
		(void)snprintf(own, sizeof(own), "%s/vr/%s.resolv.conf", settings_get()->run_dir, router());
		FILE *file = next(own, mode);
		if (file != NULL)
			return file;
		file = next(path, mode);
		if (file != NULL && stderr_is_plain() && !__atomic_exchange_n(&told, true, __ATOMIC_RELAXED))
			trace(0, "%s names no servers here: those of this system's /etc/resolv.conf are asked", router());
		return file;
	}
	return next(path, mode);
}

// Looked up when they are called, since constructors of others open files before ours has run.
EXPORT FILE *fopen(const char *path, const char *mode)
{
	static open_file *next;
	if (next == NULL)
		*(void **)&next = dlsym(RTLD_NEXT, "fopen");
	return open_as(next, path, mode);
}

EXPORT FILE *fopen64(const char *path, const char *mode)
{
	static open_file *next;
	if (next == NULL)
		*(void **)&next = dlsym(RTLD_NEXT, "fopen64");
	return open_as(next, path, mode);
}
