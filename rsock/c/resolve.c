// Names in a router: getaddrinfo(3) and getnameinfo(3), asked of the router's own name servers.
//
// What is numeric, services, and the shape of results are the C library's, which asks nobody for those.  `localhost`
// is the router's own loopback (RFC 6761 section 6.3).  Where both families come, IPv6 stands first, but for what the
// router has no route to (RFC 6724, the rule that matters between the families).
//
// Not supported: the kernel's hosts file, mDNS, names of interfaces as scopes.
#define _GNU_SOURCE
#include "internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include "sys.h"

#define EXPORT __attribute__((visibility("default")))

enum { ANSWER_ROOM = 8192, FAMILIES = 2, PORT = 53, HOPS = 8 };

struct lookup {
	const char *vr;
	struct name_servers servers;
	int families[FAMILIES];      // in the order of their results
	int count;
	uint8_t queries[FAMILIES][DNS_QUERY];
	uint8_t answers[FAMILIES][ANSWER_ROOM];
	struct dns_answer parsed[FAMILIES];
};

static uint16_t random_id(void)
{
	uint16_t id = 0;
	(void)!getrandom(&id, sizeof(id), GRND_NONBLOCK);
	return id;
}

static bool local_name(const char *name)
{
	static const char localhost[] = "localhost";
	size_t length = strlen(name);
	if (length > 0 && name[length - 1] == '.')
		length--;
	const size_t size = sizeof(localhost) - 1;
	if (length == sizeof("ip6-localhost") - 1 && strncasecmp(name, "ip6-localhost", length) == 0)
		return true;
	return length >= size && strncasecmp(name + length - size, localhost, size) == 0 &&
		(length == size || name[length - size - 1] == '.');
}

static void add(struct found_host *found, int family, const void *address)
{
	if (found->count == 2 * DNS_VALUES)
		return;
	found->at[found->count].family = (uint8_t)family;
	memset(found->at[found->count].address, 0, sizeof(found->at[0].address));
	memcpy(found->at[found->count].address, address, family == AF_INET ? 4 : 16);
	found->count++;
}

// Ask for one name in all families; EAI_*, and *onward where an alias leads to what the server did not tell.
static int ask_name(struct lookup *lookup, const char *name, struct found_host *found, char onward[DNS_NAME])
{
	struct exchange exchanges[FAMILIES];
	bool missing = false;
	onward[0] = '\0';
	for (int i = 0; i < lookup->count; i++) {
		uint16_t type = lookup->families[i] == AF_INET ? DNS_A : DNS_AAAA;
		int length = dns_query(random_id(), name, type, DNS_IN, true, lookup->queries[i]);
		if (length < 0)
			return EAI_NONAME;
		exchanges[i] = (struct exchange){
			.query = lookup->queries[i],
			.query_length = (size_t)length,
			.answer = lookup->answers[i],
			.room = ANSWER_ROOM,
		};
	}
	(void)resolver_ask(lookup->vr, &lookup->servers, exchanges, lookup->count);
	int answered = 0;
	for (int i = 0; i < lookup->count; i++) {
		uint16_t type = lookup->families[i] == AF_INET ? DNS_A : DNS_AAAA;
		struct dns_answer *parsed = &lookup->parsed[i];
		if (exchanges[i].length == 0 || dns_parse(exchanges[i].answer, exchanges[i].length, name, type, parsed) < 0 ||
		    (parsed->rcode != DNS_NOERROR && parsed->rcode != DNS_NXDOMAIN))
			continue;
		answered++;
		missing |= parsed->rcode == DNS_NXDOMAIN;
		for (int k = 0; k < parsed->count; k++)
			add(found, lookup->families[i], parsed->values[k]);
		if (parsed->count > 0 && found->canonical[0] == '\0')
			strcpy(found->canonical, parsed->canonical);
		if (parsed->count == 0 && strcasecmp(parsed->canonical, name) != 0)
			strcpy(onward, parsed->canonical);
	}
	if (found->count > 0)
		return 0;
	if (answered < lookup->count)
		return EAI_AGAIN;
	return missing ? EAI_NONAME : EAI_NODATA;
}

static int follow(struct lookup *lookup, const char *name, struct found_host *found)
{
	char target[DNS_NAME], onward[DNS_NAME];
	strcpy(target, name);
	for (int hop = 0; hop < HOPS; hop++) {
		int error = ask_name(lookup, target, found, onward);
		if (error != EAI_NODATA || onward[0] == '\0' || strcasecmp(onward, target) == 0)
			return error;
		strcpy(target, onward);
	}
	return EAI_NODATA;
}

static int search(struct lookup *lookup, const char *name, struct found_host *found)
{
	char candidate[DNS_NAME];
	int problem = EAI_NONAME;
	if (name_servers_get(lookup->vr, &lookup->servers) < 0) {
		trace(1, "%s has no name servers, so %s is not found", lookup->vr, name);
		return EAI_AGAIN;
	}
	for (int i = 0; resolver_candidate(name, &lookup->servers, i, candidate); i++) {
		int error = follow(lookup, candidate, found);
		if (error == 0)
			return 0;
		// What a server could not say now matters more than what does not exist elsewhere.
		if (i == 0 || error == EAI_AGAIN || problem == EAI_NONAME)
			problem = error;
	}
	return problem;
}

int resolve_host(const char *vr, const char *name, int family, struct found_host *found)
{
	memset(found, 0, sizeof(*found));
	if (name[0] == '\0' || strlen(name) >= DNS_NAME || name[strcspn(name, " \t\r\n")] != '\0')
		return EAI_NONAME;
	if (local_name(name)) {
		const struct in_addr loopback = {.s_addr = htonl(INADDR_LOOPBACK)};
		strcpy(found->canonical, "localhost");
		if (family != AF_INET)
			add(found, AF_INET6, &in6addr_loopback);
		if (family != AF_INET6)
			add(found, AF_INET, &loopback);
		return 0;
	}
	struct lookup *lookup = calloc(1, sizeof(*lookup));
	if (lookup == NULL)
		return EAI_MEMORY;
	lookup->vr = vr;
	if (family != AF_INET)
		lookup->families[lookup->count++] = AF_INET6;
	if (family != AF_INET6)
		lookup->families[lookup->count++] = AF_INET;
	int error = search(lookup, name, found);
	free(lookup);
	return error;
}

int resolve_address(const char *vr, int family, const void *address, char name[DNS_NAME])
{
	struct name_servers servers;
	struct dns_answer parsed;
	char reverse[DNS_NAME];
	uint8_t query[DNS_QUERY], answer[ANSWER_ROOM];
	if (name_servers_get(vr, &servers) < 0)
		return EAI_AGAIN;
	dns_reverse(family, address, reverse);
	int length = dns_query(random_id(), reverse, DNS_PTR, DNS_IN, true, query);
	if (length < 0)
		return EAI_NONAME;
	struct exchange exchange = {
		.query = query, .query_length = (size_t)length, .answer = answer, .room = sizeof(answer)};
	if (!resolver_ask(vr, &servers, &exchange, 1))
		return EAI_AGAIN;
	if (dns_parse(answer, exchange.length, reverse, DNS_PTR, &parsed) < 0 || parsed.target[0] == '\0')
		return EAI_NONAME;
	strcpy(name, parsed.target);
	return 0;
}

// --- getaddrinfo ---

static bool has_way(const char *vr, int family, const uint8_t *address)
{
	struct handle handle;
	struct rsock_name name = {.family = (uint16_t)family, .port = PORT};
	int fd;
	memcpy(name.address, address, sizeof(name.address));
	if (client_open(vr, family, SOCK_DGRAM | SOCK_CLOEXEC, 0, &handle, &fd) < 0)
		return false;
	bool found = handle_call(&handle, RSOCK_OP_CONNECT, &name, sizeof(name), NULL) == 0;
	(void)sys_close(fd);
	return found;
}

// Put last, or leave out, those of a family that the router has no way to.
static void order(const char *vr, bool configured_only, struct found_host *found)
{
	struct found_host sorted = {.count = 0};
	int first4 = -1, first6 = -1;
	for (int i = found->count - 1; i >= 0; i--)
		*(found->at[i].family == AF_INET ? &first4 : &first6) = i;
	if (first4 < 0 || first6 < 0)
		return;
	bool way4 = has_way(vr, AF_INET, found->at[first4].address);
	bool way6 = has_way(vr, AF_INET6, found->at[first6].address);
	for (int turn = 0; turn < 2; turn++) {
		if (turn == 1 && configured_only && (way4 || way6))
			break;
		for (int i = 0; i < found->count; i++)
			if ((found->at[i].family == AF_INET ? way4 : way6) == (turn == 0))
				add(&sorted, found->at[i].family, found->at[i].address);
	}
	memcpy(found->at, sorted.at, sizeof(found->at));
	found->count = sorted.count;
}

static int numeric(
	const char *host, const char *service, const struct addrinfo *hints, int family, int flags, struct addrinfo **found)
{
	struct addrinfo mine = {.ai_family = family};
	if (hints != NULL) {
		mine.ai_socktype = hints->ai_socktype;
		mine.ai_protocol = hints->ai_protocol;
	}
	// Never AI_ADDRCONFIG: that asks for the kernel's addresses.
	mine.ai_flags = (flags & ~AI_ADDRCONFIG) | AI_NUMERICHOST;
	return getaddrinfo(host, service, &mine, found);
}

static int shape(const struct found_host *host, const char *service, const struct addrinfo *hints, int flags,
	struct addrinfo **found)
{
	struct addrinfo **end = found;
	*found = NULL;
	for (int i = 0; i < host->count; i++) {
		char text[INET6_ADDRSTRLEN + 8] = "";
		bool mapped = hints != NULL && hints->ai_family == AF_INET6 && host->at[i].family == AF_INET;
		strcpy(text, mapped ? "::ffff:" : "");
		inet_ntop(host->at[i].family, host->at[i].address, text + strlen(text), INET6_ADDRSTRLEN);
		int error = numeric(text, service, hints, AF_UNSPEC, flags & (AI_PASSIVE | AI_NUMERICSERV), end);
		if (error != 0) {
			if (*found != NULL)
				freeaddrinfo(*found);
			return error;
		}
		while (*end != NULL)
			end = &(*end)->ai_next;
	}
	if ((flags & AI_CANONNAME) && *found != NULL)
		(*found)->ai_canonname = strdup(host->canonical);
	return 0;
}

// AI_V4MAPPED: IPv4 addresses for an IPv6 socket, where there are no others, or with AI_ALL beside them.
static void keep_mapped(struct found_host *found, bool all)
{
	int six = 0, kept = 0;
	for (int i = 0; i < found->count; i++)
		six += found->at[i].family == AF_INET6;
	for (int i = 0; i < found->count; i++)
		if (found->at[i].family == AF_INET6 || six == 0 || all)
			found->at[kept++] = found->at[i];
	found->count = kept;
}

EXPORT int rsock_getaddrinfo(
	const char *vr, const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
	struct found_host hosts;
	const char *where = vr != NULL ? vr : settings_get()->default_vr;
	int family = hints != NULL ? hints->ai_family : AF_UNSPEC;
	int flags = hints != NULL ? hints->ai_flags : AI_V4MAPPED;
	if (where[0] == '\0' || strcmp(where, RSOCK_KERNEL) == 0)
		return getaddrinfo(host, service, hints, found);
	const char *percent = host == NULL ? NULL : strchr(host, '%');
	if (percent != NULL && strspn(percent + 1, "0123456789") != strlen(percent + 1))
		return EAI_NONAME;
	int error = numeric(host, service, hints, family, flags, found);
	if (error != EAI_NONAME || host == NULL || (flags & AI_NUMERICHOST) ||
		(family != AF_UNSPEC && family != AF_INET && family != AF_INET6))
		return error;
	// A service or a type that is wrong is refused before anybody is asked.
	error = numeric("127.0.0.1", service, hints, AF_UNSPEC, flags & AI_NUMERICSERV, found);
	if (error != 0)
		return error;
	freeaddrinfo(*found);
	bool mapped = family == AF_INET6 && (flags & AI_V4MAPPED);
	error = resolve_host(where, host, mapped ? AF_UNSPEC : family, &hosts);
	if (error != 0)
		return error;
	if (mapped)
		keep_mapped(&hosts, flags & AI_ALL);
	else
		order(where, flags & AI_ADDRCONFIG, &hosts);
	return shape(&hosts, service, hints, flags, found);
}

EXPORT void rsock_freeaddrinfo(struct addrinfo *found)
{
	freeaddrinfo(found);
}

EXPORT int rsock_getnameinfo(const char *vr, const struct sockaddr *address, socklen_t length, char *host,
	socklen_t host_room, char *service, socklen_t service_room, int flags)
{
	char name[DNS_NAME];
	const char *where = vr != NULL ? vr : settings_get()->default_vr;
	bool here = where[0] == '\0' || strcmp(where, RSOCK_KERNEL) == 0;
	if (here || (flags & NI_NUMERICHOST) || host == NULL || host_room == 0)
		return getnameinfo(
			address, length, host, host_room, service, service_room, here ? flags : flags | NI_NUMERICHOST);
	const void *bytes;
	if (address->sa_family == AF_INET && length >= sizeof(struct sockaddr_in))
		bytes = &((const struct sockaddr_in *)(const void *)address)->sin_addr;
	else if (address->sa_family == AF_INET6 && length >= sizeof(struct sockaddr_in6))
		bytes = &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
	else
		return EAI_FAMILY;
	int error = resolve_address(where, address->sa_family, bytes, name);
	if (error != 0 && (flags & NI_NAMEREQD))
		return error;
	if (error != 0)
		return getnameinfo(
			address, length, host, host_room, service, service_room, (flags & ~NI_NAMEREQD) | NI_NUMERICHOST);
	if (strlen(name) >= host_room)
		return EAI_OVERFLOW;
	strcpy(host, name);
	if (service == NULL || service_room == 0)
		return 0;
	return getnameinfo(address, length, NULL, 0, service, service_room, flags & ~NI_NAMEREQD);
}
