// The supervisor as parent of the program: it looks like the program to whoever started it.
//
// The terminal's signals reach the program by itself; what was sent to us by kill(2) is passed on.  When the program
// stops we stop, and at the end we end as it did.  Orphans of it become our children, so that we may look into them.
#define _GNU_SOURCE
#include "supervisor.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

// Not SIGALRM: accept_guarded needs it.
static const int passed_on[] = {
	SIGHUP,
	SIGINT,
	SIGQUIT,
	SIGTERM,
	SIGUSR1,
	SIGUSR2,
	SIGTSTP,
	SIGCONT,
	SIGWINCH,
	SIGTTIN,
	SIGTTOU,
};

enum { SIGNALLED = 128 };

pid_t stay_begin(struct signals *signals)
{
	sigset_t set, before;
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGCHLD);
	for (size_t i = 0; i < sizeof(passed_on) / sizeof(passed_on[0]); i++)
		(void)sigaddset(&set, passed_on[i]);
	(void)sigprocmask(SIG_BLOCK, &set, &before);
	signals->fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signals->fd < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
		return -errno;
	signals->used = true;
	signals->child = fork();
	if (signals->child == 0)
		(void)sigprocmask(SIG_SETMASK, &before, NULL);
	return signals->child < 0 ? -errno : signals->child;
}

static void reap(struct signals *signals)
{
	int status;
	pid_t found;
	while ((found = waitpid(-1, &status, WNOHANG | WUNTRACED)) > 0) {
		if (found != signals->child)
			continue;
		if (WIFSTOPPED(status)) {
			(void)raise(SIGSTOP);
			(void)kill(signals->child, SIGCONT);
			continue;
		}
		signals->status = status;
		signals->child = 0;
	}
}

void stay_signal(struct signals *signals)
{
	struct signalfd_siginfo info;
	while (read(signals->fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (info.ssi_signo == SIGCHLD)
			reap(signals);
		else if (info.ssi_code <= 0 && signals->child > 0)
			(void)kill(signals->child, (int)info.ssi_signo);
	}
}

int stay_end(const struct signals *signals)
{
	const struct rlimit no_core = {.rlim_cur = 0};
	int status = signals->status;
	if (signals->child > 0)
		while (waitpid(signals->child, &status, 0) < 0 && errno == EINTR)
			;
	if (!WIFSIGNALED(status))
		return WEXITSTATUS(status);
	sigset_t set;
	(void)sigfillset(&set);
	(void)setrlimit(RLIMIT_CORE, &no_core); // the program's is the one that matters
	(void)signal(WTERMSIG(status), SIG_DFL);
	(void)sigprocmask(SIG_UNBLOCK, &set, NULL);
	(void)raise(WTERMSIG(status));
	return SIGNALLED + WTERMSIG(status);
}
