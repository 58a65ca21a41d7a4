// DNS goes where the sockets go.
//
// A program that resolves names by itself reads /etc/resolv.conf and asks the host's name servers, from a socket in a
// router's network, where they are not.  What it sends to port 53 of one of them goes to a server of the router instead
// (vr/NAME.resolv.conf), and what comes back has the address that was asked.
//
// Not supported: servers named elsewhere than in resolv.conf, and the host's search domains stay the program's.
#define _GNU_SOURCE
#include "supervisor.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

enum { SERVERS = 8, DNS_PORT = 53, LINE = 256, PATH = 160 };

struct servers {
	int count;
	struct sockaddr_storage at[SERVERS];
};

static void add_server(struct servers *servers, const char *text)
{
	if (servers->count == SERVERS)
		return;
	if (resolver_server(text, &servers->at[servers->count]))
		servers->count++;
}

static void read_servers(const char *path, struct servers *servers)
{
	char line[LINE], text[INET6_ADDRSTRLEN];
	FILE *file = fopen(path, "re");
	servers->count = 0;
	if (file == NULL)
		return;
	while (fgets(line, sizeof(line), file) != NULL)
		if (sscanf(line, "nameserver %45[0-9a-fA-F.:]", text) == 1)
			add_server(servers, text);
	(void)fclose(file);
}

static void read_host(struct servers *servers)
{
	read_servers("/etc/resolv.conf", servers);
	if (servers->count > 0)
		return;
	add_server(servers, "127.0.0.1"); // resolv.conf(5): without one, the own host
	add_server(servers, "::1");
}

static void read_router(const struct record *record, struct servers *servers)
{
	char path[PATH];
	(void)snprintf(path, sizeof(path), "%s/vr/%s.resolv.conf", settings_get()->run_dir,
		link_router_name(record->handle.router));
	read_servers(path, servers);
}

static bool same(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	if (a->ss_family != b->ss_family)
		return false;
	if (a->ss_family == AF_INET) {
		const struct sockaddr_in *here = (const struct sockaddr_in *)a, *there = (const struct sockaddr_in *)b;
		return here->sin_port == there->sin_port && here->sin_addr.s_addr == there->sin_addr.s_addr;
	}
	const struct sockaddr_in6 *here = (const struct sockaddr_in6 *)a, *there = (const struct sockaddr_in6 *)b;
	return here->sin6_port == there->sin6_port &&
		memcmp(&here->sin6_addr, &there->sin6_addr, sizeof(here->sin6_addr)) == 0;
}

static int find(const struct servers *servers, const struct sockaddr_storage *address)
{
	for (int i = 0; i < servers->count; i++)
		if (same(&servers->at[i], address))
			return i;
	return -1;
}

static bool is_dns(const struct sockaddr_storage *address)
{
	if (address->ss_family == AF_INET)
		return ((const struct sockaddr_in *)address)->sin_port == htons(DNS_PORT);
	return address->ss_family == AF_INET6 && ((const struct sockaddr_in6 *)address)->sin6_port == htons(DNS_PORT);
}

void resolver_redirect(struct record *record, struct sockaddr_storage *address)
{
	struct servers host, router;
	if (!is_dns(address))
		return;
	read_host(&host);
	read_router(record, &router);
	int asked = find(&host, address);
	if (asked < 0)
		return;
	// The first server stands for the first, and so on; of the family that the socket can reach.
	for (int i = 0; i < router.count; i++) {
		const struct sockaddr_storage *server = &router.at[(asked + i) % router.count];
		if (server->ss_family != address->ss_family)
			continue;
		record->asked = *address;
		record->asks_server = true;
		*address = *server;
		return;
	}
}

void resolver_restore(const struct record *record, struct sockaddr_storage *address)
{
	struct servers router;
	if (!record->asks_server || !is_dns(address))
		return;
	read_router(record, &router);
	if (find(&router, address) >= 0)
		*address = record->asked;
}
