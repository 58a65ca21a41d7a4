// What sockets of both kinds have in common: how they are opened, bound and named.
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include "sys.h"

enum { FLAGS = SOCK_NONBLOCK | SOCK_CLOEXEC, APP_NAME = 16 };

static uint16_t protocol_of(int type, int protocol)
{
	if (protocol != 0)
		return (uint16_t)protocol;
	return type == SOCK_STREAM ? IPPROTO_TCP : type == SOCK_DGRAM ? IPPROTO_UDP : 0;
}

static int ask_open(int router, int domain, int type, int protocol, struct answer *answer)
{
	struct {
		struct rsock_open open;
		char app[APP_NAME];
	} __attribute__((packed)) body = {
		.open = {.family = (uint16_t)domain, .type = (uint16_t)type, .protocol = (uint16_t)protocol},
	};
	// The token makes a repetition after a lost answer harmless.
	if (getrandom(body.open.token, sizeof(body.open.token), GRND_NONBLOCK) != (ssize_t)sizeof(body.open.token))
		memset(body.open.token, 0, sizeof(body.open.token));
	(void)prctl(PR_GET_NAME, body.app);
	return link_call(
		router, RSOCK_OP_OPEN, 0, 0, &body, sizeof(body.open) + (uint32_t)strnlen(body.app, APP_NAME - 1), answer);
}

// The answer's fd comes with O_CLOEXEC and blocking.
static void set_flags(int fd, int type)
{
	if (!(type & SOCK_CLOEXEC))
		(void)sys_fcntl(fd, F_SETFD, 0);
	if (type & SOCK_NONBLOCK)
		(void)sys_fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
}

int client_open(const char *vr, int domain, int type, int protocol, struct handle *handle, int *fd)
{
	struct answer answer;
	struct rsock_opened opened;
	int kind = type & ~FLAGS;
	if (domain != AF_INET && domain != AF_INET6)
		return -EAFNOSUPPORT;
	if (kind != SOCK_STREAM && kind != SOCK_DGRAM && kind != SOCK_RAW)
		return -ESOCKTNOSUPPORT;
	if (protocol < 0 || protocol > UINT16_MAX)
		return -EPROTONOSUPPORT;
	int router = link_router(vr);
	if (router < 0)
		return router;
	int error = ask_open(router, domain, kind, protocol, &answer);
	if (error == -EACCES && kind == SOCK_RAW)
		error = -EPERM;
	if (error < 0)
		return error;
	if (answer.fd < 0 || answer.length < sizeof(opened)) {
		if (answer.fd >= 0)
			(void)sys_close(answer.fd);
		return -EPROTO;
	}
	memcpy(&opened, answer.body, sizeof(opened));
	set_flags(answer.fd, type);
	*handle = (struct handle){
		.file = sys_cookie(answer.fd),
		.key = opened.cookie,
		.slot = opened.socket,
		.router = (uint16_t)router,
		.protocol = protocol_of(kind, protocol),
		.flags = HANDLE_OURS | HANDLE_STATE_KNOWN | HANDLE_WANTS_KNOWN,
		.domain = (uint8_t)domain,
		.type = (uint8_t)kind,
	};
	*fd = answer.fd;
	handle_put(*fd, handle);
	return 0;
}

int client_name(const struct handle *handle, struct rsock_name *name)
{
	struct answer answer;
	int error = handle_call(handle, RSOCK_OP_NAME, NULL, 0, &answer);
	if (error < 0)
		return error;
	if (answer.length < sizeof(*name))
		return -EPROTO;
	memcpy(name, answer.body, sizeof(*name));
	return 0;
}

// A forwarder may have bound it, and died before it could say so.
static bool bound_already(const struct handle *handle, const struct rsock_name *wanted)
{
	struct rsock_name name;
	if (wanted->port == 0 || (handle->flags & HANDLE_BOUND) || client_name(handle, &name) < 0)
		return false;
	return name.port == wanted->port && memcmp(name.address, wanted->address, sizeof(name.address)) == 0;
}

int client_bind(int fd, struct handle *handle, const struct sockaddr *address, socklen_t length)
{
	struct rsock_name name;
	int error = address_to_wire(handle->domain, address, length, &name);
	if (error == 0)
		error = handle_call(handle, RSOCK_OP_BIND, &name, sizeof(name), NULL);
	if (error == -EINVAL && bound_already(handle, &name))
		error = 0;
	if (error < 0)
		return error;
	handle->flags |= HANDLE_BOUND;
	handle_put(fd, handle);
	return 0;
}
