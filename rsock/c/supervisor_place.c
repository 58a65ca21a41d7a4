// Which router a socket lives in.
//
//   --vr     the one router, from socket(2) on
//   --map    the address decides that bind, connect or sendto names first.  Until then it is a socket of the kernel,
//            which is then exchanged for one of the router, under the same number, with its options.
//
// SO_BINDTODEVICE with a router's name exchanges it too.  What the kernel would do in a router's stead is told.
#define _GNU_SOURCE
#include "supervisor.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include "sys.h"

static void show(const struct sockaddr_storage *address, char text[INET6_ADDRSTRLEN])
{
	const void *bytes = address->ss_family == AF_INET ? (const void *)&((const struct sockaddr_in *)address)->sin_addr
													  : (const void *)&((const struct sockaddr_in6 *)address)->sin6_addr;
	if (inet_ntop(address->ss_family, bytes, text, INET6_ADDRSTRLEN) == NULL)
		strcpy(text, "?");
}

static bool is_inet(int domain)
{
	return domain == AF_INET || domain == AF_INET6;
}

static bool is_any(const struct sockaddr_storage *address)
{
	static const struct in6_addr any;
	if (address->ss_family == AF_INET)
		return ((const struct sockaddr_in *)address)->sin_addr.s_addr == INADDR_ANY;
	return memcmp(&((const struct sockaddr_in6 *)address)->sin6_addr, &any, sizeof(any)) == 0;
}

// The router of sockets that nobody can wait for an address of: raw ones, ping.
static const char *router_of_rest(const struct supervisor *supervisor)
{
	const struct sockaddr_in any = {.sin_family = AF_INET};
	return supervisor->mapped ? map_find(&supervisor->map, (const struct sockaddr *)&any, sizeof(any)) : supervisor->vr;
}

static int64_t give_socket(struct supervisor *supervisor, struct call *call, int kind, int fd)
{
	bool cloexec = (int)call->args[1] & SOCK_CLOEXEC;
	if (kind == SOCK_STREAM)
		(void)tracee_answer_fd(supervisor, call, fd, cloexec);
	else
		(void)tracee_answer_datagram(supervisor, call, fd, cloexec);
	(void)sys_close(fd);
	return CALL_SENT;
}

int64_t place_socket(struct supervisor *supervisor, struct call *call)
{
	struct handle handle;
	int domain = (int)call->args[0], type = (int)call->args[1], protocol = (int)call->args[2], fd;
	int kind = type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC);
	const char *vr = router_of_rest(supervisor);
	bool kernel = vr != NULL && strcmp(vr, RSOCK_KERNEL) == 0;
	if (domain == AF_PACKET && !kernel) {
		tracee_tell(supervisor, call,
			"socket(AF_PACKET): a virtual router has none, and the kernel's is not what was asked for");
		return -EAFNOSUPPORT;
	}
	bool datagram = kind == SOCK_DGRAM && (protocol == 0 || protocol == IPPROTO_UDP) && domain != AF_PACKET;
	if (supervisor->mapped && datagram) {
		fd = sys_socket(domain, type | SOCK_CLOEXEC, protocol); // for its number
		return fd < 0 ? fd : give_socket(supervisor, call, kind, fd);
	}
	if (kernel || (supervisor->mapped && kind == SOCK_STREAM))
		return CALL_KERNEL;
	if (vr == NULL)
		return -EAFNOSUPPORT;
	int error = open_for(supervisor, call, vr, domain, type, protocol, &handle, &fd);
	if (error < 0)
		return error;
	(void)record_put(supervisor, &handle);
	return give_socket(supervisor, call, kind, fd);
}

int64_t place_by_address(struct supervisor *supervisor, struct call *call, const struct sockaddr_storage *address)
{
	char text[INET6_ADDRSTRLEN];
	bool ours = record_is_ours(call->record);
	if (!ours && (!supervisor->mapped || !is_inet(call->record->handle.domain)))
		return CALL_KERNEL;
	if (!supervisor->mapped || !is_inet(address->ss_family) || (ours && is_any(address)))
		return ours ? 0 : CALL_KERNEL;
	const char *vr = map_find(&supervisor->map, (const struct sockaddr *)address, sizeof(*address));
	if (vr == NULL || (ours && strcmp(vr, link_router_name(call->record->handle.router)) != 0)) {
		show(address, text);
		tracee_tell(supervisor, call, "%s belongs to %s, and this socket to %s", text,
			vr == NULL ? "no router by the map" : vr, ours ? link_router_name(call->record->handle.router) : "none yet");
		return -ENETUNREACH;
	}
	if (ours)
		return 0;
	return strcmp(vr, RSOCK_KERNEL) == 0 ? CALL_KERNEL : move_fd(supervisor, call, vr);
}

int64_t place_by_name(struct supervisor *supervisor, struct call *call, const char *vr)
{
	bool ours = record_is_ours(call->record);
	bool asked = (int)call->args[1] == SOL_RSOCK;
	if (!ours && !is_inet(call->record->handle.domain))
		return 0;
	int router = link_router(vr);
	if (router < 0 || link_up(router) != 1)
		return asked ? -ENODEV : 0; // the name of a device
	if (ours && call->record->handle.router == router)
		return 1;
	int error = move_fd(supervisor, call, vr);
	return error < 0 ? error : 1;
}
