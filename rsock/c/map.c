// Which router an address belongs to: --map and $RSOCK_MAP.
//
//   MAP    ENTRY[,ENTRY...]
//   ENTRY  PREFIX=ROUTER       10.0.0.0/8=red   [2001:db8::]/32=blue   192.0.2.1=red   *=kernel
#define _GNU_SOURCE
#include "internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ENTRY_ROOM = 128, BITS = 128, MAPPED_BITS = 96 };

static void map_four(const void *four, uint8_t *mapped)
{
	memset(mapped, 0, 16);
	mapped[10] = mapped[11] = 0xff;
	memcpy(mapped + 12, four, 4);
}

static bool read_prefix(char *text, struct map_entry *entry)
{
	uint8_t plain[16];
	int most = 32;
	char *end;
	memset(entry->prefix, 0, sizeof(entry->prefix));
	entry->bits = 0;
	if (strcmp(text, "*") == 0)
		return true;
	char *slash = strchr(text, '/');
	if (slash != NULL)
		*slash = '\0';
	size_t length = strlen(text);
	if (length > 1 && text[0] == '[' && text[length - 1] == ']') {
		text[length - 1] = '\0';
		text++;
	}
	if (inet_pton(AF_INET, text, plain) == 1) {
		map_four(plain, entry->prefix);
	} else if (inet_pton(AF_INET6, text, entry->prefix) == 1) {
		most = BITS;
	} else {
		return false;
	}
	long bits = slash == NULL ? most : strtol(slash + 1, &end, 10);
	if (slash != NULL && (slash[1] < '0' || slash[1] > '9' || *end != '\0'))
		return false;
	if (bits > most)
		return false;
	entry->bits = (uint8_t)(bits + (most == 32 ? MAPPED_BITS : 0));
	return true;
}

int map_parse(const char *text, struct map *map, const char **wrong)
{
	char entry[ENTRY_ROOM];
	map->count = 0;
	while (*text != '\0') {
		size_t length = strcspn(text, ",");
		*wrong = text;
		if (length >= sizeof(entry) || map->count == MAP_ENTRIES)
			return -EINVAL;
		memcpy(entry, text, length);
		entry[length] = '\0';
		char *equals = strchr(entry, '=');
		struct map_entry *made = &map->at[map->count];
		if (equals == NULL)
			return -EINVAL;
		*equals = '\0';
		if (!read_prefix(entry, made) || (strcmp(equals + 1, RSOCK_KERNEL) != 0 && !name_valid(equals + 1)))
			return -EINVAL;
		strcpy(made->vr, equals + 1);
		map->count++;
		text += length;
		if (*text == ',')
			text++;
	}
	return 0;
}

static bool within(const uint8_t *address, const struct map_entry *entry)
{
	size_t whole = entry->bits / 8;
	uint8_t rest = (uint8_t)(0xff00 >> (entry->bits % 8));
	if (memcmp(address, entry->prefix, whole) != 0)
		return false;
	return entry->bits % 8 == 0 || ((address[whole] ^ entry->prefix[whole]) & rest) == 0;
}

const char *map_find(const struct map *map, const struct sockaddr *address, socklen_t length)
{
	uint8_t wanted[16] = {0};
	const struct map_entry *best = NULL;
	if (length >= sizeof(struct sockaddr_in) && address->sa_family == AF_INET)
		map_four(&((const struct sockaddr_in *)(const void *)address)->sin_addr, wanted);
	else if (length >= sizeof(struct sockaddr_in6) && address->sa_family == AF_INET6)
		memcpy(wanted, &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr, sizeof(wanted));
	else
		return NULL;
	for (int i = 0; i < map->count; i++)
		if (within(wanted, &map->at[i]) && (best == NULL || map->at[i].bits > best->bits))
			best = &map->at[i];
	return best == NULL ? NULL : best->vr;
}
