// What is known of sockets, by SO_COOKIE: a number that the kernel gives once and never again.
//
// The table forgets: what it has no room for is found again by the names at a socket's ends (handle.c).  It holds no
// fds of the program's sockets, so that a forwarder sees at once when the program has closed them.
#define _GNU_SOURCE
#include "supervisor.h"

#include <string.h>
#include "sys.h"

static struct record *place_of(struct supervisor *supervisor, uint64_t file)
{
	return &supervisor->records[file % SUPERVISOR_RECORDS];
}

static void forget(struct record *record)
{
	if (record->held >= 0)
		(void)sys_close(record->held);
	memset(record, 0, sizeof(*record));
	record->held = -1;
}

struct record *record_put(struct supervisor *supervisor, const struct handle *handle)
{
	struct record *record = place_of(supervisor, handle->file);
	forget(record);
	record->handle = *handle;
	return record;
}

struct record *record_of(struct supervisor *supervisor, int fd)
{
	struct handle handle;
	uint64_t file = sys_cookie(fd);
	if (file == 0)
		return NULL;
	struct record *record = place_of(supervisor, file);
	if (record->handle.file == file)
		return record;
	if (!handle_get(fd, &handle)) {
		memset(&handle, 0, sizeof(handle));
		handle.file = file;
		handle.domain = (uint8_t)sys_int_option(fd, SOL_SOCKET, SO_DOMAIN, 0);
		handle.type = (uint8_t)sys_int_option(fd, SOL_SOCKET, SO_TYPE, 0);
	}
	return record_put(supervisor, &handle);
}
