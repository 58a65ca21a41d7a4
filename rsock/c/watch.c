// Routers that come and go: their sockets' files do (vr/NAME.sock), and inotify(7) tells.
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include "sys.h"

#define EXPORT __attribute__((visibility("default")))

EXPORT int rsock_watch(void)
{
	char path[CLIENT_RUN_DIR + 4];
	(void)snprintf(path, sizeof(path), "%s/vr", settings_get()->run_dir);
	int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (fd < 0)
		return -1;
	if (inotify_add_watch(fd, path, IN_CREATE | IN_MOVED_TO | IN_DELETE | IN_MOVED_FROM | IN_DELETE_SELF | IN_ONLYDIR) <
		0) {
		int error = errno;
		(void)sys_close(fd);
		errno = error;
		return -1;
	}
	return fd;
}

// What a record of inotify says; false: nothing of ours.
static bool read_event(const struct inotify_event *record, const char *name, struct rsock_event *event)
{
	static const char suffix[] = ".sock";
	memset(event, 0, sizeof(*event));
	if (record->mask & (IN_Q_OVERFLOW | IN_DELETE_SELF | IN_IGNORED)) {
		event->kind = RSOCK_EVENT_LOST;
		return true;
	}
	size_t length = strnlen(name, record->len);
	if (length < sizeof(suffix) || length - sizeof(suffix) + 1 >= sizeof(event->vr) ||
	    memcmp(name + length - sizeof(suffix) + 1, suffix, sizeof(suffix) - 1) != 0)
		return false;
	memcpy(event->vr, name, length - sizeof(suffix) + 1);
	event->kind = record->mask & (IN_CREATE | IN_MOVED_TO) ? RSOCK_EVENT_UP : RSOCK_EVENT_DOWN;
	return name_valid(event->vr);
}

EXPORT int rsock_watch_read(int watch, struct rsock_event *event)
{
	// The kernel gives whole records only, as many as fit: room grows until it is that of the first.
	for (size_t room = sizeof(struct inotify_event);;) {
		union {
			struct inotify_event record;
			char room[sizeof(struct inotify_event) + NAME_MAX + 1];
		} buffer;
		long got = SYS_CALL(SYS_read, watch, &buffer, room);
		if (got == -EINVAL && room < sizeof(buffer)) {
			room += 16;
			continue;
		}
		if (got < 0) {
			errno = (int)-got;
			return -1;
		}
		if (got < (long)sizeof(buffer.record)) {
			errno = EAGAIN;
			return -1;
		}
		if (read_event(&buffer.record, buffer.room + sizeof(buffer.record), event))
			return 0;
		room = sizeof(struct inotify_event);
	}
}
