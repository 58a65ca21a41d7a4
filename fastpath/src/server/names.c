// Abstract names of AF_UNIX by which the apps' fds and our ends of them are known.
//
//   \0rsk1/VR/t4/SLOT.NONCE                                  an app's stream fd, from OPEN on
//   \0rsk1/VR/u4/SLOT.NONCE                                  an app's datagram fd; a raw one has r4 or r6
//   \0rsk1/VR/t4/p=192.0.2.9:51515/l=192.0.2.1:80/SLOT.NONCE  our end of an accepted connection
//
// Abstract names belong to a network namespace, and so to one VR.  They are no secret (an app reads
// them with getsockname and getpeername, anybody in /proc/PID/net/unix); the nonce is a keyed hash of
// the cookie, so that a successor of this process computes the same name and nobody can make one up.
// What a datagram fd's or an accepted connection's nonce has above its lower 32 bits tells fds of the
// same socket, or forwarders, apart.
#define _GNU_SOURCE
#include "server/internal.h"

#include <arpa/inet.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "base/siphash.h"

uint32_t names_nonce(const struct server *server, uint32_t slot, uint64_t cookie)
{
	const uint64_t input[2] = {slot, cookie};
	return (uint32_t)siphash24(server->state->random_key, input, sizeof(input));
}

uint64_t names_accepted_nonce(const struct server *server, uint32_t slot, uint64_t cookie)
{
	return (server->state->attaches & 0xfff) << 32 | names_nonce(server, slot, cookie);
}

static uint32_t name_size(int length)
{
	return (uint32_t)offsetof(struct sockaddr_un, sun_path) + 1 + (uint32_t)length;
}

static uint32_t name_fd(const struct server *server, char kind, uint16_t family, uint32_t slot, uint64_t nonce, struct sockaddr_un *name)
{
	const char *router = server->state->header.router_name;
	memset(name, 0, sizeof(*name));
	name->sun_family = AF_UNIX;
	return name_size(snprintf(name->sun_path + 1, sizeof(name->sun_path) - 1, "rsk1/%.*s/%c%c/%x.%llx", ROUTER_NAME_SIZE, router,
		kind, family == AF_INET ? '4' : '6', slot, (unsigned long long)nonce));
}

uint32_t names_of_socket(const struct server *server, uint32_t slot, const struct tcp_socket *s, struct sockaddr_un *name)
{
	return name_fd(server, 't', s->family, slot, names_nonce(server, slot, s->cookie), name);
}

uint32_t names_of_datagrams(const struct server *server, uint32_t slot, const struct socket_entry *entry, uint32_t copy, struct sockaddr_un *name)
{
	uint64_t nonce = (uint64_t)copy << 32 | names_nonce(server, slot, entry->cookie);
	return name_fd(server, entry->type == SOCK_RAW ? 'r' : 'u', entry->family, slot, nonce, name);
}

bool names_slot(const struct server *server, const struct sockaddr_un *name, uint32_t length, uint32_t *slot)
{
	const uint32_t head = (uint32_t)offsetof(struct sockaddr_un, sun_path) + 1;
	char text[sizeof(name->sun_path)] = {0};
	if (length <= head || length > sizeof(*name) || name->sun_path[0] != '\0')
		return false;
	memcpy(text, name->sun_path + 1, length - head);
	const char *slash = strrchr(text, '/');
	if (slash == NULL)
		return false;
	unsigned long number = strtoul(slash + 1, NULL, 16);
	if (number < MAX_SOCKETS || number >= (unsigned long)MAX_SOCKETS + MAX_TCP_SOCKETS)
		return false;
	const struct tcp_socket *s = host_stream(server->host, (uint32_t)number);
	struct sockaddr_un expected;
	if (s == NULL || names_of_socket(server, (uint32_t)number, s, &expected) != length ||
	    memcmp(expected.sun_path, name->sun_path, length - offsetof(struct sockaddr_un, sun_path)) != 0)
		return false;
	*slot = (uint32_t)number;
	return true;
}

// 192.0.2.1:80, [2001:db8::1]:80, [fe80::1%3]:80
static void endpoint(const struct tcp_socket *s, const uint8_t *address, uint16_t port, char text[72])
{
	char host[INET6_ADDRSTRLEN] = "";
	if (s->wire_family == FAMILY_IPV4) {
		inet_ntop(AF_INET, address + 12, host, sizeof(host));
		snprintf(text, 72, "%s:%u", host, port);
		return;
	}
	char zone[8] = "";
	inet_ntop(AF_INET6, address, host, sizeof(host));
	if (address[0] == 0xfe && (address[1] & 0xc0) == 0x80)
		snprintf(zone, sizeof(zone), "%%%u", s->interface);
	snprintf(text, 72, "[%s%s]:%u", host, zone, port);
}

uint32_t names_of_connection(const struct server *server, uint32_t slot, const struct tcp_socket *s, struct sockaddr_un *name)
{
	char peer[72], local[72], nonce[24];
	const char *router = server->state->header.router_name;
	const char *kind = s->family == AF_INET ? "t4" : "t6";
	int room = (int)sizeof(name->sun_path) - 1;

	endpoint(s, s->remote, s->remote_port, peer);
	endpoint(s, s->local, s->local_port, local);
	snprintf(nonce, sizeof(nonce), "%x.%llx", slot, (unsigned long long)names_accepted_nonce(server, slot, s->cookie));
	memset(name, 0, sizeof(*name));
	name->sun_family = AF_UNIX;
	// Two long IPv6 addresses do not fit beside the rest: the peer's matters, the others can be asked for.
	int length = snprintf(name->sun_path + 1, (size_t)room, "rsk1/%.*s/%s/p=%s/l=%s/%s", ROUTER_NAME_SIZE, router, kind, peer, local, nonce);
	if (length >= room)
		length = snprintf(name->sun_path + 1, (size_t)room, "rsk1//%s/p=%s/l=%s/%s", kind, peer, local, nonce);
	if (length >= room)
		length = snprintf(name->sun_path + 1, (size_t)room, "rsk1//%s/p=%s//%s", kind, peer, nonce);
	return name_size(length);
}
