// Opening sockets for a program: with its name and with its rights.
//
// A forwarder judges by who connects to it.  That is us, and our user is the program's; but where root started a
// program that gives its rights up, as servers do, sockets must be opened as who it is then.
#define _GNU_SOURCE
#include "supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { STATUS_ROOM = 4096, GROUPS = 64, COMM = 16 };

struct identity {
	uid_t uid;
	gid_t gid;
	int group_count;
	gid_t groups[GROUPS];
};

static size_t read_file(pid_t thread, const char *name, char *text, size_t room)
{
	char path[48];
	(void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)thread, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, text, room - 1);
	if (fd >= 0)
		(void)close(fd);
	text[got > 0 ? got : 0] = '\0';
	return got > 0 ? (size_t)got : 0;
}

static int read_identity(pid_t thread, struct identity *identity)
{
	char text[STATUS_ROOM];
	unsigned int uid, gid;
	if (read_file(thread, "status", text, sizeof(text)) == 0)
		return -ESRCH;
	const char *uids = strstr(text, "\nUid:");
	const char *gids = strstr(text, "\nGid:");
	const char *groups = strstr(text, "\nGroups:");
	if (uids == NULL || gids == NULL || groups == NULL || sscanf(uids, "\nUid: %*u %u", &uid) != 1 ||
		sscanf(gids, "\nGid: %*u %u", &gid) != 1)
		return -ESRCH;
	identity->uid = uid;
	identity->gid = gid;
	identity->group_count = 0;
	groups += strlen("\nGroups:");
	while (identity->group_count < GROUPS && *groups != '\n') {
		char *end;
		unsigned long group = strtoul(groups, &end, 10);
		if (end == groups)
			break;
		identity->groups[identity->group_count++] = (gid_t)group;
		groups = *end == ' ' ? end + 1 : end;
	}
	return 0;
}

// Become somebody; `back` is who we were, for become(back, NULL).
static int become(const struct identity *who, struct identity *back)
{
	if (back != NULL) {
		back->uid = geteuid();
		back->gid = getegid();
		back->group_count = getgroups(GROUPS, back->groups);
		if (back->group_count < 0)
			return -errno;
	}
	// Rights come first when they are taken back, and go last.
	if (who->uid == 0 && seteuid(0) < 0)
		return -errno;
	if (setgroups((size_t)who->group_count, who->groups) < 0 || setegid(who->gid) < 0 || seteuid(who->uid) < 0)
		return -errno;
	return 0;
}

int open_for(struct supervisor *supervisor, const struct call *call, const char *vr, int domain, int type, int protocol,
	struct handle *handle, int *fd)
{
	struct identity who, back;
	char ours[COMM] = "", theirs[COMM + 1];
	bool other = false;
	int error = 0;
	(void)prctl(PR_GET_NAME, ours);
	if (read_file(call->thread, "comm", theirs, sizeof(theirs)) > 0)
		(void)prctl(PR_SET_NAME, strtok(theirs, "\n")); // by which operators know the socket
	if (supervisor->uid == 0) {
		error = read_identity(call->thread, &who);
		if (error == 0 && !tracee_valid(supervisor, call))
			error = -ESRCH; // and the number may be another thread's
		other = error == 0 && who.uid != 0;
	}
	if (error == 0 && other)
		error = become(&who, &back);
	if (error == 0)
		error = client_open(vr, domain, type, protocol, handle, fd);
	if (other && become(&back, NULL) < 0)
		_exit(1); // better no supervisor than one with another's rights
	(void)prctl(PR_SET_NAME, ours);
	return error;
}
