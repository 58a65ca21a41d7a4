// Names: of routers, and the abstract AF_UNIX names that tell which socket an fd is (rsock/wire.py).
//
//   \0rsk1/VR/t4/SLOT.NONCE                              the app's fd
//   \0rsk1/VR/t4/p=192.0.2.9:51515/l=192.0.2.1:80/SLOT.NONCE  the other end of an accepted connection
//
// Slot and nonce are hexadecimal.  VR or the l= part are empty where the name had no room for them.  Names come from
// whoever made the fd, so they are read as hostile.
#define _GNU_SOURCE
#include "internal.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>

enum { SLOT_DIGITS = 6, NONCE_DIGITS = 16, ENDPOINT_ROOM = 80 };

bool name_valid(const char *vr)
{
	size_t length = strnlen(vr, RSOCK_VR_NAME);
	if (length == 0 || length == RSOCK_VR_NAME || vr[0] == '-' || strcmp(vr, RSOCK_KERNEL) == 0)
		return false;
	return strspn(vr, "abcdefghijklmnopqrstuvwxyz0123456789-") == length;
}

static bool read_number(const char *text, size_t length, int base, size_t digits, uint64_t *number)
{
	char copy[NONCE_DIGITS + 1];
	char *end;
	if (length == 0 || length > digits || digits >= sizeof(copy) || strspn(text, "0123456789abcdef") < length)
		return false;
	memcpy(copy, text, length);
	copy[length] = '\0';
	*number = strtoull(copy, &end, base);
	return *end == '\0';
}

// "192.0.2.1:80", "[2001:db8::1]:80", "[fe80::1%3]:80"
static bool read_endpoint(const char *text, size_t length, uint8_t family, struct sockaddr_storage *address)
{
	char copy[ENDPOINT_ROOM];
	uint64_t port, scope = 0;
	if (length >= sizeof(copy))
		return false;
	memcpy(copy, text, length);
	copy[length] = '\0';
	char *colon = strrchr(copy, ':');
	if (colon == NULL || !read_number(colon + 1, strlen(colon + 1), 10, 5, &port) || port > UINT16_MAX)
		return false;
	*colon = '\0';
	memset(address, 0, sizeof(*address));
	struct sockaddr_in *four = (struct sockaddr_in *)address;
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)address;
	if (copy[0] != '[') {
		struct in_addr plain;
		if (inet_pton(AF_INET, copy, &plain) != 1)
			return false;
		if (family == AF_INET) {
			four->sin_family = AF_INET;
			four->sin_port = htons((uint16_t)port);
			four->sin_addr = plain;
			return true;
		}
		six->sin6_addr.s6_addr[10] = six->sin6_addr.s6_addr[11] = 0xff;
		memcpy(six->sin6_addr.s6_addr + 12, &plain, sizeof(plain));
	} else {
		char *end = strchr(copy, ']');
		char *percent = strchr(copy, '%');
		if (family != AF_INET6 || end == NULL || end[1] != '\0')
			return false;
		*end = '\0';
		if (percent != NULL) {
			*percent = '\0';
			if (!read_number(percent + 1, strlen(percent + 1), 10, SLOT_DIGITS, &scope))
				return false;
		}
		if (inet_pton(AF_INET6, copy + 1, &six->sin6_addr) != 1)
			return false;
	}
	six->sin6_family = AF_INET6;
	six->sin6_port = htons((uint16_t)port);
	six->sin6_scope_id = (uint32_t)scope;
	return true;
}

// "SLOT.NONCE"
static bool read_tail(const char *text, size_t length, struct name_parts *parts)
{
	uint64_t slot;
	const char *point = memchr(text, '.', length);
	if (point == NULL || !read_number(text, (size_t)(point - text), 16, SLOT_DIGITS, &slot))
		return false;
	parts->slot = (uint32_t)slot;
	return read_number(point + 1, length - (size_t)(point - text) - 1, 16, NONCE_DIGITS, &parts->nonce);
}

// The part up to the next slash, which is left behind; false: it is the last one.
static bool next_part(const char **text, const char *end, const char **part, size_t *length)
{
	const char *slash = memchr(*text, '/', (size_t)(end - *text));
	*part = *text;
	*length = (size_t)((slash == NULL ? end : slash) - *text);
	*text = slash == NULL ? end : slash + 1;
	return slash != NULL;
}

static bool read_kind(const char *part, size_t length, struct name_parts *parts)
{
	if (length < 1 || length > 2 || part[0] < 'a' || part[0] > 'z')
		return false;
	parts->kind = part[0];
	if (length == 1)
		return true;
	parts->family = part[1] == '4' ? AF_INET : part[1] == '6' ? AF_INET6 : 0;
	return parts->family != 0;
}

bool name_parse(const char *path, size_t length, struct name_parts *parts)
{
	static const char prefix[] = "\0rsk1/";
	char whole[sizeof(((struct sockaddr_un *)NULL)->sun_path) + 1];
	const char *part;
	size_t size;
	memset(parts, 0, sizeof(*parts));
	if (length <= sizeof(prefix) - 1 || length >= sizeof(whole) || memcmp(path, prefix, sizeof(prefix) - 1) != 0 ||
	    memchr(path + 1, '\0', length - 1) != NULL)
		return false;
	memcpy(whole, path, length);
	whole[length] = '\0';
	const char *text = whole + sizeof(prefix) - 1;
	const char *end = whole + length;

	if (!next_part(&text, end, &part, &size) || size >= sizeof(parts->vr))
		return false;
	memcpy(parts->vr, part, size);
	if (size > 0 && !name_valid(parts->vr))
		return false;
	if (!next_part(&text, end, &part, &size) || !read_kind(part, size, parts))
		return false;
	while (next_part(&text, end, &part, &size)) {
		if (size > 2 && memcmp(part, "p=", 2) == 0)
			parts->accepted = read_endpoint(part + 2, size - 2, parts->family, &parts->peer);
		else if (size > 2 && memcmp(part, "l=", 2) == 0)
			parts->has_local = read_endpoint(part + 2, size - 2, parts->family, &parts->local);
	}
	return read_tail(part, size, parts);
}
