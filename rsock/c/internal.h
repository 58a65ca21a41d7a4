// What the parts of the C client share: librsock, the preloaded library, and the seccomp supervisor.
//
//   rsock.c resolve.c interface.c watch.c   the public calls; resolver.c dns.c: name servers
//        |
//   client.c stream.c datagram.c option.c   one socket: what its type makes of a call; ancillary.c
//        |
//   handle.c                                fd -> socket: who it is, cached, found again after exec
//        |
//   link.c                                  requests to the forwarders (vr/NAME.sock), one at a time each
//        |
//   name.c address.c map.c settings.c       text and structs; no system calls but in settings.c
//
// All are usable from any thread.  A function that can fail gives 0 or a negated errno, unless it says otherwise.
// System calls are made directly (sys.h): the preloaded library stands in front of the C library's.
#ifndef RSOCK_INTERNAL_H
#define RSOCK_INTERNAL_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "rsock.h"
#include "rsock_wire.h"

enum {
	CLIENT_ROUTERS = 1024,       // that one process can use
	CLIENT_RUN_DIR = 72,         // vr/NAME.sock must fit into a sockaddr_un behind it
	CLIENT_BODY = RSOCK_MAX_BODY, // bytes of a request or reply behind its header
	CLIENT_OPTION = 8448,        // of an option's value
	MAP_ENTRIES = 64
};

// --- settings.c: the environment, and rsock_init ---

struct settings {
	char run_dir[CLIENT_RUN_DIR];
	char default_vr[RSOCK_VR_NAME]; // "" is the kernel
	int timeout_ms;
	int trace;                   // $RSOCK_TRACE: 1 tells on stderr what is refused, 2 every call
};

const struct settings *settings_get(void);
int settings_init(const struct rsock_config *config);
int settings_default_vr(const char *vr);
// One line on stderr, "rsock: ...", where $RSOCK_TRACE is at least `level`; level 0 always.
void trace(int level, const char *format, ...) __attribute__((format(printf, 2, 3)));

// --- name.c: names of routers, and the abstract names of sockets' fds ---

// Is it a name that a virtual router can have?  "kernel" is none.
bool name_valid(const char *vr);

// What an abstract name tells; see rsock/wire.py.
struct name_parts {
	char vr[RSOCK_VR_NAME];      // "" where the name had no room for it
	char kind;                   // 't' stream, anything else datagram
	uint8_t family;              // AF_INET, AF_INET6; 0: not told
	bool accepted;               // `peer` is valid: the forwarder's end of an accepted connection
	bool has_local;              // so is `local`
	uint32_t slot;
	uint64_t nonce;
	struct sockaddr_storage peer, local;
};

// `path`: sun_path, its first byte 0, of so many bytes.  False: the name of something else.
bool name_parse(const char *path, size_t length, struct name_parts *parts);

// --- map.c: --map, $RSOCK_MAP: "10.0.0.0/8=red,[2001:db8::]/32=blue,*=kernel" ---

struct map_entry {
	uint8_t prefix[16];          // IPv4 in mapped form
	uint8_t bits;                // of those 128
	char vr[RSOCK_VR_NAME];      // or "kernel"
};

struct map {
	int count;
	struct map_entry at[MAP_ENTRIES];
};

// -EINVAL, and *wrong points to the entry that is.
int map_parse(const char *text, struct map *map, const char **wrong);
// The router of an address: the longest prefix, the first of equals; NULL where none matches.
const char *map_find(const struct map *map, const struct sockaddr *address, socklen_t length);

// --- address.c ---

// A socket address as BIND and CONNECT carry it.  `domain`: of the socket.
int address_to_wire(int domain, const struct sockaddr *address, socklen_t length, struct rsock_name *name);
// What getsockname (remote: getpeername) gives; the length of a struct sockaddr_in or _in6.
socklen_t address_of_local(const struct rsock_name *name, struct sockaddr_storage *address);
socklen_t address_of_remote(const struct rsock_name *name, struct sockaddr_storage *address);
// The header of a datagram to send, and the sender of one that was received, as a socket of `domain` names him.
int address_to_header(int domain, const struct sockaddr *address, socklen_t length, struct rsock_datagram *header);
socklen_t address_of_header(int domain, const struct rsock_datagram *header, struct sockaddr_storage *address);
// Hand an address to an app, as accept(2) does: cut to *room, which becomes the whole length.
void address_give(const struct sockaddr_storage *from, socklen_t length, struct sockaddr *to, socklen_t *room);

// --- link.c: requests to forwarders ---

struct answer {
	uint32_t length;             // of body
	int fd;                      // -1: none came along; else the caller's
	uint8_t body[CLIENT_BODY];
};

// The number of a router in this process; -ENODEV for an impossible name, -ENFILE for too many.
int link_router(const char *vr);
const char *link_router_name(int router);
// Ask, and wait for the answer within the time-out; `answer` may be NULL where no body matters.
// Repeats itself where a forwarder is being replaced.  Negated errno: of the answer, or -ETIMEDOUT, -ENETDOWN, -ENODEV.
int link_call(
	int router, int op, uint32_t slot, uint64_t key, const void *body, uint32_t length, struct answer *answer);
// Tell without waiting for long, and without making a connection.
void link_hint(int router, int op, uint32_t slot, uint64_t key);
// A listener lives in this router: children of fork(2) connect while they still are who opened it.
void link_keep_identity(int router);
// Is the router there?  1, 0, or a negated errno.
int link_up(int router);

// --- handle.c: which socket an fd is ---

enum handle_flag {
	HANDLE_OURS = 1,             // else: known to be none of a virtual router
	HANDLE_JOINED = 2,           // stream: the fd leads to the forwarder
	HANDLE_CONNECTING = 4,       // stream: connect(2) has not told the end of it
	HANDLE_CONNECTED = 8,        // datagram: records are bare, `remote` is valid
	HANDLE_LISTENING = 16,
	HANDLE_BOUND = 32,           // by bind(2), or listens
	HANDLE_WANTS_KNOWN = 64,     // `wants` is what the forwarder has
	HANDLE_STATE_KNOWN = 128,    // type, protocol, CONNECTED are
	HANDLE_CHOSEN = 256          // preloaded: the program chose the router itself
};

enum handle_wants {
	WANT_PKTINFO = 1, WANT_TTL = 2, WANT_TOS = 4, WANT_ERROR = 8, WANT_PKTINFO6 = 16, WANT_HOPLIMIT = 32,
	WANT_TCLASS = 64, WANT_ERROR6 = 128, WANT_TIMESTAMP = 256, WANT_TIMESTAMPNS = 512
};

struct handle {
	uint64_t file;               // SO_COOKIE of the AF_UNIX socket: tells it from another that took its number
	uint64_t key;                // cookie, or nonce of its name
	uint32_t slot;
	uint32_t remote_interface;
	uint16_t router;             // link_router
	uint16_t protocol;
	uint16_t flags;              // enum handle_flag
	uint16_t wants;              // enum handle_wants
	uint16_t remote_port;
	uint8_t domain;              // AF_INET, AF_INET6
	uint8_t type;                // SOCK_STREAM, SOCK_DGRAM, SOCK_RAW
	uint8_t remote[16];          // as rsock_name.remote_address
};

// 1: a socket of a virtual router, and *handle tells which; 0: anything else, also no open fd at all.
int handle_get(int fd, struct handle *handle);
// The same without asking a forwarder for what the fd itself does not tell (no HANDLE_STATE_KNOWN then).
int handle_peek(int fd, struct handle *handle);
// Remember what is known of an fd now.
void handle_put(int fd, const struct handle *handle);
// Ask about this socket.
int handle_call(const struct handle *handle, int op, const void *body, uint32_t length, struct answer *answer);
// Has the app ever had a datagram socket of a router, whose records may carry headers?
extern bool handle_any_datagram;

// --- client.c: sockets of both kinds ---

// Open a socket in a router: its fd, with O_CLOEXEC and O_NONBLOCK as in `type`, and the handle (already put).
int client_open(const char *vr, int domain, int type, int protocol, struct handle *handle, int *fd);
int client_bind(int fd, struct handle *handle, const struct sockaddr *address, socklen_t length);
int client_name(const struct handle *handle, struct rsock_name *name);

// --- stream.c ---

// Begin to connect: afterwards the fd becomes writable when it is connected, or hangs up.
int stream_connect_begin(int fd, struct handle *handle, const struct sockaddr *address, socklen_t length);
// What became of it, once the fd is writable or hangs up: 0, or a negated errno; -EALREADY: nothing yet.
int stream_connect_result(int fd, struct handle *handle);
// SO_ERROR has told what became of it, or nothing yet.
void stream_connect_told(int fd, struct handle *handle, bool failed);
// connect(2), blocking or not as the fd is.
int stream_connect(int fd, struct handle *handle, const struct sockaddr *address, socklen_t length);
int stream_listen(int fd, struct handle *handle, int backlog);
// accept4(2): the new fd, or a negated errno.
int stream_accept(int fd, const struct handle *handle, struct sockaddr *address, socklen_t *length, int flags);
int stream_name(int fd, const struct handle *handle, bool remote, struct sockaddr *address, socklen_t *length);
int stream_shutdown(int fd, const struct handle *handle, int how);
// A read gave 0: is it the end of the file (0), or what else (negated errno)?
int stream_ended(int fd, const struct handle *handle);

// --- datagram.c, ancillary.c ---

int datagram_connect(int fd, struct handle *handle, const struct sockaddr *address, socklen_t length);
int datagram_name(const struct handle *handle, bool remote, struct sockaddr *address, socklen_t *length);
// As sendmsg(2) and recvmsg(2), but a negated errno.
ssize_t datagram_send(int fd, const struct handle *handle, const struct msghdr *message, int flags);
ssize_t datagram_receive(int fd, struct handle *handle, struct msghdr *message, int flags);

// Write what the socket asked for into msg_control; sets msg_controllen, and MSG_CTRUNC where room lacks.
void ancillary_received(const struct handle *handle, const struct rsock_datagram *header, struct msghdr *message);
void ancillary_error(const struct handle *handle, const struct rsock_datagram *header, struct msghdr *message);
// Read what sendmsg was given into the header.
int ancillary_to_send(const struct msghdr *message, struct rsock_datagram *header);
// The bit of handle.wants that an option sets; 0: none.
uint16_t ancillary_want(int level, int name);
// What the forwarder knows of it, for an fd that came from elsewhere.
void ancillary_learn(int fd, struct handle *handle);

// --- option.c ---

int option_set(int fd, struct handle *handle, int level, int name, const void *value, socklen_t length);
int option_get(int fd, const struct handle *handle, int level, int name, void *value, socklen_t *length);

// --- dns.c: messages of the Domain Name System; no system calls ---

enum {
	DNS_A = 1, DNS_CNAME = 5, DNS_PTR = 12, DNS_AAAA = 28, DNS_OPT = 41, DNS_IN = 1,
	DNS_NOERROR = 0, DNS_SERVFAIL = 2, DNS_NXDOMAIN = 3,
	DNS_HEADER = 12,
	DNS_NAME = 256,              // of a name as text, the final NUL included
	DNS_VALUES = 32,
	DNS_QUERY = 320              // the longest query
};

struct dns_answer {
	int rcode;
	int count;
	uint8_t values[DNS_VALUES][16]; // A (first four bytes), AAAA
	char canonical[DNS_NAME];    // where the chain of aliases ends
	char target[DNS_NAME];       // PTR; "" for none
};

// Write a query; its length, or -EINVAL for what is no name.
int dns_query(uint16_t id, const char *name, uint16_t type, uint16_t class, bool extended, uint8_t query[DNS_QUERY]);
// Is it the answer to this query (id and question)?
bool dns_matches(const uint8_t *query, size_t query_length, const uint8_t *message, size_t length);
bool dns_truncated(const uint8_t *message);
int dns_rcode(const uint8_t *message);
// Read an answer that matches; -EBADMSG.
int dns_parse(const uint8_t *message, size_t length, const char *name, uint16_t type, struct dns_answer *answer);
// The name under which an address is looked up.
void dns_reverse(int family, const void *address, char name[DNS_NAME]);

// --- resolver.c: asking the name servers of a router (vr/NAME.resolv.conf) ---

enum { NAME_SERVERS = 4, SEARCH_DOMAINS = 8 };

struct name_servers {
	int count;
	struct sockaddr_storage at[NAME_SERVERS];
	int search_count;
	char search[SEARCH_DOMAINS][DNS_NAME];
	int ndots, attempts, timeout_ms;
};

struct exchange {
	const uint8_t *query;
	size_t query_length;
	uint8_t *answer;
	size_t room;
	size_t length;               // of the answer; 0: none
};

void name_servers_parse(char *text, struct name_servers *servers);
int name_servers_get(const char *vr, struct name_servers *servers);
// A server's address as resolv.conf(5) has it; false: it is none.
bool resolver_server(const char *text, struct sockaddr_storage *server);
// Ask all; true when each has an answer.
bool resolver_ask(const char *vr, const struct name_servers *servers, struct exchange *exchanges, int count);
// The names to try for one, as resolv.conf(5) orders them: 0, 1, ...; false: no more.
bool resolver_candidate(const char *name, const struct name_servers *servers, int number, char candidate[DNS_NAME]);

// --- resolve.c ---

struct found_host {
	char canonical[DNS_NAME];
	int count;
	struct {
		uint8_t family;      // AF_INET, AF_INET6
		uint8_t address[16];
	} at[2 * DNS_VALUES];
};

// The addresses of a name; `family` may be AF_UNSPEC.  EAI_*.
int resolve_host(const char *vr, const char *name, int family, struct found_host *found);
// The name of an address; EAI_*.
int resolve_address(const char *vr, int family, const void *address, char name[DNS_NAME]);

// --- interface.c: the interfaces of a router ---

struct interface {
	uint32_t index;
	uint32_t flags;              // IFF_*
	uint32_t mtu;
	uint8_t mac[6];
	char name[33];
};

struct interface_address {
	uint32_t interface;
	uint8_t family;              // AF_INET, AF_INET6
	uint8_t bits;
	uint8_t address[16];
};

struct interfaces {
	int count, address_count;
	struct interface at[256];
	struct interface_address addresses[1024];
};

// Ask a router; -EOPNOTSUPP where it does not tell.
int interfaces_get(int router, struct interfaces *found);

#endif
